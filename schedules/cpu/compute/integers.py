"""Integer arithmetic between kernels, element by element.

docs/integer-semantics.md defines it. All of these take part in epilogues. The product with a
multiplier needs 64 bits; an operator of our own says so, and is replaced when code is generated
by arithmetic on even and odd lanes, which every vector unit with a widening product has an
instruction for. It gives the same bits as plain 64-bit arithmetic on each element.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.compute import neon_integers
from schedules.cpu.compute.vectors import constant, part
from schedules.tvm_adapter import register_lowering, register_operator, te, tirx

_SCALE = "tirx.tilewright_scale"
_ROUNDED = "tirx.tilewright_rounded"
_SATURATE = "tirx.tilewright_saturate"
#: Lanes that packing instructions narrow from 32 to 8 bits at once; only x86 has such vectors.
PACKED_LANES = 32


def scale(value: Any, multiplier: Any, shift: int, offset: int = 0) -> Any:
    """``((value * multiplier + 2^(shift - 1)) >> shift) + offset`` of int32 elements.

    The product has 64 bits, ties round up. The caller sees to it that the result fits into 32.

    Args:
        value: int32.
        multiplier: int32.
        shift: From 1 to 62.
        offset: A zero point.
    """
    amount, zero = (tirx.IntImm("int32", v) for v in (shift, offset))
    return tirx.call_intrin("int32", _SCALE, value, multiplier, amount, zero)


def rounding_shift(value: Any, shift: int) -> Any:
    """``(value + 2^(shift - 1)) >> shift`` of int32 elements; `value` itself for no shift."""
    if shift == 0:
        return value
    half = tirx.const(1 << (shift - 1), "int32")
    return tirx.shift_right(value + half, tirx.const(shift, "int32"))


def saturate(value: Any, low: int, high: int, dtype: str) -> Any:
    """An int32 element between two numbers, as `dtype`."""
    limits = (tirx.IntImm("int32", v) for v in (low, high))
    return tirx.call_intrin(dtype, _SATURATE, value, *limits)


def quantized(
    value: Any, *, inverse: float, zero_point: int, low: int, high: int, dtype: str, lanes: int = 1
) -> Any:
    """An element, or a vector of them, as `quantize` says."""
    suffix = f"x{lanes}" if lanes > 1 else ""
    float_type, word = f"float32{suffix}", f"int32{suffix}"
    value = value * tirx.const(inverse, float_type)
    below, above = (tirx.const(float(v - zero_point), float_type) for v in (low, high))
    value = tirx.Select(value > below, value, below)  # NaN becomes the lower limit
    value = tirx.Select(value < above, value, above)
    rounded = tirx.nearbyint(value).astype(word)
    return (rounded + tirx.const(zero_point, word)).astype(dtype)


def rounded(value: Any) -> Any:
    """A float32 product, rounded: code generation may not fuse it with a sum that follows."""
    return tirx.call_intrin("float32", _ROUNDED, value)


def quantize(x: Any, *, inverse: float, zero_point: int, low: int, high: int, dtype: str) -> Any:
    """float32 as integers: times `inverse` (one rounding), to the nearest even, saturated."""
    numbers: dict[str, Any] = {
        "inverse": inverse, "zero_point": zero_point, "low": low, "high": high, "dtype": dtype,
    }  # fmt: skip
    return te.compute(x.shape, lambda *index: quantized(x[index], **numbers), name="quantize")


def dequantize(x: Any, *, scale: float, zero_point: int) -> Any:
    """Integers as float32."""

    def element(*index: Any) -> Any:
        value = x[index].astype("int32") - tirx.const(zero_point, "int32")
        return rounded(value.astype("float32") * tirx.const(scale, "float32"))

    return te.compute(x.shape, element, name="dequantize")


def requantize(
    x: Any, bias: Any, multiplier: Any, *, shift: int, zero_point: int, low: int, high: int,
    dtype: str,
) -> Any:  # fmt: skip
    """int32 sums as 8-bit integers; bias and multiplier broadcast against them."""

    def element(*index: Any) -> Any:
        value = x[index].astype("int32") + _at(bias, index, x.shape)
        value = scale(value, _at(multiplier, index, x.shape), shift, zero_point)
        return saturate(value, low, high, dtype)

    return te.compute(x.shape, element, name="requantize")


def requantize_by_shift(
    x: Any, bias: Any, *, shift: int, zero_point: int, low: int, high: int, dtype: str
) -> Any:
    """`requantize` for one power of two: addition, shift, minimum and maximum of int32 only."""

    def element(*index: Any) -> Any:
        value = rounding_shift(x[index] + _at(bias, index, x.shape), shift)
        return saturate(value + tirx.const(zero_point, "int32"), low, high, dtype)

    return te.compute(x.shape, element, name="requantize")


def sums_to_float(x: Any, bias: Any, factor: Any) -> Any:
    """int32 sums with their bias as float32, times a factor."""
    return te.compute(
        x.shape,
        lambda *i: rounded(
            (x[i] + _at(bias, i, x.shape)).astype("float32") * _at(factor, i, x.shape)
        ),
        name="dequantize",
    )


def add(
    a: Any, b: Any, *, zero_a: int, factor_a: int, zero_b: int, factor_b: int, shift: int,
    zero_point: int, low: int, high: int, dtype: str,
) -> Any:  # fmt: skip
    """The sum of two tensors of different scales, in int32 throughout."""
    shape = _broadcast(a, b)

    def term(x: Any, index: Any, zero: int, factor: int) -> Any:
        value = _at(x, index, shape).astype("int32") - tirx.const(zero, "int32")
        return value * tirx.const(factor, "int32")

    def element(*index: Any) -> Any:
        value = term(a, index, zero_a, factor_a) + term(b, index, zero_b, factor_b)
        value = rounding_shift(value, shift) + tirx.const(zero_point, "int32")
        return saturate(value, low, high, dtype)

    return te.compute(shape, element, name="add")


def multiply(
    a: Any, b: Any, *, zero_a: int, zero_b: int, multiplier: int, shift: int, zero_point: int,
    low: int, high: int, dtype: str,
) -> Any:  # fmt: skip
    """The product of two tensors, requantized."""
    shape = _broadcast(a, b)

    def element(*index: Any) -> Any:
        x = _at(a, index, shape).astype("int32") - tirx.const(zero_a, "int32")
        y = _at(b, index, shape).astype("int32") - tirx.const(zero_b, "int32")
        value = scale(x * y, tirx.const(multiplier, "int32"), shift, zero_point)
        return saturate(value, low, high, dtype)

    return te.compute(shape, element, name="multiply")


def rescale(
    x: Any, *, zero_in: int, factor: int, shift: int, zero_point: int, low: int, high: int,
    dtype: str,
) -> Any:  # fmt: skip
    """A tensor at another scale, in int32 throughout; with factor 1 and shift 0 a clipping."""

    def element(*index: Any) -> Any:
        value = x[index].astype("int32") - tirx.const(zero_in, "int32")
        value = rounding_shift(value * tirx.const(factor, "int32"), shift)
        return saturate(value + tirx.const(zero_point, "int32"), low, high, dtype)

    return te.compute(x.shape, element, name="rescale")


def lookup(x: Any, table: Any, *, dtype: str) -> Any:
    """The table's entry for each element; int8 elements count from -128."""
    offset = 128 if str(x.dtype) == "int8" else 0

    def element(*index: Any) -> Any:
        place = x[index].astype("int32")
        return table[place + tirx.const(offset, "int32") if offset else place].astype(dtype)

    return te.compute(x.shape, element, name="lookup")


