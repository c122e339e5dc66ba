"""Integer arithmetic between kernels, element by element.

docs/integer-semantics.md defines it. All of these take part in epilogues. The product with a
multiplier needs 64 bits; an operator of our own says so, and is replaced when code is generated
by arithmetic on even and odd lanes, which every vector unit with a widening product has an
instruction for. It gives the same bits as plain 64-bit arithmetic on each element.
"""

from __future__ import annotations

from typing import Any

from schedules.tvm_adapter import register_lowering, register_operator, te, tirx

_SCALE = "tirx.tilewright_scale"


def scale(value: Any, multiplier: Any, shift: int) -> Any:
    """``(value * multiplier + 2^(shift - 1)) >> shift`` of int32 elements, the product in 64 bits.

    Ties round up. The caller sees to it that the result fits into 32 bits.

    Args:
        value: int32.
        multiplier: int32.
        shift: From 1 to 62.
    """
    return tirx.call_intrin("int32", _SCALE, value, multiplier, tirx.IntImm("int32", shift))


def rounding_shift(value: Any, shift: int) -> Any:
    """``(value + 2^(shift - 1)) >> shift`` of int32 elements; `value` itself for no shift."""
    if shift == 0:
        return value
    half = tirx.const(1 << (shift - 1), "int32")
    return tirx.shift_right(value + half, tirx.const(shift, "int32"))


def saturate(value: Any, low: int, high: int, dtype: str) -> Any:
    """An int32 element between two numbers, as `dtype`."""
    limited = tirx.max(tirx.min(value, tirx.const(high, "int32")), tirx.const(low, "int32"))
    return limited.astype(dtype)


def quantize(x: Any, *, inverse: float, zero_point: int, low: int, high: int, dtype: str) -> Any:
    """float32 as integers: times `inverse` (one rounding), to the nearest even, saturated."""

    def element(*index: Any) -> Any:
        value = x[index] * tirx.const(inverse, "float32")
        below, above = (tirx.const(float(v - zero_point), "float32") for v in (low, high))
        value = tirx.Select(value > below, value, below)  # NaN becomes the lower limit
        value = tirx.Select(value < above, value, above)
        rounded = tirx.nearbyint(value).astype("int32")
        return (rounded + tirx.const(zero_point, "int32")).astype(dtype)

    return te.compute(x.shape, element, name="quantize")


def dequantize(x: Any, *, scale: float, zero_point: int) -> Any:
    """Integers as float32."""

    def element(*index: Any) -> Any:
        value = x[index].astype("int32") - tirx.const(zero_point, "int32")
        return value.astype("float32") * tirx.const(scale, "float32")

    return te.compute(x.shape, element, name="dequantize")


def requantize(
    x: Any, bias: Any, multiplier: Any, *, shift: int, zero_point: int, low: int, high: int,
    dtype: str,
) -> Any:  # fmt: skip
    """int32 sums as 8-bit integers; bias and multiplier broadcast against them."""

    def element(*index: Any) -> Any:
        value = x[index] + _at(bias, index, x.shape)
        value = scale(value, _at(multiplier, index, x.shape), shift) + tirx.const(
            zero_point, "int32"
        )
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
        lambda *i: (x[i] + _at(bias, i, x.shape)).astype("float32") * _at(factor, i, x.shape),
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
        value = scale(x * y, tirx.const(multiplier, "int32"), shift)
        return saturate(value + tirx.const(zero_point, "int32"), low, high, dtype)

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
    value, multiplier, amount = call.args
    shift = _constant(amount)
    lanes = int(str(call.ty.dtype).partition("x")[2] or 1)
    rounding = 1 << (shift - 1)
    if lanes % 2:
        suffix = f"x{lanes}" if lanes > 1 else ""
        wide = f"int64{suffix}"
        product = value.astype(wide) * multiplier.astype(wide) + tirx.const(rounding, wide)
        return tirx.shift_right(product, tirx.const(shift, wide)).astype(f"int32{suffix}")
    signed, unsigned = (
        f"{kind}x{lanes // 2}" if lanes > 2 else kind for kind in ("int64", "uint64")
    )

    def const(number: int) -> Any:
        return tirx.const(number, signed)

    def even(x: Any) -> Any:
        return tirx.shift_right(tirx.shift_left(x, const(32)), const(32))

    def odd(x: Any) -> Any:
        return tirx.shift_right(x, const(32))

    pairs = tirx.reinterpret(signed, value)
    factors = tirx.reinterpret(signed, multiplier)
    low = even(pairs) * even(factors) + const(rounding)
    high = odd(pairs) * odd(factors) + const(rounding)
    upper = const(-(1 << 32))
    if shift >= 32:
        low = tirx.shift_right(tirx.reinterpret(unsigned, low), tirx.const(32, unsigned))
        low = tirx.reinterpret(signed, low)
    else:
        low = tirx.bitwise_and(tirx.shift_right(low, const(shift)), const((1 << 32) - 1))
        high = tirx.shift_left(high, const(32 - shift))
    joined = tirx.bitwise_or(low, tirx.bitwise_and(high, upper))
    result = tirx.reinterpret(f"int32x{lanes}", joined)
    if shift > 32:
        result = tirx.shift_right(result, tirx.const(shift - 32, f"int32x{lanes}"))
    return result


def _constant(expr: Any) -> int:
    """The number in a constant, or in a vector of one."""
    return int(expr.value if isinstance(expr, tirx.IntImm) else expr.value.value)


register_operator(_SCALE, pure=True)
register_lowering(_SCALE, "llvm", _lower_scale)
