"""Weights that are not rounded to the nearest: one bit each, packed as text for a plan."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pack(turned: Array) -> str:
    """Which weights are rounded the other way, as text."""
    bits = np.packbits(turned.reshape(-1).astype(bool))
    return base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode("ascii")


def turn(stored: Array, exact: Array, packed: str, limit: int) -> Array:
    """Weights rounded to the nearest, and some of them the other way.

    Args:
        stored: Rounded to the nearest.
        exact: The same before, in steps of the scale.
        packed: What `pack` gave.
        limit: Greatest magnitude that is stored.

    Raises:
        ValueError: The text was made for other weights.
    """
    try:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(packed, validate=True)), np.uint8)
    except (binascii.Error, zlib.error) as error:
        raise ValueError("its rounding is no packed text") from error
    if bits.size != -(-stored.size // 8):
        raise ValueError("its rounding is for a weight of another size")
    turned = np.unpackbits(bits, count=stored.size).reshape(stored.shape).astype(bool)
    other = stored.astype(np.int64) + np.where(exact >= stored, 1, -1)
    return np.clip(np.where(turned, other, stored), -limit, limit).astype(stored.dtype)


__all__ = ["pack", "turn"]
