"""The integer semantics in NumPy, slow and plain: what every lowering has to equal, bit for bit.

docs/integer-semantics.md says the same in words. Nothing here imports TVM or torch. Activations
are ``uint8`` or ``int8``, weights ``int8`` from -127 to 127, sums ``int32``. Everything is
computed in 64 bits and checked to fit into 32 where the definition says 32, so a plan that would
overflow is found out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Shifts that a requantization may have.
MAX_SHIFT = 62
#: Bits of the factors of `add` and `rescale`: times a difference of two 8-bit numbers (9 bits
#: and a sign), twice, and one half, stays within 32 bits.
FACTOR_BITS = 21
#: The same where a tensor of 16 bits takes part.
WIDE_FACTOR_BITS = 14
INT32 = np.iinfo(np.int32)


# Choosing the numbers


def fixed_point(scales: npt.ArrayLike) -> tuple[Array, int]:
    """Real factors as integers and one shift: ``scales ~ multipliers * 2**-shift``.

    The largest multiplier has 31 bits, so the error of every factor is at most 2^-31 of the
    largest one.

    Args:
        scales: Positive numbers, below 2^29.

    Returns:
        int32 multipliers in the shape of `scales`, and a shift from 1 to 62.

    Raises:
        ValueError: A scale is not positive, not finite or too large.
    """
    real = np.asarray(scales, np.float64)
    if not (np.isfinite(real).all() and (real > 0).all()) or real.max() >= 2.0**29:
        raise ValueError("scales have to be positive numbers below 2^29")
    shift = min(MAX_SHIFT, 31 - math.frexp(float(real.max()))[1])
    if np.rint(np.ldexp(real, shift)).max() > INT32.max:
        shift -= 1
    return np.rint(np.ldexp(real, shift)).astype(np.int32), shift


def power_of_two(scales: npt.ArrayLike) -> int | None:
    """The shift, from 0 to 30, that all of the scales are: ``2**-shift``; None if they are not."""
    real = np.asarray(scales, np.float64)
    fraction, exponent = math.frexp(float(real.flat[0]))
    shift = 1 - exponent
    if fraction != 0.5 or (real != real.flat[0]).any() or not 0 <= shift <= 30:
        return None
    return shift


def small_factors(scales: Sequence[float], bits: int = FACTOR_BITS) -> tuple[tuple[int, ...], int]:
    """Factors of 21 bits, or fewer, and one shift for `add` and `rescale`.

    Equal powers of two become factors of 1, or of other powers of two, with the least shift.

    Raises:
        ValueError: A scale is not a positive number of fewer bits than the factors.
    """
    if not all(math.isfinite(v) and 0 < v < 2.0 ** (bits - 1) for v in scales):
        raise ValueError(f"scales have to be positive numbers below 2^{bits - 1}")
    shift = min(30, bits - math.frexp(max(scales))[1])
    if max(round(math.ldexp(v, shift)) for v in scales) >= 1 << bits:
        shift -= 1
    factors = [round(math.ldexp(v, shift)) for v in scales]
    while shift > 0 and all(f % 2 == 0 for f in factors) and any(factors):
        factors, shift = [f // 2 for f in factors], shift - 1
    return tuple(factors), shift


def quantize_weight(weight: Array, scales: Sequence[float], axis: int, low: int = -127) -> Array:
    """Weights as int8 from -127 to 127, to the nearest, ties to the even one.

    Args:
        weight: Real numbers.
        scales: One scale, or one for each index along `axis`.
        axis: Axis of output channels.
        low: Least stored value; -128 only for models that come with it.
    """
    shape = [1] * weight.ndim
    if len(scales) > 1:
        shape[axis] = -1
    steps = np.asarray(scales, np.float64).reshape(shape)
    return np.clip(np.rint(weight.astype(np.float64) / steps), low, 127).astype(np.int8)


def quantized_number(value: float, scale: float, zero_point: int, low: int, high: int) -> int:
    """A real limit as a stored value, saturated: where clipping happens in integers."""
    if math.isinf(value):
        return high if value > 0 else low
    return int(np.clip(np.rint(value / scale) + zero_point, low, high))


def lookup_table(
    function: Callable[[float], float],
    source: tuple[str, float, int],
    result: tuple[str, float, int],
) -> Array:
    """The 256 results of a function of one number, quantized.

    Args:
        function: On real numbers, in double precision.
        source: dtype, scale and zero point of the argument.
        result: dtype, scale and zero point of the result.

    Returns:
        Entry ``q`` is the result for the stored value ``q``; for int8, entry ``q + 128``.
    """
    stored = np.arange(256) - (128 if source[0] == "int8" else 0)
    values = [function((int(q) - source[2]) * source[1]) for q in stored]
    limits = np.iinfo(result[0])
    steps = np.rint(np.asarray(values, np.float64) / result[1]) + result[2]
    return np.clip(steps, limits.min, limits.max).astype(result[0])


# Between kernels


def quantize(
    x: Array, *, inverse: float, zero_point: int, low: int, high: int, dtype: str
) -> Array:
    """float32 as integers: times `inverse` in float32, to the nearest even, saturated.

    NaN becomes the lower limit.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value = x.astype(np.float32) * np.float32(inverse)
    below, above = np.float32(low - zero_point), np.float32(high - zero_point)
    value = np.where(value > below, value, below)
    value = np.where(value < above, value, above)
    return (np.rint(value).astype(np.int32) + zero_point).astype(dtype)


