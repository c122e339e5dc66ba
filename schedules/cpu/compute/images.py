"""The first thing that a quantized network on images does: planes of float32 to bytes of pixels.

A pixel gets four bytes, whatever channels it has: what a dot product of bytes reads at once.
The borders that the first convolution wants are written with it.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from schedules.cpu.annotations import KERNEL
from schedules.cpu.compute import neon_integers
from schedules.cpu.compute.integers import quantized
from schedules.cpu.microkernels.base import number, ramp
from schedules.tvm_adapter import te, tirx

KIND = "image_bytes"
#: JSON of what `statements` has to know.
PARAMETERS = "tilewright.image"
#: Bytes of a pixel.
CHANNELS = 4


def image_bytes(
    image: Any,
    *,
    padding: tuple[int, int, int, int],
    fill: int,
    inverse: float,
    zero_point: int,
    low: int,
    high: int,
    dtype: str,
) -> Any:
    """float32 ``[n, c, h, w]``, at most four channels, as integers ``[n, h', w', 4]``.

    Args:
        image: The planes.
        padding: Rows and columns of `fill` at top, left, bottom and right.
        fill: Also what is in the channels that are not there.
        inverse: One over the scale.
        zero_point: Of the result.
        low: Its least value.
        high: Its largest value.
        dtype: ``uint8`` or ``int8``.
    """
    batch, channels, height, width = (int(v) for v in image.shape)
    top, left, bottom, right = padding
    numbers: dict[str, Any] = {
        "inverse": inverse, "zero_point": zero_point, "low": low, "high": high, "dtype": dtype,
    }  # fmt: skip

    def pixel(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = tirx.all(h >= top, h < top + height, w >= left, w < left + width, c < channels)
        value = quantized(image[n, c, h - top, w - left], **numbers)
        return tirx.if_then_else(inside, value, tirx.const(fill, dtype))

    parameters = {
        **numbers, "fill": fill, "padding": list(padding), "image": [channels, height, width],
    }  # fmt: skip
    return te.compute(
        (batch, height + top + bottom, width + left + right, CHANNELS), pixel, name="quantize",
        attrs={KERNEL: KIND, PARAMETERS: json.dumps(parameters)},
    )  # fmt: skip


def statements(
    image: Any, pixels: Any, at: tuple[Any, Any], lanes: int, parameters: dict[str, Any],
    *, neon: bool = False,
) -> Any:  # fmt: skip
    """One row of pixels, `lanes` of them at a time; the last vector may overlap the one before.

    Args:
        image: Buffer of the planes.
        pixels: Buffer of the result.
        at: Number of the image, and row of the result.
        lanes: Pixels of a vector, at most the width of the image; with `neon` 16.
        parameters: What `image_bytes` left.
        neon: Whether planes become bytes, and are put side by side when they are stored.
    """
    n, h = at
    channels, height, width = parameters["image"]
    top, left, _, right = parameters["padding"]
    dtype, fill = parameters["dtype"], parameters["fill"]
    numbers = {k: parameters[k] for k in ("inverse", "zero_point", "low", "high")}
    words = f"int32x{lanes}"

    def plane(c: int, x: Any, count: int) -> Any:
        return tirx.BufferLoad(image, [n, number(c), h - top, ramp(x, count)])

    def vector(x: Any) -> Any:
        word: Any = None
        for c in range(CHANNELS):
            if c < channels:
                byte = quantized(plane(c, x, lanes), **numbers, dtype=words, lanes=lanes)
                byte = tirx.bitwise_and(byte, tirx.const(255, words))
            else:
                byte = tirx.const(fill & 255, words)
            moved = tirx.shift_left(byte, tirx.const(8 * c, words)) if c else byte
            word = moved if word is None else tirx.bitwise_or(word, moved)
        return tirx.reinterpret(f"{dtype}x{CHANNELS * lanes}", word)

    def store(x: Any, value: Any, count: int) -> Any:
        # Columns and channels as one: pixels lie side by side.
        return tirx.BufferStore(pixels, value, [n, h, x, ramp(number(0), count)])

    def make(x: Any) -> Any:
        if not neon:
            return store(x + left, vector(x), CHANNELS * lanes)
        planes = [neon_integers.quantized(partial(plane, c), x, **numbers) for c in range(channels)]
        planes += [tirx.const(fill - 256 * (fill > 127), "int8x16")] * (CHANNELS - channels)
        return neon_integers.store_quads(planes, pixels, [n, h, x + left, number(0)])

    def border(first: int, count: int) -> Any:
        x = tirx.Var("x", "int64")
        value = tirx.Broadcast(tirx.const(fill, dtype), CHANNELS)
        return tirx.For(x, tirx.const(0, "int64"), tirx.const(count, "int64"),
                        tirx.ForKind.SERIAL, store(x + first, value, CHANNELS))  # fmt: skip

    x = tirx.Var("x", "int64")
    whole = width // lanes
    inner = [tirx.For(x, tirx.const(0, "int64"), tirx.const(whole, "int64"), tirx.ForKind.SERIAL,
                      make(x * lanes))]  # fmt: skip
    if width % lanes:
        inner.append(make(number(width - lanes)))
    if left:
        inner.insert(0, border(0, left))
    if right:
        inner.append(border(left + width, right))
    row = tirx.SeqStmt(inner) if len(inner) > 1 else inner[0]
    if int(pixels.shape[1]) == height:
        return neon_integers.with_quads(row) if neon else row
    inside = tirx.all(h >= top, h < top + height)
    body = tirx.IfThenElse(inside, row, border(0, left + width + right))
    return neon_integers.with_quads(body) if neon else body


__all__ = ["CHANNELS", "KIND", "PARAMETERS", "image_bytes", "statements"]
