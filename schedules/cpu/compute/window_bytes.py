"""Depthwise convolution of bytes on NEON: vectors of 16 channels, a tile of outputs at a time.

Unsigned data become signed ones, less 128, when they are copied with their borders; what that
takes away, 128 times the sum of a channel's weights, is what the sums begin with.

Two ways to multiply:

- ``smull``: products of two places of the window fit into 16 bits together, weights of -128 being
  left out, and are added to sums of 32 bits.
- ``sdot``: four rows of a column of pixels are interleaved, byte by byte, and each lane adds up
  four products. Neighbouring rows of outputs use the same interleaved bytes, with weights that
  are shifted by a row.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, ROLE
from schedules.cpu.compute.neon_integers import BYTES, intrinsic
from schedules.cpu.compute.packed import Attributes, ConvGeometry, crop, multiply, round_up
from schedules.cpu.compute.vectors import lanes_of
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]
KIND = "depthwise_bytes"
#: Rows of pixels that ``sdot`` adds up.
QUAD = 4
#: int32 lanes of a vector.
_WORDS = 4
_SHIFT = 128


def steps(kernel: int, rows: int, stride: int) -> int:
    """Fours of rows that `rows` outputs below each other read."""
    return ceil(((rows - 1) * stride + kernel) / QUAD)


def packed_shapes(
    channels: int, kernel: tuple[int, int], rows: int, stride: int, *, dots: bool, shifted: bool
) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Shapes and dtypes of what `pack` makes."""
    kh, kw = kernel
    blocks = ceil(channels / BYTES)
    weights = (
        (blocks, kw, rows, steps(kh, rows, stride), BYTES * QUAD) if dots
        else (blocks, kh, kw * BYTES)
    )  # fmt: skip
    first = (((blocks * BYTES,), "int32"),) if shifted else ()
    return ((weights, "int8"), *first)


def pack(weight: Array, rows: int, stride: int, *, dots: bool, shifted: bool) -> tuple[Array, ...]:
    """Weights ``[channels, 1, kh, kw]`` for `depthwise_conv2d`, zero-filled.

    Args:
        weight: From -127 to 127; with `dots` from -128.
        rows: Outputs below each other that are computed together.
        stride: Of rows.
        dots: Whether ``sdot`` multiplies.
        shifted: Whether the data are unsigned; then what sums begin with is the second array.
    """
    channels, _, kh, kw = weight.shape
    blocks = ceil(channels / BYTES)
    padded = np.zeros((blocks * BYTES, kh, kw), weight.dtype)
    padded[:channels] = weight[:, 0]
    first = (padded.astype(np.int32).sum((1, 2), dtype=np.int32) * np.int32(_SHIFT),)
    split = padded.reshape(blocks, BYTES, kh, kw)
    if dots:
        count = steps(kh, rows, stride)
        places = np.zeros((rows, blocks, BYTES, count * QUAD, kw), weight.dtype)
        for row in range(rows):
            places[row, :, :, row * stride : row * stride + kh] = split
        ordered = places.reshape(rows, blocks, BYTES, count, QUAD, kw).transpose(1, 5, 0, 3, 2, 4)
        found = ordered.reshape(blocks, kw, rows, count, BYTES * QUAD)
    else:
        found = split.transpose(0, 2, 3, 1).reshape(blocks, kh, kw * BYTES)
    return (np.ascontiguousarray(found), *(first if shifted else ()))


