"""Between float32 and numbers of 16 bits in tensor expressions.

float16 converts in one instruction wherever kernels compute with it; the rest is about bfloat16.

TVM widens bfloat16 well by itself (a shift), but its way back takes five instructions and
turns some NaNs into zeros. Here a target with ``vcvtneps2bf16`` gets that, by an operator of
our own that is replaced when code is generated, after TVM has made 16-bit integers of all
bfloat16; others get integer arithmetic that rounds to the nearest even and keeps NaN.
``vcvtneps2bf16`` takes subnormal float32 for zero.
"""

from __future__ import annotations

from typing import Any

from schedules.tvm_adapter import register_lowering, register_operator, te, tirx
from targets.spec import TargetSpec

#: Numbers of 16 bits that kernels read, and compute with in float32 or with instructions for them.
DTYPES = frozenset({"bfloat16", "float16"})
_BITS = "tirx.tilewright_bfloat16_bits"
#: LLVM's intrinsics by number of lanes.
_CONVERT = {
    8: "llvm.x86.avx512bf16.cvtneps2bf16.256",
    16: "llvm.x86.avx512bf16.cvtneps2bf16.512",
}
_CONVERT_TWO = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"


def has_conversion(spec: TargetSpec) -> bool:
    """Whether the target converts vectors of float32 to bfloat16 in one instruction."""
    return spec.has("avx512bf16", "avx512vl")


def widen(value: Any) -> Any:
    """An element as float32."""
    return value.astype("float32") if str(value.dtype) in DTYPES else value


def narrow(value: Any, spec: TargetSpec, dtype: str = "bfloat16") -> Any:
    """A float32 element as bfloat16 or float16, rounded to the nearest even."""
    if dtype == "float16":
        return value.astype(dtype)
    native = has_conversion(spec)
    bits = tirx.call_intrin("uint16", _BITS, value) if native else _round(value, "")
    return tirx.reinterpret("bfloat16", bits)


def cast(tensor: Any, dtype: str, spec: TargetSpec, name: str = "cast") -> Any:
    """A ``te`` tensor with its elements converted, float32 to 16 bits or the other way."""

    def convert(*index: Any) -> Any:
        value = tensor[index]
        return narrow(value, spec, dtype) if dtype in DTYPES else widen(value)

    return te.compute(tensor.shape, convert, name=name)


def _round(value: Any, lanes: str) -> Any:
    """The upper halves of float32 elements, rounded to the nearest even; NaN stays NaN.

    Args:
        value: One element or a vector of them.
        lanes: Suffix of a vector's dtype, such as ``x8``.
    """
    wide, narrow_dtype = f"uint32{lanes}", f"uint16{lanes}"

    def const(number: int) -> Any:
        return tirx.const(number, wide)

    bits = tirx.reinterpret(wide, value)
    upper = tirx.shift_right(bits, const(16))
    rounded = tirx.shift_right(bits + const(0x7FFF) + tirx.bitwise_and(upper, const(1)), const(16))
    magnitude = tirx.bitwise_and(bits, const(0x7FFFFFFF))
    quiet = tirx.bitwise_or(upper, const(0x40))
    return tirx.Select(magnitude > const(0x7F800000), quiet, rounded).astype(narrow_dtype)


def _lower_bits(call: Any) -> Any:
    """The instruction for as many lanes as the call has, else integer arithmetic."""
    (value,) = call.args
    dtype = str(call.ty.dtype)
    lanes = int(dtype.partition("x")[2] or 1)
    if lanes == 32:
        half = "float32x16"
        low = tirx.call_intrin(half, "tirx.vectorlow", value)
        high = tirx.call_intrin(half, "tirx.vectorhigh", value)
        result = tirx.call_llvm_pure_intrin(dtype, _CONVERT_TWO, high, low)
    elif lanes in _CONVERT:
        result = tirx.call_llvm_pure_intrin(dtype, _CONVERT[lanes], value)
    else:
        return _round(value, f"x{lanes}" if lanes > 1 else "")
    # LLVM's value is of its type `bfloat`, whatever TVM takes it for: seen as other integers
    # and back, it is one of 16-bit integers.
    return tirx.reinterpret(dtype, tirx.reinterpret(f"uint32x{lanes // 2}", result))


register_operator(_BITS, pure=True)
register_lowering(_BITS, "llvm", _lower_bits)
