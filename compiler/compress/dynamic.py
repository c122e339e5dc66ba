"""Activations quantized row by row at run time, in NumPy: precision ``dynamic``.

A row is what a matrix product reads for one of its results: the last axis. Its scale is its
largest magnitude over 127, so no calibration is needed. The integers are symmetric, from -127 to
127, and stored 128 higher as ``uint8``, which is what dot-product instructions multiply; the
128s' share of the sums goes into the offset. Every operation below is one rounding of float32 to
the nearest even, or exact, so the integers are the same on every target. Nothing here imports
TVM or torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress.reference import fit

Array = npt.NDArray[Any]

#: Greatest magnitude of a stored activation, and what is added to store it.
LIMIT, ZERO_POINT = 127, 128
#: A row whose scale is not above this is one of zeros: one over it might be no number.
LEAST_SCALE = 2.0**-100


def row_scales(x: Array) -> Array:
    """``max |x| / 127`` of each row, float32 with one element a row.

    Args:
        x: float32; rows along the last axis.
    """
    largest = np.abs(x.astype(np.float32)).max(axis=-1, keepdims=True)
    return np.asarray(largest / np.float32(LIMIT))


def quantize_rows(x: Array, scales: Array) -> Array:
    """Rows as uint8: times one over their scale, to the nearest even, 128 higher.

    A row whose scale is at most 2^-100 gives zeros; NaN gives -127.
    """
    usable = scales > np.float32(LEAST_SCALE)
    inverse = np.where(usable, np.float32(1) / np.where(usable, scales, np.float32(1)), 0)
    with np.errstate(over="ignore", invalid="ignore"):
        value = x.astype(np.float32) * inverse.astype(np.float32)
    limit = np.float32(LIMIT)
    value = np.where(value > -limit, value, -limit)
    value = np.where(value < limit, value, limit)
    return (np.rint(value).astype(np.int32) + ZERO_POINT).astype(np.uint8)


def rows_to_float(sums: Array, offset: Array, scales: Array, factor: Array) -> Array:
    """int32 sums with their offset as float32, times the row's scale, times a factor.

    Args:
        sums: int32.
        offset: int32, one a channel.
        scales: float32, one a row.
        factor: float32, one a channel.
    """
    value = fit(sums.astype(np.int64) + offset).astype(np.int32).astype(np.float32)
    return (value * scales.astype(np.float32)) * factor.astype(np.float32)


__all__ = ["LEAST_SCALE", "LIMIT", "ZERO_POINT", "quantize_rows", "row_scales", "rows_to_float"]
