"""Ternary and binary weights, and arithmetic on one bit, in NumPy.

What `compiler.compress.reference` is for 8 bits, this is for fewer: slow, plain, and what every
lowering has to equal, bit for bit. docs/integer-semantics.md says the same in words. Nothing
here imports TVM or torch.

Ternary weights are Li and Liu's, "Ternary Weight Networks" (arXiv:1605.04711), binary weights and
products of signs Rastegari et al.'s, "XNOR-Net" (arXiv:1603.05279).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress.reference import INT32, convolve, fit, quantize_weight

Array = npt.NDArray[Any]

#: Signs that lie in one word, those of 32 channels; a word is a `uint32`.
WORD = 32
#: Weights of a channel below this share of their mean magnitude become 0.
TERNARY_SHARE = 0.7
#: Bits behind the point of the sums of signs, where there is room for them.
FRACTION = 8
#: Bits that a sum of signs with its fraction has at most, so that float32 holds it exactly.
EXACT_BITS = 23
#: A channel without any weight gets the largest scale of the others, divided by this.
_EMPTY = 1024.0


# Weights


def ternary_scales(weight: Array, axis: int | None) -> tuple[Array, tuple[float, ...]]:
    """Weights as -1, 0 and 1, and their scales: those of Ternary Weight Networks.

    What is larger than 0.7 times the mean magnitude of its channel becomes its sign, the rest
    0; the scale is the mean magnitude of what is not 0, rounded to float32. Means are taken in
    double precision.

    Args:
        weight: Real numbers.
        axis: Of output channels; None for one scale in all.

    Returns:
        int8 of the weight's shape, and one scale a channel, or one.
    """
    rows = _rows(weight, axis)
    magnitude = np.abs(rows)
    threshold = TERNARY_SHARE * magnitude.mean(axis=1, keepdims=True)
    kept = magnitude > threshold
    count = kept.sum(axis=1)
    total = np.where(kept, magnitude, 0.0).sum(axis=1)
    scales = np.divide(total, count, out=np.zeros(len(rows)), where=count > 0)
    stored = np.where(kept, np.sign(rows), 0.0).astype(np.int8)
    return _back(stored, weight, axis), _as_float32(scales)


def binary_scales(weight: Array, axis: int | None) -> tuple[Array, tuple[float, ...]]:
    """Weights as -1 and 1, and their scales: those of XNOR-Net.

    0 and -0 become 1; the scale is the mean magnitude, rounded to float32.

    Args:
        weight: Real numbers.
        axis: Of output channels; None for one scale in all.
    """
    rows = _rows(weight, axis)
    stored = np.where(rows >= 0, 1, -1).astype(np.int8)
    return _back(stored, weight, axis), _as_float32(np.abs(rows).mean(axis=1))


def stored_weight(
    weight: Array, dtype: str, scales: Sequence[float], axis: int, *, tensor: bool, method: str
) -> tuple[Array, tuple[float, ...]]:
    """A weight as the integers that a plan stores it as, and its scales.

    Ternary weights follow from the scales of a plan (to the nearest of -scale, 0 and scale, ties
    to 0) unless there are none or the method is ``twn``: then the rule of Ternary Weight
    Networks tells 0 from the rest. Binary weights are signs, whatever the scales are.

    Args:
        weight: Real numbers.
        dtype: ``ternary`` or ``binary``.
        scales: Of the plan; empty for those that follow from the weight.
        axis: Of output channels.
        tensor: Whether there is one scale in all.
        method: How the scales were chosen.

    Raises:
        ValueError: The dtype is none of these.
    """
    along = None if tensor else axis
    if dtype == "ternary":
        stored, derived = ternary_scales(weight, along)
        if scales and method != "twn":
            stored = np.clip(quantize_weight(weight, scales, axis), -1, 1)
        return stored, tuple(scales) or derived
    if dtype == "binary":
        stored, derived = binary_scales(weight, along)
        return stored, tuple(scales) or derived
    raise ValueError(f"weights of dtype {dtype!r} have more than two bits")


def _rows(weight: Array, axis: int | None) -> Array:
    real = weight.astype(np.float64)
    if axis is None:
        return real.reshape(1, -1)
    return np.moveaxis(real, axis, 0).reshape(weight.shape[axis], -1)


def _back(stored: Array, weight: Array, axis: int | None) -> Array:
    if axis is None:
        return stored.reshape(weight.shape)
    shape = (weight.shape[axis], *np.delete(weight.shape, axis))
    return np.ascontiguousarray(np.moveaxis(stored.reshape(shape), 0, axis))


def _as_float32(scales: Array) -> tuple[float, ...]:
    """The scales as float32 numbers, none of them 0."""
    rounded = scales.astype(np.float32).astype(np.float64)
    largest = float(rounded.max())
    floor = float(np.float32(largest / _EMPTY)) if largest > 0 else 1.0
    return tuple(float(v) if v > 0 else floor for v in rounded)


# Signs


def words(channels: int) -> int:
    """Words that the signs of so many channels fill."""
    return -(-channels // WORD)


def fraction_bits(reduction: int) -> int:
    """Bits behind the point of sums of so many signs."""
    return max(0, min(FRACTION, EXACT_BITS - reduction.bit_length()))


def pack_signs(positive: Array, axis: int) -> Array:
    """Truth values as bits: bit `b` of word `j` is that of channel ``32 j + b``.

    Bits beyond the last channel are 1, and so is what lies beyond the edges of an image.

    Args:
        positive: Truth values, or anything that has some.
        axis: Of channels.

    Returns:
        ``uint32``, with the words along `axis`.
    """
    bits = np.moveaxis(positive.astype(bool), axis, -1)
    channels = bits.shape[-1]
    count = words(channels)
    full = np.ones((*bits.shape[:-1], count * WORD), bool)
    full[..., :channels] = bits
    packed = np.packbits(full, axis=-1, bitorder="little").view("<u4")
    return np.ascontiguousarray(np.moveaxis(packed.astype(np.uint32), -1, axis))


def unpack_signs(packed: Array, channels: int, axis: int) -> Array:
    """Words of `pack_signs` as int8, -1 and 1."""
    last = np.ascontiguousarray(np.moveaxis(packed, axis, -1)).astype("<u4")
    bits = np.unpackbits(last.view(np.uint8), axis=-1, bitorder="little")[..., :channels]
    return np.moveaxis(bits.astype(np.int8) * 2 - 1, -1, axis)


def sign(x: Array, *, zero_point: float, axis: int) -> Array:
    """Signs of a tensor, packed by `pack_signs`: 1 where ``x >= zero_point``.

    Zero, and -0.0, count as positive; NaN as negative.

    Args:
        x: float32, ``uint8`` or ``int8``.
        zero_point: What stands for 0, or for the threshold from which on numbers are positive.
        axis: Of channels.
    """
    with np.errstate(invalid="ignore"):
        return pack_signs(x >= zero_point, axis)


def binary_conv2d(
    data: Array,
    weight: Array,
    *,
    channels: int,
    fraction: int,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    layout: str = "NCHW",
) -> Array:
    """Sums of a convolution of signs, times ``2^fraction``; beyond the edges stands +1.

    Args:
        data: Packed signs, ``NCHW`` or ``NHWC`` with words in place of channels.
        weight: Packed signs, ``OIHW``.
        channels: Input channels.
        fraction: Bits behind the point of the result.
        strides: Of height and width.
        padding: Top, left, bottom, right.
        dilation: Of height and width.
        layout: Of data and result.

    Raises:
        OverflowError: A sum has more than 32 bits.
    """
    last = layout == "NHWC"
    signs = unpack_signs(data, channels, 3 if last else 1)
    sums = convolve(
        signs.transpose(0, 3, 1, 2) if last else signs,
        unpack_signs(weight, channels, 1),
        strides=strides, padding=padding, dilation=dilation, pad_value=1,
    )  # fmt: skip
    result = fit(sums.astype(np.int64) << fraction).astype(np.int32)
    return result.transpose(0, 2, 3, 1) if last else result


def binary_matmul(data: Array, weight: Array, *, channels: int, fraction: int) -> Array:
    """Sums of a product of matrices of signs, times ``2^fraction``.

    Args:
        data: Packed signs, words last.
        weight: Packed signs ``[words, n]``.
        channels: Length of the reduction.
        fraction: Bits behind the point of the result.

    Raises:
        OverflowError: A sum has more than 32 bits.
    """
    left = unpack_signs(data, channels, -1).astype(np.int64)
    right = unpack_signs(weight, channels, 0).astype(np.int64)
    return fit((left @ right) << fraction).astype(np.int32)


__all__ = [
    "FRACTION",
    "INT32",
    "TERNARY_SHARE",
    "WORD",
    "binary_conv2d",
    "binary_matmul",
    "binary_scales",
    "fraction_bits",
    "pack_signs",
    "sign",
    "stored_weight",
    "ternary_scales",
    "unpack_signs",
    "words",
]
