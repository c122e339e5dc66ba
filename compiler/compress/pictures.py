"""Calibration by a folder of photographs, with the usual preprocessing of image classifiers.

A compiler cannot know how a model wants its images. What most networks for photographs take is
the default here: a central crop, scaled, and normalized by ImageNet's mean and deviation. Whoever
trained otherwise says so by options, or gives arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.errors import CalibrationError, InputError
from compiler.stages import TensorSpec

#: Files that are read.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
#: ImageNet's mean and deviation of red, green and blue, brightness from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZE = ("crop", "stretch")
#: What of the shorter side the central crop keeps: 224 of 256.
CROP = 0.875


@dataclass(frozen=True, slots=True)
class Images:
    """A folder of photographs as calibration samples: ``compile(..., calibration=Images(...))``.

    The height and width come from the model's input, ``(1, 3, H, W)`` or ``(1, H, W, 3)``, with
    one channel for grey images.

    Attributes:
        folder: Where ``.png``, ``.jpg``, ``.bmp`` and ``.webp`` files are, taken by name.
        mean: Subtracted from brightness from 0 to 1: one number, or one a channel.
        std: Divides what is left: one number, or one a channel.
        resize: ``crop`` keeps the central square, 7/8 of the shorter side (of another form than
            square for another input); ``stretch`` takes the whole image.
    """

    folder: str | Path
    mean: float | Sequence[float] = MEAN
    std: float | Sequence[float] = STD
    resize: str = "crop"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = getattr(self, name)
            numbers = (given,) if isinstance(given, int | float) else tuple(given)
            known = all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
            if not known or len(numbers) not in (1, 3) or (name == "std" and min(numbers) <= 0):
                raise InputError(
                    f"{name} is {given!r}",
                    where="calibration",
                    hint="give one number, or one each for red, green and blue, for brightness "
                    "from 0 to 1",
                )
            object.__setattr__(self, name, tuple(float(v) for v in numbers))
        if self.resize not in RESIZE:
            raise InputError(
                f"resize is {self.resize!r}",
                where="calibration",
                hint=f"give one of {', '.join(RESIZE)}",
            )

    def samples(self, inputs: Sequence[TensorSpec]) -> Iterator[npt.NDArray[Any]]:
        """The images as arrays for a model's one input, in the order of their names.

        Raises:
            CalibrationError: There are none, one cannot be read, the model takes no image, or
                Pillow is not installed.
        """
        try:
            import PIL.Image
        except ImportError as error:
            raise CalibrationError(
                "images are read by Pillow, which is not installed",
                where=str(self.folder),
                hint="install it: pip install 'tilewright[images]'; or give arrays in .npy files",
            ) from error
        height, width, channels, last = _geometry(inputs)
        mean, std = (np.asarray(v, np.float32) for v in (self.mean, self.std))
        if max(mean.size, std.size) > channels:
            mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
        paths = self.paths()
        for path in paths:
            try:
                with PIL.Image.open(path) as file:
                    image = file.convert("RGB" if channels == 3 else "L")
            except (OSError, ValueError, SyntaxError) as error:
                raise CalibrationError(
                    f"it cannot be read as an image: {error}",
                    where=str(path),
                    hint="take it out of the folder",
                ) from error
            if self.resize == "crop":
                image = image.crop(_box(*image.size, height, width))
            image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
            pixels = np.asarray(image, np.uint8).reshape(height, width, channels)
            if inputs[0].dtype == "uint8":
                array: npt.NDArray[Any] = pixels
            else:
                array = ((pixels.astype(np.float32) / 255.0 - mean) / std).astype(np.float32)
            array = array if last else array.transpose(2, 0, 1)
            yield np.ascontiguousarray(array[None])

    def paths(self) -> list[Path]:
        """The image files.

        Raises:
            CalibrationError: The folder is not there, or holds none.
        """
        folder = Path(self.folder)
        if not folder.is_dir():
            raise CalibrationError(
                "it is no folder" if folder.exists() else "it does not exist",
                where=str(folder),
                hint="name a folder of .png or .jpg files",
            )
        found = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
        if not found:
            raise CalibrationError(
                "it holds no images",
                where=str(folder),
                hint=f"put files there that end in one of {', '.join(sorted(SUFFIXES))}",
            )
        return found


def _geometry(inputs: Sequence[TensorSpec]) -> tuple[int, int, int, bool]:
    """Height, width and channels of a model's input, and whether channels come last."""
    if len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].dtype in ("float32", "uint8"):
        _, *rest = (int(v) for v in inputs[0].shape)
        if rest[0] in (1, 3):
            return rest[1], rest[2], rest[0], False
        if rest[2] in (1, 3):
            return rest[0], rest[1], rest[2], True
    raise CalibrationError(
        f"the model takes {', '.join(map(str, inputs))}, which is no image of 1 or 3 channels",
        where="calibration",
        hint="give arrays as the model takes them, in .npy or .npz files",
    )


def _box(width: int, height: int, to_height: int, to_width: int) -> tuple[int, int, int, int]:
    """The central part of an image in the form of the input: left, upper, right, lower."""
    share = CROP * min(width / to_width, height / to_height)
    w, h = max(1, round(share * to_width)), max(1, round(share * to_height))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


__all__ = ["MEAN", "RESIZE", "STD", "SUFFIXES", "Images"]
