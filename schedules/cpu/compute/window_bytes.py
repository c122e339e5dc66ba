"""Depthwise convolution of bytes on NEON: vectors of 16 channels, a tile of outputs at a time.

Unsigned data become signed ones, less 128, when they are copied with their borders; what that
takes away, 128 times the sum of a channel's weights, is what the sums begin with.

Ways to multiply:

- ``smull``: products of two places of the window fit into 16 bits together, weights of -128 being
  left out, and are added to sums of 32 bits.
- ``sdot``: four rows of a column of pixels are interleaved, byte by byte, and each lane adds up
  four products. Neighbouring rows of outputs use the same interleaved bytes, with weights that
  are shifted by a row.
- ``quads``: the same, but the bytes are interleaved when the data are copied, by ``st4``: once for
  all outputs beside each other that use them.
"""

from __future__ import annotations

import json
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, ROLE
from schedules.cpu.compute.neon_integers import BYTES, intrinsic, store_quads, with_quads
from schedules.cpu.compute.packed import Attributes, ConvGeometry, crop, multiply, round_up
from schedules.cpu.compute.vectors import half_of, lanes_of
from schedules.cpu.microkernels.base import loop, number, ramp, sequence
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]
KIND = "depthwise_bytes"
#: Rows of pixels that ``sdot`` adds up.
QUAD = 4
#: int32 lanes of a vector.
_WORDS = 4
_SHIFT = 128
#: Annotation of the stage that interleaves: what `quad_image` was told.
PADDING = "tilewright.padding"


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
    quads: bool = False,
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
        quads: Whether its operands are interleaved when data are copied.
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
    if quads:
        count = steps(kh, rows, stride_h)
        shape = (full_h // rows, count, size[1], full_c // BYTES)
        source = quad_image(data, geometry.padding[:2], shape, rows * stride_h, pad_value)
    else:
        source = signed_image(data, geometry.padding[:2], (*size, full_c), pad_value)
    starts: Any = None
    if dots and len(packed) > 1:  # ``sdot`` would need a copy of the register
        starts = te.compute(
            (full_c // BYTES, rows * columns * BYTES),
            lambda block, i: packed[1][block * BYTES + i % BYTES],
            name="start", attrs={ROLE: "start"},
        )  # fmt: skip
    y, x = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")

    def product(n: Any, h: Any, w: Any, c: Any) -> Any:
        block, place, column = c // BYTES, c % BYTES, w * stride_w + x * dilation_w
        if dots:
            at = h % rows * stride_h + y
            weight = packed[0][block, x, h % rows, at // QUAD, place * QUAD + at % QUAD]
        else:
            weight = packed[0][block, y, x * BYTES + place]
        if quads:
            value = source[n, h // rows, at // QUAD, column, block, place * QUAD + at % QUAD]
        else:
            value = source[n, h * stride_h + y * dilation_h, column, c]
        term = multiply(value, weight, "int32")
        if len(packed) > 1:
            output = h % rows * columns + w % columns
            begin = starts[block, output * BYTES + place] if dots else packed[1][c]
            first = tirx.all(y == 0, x == 0)
            term = term + tirx.if_then_else(first, begin, tirx.const(0, "int32"))
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
    top, left = before

    def element(n: Any, h: Any, w: Any, c: Any) -> Any:
        conditions = [h >= top] if top else []
        conditions += [h < top + height] if extent[0] > top + height else []
        conditions += [w >= left] if left else []
        conditions += [w < left + width] if extent[1] > left + width else []
        conditions += [c < channels] if extent[2] > channels else []
        here = _signed(data[n, h - top, w - left, c])
        if not conditions:
            return here
        return tirx.if_then_else(tirx.all(*conditions), here, _beyond(data, value))

    batch, height, width, channels = (int(v) for v in data.shape)
    return te.compute((batch, *extent), element, name="pad", attrs={ROLE: "pad"})


def quad_image(
    data: Any, before: tuple[int, int], extent: tuple[int, int, int, int], step: int, value: int
) -> Any:
    """``NHWC`` bytes as `signed_image` has them, four rows interleaved.

    Args:
        data: ``[n, h, w, c]``.
        before: Rows above, and columns to the left.
        extent: Tiles below each other, fours of rows of each, columns, blocks of channels.
        step: Rows from one tile to the next.
        value: Of the borders.

    Returns:
        ``[n, *extent, BYTES * QUAD]``, channel by channel four rows.
    """
    batch, height, width, _ = (int(v) for v in data.shape)
    top, left = before

    def element(n: Any, tile: Any, four: Any, w: Any, block: Any, i: Any) -> Any:
        y = tile * step + four * QUAD + i % QUAD
        inside = tirx.all(y >= top, y < top + height, w >= left, w < left + width)
        here = _signed(data[n, y - top, w - left, block * BYTES + i // QUAD])
        return tirx.if_then_else(inside, here, _beyond(data, value))

    return te.compute(
        (batch, *extent, BYTES * QUAD), element, name="pad",
        attrs={ROLE: "quads", PADDING: json.dumps([top, left, step, value])},
    )  # fmt: skip


def quad_statements(
    source: Any, target: Any, at: tuple[Any, Any], padding: tuple[int, int, int, int]
) -> Any:
    """Makes the fours of rows of one tile.

    Args:
        source: Buffer of the data.
        target: Buffer of the image of `quad_image`.
        at: Image of the batch, and number of the tile.
        padding: What `quad_image` was told: rows above, columns to the left, rows from one
            tile to the next, value of the borders.
    """
    n, tile = at
    top, left, step, value = padding
    _, height, width, _ = (int(v) for v in source.shape)
    _, _, fours, columns, blocks, _ = (int(v) for v in target.shape)
    border = tirx.Broadcast(_beyond(source, value), BYTES)

    def store(four: int, column: Any, block: Any, rows: list[Any]) -> Any:
        place = [n, tile, number(four), column, block, number(0)]
        return store_quads(rows, target, place)

    def make(four: int) -> Any:
        first = tile * step + number(four * QUAD - top)

        def inside(row: int) -> Any:
            return tirx.all(first + row >= 0, first + row < height)

        def pixels(at: Any, *, checked: bool) -> Any:
            column, block = at // blocks, at % blocks
            rows = []
            for i in range(QUAD):
                place = [n, first + i, column, ramp(block * BYTES, BYTES)]
                row = _signed(tirx.BufferLoad(source, place))
                rows.append(tirx.if_then_else(inside(i), row, border) if checked else row)
            return store(four, column + left, block, rows)

        def borders(begin: int, count: int) -> list[Any]:
            def one(place: Any) -> Any:
                return store(four, place // blocks + begin, place % blocks, [border] * QUAD)

            return [loop("border", count * blocks, one)] if count > 0 else []

        before = min(left, columns)
        used = max(0, min(width, columns - left)) * blocks
        whole = loop("pixel", used, lambda i: pixels(i, checked=False))
        cut = loop("pixel", used, lambda i: pixels(i, checked=True))
        every = tirx.all(inside(0), inside(QUAD - 1))
        return sequence([
            *borders(0, before),
            tirx.IfThenElse(every, whole, cut),
            *borders(left + width, columns - left - width),
        ])  # fmt: skip

    return with_quads(sequence([make(four) for four in range(fours)]))


def _signed(value: Any) -> Any:
    """Bytes as signed ones; unsigned ones less 128."""
    dtype, _, lanes = str(value.ty.dtype if hasattr(value, "ty") else value.dtype).partition("x")
    if dtype != "uint8":
        return value
    suffix = f"x{lanes}" if lanes else ""
    turned = tirx.bitwise_xor(value, tirx.const(_SHIFT, f"uint8{suffix}"))
    return tirx.reinterpret(f"int8{suffix}", turned)


def _beyond(data: Any, value: int) -> Any:
    """A byte of a border, as `_signed` makes them."""
    return tirx.const(value - _SHIFT if str(data.dtype) == "uint8" else value, "int8")


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
    quads: bool = False,
) -> Any:
    """The whole reduction of a tile of outputs of 16 channels.

    Args:
        source: Buffer of the image of `signed_image`.
        packed: Buffer of the weights.
        first: Gives what sums begin with: number of the output, vector of channels.
        sums: Buffer of the result.
        at: Where the tile's region begins in `source` and `sums`, one index a dimension, and
            the number of the block of channels.
        kernel: Height and width of the window.
        geometry: Strides and dilation.
        tile: Rows and columns of outputs.
        registers: Buffer for the tile's sums that is turned into registers.
        dots: Whether ``sdot`` multiplies.
        quads: Whether the image is that of `quad_image`.
    """
    (n, first_y, first_x, first_c), sums_at, block = at
    rows, columns = tile
    body: list[Any] = []
    started: set[tuple[int, int]] = set()

    def pixel(y: int, x: int) -> Any:
        return tirx.BufferLoad(source, [n, first_y + y, first_x + x, ramp(first_c, BYTES)])

    def register(place: int, part: int) -> Any:
        return [ramp(tirx.const((place * _WORDS + part) * _WORDS, "int64"), _WORDS)]

    def sum_of(place: int, part: int) -> Any:
        """The sum so far, or what it begins with."""
        if (place, part) in started:
            return tirx.BufferLoad(registers, register(place, part))
        started.add((place, part))
        return first(place, part)

    def add(place: int, part: int, value: Any, weight: Any = None) -> None:
        """Add a value, or with weights the sums of four products, to a part of a sum."""
        old = sum_of(place, part)
        new = old + value if weight is None else intrinsic("int32x4", "sdot", old, value, weight)
        body.append(tirx.BufferStore(registers, new, register(place, part)))

    def loaded(step: int, x: int, part: int) -> Any:
        start = number(part * BYTES)
        place = [n, first_y, number(step), first_x + x, block, ramp(start, BYTES)]
        return tirx.BufferLoad(source, place)

    if dots:
        four = loaded if quads else _zipped(pixel, kernel[0], geometry, tile)
        _dots(packed, block, four, add, kernel, geometry, tile)
    else:
        _products(packed, block, pixel, add, kernel, geometry, tile)
    sn, sh, sw, sc = sums_at
    for row in range(rows):
        for column in range(columns):
            for part in range(_WORDS):
                value = tirx.BufferLoad(registers, register(row * columns + column, part))
                to = [sn, sh + row, sw + column, ramp(sc + _WORDS * part, _WORDS)]
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
        weight = tirx.BufferLoad(packed, [block, tirx.const(y, "int64"), ramp(start, BYTES)])
        value = pixel(row * stride_h + y * dilation_h, column * stride_w + x * dilation_w)
        return intrinsic("int16x8", "smull", half_of(value, half), half_of(weight, half))

    for pair in pairs:
        for row in range(rows):
            for column in range(columns):
                for half in (0, 1):
                    total = product(pair[0], row, column, half)
                    for place in pair[1:]:
                        total = total + product(place, row, column, half)
                    for part in (0, 1):
                        words = half_of(total, part).astype("int32x4")
                        add(row * columns + column, 2 * half + part, words)


def _dots(
    packed: Any, block: Any, four: Any, add: Any, kernel: tuple[int, int], geometry: ConvGeometry,
    tile: tuple[int, int],
) -> None:  # fmt: skip
    """Four rows at a time, `four` gives them interleaved: number, column, vector of channels."""
    kh, kw = kernel
    rows, columns = tile
    stride, dilation = geometry.strides, geometry.dilation
    for part in range(_WORDS):
        for x in range((columns - 1) * stride[1] + (kw - 1) * dilation[1] + 1):
            users = [(w, k) for w in range(columns) for k in range(kw)
                     if w * stride[1] + k * dilation[1] == x]  # fmt: skip
            for step in range(steps(kh, rows, stride[0]) if users else 0):
                for w, k in users:
                    for row in range(rows):
                        if not uses(row, step, kh, stride[0]):
                            continue
                        at = [block, *(number(v) for v in (k, row, step))]
                        start = number(part * BYTES)
                        weight = tirx.BufferLoad(packed, [*at, ramp(start, BYTES)])
                        add(row * columns + w, part, four(step, x, part), weight)


def _zipped(
    pixel: Any, kernel: int, geometry: ConvGeometry, tile: tuple[int, int]
) -> Any:  # fmt: skip
    """Gives four rows of a column of pixels, interleaved in registers."""
    height = (tile[0] - 1) * geometry.strides[0] + kernel  # a dilation has one row

    def line(x: int, y: int) -> Any:
        return pixel(y * geometry.dilation[0], x) if y < height else tirx.const(0, "int8x16")

    def zipped(a: Any, b: Any, half: int) -> Any:
        """Elements of two halves in turn."""
        lanes = lanes_of(a)
        places = [half * lanes // 2 + i // 2 + (i % 2) * lanes for i in range(lanes)]
        return tirx.Shuffle([a, b], places)

    def four(step: int, x: int, part: int) -> Any:
        half, quarter = divmod(part, 2)
        a, b, c, d = (line(x, QUAD * step + i) for i in range(QUAD))
        upper, lower = (
            tirx.reinterpret("int16x8", zipped(*pair, half)) for pair in ((a, b), (c, d))
        )
        return tirx.reinterpret("int8x16", zipped(upper, lower, quarter))

    return four


def uses(row: int, step: int, kernel: int, stride: int) -> bool:
    """Whether an output's window has rows among a four of them."""
    first = row * stride
    return first < QUAD * (step + 1) and first + kernel > QUAD * step


__all__ = [
    "KIND",
    "PADDING",
    "QUAD",
    "depthwise_conv2d",
    "pack",
    "packed_shapes",
    "quad_image",
    "quad_statements",
    "signed_image",
    "statements",
    "steps",
    "uses",
]
