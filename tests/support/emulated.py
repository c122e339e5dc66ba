"""Compiled ARM models, run on emulated processors: as `compiler.runtime.Executor`, over RPC."""

from __future__ import annotations

import atexit
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from compiler.deploy.libraries import runtime_libraries
from compiler.deploy.runner import PROGRAM, build_runner
from compiler.stages import Prepared, TensorSpec
from tests.support.boards import QEMU, ROOT

#: What emulated processors run, the fewest extensions first.
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "max")
#: Neoverse V1 is none of QEMU 7's: what stands in has its vectors of 256 bits. Others have 512.
_V1 = "max,sve-default-vector-length=32"
#: Processors that code for a target must run on, the smallest one first.
RUNS_ON = {
    "arm/cortex-a53": CPUS,
    "arm/rpi4": CPUS,
    "arm/cortex-a72": CPUS,
    "arm/rpi5": CPUS[2:],
    "arm/neoverse-n1": CPUS[3:],
    "arm/neoverse-v1": (_V1, "max"),
}
_SESSION_S = 3600
_SIGNALS = {4: "an illegal instruction", 6: "abort", 7: "a bus error", 11: "a bad address"}


class EmulationFailedError(AssertionError):
    """The code crashed, or used an instruction that the processor does not have."""


class _Server:
    """The runner's RPC server on one emulated processor, which has one client at a time."""

    holder: EmulatedExecutor | None = None

    def __init__(self, cpu: str, wheels: Path | None) -> None:
        libraries = runtime_libraries("aarch64", wheels)
        runner = build_runner("aarch64", libraries)
        self._folder = tempfile.TemporaryDirectory(prefix="tilewright-emulated-")
        folder = Path(self._folder.name)
        (folder / "lib").mkdir()
        shutil.copy(runner / PROGRAM, folder)
        for library in libraries:
            shutil.copy(library, folder / "lib")
        written = (folder / "log").open("wb")
        self._log = (folder / "log").open("rb")  # with a place of its own
        for _ in range(20):
            self.port = random.randrange(20_000, 60_000)
            self._process = subprocess.Popen(
                [str(QEMU), "-cpu", cpu, "-L", str(ROOT), str(folder / PROGRAM), "--rpc",
                 str(self.port), "--tied"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=written,
            )  # fmt: skip
            assert self._process.stdout is not None
            if self._process.stdout.readline().startswith(b"listening"):
                break
            self._process.wait()
        else:
            raise EmulationFailedError(f"no server starts on {cpu}: {self.said()}")
        atexit.register(self.close)

    def said(self) -> str:
        """What the server wrote since this was asked last."""
        return self._log.read().decode("utf-8", "replace").strip()

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


@cache
def _server(cpu: str, wheels: Path | None) -> _Server:
    return _Server(cpu, wheels)


class EmulatedExecutor:
    """A compiled model on an emulated processor.

    Args:
        library: The shared object.
        inputs: What the model takes.
        outputs: What it gives.
        parameters: What `main` takes after the inputs.
        prepared: Which of them are packed there first.
        cpu: A processor of QEMU's.
        wheels: As in `compiler.deploy.libraries.runtime_libraries`.

    Raises:
        EmulationFailedError: The code does not load, or crashes, when it is made or run.
    """

    def __init__(
        self,
        library: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        parameters: Mapping[str, Any],
        prepared: Sequence[Prepared] = (),
        *,
        cpu: str = "cortex-a72",
        wheels: Path | None = None,
    ) -> None:
        from tvm import rpc

        from schedules.tvm_adapter import relax, tvm

        self.cpu = cpu
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._server = _server(cpu, wheels)
        self._server.said()
        if self._server.holder is not None:
            self._server.holder.close()  # perhaps an error's traceback keeps it alive
        self._server.holder = self
        self._session: Any = rpc.connect(
            "127.0.0.1", self._server.port, "tilewright", session_timeout=_SESSION_S
        )
        self._parameters: list[Any] = []
        self._device: Any = self._session.cpu()
        self._session.upload(str(library))
        code = self._session.load_module(library.name)
        self._vm: Any = relax.VirtualMachine(code, [self._device])
        packed = {item.parameter: item for item in prepared}
        for name, value in parameters.items():
            tensor = self._send(value)
            if name in packed:
                item, compact = packed[name], tensor
                tensor = tvm.runtime.empty(item.shape, item.dtype, self._device)
                code.get_function(item.function, query_imports=True)(compact, tensor)
            self._parameters.append(tensor)

    def _send(self, value: Any) -> Any:
        from schedules.tvm_adapter import tvm

        array = np.ascontiguousarray(value)
        return tvm.runtime.empty(array.shape, array.dtype.name, self._device).copyfrom(array)

    def run(self, *arrays: Any) -> Any:
        """The outputs: torch tensors if any input is one, else arrays; a tuple of several."""
        import torch

        is_torch = any(isinstance(value, torch.Tensor) for value in arrays)
        plain = [v.detach().numpy() if isinstance(v, torch.Tensor) else v for v in arrays]
        try:
            self._vm.set_input("main", *map(self._send, plain), *self._parameters)
            self._vm.invoke_stateful("main")
            found = self._vm.get_outputs("main")
            parts = list(found) if isinstance(found, (list, tuple)) else [found]
            outputs = [part.numpy() for part in parts]
        except Exception as error:
            raise EmulationFailedError(self._why(error)) from error
        results = [torch.from_numpy(v.copy()) if is_torch else v for v in outputs]
        return results[0] if len(results) == 1 else tuple(results)

    def close(self) -> None:
        """Give the processor back."""
        self._vm = self._session = self._device = None
        self._parameters.clear()

    def _why(self, error: Exception) -> str:
        self.close()
        said = self._server.said()
        status = said.rpartition("status ")[2]
        what = _SIGNALS.get(int(status) & 0x7F, said) if status.isdecimal() else said
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"on {self.cpu}: {what or (lines or ['no reason'])[-1]}"


__all__ = ["CPUS", "RUNS_ON", "EmulatedExecutor", "EmulationFailedError"]
