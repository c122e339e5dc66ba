"""The integer semantics of rows in NumPy: softmax, layer normalization and sums.

docs/integer-semantics.md says the same in words, docs/decisions/0017-integer-rows.md why. What
depends on an order, the sums over a row, is computed in integers and exact; floating point only
takes part as single IEEE operations (one conversion, one product, one root), each rounded to the
nearest, whose results nothing adds up. So the bits are the same everywhere, however a target
divides a row among lanes and whether it fuses products with sums or not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress.reference import fit, saturate

Array = npt.NDArray[Any]

#: Coefficients of ``2**-f`` for ``0 <= f < 1``, of ``f**3``, ``f**2``, ``f`` and 1, in units of
#: 2^-16; the largest error is 1.4e-4.
POWER = (-2565, 15110, -45313, 65536)
#: Bits of `f`, and bits behind the point of the coefficients.
FRACTION, UNIT = 14, 16
#: The largest exponential of a row as it is stored.
TOP = 255
#: Powers of two that stored exponentials span: less than 2^-9 of the largest is 0.
REACH = 10
#: A normalized row is computed with so many bits behind the stored value's unit.
GUARD = 8
#: Partial sums of `sum_rows`.
LANES = 16


# Choosing the numbers


def exponent_numbers(scale: float) -> tuple[int, int, int]:
    """Factor, shift and limit of `exponentials` for numbers of this scale.

    ``factor * 2**-shift`` is ``scale / ln 2`` in units of 2^-14, and beyond the limit an
    exponential is 0.

    Raises:
        ValueError: The scale is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError("the scale has to be a positive number")
    step = scale / math.log(2.0)
    limit = min(65535, math.ceil(REACH / step))
    shift = 13
    while shift > 0 and round(math.ldexp(step, FRACTION + shift)) * limit >= 2**31 - 2**13:
        shift -= 1
    factor = round(math.ldexp(step, FRACTION + shift))
    if factor * limit >= 2**31 - 2**13:  # one step is more than anything that is not 0
        factor, shift, limit = REACH << FRACTION, 0, 1
    return factor, shift, limit


def norm_epsilon(epsilon: float, length: int, scale: float) -> int:
    """The `epsilon` of a normalization in units of `layer_norm`'s variance; at least 1."""
    return max(1, round(epsilon * (length / scale) ** 2))


# Operators


def exponentials(x: Array, *, factor: int, shift: int, limit: int) -> Array:
    """``exp`` of each element less the row's largest, as uint8: 255 stands for 1.

    Args:
        x: 8 or 16 bits; rows along the last axis.
        factor: See `exponent_numbers`.
        shift: The same.
        limit: The same.
    """
    wide = x.astype(np.int64)
    below = np.minimum(wide.max(axis=-1, keepdims=True) - wide, limit)
    exponent = fit(below * factor + ((1 << shift) >> 1)) >> shift
    whole, fraction = exponent >> FRACTION, exponent & ((1 << FRACTION) - 1)
    power = np.full_like(fraction, POWER[0])
    for coefficient in POWER[1:]:
        power = coefficient + (fit(power * fraction) >> FRACTION)
    value = ((power * TOP) >> whole) + (1 << (UNIT - 1))
    return (value >> UNIT).astype(np.uint8)


def row_factors(x: Array, *, ratio: float) -> Array:
    """``ratio`` over the sum of each row, float32 with one element a row.

    Args:
        x: uint8 with something but zeros in each row.
        ratio: float32.
    """
    total = fit(x.astype(np.int64).sum(axis=-1, keepdims=True)).astype(np.int32)
    with np.errstate(divide="ignore"):
        return np.float32(ratio) / total.astype(np.float32)


def requantize_rows(
    sums: Array, factors: Array, *, zero_point: int, low: int, high: int, dtype: str
) -> Array:
    """int32 sums times a factor of their row, to the nearest even, saturated."""
    value = sums.astype(np.float32) * factors
    value = np.clip(value, np.float32(low - zero_point), np.float32(high - zero_point))
    return (np.rint(value).astype(np.int32) + zero_point).astype(dtype)


def layer_norm(
    x: Array, gain: Array, bias: Array, *, epsilon: int, zero_point: int, low: int, high: int,
    dtype: str,
) -> Array:  # fmt: skip
    """Each row less its mean, over its deviation, times `gain`, plus `bias`.

    Args:
        x: 8 or 16 bits of any zero point; rows along the last axis.
        gain: float32, one an element of a row, in units of 2^-8 of the result.
        bias: int32, in the same units.
        epsilon: Added to the variance; see `norm_epsilon`.
        zero_point: Added to the result.
        low: Least stored value.
        high: Greatest.
        dtype: Of the result.

    Raises:
        OverflowError: A number that is defined to have 32 bits does not fit.
    """
    wide = x.astype(np.int64)
    length = wide.shape[-1]
    total = fit(wide.sum(axis=-1, keepdims=True))
    squares = (wide * wide).sum(axis=-1, keepdims=True)
    variance = length * squares - total * total + epsilon
    inverse = (1.0 / np.sqrt(variance.astype(np.float64))).astype(np.float32)
    distance = fit(length * wide - total).astype(np.int32).astype(np.float32)
    scaled = distance * inverse * gain.astype(np.float32)
    value = fit(np.rint(scaled).astype(np.int64) + bias + (1 << (GUARD - 1))) >> GUARD
    return saturate(value + zero_point, low, high, dtype)


def sum_rows(x: Array, *, scale: float) -> Array:
    """Sums of rows in float32, in one order for all: 16 partial sums, folded in halves.

    Partial sum `j` adds the elements ``j``, ``j + 16``, ... one after another, as far as all 16
    get one more; what is left of the row is added up by itself and then to the others.

    Args:
        x: float32; rows along the last axis, which the result does not have.
        scale: The sum is multiplied with it: 1, or one over the length for a mean.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value = _sums(x.astype(np.float32))
        return np.asarray(value * np.float32(scale) if scale != 1 else value)


def _sums(data: Array) -> Array:
    length = data.shape[-1]
    main = length // LANES
    if main < 2:
        value = _chain(data)
    else:
        lanes = _chain(
            np.moveaxis(data[..., : main * LANES].reshape(*data.shape[:-1], main, LANES), -2, -1)
        )
        parts = [lanes[..., j] for j in range(LANES)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [parts[j] + parts[j + half] for j in range(half)]
        value = parts[0]
        if length > main * LANES:
            value = value + _chain(data[..., main * LANES :])
    return value


def _chain(data: Array) -> Array:
    """Sums along the last axis, one element after another, from zero."""
    value = np.zeros(data.shape[:-1], np.float32)
    for i in range(data.shape[-1]):
        value = value + data[..., i]
    return value


__all__ = [
    "exponent_numbers",
    "exponentials",
    "layer_norm",
    "norm_epsilon",
    "requantize_rows",
    "row_factors",
    "sum_rows",
]
