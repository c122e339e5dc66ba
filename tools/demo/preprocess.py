"""From an image file to the network's input, as EfficientNet-Lite was trained and evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

#: Height and width of the input, in pixels.
SIZE = 224
#: The crop leaves this much of a margin around an image that was scaled to SIZE + MARGIN.
MARGIN = 32
#: The Lite networks take pixels as (value - 127) / 128: about -1 to 1, the same on all channels.
MEAN = 127.0
SCALE = 128.0


def center_crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The central square, 224/256 of the shorter side: left, upper, right, lower."""
    side = int(SIZE / (SIZE + MARGIN) * min(width, height))
    left, upper = (width - side + 1) // 2, (height - side + 1) // 2
    return left, upper, left + side, upper + side


def normalize(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Pixels (height, width, 3) as a float32 batch of one, (1, 3, height, width)."""
    values = (pixels.astype(np.float32) - MEAN) / SCALE
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
    """An image of any size and mode as float32 (1, 3, 224, 224): crop, bicubic, normalize."""
    from PIL import Image

    image = image.convert("RGB")
    image = image.crop(center_crop_box(*image.size))
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return normalize(np.asarray(image))


def read_image(path: Path) -> npt.NDArray[np.float32]:
    """`preprocess` for a file."""
    from PIL import Image

    with Image.open(path) as image:
        return preprocess(image)
