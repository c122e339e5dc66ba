"""Signs counted by tables in registers, for targets that have no instruction to count bits.

A byte of data is the signs of 8 channels; each of its halves selects a table of 16 entries, how
many signs it differs in from each half of a byte of weights. One byte shuffle (``pshufb``) looks
up a vector of weights, bytes of as many output channels: 4 instructions for 8 products a lane,
no multiplication, no horizontal sum. Counts are added up in bytes as long as they fit, then in
int32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, LIBRARY, ROLE
from schedules.cpu.compute.packed import Attributes, ConvGeometry, crop, pad_spatial, round_up
from schedules.cpu.compute.signs import POSITIVE, WORD
from schedules.cpu.tiling import RegisterTile
from schedules.tvm_adapter import register_lowering, register_operator, te, tirx

Array = npt.NDArray[Any]

_DIFFERING = "tirx.tilewright_differing"
BYTES = WORD // 8
#: Words whose counts fit into a byte: 8 for each byte of a word, 255 at most.
CHUNK = 255 // WORD
_SHUFFLES = {16: "ssse3.pshuf.b.128", 32: "avx2.pshuf.b", 64: "avx512.pshuf.b.512"}
_FUNCTION = """
declare <{lanes} x i8> @llvm.x86.{shuffle}(<{lanes} x i8>, <{lanes} x i8>)

@tilewright_differing_table = private unnamed_addr constant [8192 x i8] c"{table}", align 64