def dequantize(x: Array, *, scale: float, zero_point: int) -> Array:
    """Integers as float32: the difference is exact, the product rounded once."""
    return (x.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)


def rounding_shift(value: Array, shift: int) -> Array:
    """``(value + 2^(shift - 1)) >> shift`` on int64; `value` itself for no shift."""
    if shift == 0:
        return value
    return (value + (1 << (shift - 1))) >> shift


def requantize(
    sums: Array,
    bias: Array,
    multiplier: Array | None = None,
    *,
    shift: int,
    zero_point: int,
    low: int,
    high: int,
    dtype: str,
) -> Array:
    """int32 sums as 8-bit integers: one rounding, ties up, then zero point and saturation.

    Args:
        sums: int32.
        bias: int32 that broadcasts against `sums`.
        multiplier: int32 that broadcasts against `sums`; without one, 1.
        shift: From 1 to 62; from 0 to 30 without a multiplier.
        zero_point: Added after the rounding.
        low: Least stored value.
        high: Greatest.
        dtype: Of the result.

    Raises:
        OverflowError: A number that is defined to have 32 bits does not fit.
    """
    value = fit(sums.astype(np.int64) + bias)
    if multiplier is None:
        value = fit(value + ((1 << shift) >> 1)) >> shift
    else:
        value = fit(rounding_shift(value * multiplier.astype(np.int64), shift))
    return saturate(value + zero_point, low, high, dtype)


def sums_to_float(sums: Array, bias: Array, factor: Array) -> Array:
    """int32 sums with their bias as float32 (rounded to the nearest even), times a factor."""
    return fit(sums.astype(np.int64) + bias).astype(np.int32).astype(np.float32) * factor


def add(
    a: Array, b: Array, *, zero_a: int, factor_a: int, zero_b: int, factor_b: int, shift: int,
    zero_point: int, low: int, high: int, dtype: str,
) -> Array:  # fmt: skip
    """The sum of two tensors of different scales, in 32 bits throughout."""
    left = (a.astype(np.int64) - zero_a) * factor_a
    right = (b.astype(np.int64) - zero_b) * factor_b
    value = fit(left) + fit(right)
    value = fit(value + ((1 << shift) >> 1)) >> shift
    return saturate(value + zero_point, low, high, dtype)


def multiply(
    a: Array, b: Array, *, zero_a: int, zero_b: int, multiplier: int, shift: int, zero_point: int,
    low: int, high: int, dtype: str,
) -> Array:  # fmt: skip
    """The product of two tensors, requantized."""
    product = (a.astype(np.int64) - zero_a) * (b.astype(np.int64) - zero_b)
    value = fit(rounding_shift(product * multiplier, shift))
    return saturate(value + zero_point, low, high, dtype)


def rescale(
    x: Array, *, zero_in: int, factor: int, shift: int, zero_point: int, low: int, high: int,
    dtype: str,
) -> Array:  # fmt: skip
    """A tensor at another scale; with factor 1 and shift 0 a clipping."""
    value = fit((x.astype(np.int64) - zero_in) * factor)
    value = fit(value + ((1 << shift) >> 1)) >> shift
    return saturate(value + zero_point, low, high, dtype)


def lookup(x: Array, table: Array, *, dtype: str) -> Array:
    """The table's entry for each element; int8 elements count from -128."""
    return table[x.astype(np.int32) + (128 if x.dtype == np.int8 else 0)].astype(dtype)


# Kernels


