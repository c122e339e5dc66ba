"""Linkers: what makes a shared object of generated code, for this machine and for others."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CompileError
from targets.spec import TargetSpec

#: Programs that can link a shared object for this machine, in the order in which they are
#: looked for.
LINKERS = ("g++", "c++", "clang++", "gcc", "cc", "clang")
#: The same for other machines, by the machine of a target: Debian's cross compilers.
CROSS_LINKERS = {
    "aarch64": ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc"),
    "armv7l": ("arm-linux-gnueabihf-g++", "arm-linux-gnueabihf-gcc"),
}
#: Names that `find_linker` takes beside a program's: ``zig`` is LLVM's linker out of the Python
#: package ``ziglang``, ``gcc`` the system's compiler (for the target's machine).
KINDS = ("zig", "gcc")
#: Environment variable that names the linker for other machines.
VARIABLE = "TILEWRIGHT_CROSS_LINKER"
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Linker:
    """A program that links shared objects for one machine.

    Attributes:
        name: For people.
        machine: Machine that it links for, as ``uname -m`` prints it there.
        command: Its program with the arguments that come first.
        compiles: Whether it compiles C sources too.
    """

    name: str
    machine: str
    command: tuple[str, ...]
    compiles: bool

    def __call__(
        self, output: Path | str, files: Sequence[Path | str], _options: object = None
    ) -> None:
        """Link a shared object; TVM's ``export_library(fcompile=)`` calls it so.

        Raises:
            CompileError: It fails or does not answer.
        """
        flags = ("-shared", "-fPIC") if self.compiles else ("-shared", "-z", "noexecstack")
        command = [*self.command, *flags, "-o", str(output), *map(str, files)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CompileError(
                f"linking with {self.name} failed: {error}", stage="build", hint=_HINT
            ) from error
        if done.returncode:
            lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            raise CompileError(
                f"linking with {self.name} failed: {' '.join(lines[-2:])[:300]}",
                stage="build",
                hint=_HINT,
            )


_HINT = "check that the disk is not full and that the compiler can link a program"


def find_linker(spec: TargetSpec | None = None) -> Linker:
    """A linker for a target's machine.

    For this machine that is the system's compiler. For another one it is what the environment
    variable ``TILEWRIGHT_CROSS_LINKER`` names (``zig``, ``gcc`` or a program's path), else
    LLVM's linker out of the Python package ``ziglang``, else Debian's cross compiler.

    Args:
        spec: The target; None for this machine.

    Raises:
        CompileError: None is installed.
    """
    here = os.uname().machine
    machine = here if spec is None else spec.machine
    if machine == here:
        return _system_linker(machine)
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in KINDS:
        program = shutil.which(wanted)
        if program is None:
            raise CompileError(
                f"{VARIABLE} names {wanted!r}, and there is no such program",
                stage="build",
                hint=f"give {' or '.join(KINDS)}, or the path of a compiler for {machine}",
            )
        return Linker(wanted, machine, (program,), compiles=True)
    zig = _zig_linker(machine) if wanted != "gcc" else None
    gcc = _cross_compiler(machine) if wanted != "zig" else None
    found = zig or gcc
    if found is None:
        raise CompileError(
            f"no linker for {machine} was found",
            stage="build",
            where=f"looked for {wanted or 'zig and gcc'}",
            hint="pip install ziglang, or install a cross compiler such as Debian's package "
            "g++-aarch64-linux-gnu",
        )
    return found


def _system_linker(machine: str) -> Linker:
    for name in LINKERS:
        found = shutil.which(name)
        if found is not None:
            return Linker(name, machine, (found,), compiles=True)
    raise CompileError(
        "no C or C++ compiler was found to link the module with",
        stage="build",
        where=f"looked for {', '.join(LINKERS)} on PATH",
        hint="install one, for example Debian's package g++ (apt-get install g++)",
    )


def _zig_linker(machine: str) -> Linker | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    command = (sys.executable, "-m", "ziglang", "ld.lld")
    return Linker("ziglang's ld.lld", machine, command, compiles=False)


def _cross_compiler(machine: str) -> Linker | None:
    for name in CROSS_LINKERS.get(machine, ()):
        found = shutil.which(name)
        if found is not None:
            return Linker(name, machine, (found,), compiles=True)
    return None


__all__ = ["CROSS_LINKERS", "KINDS", "LINKERS", "VARIABLE", "Linker", "find_linker"]