define <{lanes} x i8> @tilewright_differing_{lanes}(<{lanes} x i8> %w, i8 %a)
    alwaysinline nounwind {{
  %i = zext i8 %a to i64
  %o = shl i64 %i, 5
  %p = getelementptr inbounds i8, ptr @tilewright_differing_table, i64 %o
  %q = getelementptr inbounds i8, ptr %p, i64 16
  %l = load <16 x i8>, ptr %p, align 16
  %h = load <16 x i8>, ptr %q, align 16
  %tl = shufflevector <16 x i8> %l, <16 x i8> poison, <{lanes} x i32> <{places}>
  %th = shufflevector <16 x i8> %h, <16 x i8> poison, <{lanes} x i32> <{places}>
  %wl = and <{lanes} x i8> %w, splat (i8 15)
  %wh = lshr <{lanes} x i8> %w, splat (i8 4)
  %x = call <{lanes} x i8> @llvm.x86.{shuffle}(<{lanes} x i8> %tl, <{lanes} x i8> %wl)
  %y = call <{lanes} x i8> @llvm.x86.{shuffle}(<{lanes} x i8> %th, <{lanes} x i8> %wh)
  %r = add <{lanes} x i8> %x, %y
  ret <{lanes} x i8> %r
}}
"""


def library(lanes: int) -> str:
    """LLVM IR of the function that looks up a vector of so many bytes."""
    entries = [
        (nibble ^ half).bit_count()
        for byte in range(256)
        for half in (byte & 15, byte >> 4)
        for nibble in range(16)
    ]
    table = "".join(f"\\{v:02X}" for v in entries)
    places = ", ".join(f"i32 {i % 16}" for i in range(lanes))
    return _FUNCTION.format(lanes=lanes, shuffle=_SHUFFLES[lanes], table=table, places=places)


def differing(data: Any, weight: Any) -> Any:
    """Number of signs in which two bytes of 8 differ, as a byte."""
    return tirx.call_intrin("uint8", _DIFFERING, data, weight)


def _lower(call: Any) -> Any:
    data, weight = call.args
    dtype = str(call.ty.dtype)
    lanes = int(dtype.partition("x")[2] or 1)
    if lanes in _SHUFFLES and isinstance(data, tirx.Broadcast):
        name = f"tilewright_differing_{lanes}"
        return tirx.call_pure_extern(dtype, name, weight, data.value)
    return tirx.popcount(tirx.bitwise_xor(data, weight))


register_operator(_DIFFERING, pure=True)
register_lowering(_DIFFERING, "llvm", _lower)


def chunk_of(words: int) -> int:
    """Words that are counted in bytes before they are added up in int32: a divisor."""
    return max(c for c in range(1, min(words, CHUNK) + 1) if words % c == 0)


def conv2d_packed(
    data: Any, packed: Any, out_channels: int, geometry: ConvGeometry, tile: RegisterTile,
    attrs: Attributes,
) -> Any:  # fmt: skip
    """Counts for ``NHWC`` words, and bytes in panels ``[panels, kh, kw, words, 4, columns]``."""
    batch, height, width, words = (_int(v) for v in data.shape)
    panels, kh, kw, _, _, columns = (_int(v) for v in packed.shape)
    out_h, out_w = geometry.output_extent((height, width), (kh, kw))
    rows_h, rows_w = round_up(out_h, tile.row_outer), round_up(out_w, tile.row_inner)
    (sh, sw), (dh, dw) = geometry.strides, geometry.dilation
    extent = ((rows_h - 1) * sh + (kh - 1) * dh + 1, (rows_w - 1) * sw + (kw - 1) * dw + 1)
    source = pad_spatial(data, geometry.padding, extent, POSITIVE)
    chunk = chunk_of(words)
    k, b = te.reduce_axis((0, chunk), "k"), te.reduce_axis((0, BYTES), "byte")

    def count(n: Any, h: Any, w: Any, o: Any, y: Any, x: Any, c: Any) -> Any:
        word = source[n, h * sh + y * dh, w * sw + x * dw, c * chunk + k]
        weight = packed[o // columns, y, x, c * chunk + k, b, o % columns]
        return te.sum(differing(_byte(word, b), weight), axis=[k, b])

    lanes = tile.lanes
    shape = (batch, rows_h, rows_w, panels * columns)
    partial = te.compute(
        (*shape, kh, kw, words // chunk), count, name="partial", attrs={ROLE: "partial"}
    )
    y, x = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")
    c = te.reduce_axis((0, words // chunk), "chunk")
    out = te.compute(
        shape,
        lambda *i: te.sum(partial[(*i, y, x, c)].astype("int32"), axis=[y, x, c]),
        name="binary_conv2d", attrs={KERNEL: "signs", LIBRARY: library(lanes), **attrs},
    )  # fmt: skip
    return crop(out, (batch, out_h, out_w, out_channels))


def matmul_packed(data: Any, packed: Any, n: int, tile: RegisterTile, attrs: Attributes) -> Any:
    """Counts for words ``[..., m, k]``, and bytes in panels ``[panels, words, 4, columns]``."""
    *batch, m, words = (_int(v) for v in data.shape)
    columns = _int(packed.shape[-1])
    rows = round_up(m, tile.rows)
    clamp = not (isinstance(m, int) and rows == m)
    chunk = chunk_of(words)
    k, b = te.reduce_axis((0, chunk), "k"), te.reduce_axis((0, BYTES), "byte")

    def count(*index: Any) -> Any:
        *lead, i, o, c = index
        row = tirx.min(i, m - 1) if clamp else i
        word = data[(*lead, row, c * chunk + k)]
        weight = packed[o // columns, c * chunk + k, b, o % columns]
        return te.sum(differing(_byte(word, b), weight), axis=[k, b])

    shape = (*batch, rows, round_up(n, columns))
    partial = te.compute((*shape, words // chunk), count, name="partial", attrs={ROLE: "partial"})
    c = te.reduce_axis((0, words // chunk), "chunk")
    out = te.compute(
        shape,
        lambda *i: te.sum(partial[(*i, c)].astype("int32"), axis=[c]),
        name="binary_dense", attrs={KERNEL: "signs", LIBRARY: library(tile.lanes), **attrs},
    )  # fmt: skip
    return crop(out, (*batch, m, n))


def split_words(panels: Array) -> Array:
    """Panels of words ``[..., words, columns]`` as bytes ``[..., words, 4, columns]``."""
    split = np.ascontiguousarray(panels.astype("<u4")).view(np.uint8)
    return np.ascontiguousarray(np.moveaxis(split.reshape(*panels.shape, BYTES), -1, -2))


def _byte(word: Any, place: Any) -> Any:
    """One of the four bytes of a word, the lowest first."""
    return tirx.shift_right(word, (place * 8).astype("uint32")).astype("uint8")


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, (int, tirx.IntImm)) else value