def conv2d(data: Array, weight: Array, **geometry: Any) -> Array:
    """Sums of a convolution of integers; takes what `convolve` takes.

    Raises:
        OverflowError: A sum has more than 32 bits.
    """
    sums = convolve(data, weight, **geometry)  # whole numbers below 2^53 are exact
    return fit(sums.astype(np.int64)).astype(np.int32)


def convolve(
    data: Array,
    weight: Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> Array:
    """A convolution of ``NCHW`` data with an ``OIHW`` kernel in double precision.

    Args:
        data: Any numbers.
        weight: Any numbers.
        strides: Of height and width.
        padding: Top, left, bottom, right.
        dilation: Of height and width.
        groups: Of channels.
        pad_value: What is beyond the edges: the zero point.
    """
    top, left, bottom, right = padding
    source = np.pad(
        data, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=pad_value
    ).astype(np.float64)
    batch, _, height, width = source.shape
    outputs, inner, kh, kw = weight.shape
    out_h = (height - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    out_w = (width - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    grouped = source.reshape(batch, groups, inner, height, width)
    kernel = weight.astype(np.float64).reshape(groups, outputs // groups, inner, kh, kw)
    result = np.zeros((batch, groups, outputs // groups, out_h * out_w))
    for y in range(kh):
        for x in range(kw):
            rows = slice(y * dilation[0], y * dilation[0] + (out_h - 1) * strides[0] + 1)
            columns = slice(x * dilation[1], x * dilation[1] + (out_w - 1) * strides[1] + 1)
            window = grouped[:, :, :, rows, columns][..., :: strides[0], :: strides[1]]
            part = kernel[None, ..., y, x]
            if inner == 1:
                result += part * window.reshape(batch, groups, 1, out_h * out_w)
            else:
                result += part @ window.reshape(batch, groups, inner, out_h * out_w)
    return result.reshape(batch, outputs, out_h, out_w)


def matmul(a: Array, b: Array) -> Array:
    """Sums of a matrix product.

    Raises:
        OverflowError: A sum has more than 32 bits.
    """
    product = a.astype(np.float64) @ b.astype(np.float64)
    return fit(product.astype(np.int64)).astype(np.int32)


def max_pool2d(
    data: Array,
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Array:
    """Maxima of windows of ``NCHW`` data; beyond the edges is the dtype's least value."""
    before, after = padding[:2], padding[2:]
    spans, counts = [], []
    for axis in range(2):
        size = data.shape[2 + axis]
        span = size + before[axis] + after[axis] - dilation[axis] * (kernel[axis] - 1) - 1
        count = (span + (strides[axis] - 1 if ceil_mode else 0)) // strides[axis] + 1
        if ceil_mode and (count - 1) * strides[axis] >= size + before[axis]:
            count -= 1
        counts.append(count)
        reach = (count - 1) * strides[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        spans.append((before[axis], max(after[axis], reach - size - before[axis])))
    least = -np.inf if data.dtype.kind == "f" else np.iinfo(data.dtype).min
    source = np.pad(data, ((0, 0), (0, 0), *spans), constant_values=least)
    result = np.full((*data.shape[:2], *counts), least, data.dtype)
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            window = source[:, :, y * dilation[0] :, x * dilation[1] :]
            rows = window[:, :, : (counts[0] - 1) * strides[0] + 1 : strides[0]]
            result = np.maximum(result, rows[..., : (counts[1] - 1) * strides[1] + 1 : strides[1]])
    return result


# Checks


def sum_bound(weight: Array, bias: Array, axis: int, dtype: str) -> Array:
    """The largest magnitude that a sum, or a part of it, can have, one for each channel.

    Args:
        weight: int8.
        bias: int32 or wider, one a channel.
        axis: Axis of output channels.
        dtype: Of the activations.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    largest = 255 if dtype == "uint8" else 128
    total = np.abs(weight.astype(np.int64)).sum(axis=others)
    return np.asarray(largest * total + np.abs(bias.astype(np.int64)))


def fit(value: Array) -> Array:
    """The same numbers, which have to fit into int32.

    Raises:
        OverflowError: They do not.
    """
    if value.size and (value.max() > INT32.max or value.min() < INT32.min):
        raise OverflowError("a number that is defined to have 32 bits does not fit")
    return value


def saturate(value: Array, low: int, high: int, dtype: str) -> Array:
    """Integers between two limits, as `dtype`."""
    return np.clip(value, low, high).astype(dtype)
