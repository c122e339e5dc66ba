"""Arithmetic on signs: packing them into words, and convolutions and products of words.

A word (``uint32``) holds the signs of 32 channels. The products of two words are counted, not
added up: `P` is how many of their signs differ, and the sum of the products of `K` signs is
``K - 2 P``. docs/integer-semantics.md says what all of it means.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.annotations import KERNEL, LIBRARY
from schedules.cpu.compute.packed import (
    Attributes,
    ConvGeometry,
    crop,
    pad_spatial,
    round_up,
)
from schedules.cpu.tiling import RegisterTile
from schedules.tvm_adapter import te, tirx
from schedules.workload import Workload

WORD = 32
#: A word of positive signs: what stands beyond the edges of an image.
POSITIVE = (1 << WORD) - 1
#: Operators on words.
OPERATORS = frozenset({"binary_conv2d", "binary_dense"})


def differing(data: Any, weight: Any) -> Any:
    """Number of signs in which two words differ, int32."""
    return tirx.popcount(tirx.bitwise_xor(data, weight)).astype("int32")


def sums(counts: Any, length: int, fraction: int) -> Any:
    """Sums of `length` products of signs times ``2^fraction``, given how many are negative."""
    total = tirx.const(length << fraction, "int32")
    shift = tirx.const(fraction + 1, "int32")
    return te.compute(
        counts.shape, lambda *i: total - tirx.shift_left(counts[i], shift), name="sums"
    )


def reduction_length(workload: Workload) -> int:
    """Products in a sum."""
    count = int(workload.attributes["channels"])
    for extent in workload.weight[2:] if workload.operator == "binary_conv2d" else ():
        count *= int(extent)
    return count


def finish(workload: Workload, counts: Any) -> Any:
    """The sums that a workload is to give."""
    return sums(counts, reduction_length(workload), int(workload.attributes["fraction"]))


def matmul_packed(data: Any, packed: Any, n: int, tile: RegisterTile, attrs: Attributes) -> Any:
    """Counts for words ``[..., m, k]`` and a matrix of words in panels ``[panels, k, columns]``."""
    *batch, m, reduction = (_int(v) for v in data.shape)
    rows, width = round_up(m, tile.rows), tile.columns
    k = te.reduce_axis((0, reduction), "k")
    clamp = not (isinstance(m, int) and rows == m)

    def count(*index: Any) -> Any:
        *b, i, j = index
        row = tirx.min(i, m - 1) if clamp else i
        return te.sum(differing(data[(*b, row, k)], packed[j // width, k, j % width]), axis=k)

    out = te.compute(
        (*batch, rows, round_up(n, width)), count, name="binary_dense",
        attrs={KERNEL: "dense", **attrs},
    )  # fmt: skip
    return crop(out, (*batch, m, n))


def conv2d_packed(
    data: Any,
    packed: Any,
    out_channels: int,
    geometry: ConvGeometry,
    tile: RegisterTile,
    attrs: Attributes,
) -> Any:
    """Counts for ``NHWC`` words, a kernel in panels ``[panels, kh, kw, k, columns]``."""
    batch, height, width, words = (_int(v) for v in data.shape)
    panels, kh, kw, _, columns = (_int(v) for v in packed.shape)
    out_h, out_w = geometry.output_extent((height, width), (kh, kw))
    rows_h, rows_w = round_up(out_h, tile.row_outer), round_up(out_w, tile.row_inner)
    stride_h, stride_w = geometry.strides
    dilation_h, dilation_w = geometry.dilation
    source = pad_spatial(
        data,
        geometry.padding,
        (
            (rows_h - 1) * stride_h + (kh - 1) * dilation_h + 1,
            (rows_w - 1) * stride_w + (kw - 1) * dilation_w + 1,
        ),
        POSITIVE,
    )
    y, x = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")
    k = te.reduce_axis((0, words), "k")

    def count(n: Any, h: Any, w: Any, o: Any) -> Any:
        value = source[n, h * stride_h + y * dilation_h, w * stride_w + x * dilation_w, k]
        weight = packed[o // columns, y, x, k, o % columns]
        return te.sum(differing(value, weight), axis=[y, x, k])

    out = te.compute(
        (batch, rows_h, rows_w, panels * columns), count, name="binary_conv2d",
        attrs={KERNEL: "conv2d", **attrs},
    )  # fmt: skip
    return crop(out, (batch, out_h, out_w, out_channels))


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, (int, tirx.IntImm)) else value


# Packing

_LLVM = {"uint8": "i8", "int8": "i8", "float32": "float"}
_COMPARE = {"uint8": "icmp uge", "int8": "icmp sge", "float32": "fcmp oge"}
#: Compares lanes with a number; the truth values are the word's bits, as a mask register or
#: `vpmovmskb` gives them. What is behind the last channel is 1.
_FUNCTION = """
define i32 @{name}(ptr %p, {type} %zero) alwaysinline nounwind {{
  %x = load <{count} x {type}>, ptr %p, align {align}
  %z = insertelement <{count} x {type}> poison, {type} %zero, i64 0
  %s = shufflevector <{count} x {type}> %z, <{count} x {type}> poison,
      <{count} x i32> zeroinitializer
  %c = {compare} <{count} x {type}> %x, %s
  %b = bitcast <{count} x i1> %c to i{count}
  {rest}
}}
"""


def library(dtype: str, channels: int) -> str:
    """LLVM IR of the functions that packing calls."""
    functions = [_function(dtype, WORD)] if channels >= WORD else []
    if channels % WORD:
        functions.append(_function(dtype, channels % WORD))
    return "\n".join(functions)


def _function(dtype: str, count: int) -> str:
    ones = POSITIVE - ((1 << count) - 1)
    widened = f"%w = zext i{count} %b to i32\n  %r = or i32 %w, {ones}\n  ret i32 %r"
    return _FUNCTION.format(
        name=_name(dtype, count), type=_LLVM[dtype], count=count, compare=_COMPARE[dtype],
        align=4 if dtype == "float32" else 1, rest="ret i32 %b" if count == WORD else widened,
    )  # fmt: skip


def _name(dtype: str, count: int) -> str:
    return f"tilewright_signs_{dtype}_{count}"


def pack(x: Any, *, zero_point: float) -> Any:
    """Signs of a tensor, in words along its last dimension: bits are 1 where ``x >= zero_point``.

    Bits beyond the last element are 1.
    """
    dtype, channels = str(x.dtype), int(x.shape[-1])
    zero = tirx.const(zero_point, dtype)
    full, rest = divmod(channels, WORD)

    def word(*index: Any) -> Any:
        *lead, j = index

        def some(count: int) -> Any:
            place = tirx.call_intrin("handle", "tirx.address_of", x(*lead, j * WORD))
            return tirx.call_pure_extern("uint32", _name(dtype, count), place, zero)

        if not rest:
            return some(WORD)
        return some(rest) if not full else tirx.if_then_else(j < full, some(WORD), some(rest))

    return te.compute(
        (*x.shape[:-1], full + bool(rest)), word, name="sign",
        attrs={KERNEL: "sign", LIBRARY: library(dtype, channels)},
    )  # fmt: skip
