"""What a worker does that runs candidates on a device over TVM's RPC.

It takes a device, from a tracker or at an address, for each candidate and gives it back after,
so that a candidate that crashes or hangs takes only its own session with it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.tune.measure.channel import Message, receive, send
from compiler.tune.measure.settings import Timing
from compiler.tune.measure.values import compare, numpy_dtype, random_inputs, terms, tolerance
from compiler.tune.measure.work import read_spec, summary

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Registered by `compiler.tune.measure.device`: the device's processor as JSON.
CPU_FUNCTION = "tilewright.device.cpu"

_FLUSH = "cache_flush_cpu_non_first_arg"
_SAMPLE_S = 2e-4
_AS_MANY_CORES = 1  # ThreadGroup::kBig


def serve(connection: Connection, kernels: str, options: Mapping[str, Any]) -> None:
    """Acquire devices and run candidates on them until nobody asks any more.

    Args:
        connection: To the tuner.
        kernels: See `compiler.tune.measure.work`.
        options: ``host``, ``port`` and ``key`` of the tracker, if there is one; ``session_s``,
            ``spec``, ``timing``.
    """
    worker = _RemoteWorker(importlib.import_module(kernels), options)
    orders = {
        "count": worker.count,
        "describe": worker.describe,
        "acquire": worker.acquire,
        "measure": worker.measure,
    }
    while True:
        job = receive(connection)
        try:
            answer = orders[job["order"]](job)
        except Exception as error:  # noqa: BLE001 TVM raises many kinds for a lost connection
            worker.release()
            answer = {"failed": "lost", "reason": summary(error)}
        send(connection, answer)


class _RemoteWorker:
    def __init__(self, module: Any, options: Mapping[str, Any]) -> None:
        self._module = module
        self._options = options
        self._spec = read_spec(options["spec"])
        self._timing = Timing(**options["timing"])
        self._session: Any = None
        self._task: _RemoteTask | None = None

    def count(self, _job: Message) -> Message:
        """How many devices with the key the tracker knows."""
        servers = self._tracker().summary()["server_info"]
        wanted = f"server:{self._options['key']}"
        return {"devices": sum(server.get("key") == wanted for server in servers)}

    def describe(self, _job: Message) -> Message:
        """The device's processor, if it was started by `compiler.tune.measure.device`."""
        self.acquire({})
        try:
            return {"cpu": json.loads(str(self._session.get_function(CPU_FUNCTION)()))}
        except (AttributeError, RuntimeError, ValueError):
            return {"cpu": None}
        finally:
            self.release()

    def acquire(self, job: Message) -> Message:
        """Take the device at an address, or one from the tracker, waiting until one is free."""
        if job.get("address"):
            from tvm import rpc

            host, port = job["address"]
            self._session = rpc.connect(
                host, int(port), "tilewright", session_timeout=self._options["session_s"]
            )
            return {"acquired": True}
        self._session = self._tracker().request(
            self._options["key"], session_timeout=self._options["session_s"], max_retry=1
        )
        return {"acquired": True}

    def _tracker(self) -> Any:
        from tvm import rpc

        return rpc.connect_tracker(self._options["host"], int(self._options["port"]))

    def release(self) -> None:
        """Give the device back."""
        self._session = None

    def measure(self, job: Message) -> Message:
        """Check and time one candidate on the device taken before."""
        if self._task is None or self._task.text != job["task"]:
            self._task = _RemoteTask(self._module, job["task"], int(job["seed"]))
        try:
            return self._measure(self._task, job)
        finally:
            self.release()

    def _measure(self, task: _RemoteTask, job: Message) -> Message:
        session = self._session
        device = session.cpu()
        session.get_function("runtime.config_threadpool")(_AS_MANY_CORES, self._timing.threads)
        expected = self._expected(task, Path(job["reference"]))
        module = _upload(session, Path(job["library"]))
        inputs = self._module.pack_arguments(
            task.task, job["choice"], self._spec, list(task.arrays)
        )
        arguments = [_send(device, array) for array in inputs]
        outputs = [_send(device, _poison(a.shape, a.dtype)) for a in task.outputs]
        module["main"](*arguments, *outputs)
        device.sync()
        got = [tensor.numpy() for tensor in outputs]
        error, reason = compare(got, expected, task.allowed)
        if reason:
            return {"rejected": reason}
        samples = self._time(module, device, (*arguments, *outputs), task, job["best_ns"])
        return {"samples_ns": samples, "error": error, "tolerance": task.allowed}

    def _expected(self, task: _RemoteTask, reference: Path) -> list[Array]:
        """The reference's outputs, computed on the first device and kept in a file."""
        kept = reference.with_suffix(".npz")
        if not kept.exists():
            device = self._session.cpu()
            module = _upload(self._session, reference)
            inputs = [_send(device, array) for array in task.arrays]
            outputs = [_send(device, _poison(a.shape, a.dtype)) for a in task.outputs]
            module["main"](*inputs, *outputs)
            device.sync()
            _keep(kept, [tensor.numpy() for tensor in outputs])
        return _read(kept, task.outputs)

    def _time(
        self,
        module: Any,
        device: Any,
        arguments: tuple[Any, ...],
        task: _RemoteTask,
        best_ns: float | None,
    ) -> list[float]:
        timing = self._timing
        cold = timing.cold_weights and task.has_weight
        preparation = {"f_preproc": _FLUSH} if cold else {}

        def samples(number: int, repeat: int) -> list[float]:
            evaluator = module.time_evaluator(
                "main", device, number=number, repeat=repeat, **preparation
            )
            return [float(second) * 1e9 for second in evaluator(*arguments).results]

        first = samples(1, 2)
        if best_ns is not None and min(first) > timing.abort_factor * best_ns:
            return first
        seconds = max(min(first) * 1e-9, 1e-9)
        number = 1 if cold else max(1, min(1000, int(_SAMPLE_S / seconds)))
        affordable = int(timing.budget_s / (seconds * number))
        return samples(number, max(timing.least_samples, min(timing.samples, affordable)))


