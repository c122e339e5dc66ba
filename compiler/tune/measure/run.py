"""What a measuring worker does: runs candidates of one task, each in a process of its own.

The worker makes the inputs and keeps the reference's outputs; it never runs a compiled kernel
itself. Each candidate runs in a process forked from it, which finds the inputs in its memory,
and whatever a candidate overwrites, crashes or hangs is gone with that process.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat, zip_longest
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any

from compiler.native import check_amx
from compiler.tune.measure.channel import Message, receive, send
from compiler.tune.measure.confine import describe_status, die_with_parent
from compiler.tune.measure.folders import last_line
from compiler.tune.measure.settings import Timing
from compiler.tune.measure.values import compare, numpy_dtype, random_inputs, terms, tolerance
from compiler.tune.measure.work import read_spec, summary

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_GUARD_BYTES = 4096
_GUARD = 0xA5
_NOT_A_NUMBER = 0xFF  # all bits set: no number in any floating-point format
_TRIES = 6  # to see what a candidate takes when nothing disturbs it
_PATIENCE = 8  # times the budget of samples, waiting for undisturbed ones
_SAMPLE_NS = 200_000  # calls shorter than this are timed several at once, if caches stay warm


def serve(connection: Connection, kernels: str, options: Mapping[str, Any]) -> None:
    """Prepare one task, then run its candidates until nobody asks any more.

    Args:
        connection: To the tuner.
        kernels: See `compiler.tune.measure.work`.
        options: ``task``, ``spec``, ``reference`` (its shared object), ``seed``, ``log``,
            and ``timing``.
    """
    bench = Bench(importlib.import_module(kernels), options)
    contained = Contained(connection, Path(options["log"]))
    while True:
        job = receive(connection)
        if job["order"] == "prepare":
            answer = contained.run(bench.run_reference, float(job["run_s"]))
        else:
            answer = contained.run(partial(bench.measure, job), float(job["run_s"]))
        send(connection, answer)


class Contained:
    """Runs a function in a forked process and brings its answer back, or says how it died."""

    def __init__(self, connection: Connection, log: Path) -> None:
        self._connection = connection
        self._log = log

    def run(self, function: Callable[[], Message], timeout_s: float) -> Message:
        """The function's answer, or ``{"failed": "crash" | "timeout", "reason": …}``.

        Raises:
            EOFError: The tuner has ended.
        """
        read, write = os.pipe()
        os.truncate(self._log, 0)
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _answer(function, write)
        os.close(write)
        try:
            text = self._wait(read, timeout_s)
        finally:
            os.close(read)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        if text is None:
            return {"failed": "timeout", "reason": f"it ran for more than {timeout_s:.3g} s"}
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
        said = last_line(self._log)
        reason = describe_status(status) + (f": {said}" if said else "")
        return {"failed": "crash", "reason": reason}

    def _wait(self, read: int, timeout_s: float) -> bytes | None:
        """All that the process writes until it closes its end; None if that takes too long."""
        deadline = time.monotonic() + timeout_s
        parts: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(read, selectors.EVENT_READ)
            selector.register(self._connection, selectors.EVENT_READ)
            while True:
                ready = selector.select(deadline - time.monotonic())
                if not ready:
                    return None
                if any(key.fileobj is self._connection for key, _ in ready):
                    raise EOFError  # the tuner never speaks while it waits: it has ended
                part = os.read(read, 65536)
                if not part:
                    return b"".join(parts)
                parts.append(part)


def _answer(function: Callable[[], Message], write: int) -> None:
    code = 1
    try:
        os.setpgid(0, os.getpgid(0))
        die_with_parent()
        answer = function()
        os.write(write, json.dumps(answer).encode())
        code = 0
    except Exception as error:  # noqa: BLE001 whatever it raises costs this candidate only
        os.write(write, json.dumps({"failed": "crash", "reason": summary(error)}).encode())
    finally:
        os._exit(code)


class Buffer:
    """A tensor that compiled code can use, its values, and a guard zone behind them.

    TVM allocates it aligned to 64 bytes, which compiled code relies on.
    """

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        import numpy as np

        from schedules.tvm_adapter import tvm

        kind = numpy_dtype(dtype)
        size = prod(shape) * kind.itemsize
        self._owner = tvm.runtime.empty((size + _GUARD_BYTES,), "uint8")
        self._bytes: Array = np.from_dlpack(self._owner)
        self._size = size
        self.tensor = self._owner._create_view(tuple(shape), dtype)
        self.array: Array = self._bytes[:size].view(kind).reshape(tuple(shape))

    @classmethod
    def holding(cls, array: Array) -> Buffer:
        """A buffer with a copy of an array."""
        buffer = cls(array.shape, array.dtype.name)
        buffer.array[...] = array
        return buffer

    def poison(self) -> None:
        """Fill it with what no kernel would write, and the guard zone with a pattern."""
        integer = self.array.dtype.kind in "iub"
        self._bytes[: self._size] = _GUARD if integer else _NOT_A_NUMBER
        self._bytes[self._size :] = _GUARD

    @property
    def overrun(self) -> bool:
        """Whether anything was written behind its end since `poison`."""
        return bool((self._bytes[self._size :] != _GUARD).any())


class Bench:
    """One task's inputs, its reference outputs, and how its candidates are timed."""

    def __init__(self, module: Any, options: Mapping[str, Any]) -> None:
        self._module = module
        self._spec = read_spec(options["spec"])
        self._task = module.Task.from_json(options["task"])
        self._timing = Timing(**options["timing"])
        self._reference = str(options["reference"])
        arguments = module.arguments(self._task)
        self._inputs = [a for a in arguments if a.role != "output"]
        self._outputs = [a for a in arguments if a.role == "output"]
        self._arrays = random_inputs(self._inputs, int(options["seed"]), terms(self._task.workload))
        self._buffers = [Buffer.holding(array) for array in self._arrays]
        self._expected = [_shared(a.shape, a.dtype) for a in self._outputs]
        self._allowed = tolerance([a.dtype for a in arguments if a.role != "extra"])

    def run_reference(self) -> Message:
        """Run the reference and keep its outputs where this process's parent sees them."""
        function = self._load(self._reference)
        outputs = [Buffer(a.shape, a.dtype) for a in self._outputs]
        function(*(b.tensor for b in self._buffers), *(b.tensor for b in outputs))
        for kept, buffer in zip(self._expected, outputs, strict=True):
            kept[...] = buffer.array
        return {"done": True}

    def measure(self, job: Message) -> Message:
        """Check and time one candidate.

        Returns:
            ``{"samples_ns": […], "error": …}`` or ``{"rejected": …}``.
        """
        function = self._load(job["library"])
        inputs = self._packed(job["choice"])
        outputs = [Buffer(a.shape, a.dtype) for a in self._outputs]
        for buffer in outputs:
            buffer.poison()
        arguments = [b.tensor for b in (*inputs, *outputs)]
        function(*arguments)
        error, reason = self._check(outputs)
        if reason:
            return {"rejected": reason}
        samples = self._time(function, arguments, inputs, job.get("best_ns"))
        # Once more: a race between threads, or a buffer that is not cleared, shows later only.
        again, reason = self._check(outputs)
        if reason:
            return {"rejected": f"after {len(samples) + 1} runs {reason}"}
        return {"samples_ns": samples, "error": max(error, again), "tolerance": self._allowed}

    def _load(self, library: str) -> Callable[..., Any]:
        from schedules.tvm_adapter import configure_thread_pool, tvm

        configure_thread_pool(self._timing.threads)
        module = tvm.runtime.load_module(library)
        check_amx(Path(library), "the candidate")
        return module["main"]

    def _packed(self, choice: Any) -> list[Buffer]:
        """The inputs as this candidate takes them."""
        packed = self._module.pack_arguments(self._task, choice, self._spec, list(self._arrays))
        # Packed weights may have parts that the plain ones have not.
        plain = zip_longest(packed, self._arrays, self._buffers)
        return [
            buffer if array is given else Buffer.holding(array) for array, given, buffer in plain
        ]

    def _check(self, outputs: Sequence[Buffer]) -> tuple[float, str]:
        if any(buffer.overrun for buffer in outputs):
            return 0.0, "it wrote behind the end of an output"
        return compare([b.array for b in outputs], self._expected, self._allowed)

    def _time(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        inputs: Sequence[Buffer],
        best_ns: float | None,
    ) -> list[float]:
        timing = self._timing
        evict = self._evictor(inputs) if timing.cold_weights else None
        gc.disable()  # this process ends with this candidate

        def sample(number: int = 1) -> tuple[float, bool]:
            """Nanoseconds of a call, and whether the kernel had its CPU for itself."""
            if evict is not None:
                evict()
            preemptions = _preemptions()
            start = perf_counter_ns()
            for _ in range(number):
                function(*arguments)
            elapsed = perf_counter_ns() - start
            return elapsed / number, _preemptions() == preemptions

        first, alone = sample()
        if best_ns is not None:
            limit, tries = timing.abort_factor * best_ns, [first]
            # A slow call may have met an interrupt, or another process.
            while min(tries) > limit and len(tries) < (2 if alone else _TRIES):
                again, alone = sample()
                tries.append(again)
            first = min(tries)
            if first > limit:
                return tries
        number = 1 if evict else max(1, min(1000, int(_SAMPLE_NS / max(first, 1.0))))
        quiet: list[float] = []
        disturbed: list[float] = []
        end = perf_counter() + timing.budget_s
        last = end + _PATIENCE * timing.budget_s
        while len(quiet) < timing.samples:
            now = perf_counter()
            if now >= end and len(quiet) >= timing.least_samples:
                break
            if now >= last and len(quiet) + len(disturbed) >= timing.least_samples:
                break
            latency, alone = sample(number)
            (quiet if alone else disturbed).append(latency)
        enough = 2 * len(quiet) >= timing.least_samples
        return quiet if enough else quiet + disturbed

    def _evictor(self, inputs: Sequence[Buffer]) -> Callable[[], None] | None:
        """What throws the weights out of all caches; None if there are none."""
        import tvm_ffi

        roles = chain((argument.role for argument in self._inputs), repeat("weight"))
        weights = [b.tensor for b, role in zip(inputs, roles, strict=False) if role == "weight"]
        # The second operand of a batched product is an activation like the first.
        if not weights or self._task.workload.operator == "batch_matmul":
            return None
        flush = tvm_ffi.get_global_func("cache_flush_cpu_non_first_arg")
        spared = self._buffers[0].tensor  # the function spares its first argument
        return lambda: flush(spared, *weights)


def _preemptions() -> int:
    """How often the system took the CPU away from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _shared(shape: Sequence[int], dtype: str) -> Array:
    """An array in memory that this process shares with those forked from it."""
    import numpy as np

    kind = numpy_dtype(dtype)
    count = prod(shape)
    memory = mmap.mmap(-1, max(1, count * kind.itemsize))
    return np.frombuffer(memory, np.uint8)[: count * kind.itemsize].view(kind).reshape(shape)


__all__ = ["Bench", "Buffer", "Contained", "serve"]
