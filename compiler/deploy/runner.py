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
from compiler.native import RUNNER_SOURCES

#: Oldest C library of a device that the runner works with.
GLIBC = "2.28"
PROGRAM, LIBRARY, HEADER, EXAMPLE = "run", "libtilewright.so", "tilewright.h", "example.c"
_LIBRARY_SOURCES = ("model.c", "npy.c", "ffi.c")
_PROGRAM_SOURCES = ("main.c", "rpc.c", *_LIBRARY_SOURCES)
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-DNDEBUG")
_ZIG_TARGETS = {"aarch64": f"aarch64-linux-gnu.{GLIBC}", "x86_64": f"x86_64-linux-gnu.{GLIBC}"}
_GCC = {"aarch64": "aarch64-linux-gnu-gcc", "x86_64": "x86_64-linux-gnu-gcc"}
_SECONDS = 1800

#: Called with what is being done, before it is.
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Compiler:
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
    compiler = _find_compiler(machine)
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


def _build(compiler: _Compiler, machine: str, libraries: Sequence[Path], folder: Path) -> None:
    import tvm_ffi.libinfo

    include = ["-isystem", tvm_ffi.libinfo.find_include_path()]
    dlpack = tvm_ffi.libinfo.find_dlpack_include_path()
    include += ["-isystem", dlpack] if dlpack else []
    objects: dict[str, Path] = {}
    for name in dict.fromkeys(_PROGRAM_SOURCES):
        source = next(path for path in RUNNER_SOURCES if path.name == name)
        objects[name] = folder / f"{name}.o"
        # Relative names, so that no folder of this machine gets into the result.
        prefix = f"-ffile-prefix-map={source.parent}=."
        _call(compiler, [*_FLAGS, prefix, *include, "-c", str(source), "-o", str(objects[name])])
    # The runtime registers what the runner calls by name, so that nothing seems to need it.
    tvm = ["-Wl,--no-as-needed", *map(str, libraries)]
    program = [*(str(objects[name]) for name in _PROGRAM_SOURCES), "-lm"]
    shared = [str(objects[name]) for name in _LIBRARY_SOURCES]
    common = ["-s", "-Wl,--build-id=none"]
    _call(
        compiler,
        [*common, *program, *tvm, "-Wl,-rpath,$ORIGIN/lib", "-o", str(folder / PROGRAM)],
    )
    _call(
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


def _find_compiler(machine: str) -> _Compiler:
    """A C compiler for the machine: zig's if it is there, else the system's."""
    if machine in _ZIG_TARGETS and importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "cc", "-target", _ZIG_TARGETS[machine])
        return _Compiler("zig", command, f"zig {metadata.version('ziglang')}")
    names = [_GCC[machine]] if machine in _GCC else []
    names += ["gcc"] if os.uname().machine == machine else []
    for name in names:
        program = shutil.which(name)
        if program is not None:
            done = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=False
            )
            return _Compiler(name, (program,), (done.stdout.splitlines() or [name])[0])
    raise DeployError(
        f"there is no C compiler for {machine}",
        where=machine,
        hint="pip install ziglang, or install a cross compiler such as Debian's package "
        "gcc-aarch64-linux-gnu",
    )


def _call(compiler: _Compiler, arguments: list[str]) -> None:
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


__all__ = ["EXAMPLE", "GLIBC", "HEADER", "LIBRARY", "PROGRAM", "build_runner"]