def _at(tensor: Any, index: Any, shape: Any) -> Any:
    """The element of a tensor that broadcasts against an index into `shape`.

    Only an extent that is really repeated is indexed by 0: TVM shall see what is elementwise.
    """
    rank = len(tensor.shape)
    places = [
        tirx.const(0, "int64") if _is_one(extent) and not _is_one(full) else place
        for extent, full, place in zip(
            tensor.shape, list(shape)[-rank:], index[len(index) - rank :], strict=True
        )
    ]
    return tensor[tuple(places)]


def _is_one(extent: Any) -> bool:
    return isinstance(extent, (int, tirx.IntImm)) and int(extent) == 1


def _broadcast(a: Any, b: Any) -> list[Any]:
    rank = max(len(a.shape), len(b.shape))
    left, right = ([1] * (rank - len(t.shape)) + list(t.shape) for t in (a, b))
    return [y if _is_one(x) else x for x, y in zip(left, right, strict=True)]


def _lower_scale(call: Any) -> Any:
    """64-bit arithmetic on the even and on the odd lanes, or on the one element."""
    value, multiplier, *numbers = call.args
    shift, offset = (constant(v) for v in numbers)
    lanes = int(str(call.ty.dtype).partition("x")[2] or 1)
    if lanes % 2:
        suffix = f"x{lanes}" if lanes > 1 else ""
        wide = f"int64{suffix}"
        product = value.astype(wide) * multiplier.astype(wide)
        product = product + tirx.const(1 << (shift - 1), wide)
        result = tirx.shift_right(product, tirx.const(shift, wide)).astype(f"int32{suffix}")
        return _plus(result, offset)
    signed = f"int64x{lanes // 2}" if lanes > 2 else "int64"
    pairs, factors = tirx.reinterpret(signed, value), tirx.reinterpret(signed, multiplier)
    even = _even(pairs, signed) * _even(factors, signed)
    odd = _odd(pairs, signed) * _odd(factors, signed)
    if shift <= 32:
        return _plus(_joined(even, odd, shift, lanes), offset)
    # The rounding constant has no bits in the lower halves of the products, so that they do
    # not matter. The upper ones are below 2^30, and there may be room for the zero point.
    upper, rest = _joined(even, odd, 32, lanes, rounding=0), shift - 32
    inside = abs(offset) << rest <= 1 << 29
    added = (1 << (rest - 1)) + (offset << rest if inside else 0)
    result = tirx.shift_right(_plus(upper, added), tirx.const(rest, f"int32x{lanes}"))
    return result if inside else _plus(result, offset)


