"""What an emulating worker does: runs candidates of one task in an emulator that counts.

Nothing is timed. The emulated program calls the kernel once on inputs from files; the counter
says how often each block of code ran and what it missed in the caches, and the output is compared
with that of the reference kernel, which ran in emulation too.
"""

from __future__ import annotations

import importlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from itertools import chain, repeat, zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from compiler.tune.measure.channel import Message, receive, send
from compiler.tune.measure.confine import die_with_parent
from compiler.tune.measure.values import compare, numpy_dtype, random_inputs, terms, tolerance
from compiler.tune.measure.work import read_spec, summary

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: DLPack's codes of types, by NumPy's kind.
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_BFLOAT = 4
_OVERRUN = "overrun: "


def serve(connection: Connection, kernels: str, options: Mapping[str, Any]) -> None:
    """Prepare one task, then run its candidates until nobody asks any more.

    Args:
        connection: To the tuner.
        kernels: See `compiler.tune.measure.work`.
        options: ``task``, ``spec``, ``reference`` (its shared object), ``seed``, ``folder`` (to
            work in), ``expected`` (file of the reference's outputs, made if it is not there),
            ``command`` (that runs the program in the emulator, without the plugin), ``plugin``
            (with its options but ``out``).
    """
    bench = _Bench(importlib.import_module(kernels), options)
    while True:
        job = receive(connection)
        try:
            if job["order"] == "prepare":
                answer = bench.prepare(float(job["run_s"]))
            else:
                answer = bench.measure(job)
        except Exception as error:  # noqa: BLE001 whatever it raises costs this candidate only
            answer = {"failed": "crash", "reason": summary(error)}
        send(connection, answer)


class _DiedError(Exception):
    def __init__(self, answer: Message) -> None:
        self.answer = answer
        super().__init__(str(answer))


