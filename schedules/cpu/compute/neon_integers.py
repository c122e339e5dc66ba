"""Integer arithmetic of epilogues in instructions of NEON, bit for bit what the semantics say.

A product with a multiplier, shifted by 32 bits or more, is the upper half of the doubled product
(``sqdmulh``) and a shift that rounds (``srshr``): the rounding constant has no bits in what the
first step drops. Bytes are made of int32 by instructions that saturate, 16 at a time; the zero
point is added to 16-bit numbers, where saturation has no effect that the last step would not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from schedules.cpu.compute.vectors import constant, joined, lanes_of, part
from schedules.tvm_adapter import ir, tirx

#: TVM's name for lowerings that code for AArch64 takes first.
AARCH64 = "llvm.aarch64"
#: Bytes of a vector register: what an epilogue best stores at once.
BYTES = 16
_SCALE = "tirx.tilewright_scale"
_WORDS = 4
#: Offsets for which adding them to saturated 16-bit numbers loses nothing.
_OFFSETS = range(-255, 256)
_STORE = """
declare void @llvm.aarch64.neon.st4.v16i8.p0(
    <16 x i8>, <16 x i8>, <16 x i8>, <16 x i8>, ptr nocapture)

define linkonce_odr void @tilewright_store_quads(
    <16 x i8> %a, <16 x i8> %b, <16 x i8> %c, <16 x i8> %d, ptr %p) alwaysinline {
  call void @llvm.aarch64.neon.st4.v16i8.p0(
      <16 x i8> %a, <16 x i8> %b, <16 x i8> %c, <16 x i8> %d, ptr %p)
  ret void
}
"""


def lower_scale(call: Any) -> Any:
    """Four lanes at a time; one element by 64-bit arithmetic."""
    value, multiplier, *numbers = call.args
    shift, offset = (constant(v) for v in numbers)
    lanes = lanes_of(call)
    if lanes % 2 or (lanes > 2 and lanes % _WORDS):
        suffix = f"x{lanes}" if lanes > 1 else ""
        wide = f"int64{suffix}"
        product = value.astype(wide) * multiplier.astype(wide) + tirx.const(1 << (shift - 1), wide)
        result = tirx.shift_right(product, tirx.const(shift, wide)).astype(f"int32{suffix}")
        return _plus(result, offset)
    count = min(lanes, _WORDS)
    found = [
        _scaled(part(value, lanes, i, count), part(multiplier, lanes, i, count), shift)
        for i in range(0, lanes, count)
    ]
    return _plus(joined(found), offset)


def lower_saturate(call: Any) -> Any:
    """Narrowing by instructions that saturate; other widths by minimum and maximum."""
    value, *limits = call.args
    low, high = (constant(v) for v in limits)
    narrow = str(call.ty.dtype)
    dtype, lanes = narrow.partition("x")[0], lanes_of(call)
    if lanes % _WORDS or dtype not in ("uint8", "int8"):
        wide = f"int32x{lanes}" if lanes > 1 else "int32"
        limited = tirx.max(tirx.min(value, tirx.const(high, wide)), tirx.const(low, wide))
        return limited.astype(narrow)
    value, offset = _without_offset(value)
    step = next(n for n in (BYTES, 8, _WORDS) if lanes % n == 0)
    found = [_bytes(value, offset, lanes, i, step, dtype) for i in range(0, lanes, step)]
    result = joined(found)
    least, most = (0, 255) if dtype == "uint8" else (-128, 127)
    if low > least:
        result = tirx.max(result, tirx.const(low, narrow))
    if high < most:
        result = tirx.min(result, tirx.const(high, narrow))
    return result


def intrinsic(result: str, name: str, *arguments: Any) -> Any:
    """A call of ``llvm.aarch64.neon.<name>`` without side effects."""
    return tirx.call_llvm_pure_intrin(result, f"llvm.aarch64.neon.{name}", *arguments)


def quantized(
    load: Callable[[Any, int], Any], first: Any, *, inverse: float, zero_point: int, low: int,
    high: int,
) -> Any:  # fmt: skip
    """16 floats as bytes, as `schedules.cpu.compute.integers.quantized` has them, as int8.

    Args:
        load: Gives neighbouring floats: the first, how many.
        first: Index of the first.
        inverse: One over the scale.
        zero_point: Of the result.
        low: Its least value.
        high: Its largest value.
    """
    kind = f"float32x{_WORDS}"
    words = []
    for i in range(0, BYTES, _WORDS):
        value = load(first + i, _WORDS) * tirx.const(inverse, kind)
        # Of NaN, which is a quiet one behind a product, and a number these take the number.
        value = intrinsic(kind, "fmaxnm", value, tirx.const(float(low - zero_point), kind))
        value = intrinsic(kind, "fminnm", value, tirx.const(float(high - zero_point), kind))
        words.append(intrinsic(f"int32x{_WORDS}", "fcvtns", value))
    # Bytes wrap around, so that the zero point may be added to them.
    wrapped = zero_point - 256 * (zero_point > 127)
    return joined(words).astype(f"int8x{BYTES}") + tirx.const(wrapped, f"int8x{BYTES}")


def store_quads(rows: Sequence[Any], target: Any, place: Sequence[Any]) -> Any:
    """Write four vectors of 16 bytes, interleaved byte by byte; within `with_quads` only."""
    address = tirx.address_of(tirx.BufferLoad(target, list(place)))
    return tirx.Evaluate(tirx.call_extern("void", "tilewright_store_quads", *rows, address))


def with_quads(body: Any) -> Any:
    """Statements that use `store_quads`."""
    none = tirx.const(0, "int64")
    return tirx.AttrStmt(none, "pragma_import_llvm", ir.StringImm(_STORE), body)


def _scaled(value: Any, multiplier: Any, shift: int) -> Any:
    """``(value * multiplier + 2^(shift - 1)) >> shift`` of four lanes, or of two."""
    dtype = str(value.ty.dtype)
    if shift == 31:
        return intrinsic(dtype, "sqrdmulh", value, multiplier)
    if shift > 31:
        # Only the product of -2^31 with itself saturates, and no multiplier is that.
        upper = intrinsic(dtype, "sqdmulh", value, multiplier)
        return _rounding_shift(upper, shift - 31)
    lanes = lanes_of(value)
    found = []
    for first in range(0, lanes, 2):
        pair = [part(v, lanes, first, 2) for v in (value, multiplier)]
        product = intrinsic("int64x2", "smull", *pair)
        found.append(intrinsic("int32x2", "rshrn", product, tirx.const(shift, "int32")))
    return joined(found)


def _bytes(value: Any, offset: int, lanes: int, first: int, count: int, dtype: str) -> Any:
    """Some lanes of an int32 expression plus an offset, saturated to `dtype`."""
    words = [
        intrinsic("int16x4", "sqxtn", _rounded(part(value, lanes, first + i, _WORDS)))
        for i in range(0, count, _WORDS)
    ]
    if count == _WORDS:  # narrowing takes eight: the upper half is not used
        words = words * 2
    name, result = ("sqxtun", "uint8x8") if dtype == "uint8" else ("sqxtn", "int8x8")
    found = []
    for i in range(0, len(words), 2):
        half = joined(words[i : i + 2])
        if offset:
            half = intrinsic("int16x8", "sqadd", half, tirx.const(offset, "int16x8"))
        found.append(intrinsic(result, name, half))
    whole = joined(found)
    return tirx.Shuffle([whole], list(range(_WORDS))) if count == _WORDS else whole


def _without_offset(value: Any) -> tuple[Any, int]:
    """An expression without the zero point added to it last, and the zero point."""
    if isinstance(value, ir.Call) and value.op.name == _SCALE:
        *arguments, offset = value.args
        if constant(offset) in _OFFSETS:
            zero = tirx.const(0, "int32")
            return ir.Call(value.op, [*arguments, zero], ret_ty=value.ty.dtype), constant(offset)
    if isinstance(value, tirx.Add) and _is_constant(value.b) and constant(value.b) in _OFFSETS:
        return value.a, constant(value.b)
    return value, 0


def _rounded(value: Any) -> Any:
    """Half of the last place and a shift, where an expression ends in them, as one instruction.

    The semantics see to it that the sum does not overflow.
    """
    if not (isinstance(value, ir.Call) and value.op.name == "tirx.shift_right"):
        return value
    total, amount = value.args
    if not (isinstance(total, tirx.Add) and _is_constant(total.b) and _is_constant(amount)):
        return value
    shift, half = constant(amount), constant(total.b)
    if not 1 <= shift <= 31 or half != 1 << (shift - 1):
        return value
    return _rounding_shift(total.a, shift)


def _rounding_shift(value: Any, shift: int) -> Any:
    dtype = str(value.ty.dtype)
    return intrinsic(dtype, "srshl", value, tirx.const(-shift, dtype))


def _is_constant(expr: Any) -> bool:
    inner = expr.value if isinstance(expr, tirx.Broadcast) else expr
    return isinstance(inner, tirx.IntImm)


def _plus(value: Any, number: int) -> Any:
    return value + tirx.const(number, str(value.ty.dtype)) if number else value


__all__ = [
    "AARCH64",
    "BYTES",
    "intrinsic",
    "lower_saturate",
    "lower_scale",
    "quantized",
    "store_quads",
    "with_quads",
]