def _joined(even: Any, odd: Any, shift: int, lanes: int, rounding: int | None = None) -> Any:
    """Products of the even and of the odd lanes, shifted by at most 32, as int32 lanes."""
    signed = str(even.ty.dtype)
    constant = 1 << (shift - 1) if rounding is None else rounding
    low, high = _plus(even, constant), _plus(odd, constant)
    if shift == 32:
        unsigned = signed.replace("int", "uint")
        low = tirx.shift_right(tirx.reinterpret(unsigned, low), tirx.const(32, unsigned))
        low = tirx.reinterpret(signed, low)
    else:
        low = tirx.shift_right(low, tirx.const(shift, signed))
        low = tirx.bitwise_and(low, tirx.const((1 << 32) - 1, signed))
        high = tirx.shift_left(high, tirx.const(32 - shift, signed))
    upper = tirx.bitwise_and(high, tirx.const(-(1 << 32), signed))
    return tirx.reinterpret(f"int32x{lanes}", tirx.bitwise_or(low, upper))


def _even(pairs: Any, signed: str) -> Any:
    return _odd(tirx.shift_left(pairs, tirx.const(32, signed)), signed)


def _odd(pairs: Any, signed: str) -> Any:
    return tirx.shift_right(pairs, tirx.const(32, signed))


def _plus(value: Any, number: int) -> Any:
    return value + tirx.const(number, str(value.ty.dtype)) if number else value


def _lower_saturate(call: Any) -> Any:
    """Minimum, maximum and conversion; vectors of 32 lanes by instructions that saturate."""
    value, *limits = call.args
    low, high = (constant(v) for v in limits)
    dtype, _, count = str(call.ty.dtype).partition("x")
    lanes = int(count or 1)
    if lanes % PACKED_LANES or dtype not in ("uint8", "int8"):
        wide = f"int32x{lanes}" if lanes > 1 else "int32"
        limited = tirx.max(tirx.min(value, tirx.const(high, wide)), tirx.const(low, wide))
        return limited.astype(str(call.ty.dtype))
    parts = [_pack(value, lanes, first, dtype) for first in range(0, lanes, PACKED_LANES)]
    result = parts[0] if len(parts) == 1 else tirx.Shuffle(parts, list(range(lanes)))
    narrow = str(call.ty.dtype)
    least, most = (0, 255) if dtype == "uint8" else (-128, 127)
    if low > least:
        result = tirx.max(result, tirx.const(low, narrow))
    if high < most:
        result = tirx.min(result, tirx.const(high, narrow))
    return result


def _pack(value: Any, lanes: int, first: int, dtype: str) -> Any:
    """32 lanes of int32 as bytes: both steps saturate, and work within halves of a vector."""

    def pack(name: str, result: str, a: Any, b: Any) -> Any:
        return tirx.call_llvm_pure_intrin(result, f"llvm.x86.avx2.{name}", a, b)

    # In halves, as sums are held in registers of at most so many lanes.
    halves = [part(value, lanes, first + 16 * i, 16) for i in range(2)]
    a, b, c, d = (tirx.Shuffle([v], list(range(8 * i, 8 * i + 8))) for v in halves for i in (0, 1))
    words = [pack("packssdw", "int16x16", x, y) for x, y in ((a, b), (c, d))]
    name = "packuswb" if dtype == "uint8" else "packsswb"
    mixed = tirx.reinterpret("int32x8", pack(name, f"{dtype}x32", *words))
    ordered = tirx.Shuffle([mixed], [0, 4, 1, 5, 2, 6, 3, 7])
    return tirx.reinterpret(f"{dtype}x32", ordered)


def _lower_rounded(call: Any) -> Any:
    return tirx.call_llvm_pure_intrin(str(call.ty.dtype), "llvm.arithmetic.fence", call.args[0])


register_operator(_ROUNDED, pure=True)
register_lowering(_ROUNDED, "llvm", _lower_rounded)
register_operator(_SCALE, pure=True)
register_lowering(_SCALE, "default", _lower_scale)
register_lowering(_SCALE, neon_integers.AARCH64, neon_integers.lower_scale)
register_operator(_SATURATE, pure=True)
register_lowering(_SATURATE, "default", _lower_saturate)
register_lowering(_SATURATE, neon_integers.AARCH64, neon_integers.lower_saturate)
