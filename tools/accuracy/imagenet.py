"""The demo's 20 labelled photographs, and seeded variations of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tools.demo.preprocess import SIZE, normalize

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.float32]


def variations(paths: Sequence[Path], each: int, seed: int) -> Iterator[Floats]:
    """Random crops, mirror images, brightness and contrast: float32 (1, 3, 224, 224) each.

    Args:
        paths: Image files.
        each: Variations of each of them.
        seed: Of the random numbers; the same seed gives the same images.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        for _ in range(each):
            yield normalize(np.asarray(_vary(image, rng)))


def _vary(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    from PIL import Image, ImageEnhance

    width, height = image.size
    side = int(min(width, height) * np.sqrt(rng.uniform(0.5, 1.0)))
    left = int(rng.integers(0, width - side + 1))
    upper = int(rng.integers(0, height - side + 1))
    image = image.crop((left, upper, left + side, upper + side))
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    return ImageEnhance.Contrast(image).enhance(rng.uniform(0.8, 1.2))


__all__ = ["variations"]