def depthwise_conv2d(
    data: Any,
    packed: tuple[Any, ...],
    channels: int,
    kernel: tuple[int, int],
    geometry: ConvGeometry,
    tile: tuple[int, int],
    attrs: Attributes,
    pad_value: int,
    *,
    dots: bool,
) -> Any:
    """Depthwise convolution of ``NHWC`` bytes with weights of `pack`; int32, ``NHWC``.

    Args:
        data: ``[n, h, w, channels]``, uint8 or int8.
        packed: The weights; for uint8, what sums begin with.
        channels: Of data and result.
        kernel: Height and width of the window.
        geometry: Strides, padding, dilation.
        tile: Rows and columns of outputs that are computed together.
        attrs: Annotations of the heart.
        pad_value: What is beyond the edges.
        dots: Whether ``sdot`` multiplies.
    """
    batch, height, width = (int(v) for v in data.shape[:3])
    kh, kw = kernel
    rows, columns = tile
    out_h, out_w = geometry.output_extent((height, width), kernel)
    full_h, full_w = round_up(out_h, rows), round_up(out_w, columns)
    full_c = round_up(channels, BYTES)
    (stride_h, stride_w), (dilation_h, dilation_w) = geometry.strides, geometry.dilation
    size = (
        (full_h - 1) * stride_h + (kh - 1) * dilation_h + 1,
        (full_w - 1) * stride_w + (kw - 1) * dilation_w + 1,
    )
    source = signed_image(data, geometry.padding[:2], (*size, full_c), pad_value)
    y, x = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")

    def product(n: Any, h: Any, w: Any, c: Any) -> Any:
        value = source[n, h * stride_h + y * dilation_h, w * stride_w + x * dilation_w, c]
        block, place = c // BYTES, c % BYTES
        if dots:
            row = h % rows
            at = row * stride_h + y
            weight = packed[0][block, x, row, at // QUAD, place * QUAD + at % QUAD]
        else:
            weight = packed[0][block, y, x * BYTES + place]
        term = multiply(value, weight, "int32")
        if len(packed) > 1:
            first = tirx.all(y == 0, x == 0)
            term = term + tirx.if_then_else(first, packed[1][c], tirx.const(0, "int32"))
        return te.sum(term, axis=[y, x])

    out = te.compute(
        (batch, full_h, full_w, full_c), product, name="depthwise_conv2d",
        attrs={KERNEL: KIND, **attrs},
    )  # fmt: skip
    return crop(out, (batch, out_h, out_w, channels))


def signed_image(
    data: Any, before: tuple[int, int], extent: tuple[int, int, int], value: int
) -> Any:
    """``NHWC`` bytes with borders of `value`, as int8; unsigned ones less 128.

    Args:
        data: ``[n, h, w, c]``.
        before: Rows above, and columns to the left.
        extent: Rows, columns and channels of the result.
        value: Of the borders; channels that `data` has not are anything.
    """
    batch, height, width, channels = (int(v) for v in data.shape)
    top, left = before
    unsigned = str(data.dtype) == "uint8"

    def element(n: Any, h: Any, w: Any, c: Any) -> Any:
        conditions = [h >= top] if top else []
        conditions += [h < top + height] if extent[0] > top + height else []
        conditions += [w >= left] if left else []
        conditions += [w < left + width] if extent[1] > left + width else []
        conditions += [c < channels] if extent[2] > channels else []
        here = data[n, h - top, w - left, c]
        if unsigned:
            here = tirx.reinterpret("int8", tirx.bitwise_xor(here, tirx.const(_SHIFT, "uint8")))
        beyond = tirx.const(value - _SHIFT if unsigned else value, "int8")
        return tirx.if_then_else(tirx.all(*conditions), here, beyond) if conditions else here

    return te.compute((batch, *extent), element, name="pad", attrs={ROLE: "pad"})


def statements(
    source: Any,
    packed: Any,
    first: Any,
    sums: Any,
    at: tuple[Any, Any, Any],
    *,
    kernel: tuple[int, int],
    geometry: ConvGeometry,
    tile: tuple[int, int],
    registers: Any,
    dots: bool,
) -> Any:
    """The whole reduction of a tile of outputs of 16 channels.

    Args:
        source: Buffer of the image of `signed_image`.
        packed: Buffer of the weights.
        first: Buffer of what the sums begin with; None for 0.
        sums: Buffer of the result.
        at: Where the tile's region begins in `source` and `sums`, one index a dimension, and
            the number of the block of channels.
        kernel: Height and width of the window.
        geometry: Strides and dilation.
        tile: Rows and columns of outputs.
        registers: Buffer for the tile's sums that is turned into registers.
        dots: Whether ``sdot`` multiplies.
    """
    (n, first_y, first_x, first_c), sums_at, block = at
    rows, columns = tile
    body: list[Any] = []
    started: set[tuple[int, int]] = set()

    def pixel(y: int, x: int) -> Any:
        return tirx.BufferLoad(source, [n, first_y + y, first_x + x, _ramp(first_c, BYTES)])

    def register(place: int, part: int) -> Any:
        return [_ramp(tirx.const((place * _WORDS + part) * _WORDS, "int64"), _WORDS)]

    def sum_of(place: int, part: int) -> Any:
        """The sum so far, or what it begins with."""
        if (place, part) in started:
            return tirx.BufferLoad(registers, register(place, part))
        started.add((place, part))
        if first is None:
            return tirx.Broadcast(tirx.const(0, "int32"), _WORDS)
        return tirx.BufferLoad(first, [_ramp(block * BYTES + _WORDS * part, _WORDS)])

    def add(place: int, part: int, value: Any, weight: Any = None) -> None:
        """Add a value, or with weights the sums of four products, to a part of a sum."""
        old = sum_of(place, part)
        new = old + value if weight is None else intrinsic("int32x4", "sdot", old, value, weight)
        body.append(tirx.BufferStore(registers, new, register(place, part)))

    if dots:
        _dots(packed, block, pixel, add, kernel, geometry, tile)
    else:
        _products(packed, block, pixel, add, kernel, geometry, tile)
    sn, sh, sw, sc = sums_at
    for row in range(rows):
        for column in range(columns):
            for part in range(_WORDS):
                value = tirx.BufferLoad(registers, register(row * columns + column, part))
                to = [sn, sh + row, sw + column, _ramp(sc + _WORDS * part, _WORDS)]
                body.append(tirx.BufferStore(sums, value, to))
    return tirx.SeqStmt(body)


def _products(
    packed: Any, block: Any, pixel: Any, add: Any, kernel: tuple[int, int], geometry: ConvGeometry,
    tile: tuple[int, int],
) -> None:  # fmt: skip
    """Two places of the window at a time, in 16 bits."""
    kh, kw = kernel
    rows, columns = tile
    places = [(y, x) for y in range(kh) for x in range(kw)]
    pairs = [places[i : i + 2] for i in range(0, len(places), 2)]
    (stride_h, stride_w), (dilation_h, dilation_w) = geometry.strides, geometry.dilation

    def product(place: tuple[int, int], row: int, column: int, half: int) -> Any:
        y, x = place
        start = tirx.const(x * BYTES, "int64")
        weight = tirx.BufferLoad(packed, [block, tirx.const(y, "int64"), _ramp(start, BYTES)])
        value = pixel(row * stride_h + y * dilation_h, column * stride_w + x * dilation_w)
        return intrinsic("int16x8", "smull", _half(value, half), _half(weight, half))

    for pair in pairs:
        for row in range(rows):
            for column in range(columns):
                for half in (0, 1):
                    total = product(pair[0], row, column, half)
                    for place in pair[1:]:
                        total = total + product(place, row, column, half)
                    for part in (0, 1):
                        words = _half(total, part).astype("int32x4")
                        add(row * columns + column, 2 * half + part, words)


def _dots(
    packed: Any, block: Any, pixel: Any, add: Any, kernel: tuple[int, int], geometry: ConvGeometry,
    tile: tuple[int, int],
) -> None:  # fmt: skip
    """Column of pixels by column, four rows of it at a time."""
    kh, kw = kernel
    rows, columns = tile
    stride, dilation = geometry.strides, geometry.dilation
    height = (rows - 1) * stride[0] + kh  # a dilation has one row

    def line(x: int, y: int) -> Any:
        return pixel(y * dilation[0], x) if y < height else tirx.const(0, "int8x16")

    def zipped(a: Any, b: Any, half: int) -> Any:
        """Elements of two halves in turn."""
        lanes = lanes_of(a)
        places = [half * lanes // 2 + i // 2 + (i % 2) * lanes for i in range(lanes)]
        return tirx.Shuffle([a, b], places)

    for x in range((columns - 1) * stride[1] + (kw - 1) * dilation[1] + 1):
        users = [(w, k) for w in range(columns) for k in range(kw)
                 if w * stride[1] + k * dilation[1] == x]  # fmt: skip
        if not users:
            continue
        for step in range(steps(kh, rows, stride[0])):
            a, b, c, d = (line(x, QUAD * step + i) for i in range(QUAD))
            for half in (0, 1):
                upper, lower = (tirx.reinterpret("int16x8", zipped(*pair, half))
                                for pair in ((a, b), (c, d)))  # fmt: skip
                for quarter in (0, 1):
                    quad = tirx.reinterpret("int8x16", zipped(upper, lower, quarter))
                    part = 2 * half + quarter
                    for w, k in users:
                        for row in range(rows):
                            if not uses(row, step, kh, stride[0]):
                                continue
                            at = [block, *(tirx.const(v, "int64") for v in (k, row, step))]
                            start = tirx.const(part * BYTES, "int64")
                            weight = tirx.BufferLoad(packed, [*at, _ramp(start, BYTES)])
                            add(row * columns + w, part, quad, weight)


def uses(row: int, step: int, kernel: int, stride: int) -> bool:
    """Whether an output's window has rows among a four of them."""
    first = row * stride
    return first < QUAD * (step + 1) and first + kernel > QUAD * step


def _half(value: Any, half: int) -> Any:
    """The lower or the upper lanes of a vector."""
    count = lanes_of(value) // 2
    return tirx.Shuffle([value], list(range(half * count, half * count + count)))


def _ramp(start: Any, count: int) -> Any:
    return tirx.Ramp(start, tirx.const(1, "int64"), count)


__all__ = [
    "KIND",
    "QUAD",
    "depthwise_conv2d",
    "pack",
    "packed_shapes",
    "signed_image",
    "statements",
    "steps",
    "uses",
]