class _RemoteTask:
    """A task's inputs, and what is known of its arguments."""

    def __init__(self, module: Any, text: str, seed: int) -> None:
        self.text = text
        self.task = module.Task.from_json(text)
        arguments = module.arguments(self.task)
        inputs = [a for a in arguments if a.role != "output"]
        workload = self.task.workload
        self.outputs = [a for a in arguments if a.role == "output"]
        self.arrays = random_inputs(inputs, seed, terms(workload))
        self.allowed = tolerance([a.dtype for a in arguments if a.role != "extra"])
        self.has_weight = workload.operator != "batch_matmul" and any(
            a.role == "weight" for a in inputs
        )


def _upload(session: Any, library: Path) -> Any:
    session.upload(str(library))
    return session.load_module(library.name)


def _send(device: Any, array: Array) -> Any:
    from schedules.tvm_adapter import tvm

    return tvm.runtime.empty(array.shape, array.dtype.name, device).copyfrom(array)


def _poison(shape: tuple[int, ...], dtype: str) -> Array:
    """What no kernel would write: all bits set is no floating-point number."""
    import numpy as np

    kind = numpy_dtype(dtype)
    return np.full(prod(shape) * kind.itemsize, 0xFF, np.uint8).view(kind).reshape(shape)


def _keep(path: Path, arrays: list[Array]) -> None:
    import numpy as np

    part = path.with_suffix(f".{id(arrays)}.part")
    with part.open("wb") as file:  # numpy would append its own suffix to a name
        np.savez(file, *(np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays))
    part.replace(path)


def _read(path: Path, outputs: list[Any]) -> list[Array]:
    import numpy as np

    with np.load(path, allow_pickle=False) as kept:
        return [
            kept[f"arr_{i}"].view(numpy_dtype(a.dtype)).reshape(a.shape)
            for i, a in enumerate(outputs)
        ]


__all__ = ["CPU_FUNCTION", "serve"]