class _Bench:
    """One task's inputs in files, its reference outputs, and the emulator."""

    def __init__(self, module: Any, options: Mapping[str, Any]) -> None:
        self._module = module
        self._spec = read_spec(options["spec"])
        self._task = module.Task.from_json(options["task"])
        self._reference = str(options["reference"])
        self._folder = Path(options["folder"])
        self._folder.mkdir(parents=True, exist_ok=True)
        self._kept = Path(options["expected"])
        self._command = [str(word) for word in options["command"]]
        self._plugin = str(options["plugin"])
        arguments = module.arguments(self._task)
        self._inputs = [a for a in arguments if a.role != "output"]
        self._outputs = [a for a in arguments if a.role == "output"]
        self._arrays = random_inputs(self._inputs, int(options["seed"]), terms(self._task.workload))
        self._files = [
            self._write(f"input-{i}", array) for i, array in enumerate(self._arrays)
        ]  # fmt: skip
        self._expected: list[Array] = []
        self._allowed = tolerance([a.dtype for a in arguments if a.role != "extra"])

    def prepare(self, run_s: float) -> Message:
        """Run the reference, or read what another worker kept of it."""
        import numpy as np

        if self._kept.exists():
            with np.load(self._kept) as kept:
                flat = [kept[f"output{i}"] for i in range(len(self._outputs))]
            self._expected = [
                array.view(numpy_dtype(a.dtype)).reshape(a.shape)
                for array, a in zip(flat, self._outputs, strict=True)
            ]
            return {"done": True}
        try:
            self._emulate(self._reference, self._arrays, self._files, run_s, count=False)
        except _DiedError as died:
            return died.answer
        self._expected = self._read_outputs()
        bytes_of = {
            f"output{i}": np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for i, array in enumerate(self._expected)
        }
        partial = self._folder / "expected.npz"
        np.savez(partial, **bytes_of)  # type: ignore[arg-type]  # its stub knows no **dict
        partial.replace(self._kept)
        return {"done": True}

    def measure(self, job: Message) -> Message:
        """Check and count one candidate.

        Returns:
            ``{"blocks": …, "error": …, "tolerance": …, "seconds": …}``, or ``{"rejected": …}``,
            or ``{"failed": …, "reason": …}``.
        """
        packed = self._module.pack_arguments(
            self._task, job["choice"], self._spec, list(self._arrays)
        )
        # Packed weights may have parts that the plain ones have not.
        plain = zip_longest(packed, self._arrays, self._files)
        files = [
            file if array is given else self._write(f"packed-{i}", array)
            for i, (array, given, file) in enumerate(plain)
        ]
        start = perf_counter()
        try:
            self._emulate(job["library"], packed, files, float(job["run_s"]), count=True)
        except _DiedError as died:
            return died.answer
        seconds = perf_counter() - start
        error, reason = compare(self._read_outputs(), self._expected, self._allowed)
        if reason:
            return {"rejected": reason}
        blocks = (self._folder / "blocks").read_text(encoding="ascii")
        return {
            "blocks": blocks, "error": error, "tolerance": self._allowed, "seconds": seconds,
        }  # fmt: skip

    def _write(self, name: str, array: Array) -> Path:
        import numpy as np

        path = self._folder / name
        np.ascontiguousarray(array).tofile(path)
        return path

    def _output(self, index: int) -> Path:
        return self._folder / f"output-{index}"

    def _read_outputs(self) -> list[Array]:
        import numpy as np

        return [
            np.fromfile(self._output(i), numpy_dtype(a.dtype)).reshape(a.shape)
            for i, a in enumerate(self._outputs)
        ]

    def _emulate(
        self,
        library: str,
        arrays: Sequence[Array],
        files: Sequence[Path],
        run_s: float,
        *,
        count: bool,
    ) -> None:
        """Call a kernel once.

        Raises:
            _DiedError: It gave no outputs.
        """
        roles = chain((argument.role for argument in self._inputs), repeat("weight"))
        lines = [
            _line(role, array.dtype, array.shape, file)
            for role, array, file in zip(roles, arrays, files, strict=False)
        ]
        lines += [
            _line("output", numpy_dtype(argument.dtype), argument.shape, self._output(i))
            for i, argument in enumerate(self._outputs)
        ]
        listing = self._folder / "arguments"
        listing.write_text("".join(lines))
        plugin = ["-plugin", f"{self._plugin},out={self._folder / 'blocks'}"] if count else []
        emulator, *rest = self._command
        command = [emulator, *plugin, *rest, library, str(listing)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=run_s,
                check=False, preexec_fn=die_with_parent,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            reason = f"it ran for more than {run_s:.3g} s in emulation"
            raise _DiedError({"failed": "timeout", "reason": reason}) from error
        if done.returncode:
            raise _DiedError(_death(done.returncode, done.stderr))


def _line(role: str, dtype: Any, shape: Sequence[int], file: Path) -> str:
    code = _BFLOAT if dtype.name == "bfloat16" else _CODES[dtype.kind]
    extents = " ".join(map(str, shape))
    return f"{role} {code} {8 * dtype.itemsize} {len(shape)} {extents} {file}\n"


def _death(status: int, stderr: str) -> Message:
    """What to answer when the emulated program failed."""
    lines = stderr.strip().splitlines() or [""]
    # What QEMU says first if it refuses the plugin is followed by how that ended.
    said = next((line for line in lines if "API version" in line), lines[-1])[:300]
    if said.startswith(_OVERRUN):
        return {"rejected": said.removeprefix(_OVERRUN)}
    number = -status if status < 0 else status - 128
    if number == signal.SIGILL:
        said = "it uses an instruction that this processor does not have"
    try:
        how = f"killed by {signal.Signals(number).name}" if number > 0 else f"ended with {status}"
    except ValueError:
        how = f"ended with exit code {status}"
    return {"failed": "crash", "reason": f"{how} in emulation" + (f": {said}" if said else "")}


__all__ = ["serve"]
