"""TVM's runtime for machines without a package of it, built from the sources that are installed.

The packages of TVM bring the sources of their runtime. What these include and the packages lack
are a few small headers, which stand beside this project's other native sources, with the list of
the files that running a compiled model takes. Remote procedure calls are not among them.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from compiler.deploy.cache import cached
from compiler.deploy.runner import Tell, call_compiler, find_compiler
from compiler.errors import DeployError
from compiler.native import RUNTIME_FOLDER

#: Machines that the runtime is built for.
MACHINES = ("armv7l",)
#: One library: each has a C++ library of its own in it, and exceptions know only their own.
_LIBRARY = "libtvm_runtime.so"
_SOURCES = ("ffi.cc", "runtime.cc")
_DISTRIBUTIONS = ("apache-tvm-ffi", "apache-tvm")
_FLAGS = (
    "-std=c++20", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-DNDEBUG", "-D_GNU_SOURCE",
    "-DTVM_FFI_EXPORTS", "-DTVM_RUNTIME_EXPORTS", "-DTVM_FFI_USE_LIBBACKTRACE=0",
    "-DTVM_FFI_BACKTRACE_ON_SEGFAULT=0",
)  # fmt: skip


def build_runtime(machine: str, tell: Tell | None = None) -> tuple[Path, ...]:
    """The shared object that a device loads, built once and kept.

    Args:
        machine: One of `MACHINES`.
        tell: Called before it is built, which takes a minute or two.

    Raises:
        DeployError: There is no C++ compiler for the machine, the sources are not installed, or
            it fails.
        FileError: The cache cannot be written.
    """
    compiler = find_compiler(machine, language="c++")
    own = sorted(path for path in RUNTIME_FOLDER.rglob("*") if path.is_file())
    label = hashlib.sha256("\n".join([compiler.identity, *_FLAGS, _LIBRARY]).encode())
    for path in own:
        label.update(str(path.relative_to(RUNTIME_FOLDER)).encode() + path.read_bytes())
    for distribution in _DISTRIBUTIONS:
        label.update(metadata.version(distribution).encode())

    def make(folder: Path) -> None:
        if tell is not None:
            tell(
                f"building TVM's runtime for {machine} with {compiler.name}, once: a minute or two"
            )
        includes = _includes()

        def compile_one(source: str) -> None:
            prefixes = [f"-ffile-prefix-map={path}=." for path in (RUNTIME_FOLDER, *_roots())]
            call_compiler(
                compiler,
                [*_FLAGS, *prefixes, *includes, "-c", str(RUNTIME_FOLDER / source),
                 "-o", str(folder / f"{source}.o")],
            )  # fmt: skip

        with ThreadPoolExecutor() as pool:
            list(pool.map(compile_one, _SOURCES))
        objects = [folder / f"{source}.o" for source in _SOURCES]
        call_compiler(
            compiler,
            ["-shared", "-s", "-Wl,--build-id=none", f"-Wl,-soname,{_LIBRARY}",
             "-o", str(folder / _LIBRARY), *map(str, objects), "-ldl", "-lpthread"],
        )  # fmt: skip
        for path in objects:
            path.unlink()

    return (cached(f"runtime/{machine}-{label.hexdigest()[:16]}", make) / _LIBRARY,)


def _roots() -> tuple[Path, Path]:
    """The folders of the two installed packages.

    Raises:
        DeployError: They hold no sources.
    """
    found = [
        Path(str(metadata.distribution(distribution).locate_file(folder)))
        for distribution, folder in (("apache-tvm-ffi", "tvm_ffi"), ("apache-tvm", "tvm"))
    ]
    for path in found:
        if not (path / "src").is_dir():
            raise DeployError(
                f"the sources of TVM's runtime are not installed: {path.name}/src is missing",
                where=str(path),
                hint="pip install --force-reinstall apache-tvm apache-tvm-ffi",
            )
    return found[0], found[1]


def _includes() -> list[str]:
    import tvm_ffi.libinfo

    ffi, tvm = _roots()
    # The sources name the headers that are missing relative to their own folders.
    own = [RUNTIME_FOLDER, RUNTIME_FOLDER / "tvm", RUNTIME_FOLDER / "tvm" / "support"]
    dlpack = tvm_ffi.libinfo.find_dlpack_include_path()
    folders = [*own, tvm / "include", tvm, ffi, ffi / "include", *([dlpack] if dlpack else [])]
    return [f"-I{folder}" for folder in folders]


__all__ = ["MACHINES", "build_runtime"]
