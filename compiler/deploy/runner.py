"""The runner, a C program without Python, built for a device's machine from our sources."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from compiler.deploy.cache import cached
from compiler.elf import MACHINES, read_shared_object
from compiler.errors import DeployError
from compiler.native import KERNEL_SOURCE, RUNNER_SOURCES

#: Oldest C library of a device that the runner works with.
GLIBC = "2.28"
#: Calls one kernel, see `build_kernel_program`.
KERNEL_PROGRAM = "kernel"
PROGRAM, LIBRARY, HEADER, EXAMPLE = "run", "libtilewright.so", "tilewright.h", "example.c"
_LIBRARY_SOURCES = ("model.c", "npy.c", "ffi.c")
_PROGRAM_SOURCES = ("main.c", "rpc.c", "profile.c", *_LIBRARY_SOURCES)
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-DNDEBUG")
_ZIG_TARGETS = {
    "aarch64": (f"aarch64-linux-gnu.{GLIBC}",),
    "x86_64": (f"x86_64-linux-gnu.{GLIBC}",),
    "armv7l": (f"arm-linux-gnueabihf.{GLIBC}", "-mcpu=cortex_a7"),
}
#: Prefixes of Debian's cross compilers.
_GNU = {
    "aarch64": "aarch64-linux-gnu",
    "x86_64": "x86_64-linux-gnu",
    "armv7l": "arm-linux-gnueabihf",
}
_SECONDS = 1800

#: Called with what is being done, before it is.
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CrossCompiler:
    """A compiler for one machine.

    Attributes:
        name: For people.
        command: Its program with the arguments that come first.
        identity: What its output depends on: its version and its target.
    """

    name: str
    command: tuple[str, ...]
    identity: str


def build_runner(machine: str, libraries: Sequence[Path], tell: Tell | None = None) -> Path:
    """The folder that holds the runner's program and library, built once and kept.

    Args:
        machine: The device's, as ``uname -m`` prints it there.
        libraries: TVM's runtime for that machine.
        tell: Called before it is built, which takes some seconds.

    Returns:
        A folder with ``run`` and ``libtilewright.so``. The same sources and compiler give the
        same bytes.

    Raises:
        DeployError: There is no compiler for the machine, or it fails.
        FileError: The cache cannot be written.
    """
    compiler = find_compiler(machine)
    label = hashlib.sha256("\n".join([compiler.identity, *_FLAGS]).encode())
    for source in RUNNER_SOURCES:
        label.update(source.name.encode() + source.read_bytes())
    for library in libraries:
        label.update(library.read_bytes())

    def make(folder: Path) -> None:
        if tell is not None:
            tell(f"building the runner for {machine} with {compiler.name}, once")
        _build(compiler, machine, libraries, folder)

    return cached(f"runner/{machine}-{label.hexdigest()[:16]}", make)


def build_kernel_program(machine: str, tell: Tell | None = None) -> Path:
    """The program that calls one compiled kernel, built once and kept.

    It needs nothing of TVM on the machine. The counter of emulated code works with it.

    Args:
        machine: As ``uname -m`` prints it.
        tell: Called before it is built, which takes some seconds.

    Raises:
        DeployError: There is no compiler for the machine, or it fails.
        FileError: The cache cannot be written.
    """
    compiler = find_compiler(machine)
    label = hashlib.sha256("\n".join([compiler.identity, *_FLAGS]).encode())
    label.update(KERNEL_SOURCE.read_bytes())

    def make(folder: Path) -> None:
        if tell is not None:
            tell(f"building the program that calls kernels for {machine}, once")
        call_compiler(
            compiler,
            [*_FLAGS, *_includes(), str(KERNEL_SOURCE), "-rdynamic",
             # What kernels of a shared object call without naming where it is.
             "-Wl,--no-as-needed", "-lm", "-ldl", "-o", str(folder / KERNEL_PROGRAM)],
        )  # fmt: skip

    return cached(f"kernel/{machine}-{label.hexdigest()[:16]}", make) / KERNEL_PROGRAM


def _includes() -> list[str]:
    import tvm_ffi.libinfo

    dlpack = tvm_ffi.libinfo.find_dlpack_include_path()
    found = ["-isystem", tvm_ffi.libinfo.find_include_path()]
    return [*found, *(["-isystem", dlpack] if dlpack else [])]


def _build(compiler: CrossCompiler, machine: str, libraries: Sequence[Path], folder: Path) -> None:
    include = _includes()
    objects: dict[str, Path] = {}
    for name in dict.fromkeys(_PROGRAM_SOURCES):
        source = next(path for path in RUNNER_SOURCES if path.name == name)
        objects[name] = folder / f"{name}.o"
        # Relative names, so that no folder of this machine gets into the result.
        prefix = f"-ffile-prefix-map={source.parent}=."
        call_compiler(
            compiler, [*_FLAGS, prefix, *include, "-c", str(source), "-o", str(objects[name])]
        )
    # The runtime registers what the runner calls by name, so that nothing seems to need it.
    tvm = ["-Wl,--no-as-needed", *map(str, libraries)]
    program = [*(str(objects[name]) for name in _PROGRAM_SOURCES), "-lm"]
    shared = [str(objects[name]) for name in _LIBRARY_SOURCES]
    common = ["-s", "-Wl,--build-id=none"]
    call_compiler(
        compiler,
        [*common, *program, *tvm, "-Wl,-rpath,$ORIGIN/lib", "-o", str(folder / PROGRAM)],
    )
    call_compiler(
        compiler,
        ["-shared", *common, *shared, *tvm, "-Wl,-rpath,$ORIGIN", "-o", str(folder / LIBRARY)],
    )
    for path in objects.values():
        path.unlink()
    for name in (PROGRAM, LIBRARY):
        found = read_shared_object(folder / name)
        if found.machine != MACHINES[machine] or found.executable_stack:
            raise DeployError(
                f"{compiler.name} made {name} for {found.machine}, not for {machine}",
                where=machine,
                hint="install ziglang: pip install ziglang",
            )


def find_compiler(machine: str, language: str = "c") -> CrossCompiler:
    """A compiler for the machine: zig's if it is there, else the system's.

    Args:
        machine: As ``uname -m`` prints it there.
        language: ``c`` or ``c++``.

    Raises:
        DeployError: There is none.
    """
    if machine in _ZIG_TARGETS and importlib.util.find_spec("ziglang") is not None:
        program = {"c": "cc", "c++": "c++"}[language]
        command = (sys.executable, "-m", "ziglang", program, "-target", *_ZIG_TARGETS[machine])
        return CrossCompiler(
            "zig", command, f"zig {metadata.version('ziglang')} {' '.join(_ZIG_TARGETS[machine])}"
        )
    program = {"c": "gcc", "c++": "g++"}[language]
    names = [f"{_GNU[machine]}-{program}"] if machine in _GNU else []
    names += [program] if os.uname().machine == machine else []
    for name in names:
        found = shutil.which(name)
        if found is not None:
            done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            return CrossCompiler(name, (found,), (done.stdout.splitlines() or [name])[0])
    raise DeployError(
        f"there is no {language.upper()} compiler for {machine}",
        where=machine,
        hint="pip install ziglang, or install a cross compiler such as Debian's package "
        f"{program}-{_GNU.get(machine, 'aarch64-linux-gnu')}",
    )


def call_compiler(compiler: CrossCompiler, arguments: list[str]) -> None:
    """Run a compiler.

    Raises:
        DeployError: It fails.
    """
    try:
        done = subprocess.run(
            [*compiler.command, *arguments],
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise DeployError(
            f"{compiler.name} failed: {error}", where="runner", hint="check the installation"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise DeployError(
            f"{compiler.name} failed: {' '.join(lines[:2] or ['no message'])[:300]}",
            where="runner",
            hint="check that the disk is not full",
        )


__all__ = [
    "EXAMPLE",
    "GLIBC",
    "HEADER",
    "KERNEL_PROGRAM",
    "LIBRARY",
    "PROGRAM",
    "CrossCompiler",
    "Tell",
    "build_kernel_program",
    "build_runner",
    "call_compiler",
    "find_compiler",
]
