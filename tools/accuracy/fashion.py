"""Fashion-MNIST: 60,000 images to train with and 10,000 to test with, from a Debian package."""

from __future__ import annotations

import gzip
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compiler.errors import FileError

#: The package, and where it puts its files.
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
#: Mean and standard deviation of the training images, as shares of full brightness.
MEAN, DEVIATION = 0.2860, 0.3530


@dataclass(frozen=True, slots=True)
class Split:
    """Images, float32 (count, 1, 28, 28), normalized, and their classes, int64 (count,)."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def load(folder: Path, part: str) -> Split:
    """Read ``train`` or ``t10k``.

    Raises:
        FileError: The files are not there or are damaged.
    """
    pixels = _read(folder, f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    labels = _read(folder, f"{part}-labels-idx1-ubyte", 8)
    if len(pixels) != len(labels):
        raise FileError(f"{len(pixels)} images, but {len(labels)} labels", where=str(folder))
    images = ((pixels.astype(np.float32) / 255.0 - MEAN) / DEVIATION).astype(np.float32)
    return Split(images, labels.astype(np.int64))


def _read(folder: Path, name: str, header: int) -> npt.NDArray[np.uint8]:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            return np.frombuffer(data, np.uint8, offset=header)
    raise FileError(
        f"{name} is not there",
        where=str(folder),
        hint=f"install Debian's {PACKAGE}, or give --data the folder of its files",
    )


def fetch(folder: Path) -> None:
    """Put the files of the Debian package into `folder`, without installing it.

    Raises:
        FileError: apt-get or dpkg-deb failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for command in (
            ["apt-get", "download", PACKAGE],
            ["sh", "-c", "dpkg-deb -x *.deb unpacked"],
        ):
            done = subprocess.run(
                command, cwd=temporary, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise FileError(
                    f"{command[0]} failed: {done.stderr.strip()[-200:]}",
                    where=PACKAGE,
                    hint=f"give --data the folder of the files of {PACKAGE}",
                )
        for path in Path(temporary, "unpacked").rglob("*-ubyte*"):
            (folder / path.name).write_bytes(path.read_bytes())


__all__ = ["INSTALLED", "PACKAGE", "Split", "fetch", "load"]
