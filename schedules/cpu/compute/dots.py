"""Depthwise convolution of bytes by four-byte dot products: rows of a window side by side.

``vpdpbusd`` adds four neighbouring bytes into each lane. So four rows of a column of pixels
are interleaved, byte by byte, and multiplied with the weights of one column of the window.
Unpacking bytes works within parts of 16; sums are therefore held in the order that it leaves,
and put in order once, when they are complete.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL
from schedules.cpu.compute.packed import (
    Attributes,
    ConvGeometry,
    crop,
    multiply,
    pad_spatial,
    round_up,
)
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]
#: Rows of a window that one instruction adds up.
ROWS = 4


def channel_order(lanes: int) -> list[int]:
    """The channel of a block of ``4 * lanes`` that each sum belongs to, in registers' order."""
    return [16 * (place % lanes // 4) + 4 * (place // lanes) + place % 4
            for place in range(4 * lanes)]  # fmt: skip


def packed_shape(channels: int, kernel: tuple[int, int], lanes: int) -> tuple[int, ...]:
    """Shape of the weights of `pack`."""
    kh, kw = kernel
    return (ceil(channels / (4 * lanes)), kw, ceil(kh / ROWS), 4 * lanes * ROWS)


def pack(weight: Array, lanes: int) -> Array:
    """Pack ``[channels, 1, kh, kw]`` into ``[blocks, kw, kh / 4, 16 * lanes]``, zero-filled."""
    channels, _, kh, kw = weight.shape
    blocks, _, steps, _ = packed_shape(channels, (kh, kw), lanes)
    padded = np.zeros((blocks * 4 * lanes, steps * ROWS, kw), weight.dtype)
    padded[:channels, :kh] = weight[:, 0]
    ordered = padded.reshape(blocks, 4 * lanes, steps, ROWS, kw)[:, channel_order(lanes)]
    return np.ascontiguousarray(
        ordered.transpose(0, 4, 2, 1, 3).reshape(packed_shape(channels, (kh, kw), lanes))
    )


def depthwise_conv2d(
    data: Any,
    packed: Any,
    channels: int,
    kernel: tuple[int, int],
    geometry: ConvGeometry,
    columns: int,
    lanes: int,
    attrs: Attributes,
    pad_value: float,
) -> Any:
    """Depthwise convolution of ``NHWC`` uint8 data with weights of `pack`; int32, ``NHWC``.

    Args:
        data: ``[n, h, w, channels]``.
        packed: The weights.
        channels: Of data and result.
        kernel: Height and width of the window.
        geometry: Strides, padding, dilation.
        columns: Neighbouring outputs that are computed together.
        lanes: int32 lanes of a vector.
        attrs: Annotations of the heart.
        pad_value: What is beyond the edges.
    """
    batch, height, width = (int(v) for v in data.shape[:3])
    kh, kw = kernel
    block = 4 * lanes
    out_h, out_w = geometry.output_extent((height, width), kernel)
    padded_w, padded_c = round_up(out_w, columns), round_up(channels, block)
    (stride_h, stride_w), (dilation_h, dilation_w) = geometry.strides, geometry.dilation
    source = pad_spatial(
        data,
        geometry.padding,
        (
            (out_h - 1) * stride_h + (kh - 1) * dilation_h + 1,
            (padded_w - 1) * stride_w + (kw - 1) * dilation_w + 1,
        ),
        pad_value,
        channels=padded_c,
    )
    y, x = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")

    def product(n: Any, h: Any, w: Any, c: Any) -> Any:
        value = source[n, h * stride_h + y * dilation_h, w * stride_w + x * dilation_w, c]
        inside = c % block
        place = inside // 4 % 4 * lanes + inside // 16 * 4 + inside % 4
        weight = packed[c // block, x, y // ROWS, place * ROWS + y % ROWS]
        return te.sum(multiply(value, weight, "int32"), axis=[y, x])

    out = te.compute(
        (batch, out_h, padded_w, padded_c), product, name="depthwise_conv2d",
        attrs={KERNEL: "depthwise_dots", **attrs},
    )  # fmt: skip
    return crop(out, (batch, out_h, out_w, channels))


def statements(
    source: Any,
    packed: Any,
    sums: Any,
    at: tuple[Any, Any, Any],
    *,
    kernel: tuple[int, int],
    geometry: ConvGeometry,
    columns: int,
    lanes: int,
    registers: Any,
) -> Any:
    """The whole reduction of a row of outputs of one block of channels.

    Args:
        source: Buffer of the padded data.
        packed: Buffer of the weights.
        sums: Buffer of the result.
        at: Where the region begins in the three buffers, one index a dimension.
        kernel: Height and width of the window.
        geometry: Strides and dilation.
        columns: Outputs in the row.
        lanes: int32 lanes of a vector.
        registers: Buffer for ``columns * 4 * lanes`` sums that is turned into registers.
    """
    kh, kw = kernel
    n, first_y, first_x, first_c = at[0]
    weights_at, sums_at = at[1], at[2]
    bytes_, words = 4 * lanes, 2 * lanes
    body: list[Any] = []

    def ramp(start: Any, count: int) -> Any:
        return tirx.Ramp(start, tirx.const(1, "int64"), count)

    def row(x: int, y: int) -> Any:
        if y >= kh:
            return tirx.Broadcast(tirx.const(0, "uint8"), bytes_)
        place = [n, first_y + y * geometry.dilation[0], first_x + x, ramp(first_c, bytes_)]
        return tirx.BufferLoad(source, place)

    def unpack(a: Any, b: Any, half: int, size: int) -> Any:
        """Elements of `a` and `b` in turn, from one half of each part of 16 bytes."""
        part = 16 // size
        count = bytes_ // size
        places = [p * part + half * part // 2 + i // 2 + (i % 2) * count
                  for p in range(count // part) for i in range(part)]  # fmt: skip
        return tirx.Shuffle([a, b], places)

    def quads(x: int, step: int) -> list[Any]:
        """Four rows of a column of pixels, interleaved: one vector for each of four sums."""
        a, b, c, d = (row(x, ROWS * step + i) for i in range(ROWS))
        found = []
        for half in (0, 1):
            upper, lower = (tirx.reinterpret(f"uint16x{words}", unpack(*pair, half, 1))
                            for pair in ((a, b), (c, d)))  # fmt: skip
            found += [unpack(upper, lower, quarter, 2) for quarter in (0, 1)]
        return [tirx.reinterpret(f"uint8x{bytes_}", q) for q in found]

    def register(column: int, part: int) -> Any:
        return [ramp(tirx.const((column * 4 + part) * lanes, "int64"), lanes)]

    started: set[tuple[int, int]] = set()
    stride, dilation = geometry.strides[1], geometry.dilation[1]
    for x in range((columns - 1) * stride + (kw - 1) * dilation + 1):
        users = [
            (w, k) for w in range(columns) for k in range(kw) if w * stride + k * dilation == x
        ]
        if not users:
            continue
        for step in range(ceil(kh / ROWS)):
            for part, quad in enumerate(quads(x, step)):
                for w, k in users:
                    known = (w, part) in started
                    old = tirx.BufferLoad(registers, register(w, part)) if known else (
                        tirx.Broadcast(tirx.const(0, "int32"), lanes))  # fmt: skip
                    started.add((w, part))
                    block, first_k, first_step, first = weights_at
                    weight = tirx.BufferLoad(
                        packed,
                        [
                            block,
                            first_k + k,
                            first_step + step,
                            ramp(first + part * bytes_, bytes_),
                        ],
                    )
                    new = tirx.call_llvm_pure_intrin(
                        f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", old, quad,
                        weight,
                    )  # fmt: skip
                    body.append(tirx.BufferStore(registers, new, register(w, part)))
    for w in range(columns):
        parts = [tirx.BufferLoad(registers, register(w, part)) for part in range(4)]
        for group in range(lanes // 4):
            places = [part * lanes + 4 * group + i for part in range(4) for i in range(4)]
            sn, sh, sw, sc = sums_at
            body.append(
                tirx.BufferStore(
                    sums, tirx.Shuffle(parts, places), [sn, sh, sw + w, ramp(sc + 16 * group, 16)]
                )
            )
    return tirx.SeqStmt(body)


__all__ = ["channel_order", "depthwise_conv2d", "pack", "packed_shape", "statements"]
