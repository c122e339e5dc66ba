"""Dot products of four 8-bit integers into int32: ``vpdpbusd``, ``vpdpbssd`` and exact AVX2.

Weights lie in fours along the reduction (VNNI-4 order: ``[reduction / 4, columns, 4]``). All
are exact: nothing saturates between the 8-bit factors and the 32-bit sum, which wraps.
(``vpmaddubsw``, the usual way on AVX2, saturates its 16-bit pair sums and is not used.)

``vpdpbusd`` multiplies unsigned activations with signed weights. Signed ones are shifted into the
unsigned range by 128, and what the shift adds is taken off again in each step.
"""

from __future__ import annotations

from schedules.cpu.intrinsics.base import DotIntrinsic, register
from targets.spec import TargetSpec

_VPDPBUSD = """
C[T.ramp(0, 1, $lanes)] = T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx512.vpdpbusd.{bits}",
    C.vload([0], dtype="int32x$lanes"),
    T.reinterpret("uint8x{bytes}", T.broadcast({a}, $lanes)),
    B.vload([0, 0], dtype="int8x{bytes}"),
)
"""

_VPDPBSSD = """
C[T.ramp(0, 1, $lanes)] = T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx2.vpdpbssd.{bits}",
    C.vload([0], dtype="int32x$lanes"),
    T.reinterpret("int8x{bytes}", T.broadcast({a}, $lanes)),
    B.vload([0, 0], dtype="int8x{bytes}"),
)
"""

# The product with 128s is the same for every row of a tile, so LLVM computes it once a step.
_VPDPBUSD_LESS_SHIFT = """
C[T.ramp(0, 1, $lanes)] = T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx512.vpdpbusd.{bits}",
    C.vload([0], dtype="int32x$lanes"),
    T.reinterpret("uint8x{bytes}", T.broadcast({a}, $lanes)),
    B.vload([0, 0], dtype="int8x{bytes}"),
) - T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx512.vpdpbusd.{bits}",
    T.broadcast(0, $lanes),
    T.broadcast(T.uint8(128), {bytes}),
    B.vload([0, 0], dtype="int8x{bytes}"),
)
"""

# Steps 0 and 2 of each column as 16-bit numbers, then steps 1 and 3; `vpmaddwd` multiplies
# and adds pairs of them in 32 bits.
_PMADDWD = """
C[T.ramp(0, 1, $lanes)] = (
    C.vload([0], dtype="int32x$lanes")
    + T.call_llvm_pure_intrin("int32x$lanes", "llvm.x86.{pmaddwd}", {even_a}, {even_b})
    + T.call_llvm_pure_intrin("int32x$lanes", "llvm.x86.{pmaddwd}", {odd_a}, {odd_b})
)
"""
_FOURS_A = 'T.reinterpret("int16x{halves}", T.broadcast({a}, $lanes))'
_FOURS_B = 'T.reinterpret("int16x{halves}", B.vload([0, 0], dtype="int8x{bytes}"))'


def _even_and_odd(fours: str, halves: int, *, signed: bool) -> tuple[str, str]:
    """TVMScript of the low and of the high byte of each 16-bit element, widened to 16 bits."""
    eight = f"T.broadcast(T.int16(8), {halves})"
    high = f"T.shift_right({fours}, {eight})"
    if signed:  # up, and down again with copies of the sign
        return f"T.shift_right(T.shift_left({fours}, {eight}), {eight})", high
    low = f"T.broadcast(T.int16(255), {halves})"
    return f"T.bitwise_and({fours}, {low})", f"T.bitwise_and({high}, {low})"


_PMADDWD_NAMES = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}

_FOUR = 'T.reinterpret("int32", A.vload([0], dtype="{dtype}x4"))'
#: Turns the top bit of each byte: adds 128 to signed bytes, read as unsigned ones.
_FOUR_SHIFTED = "T.bitwise_xor(" + _FOUR.format(dtype="int8") + ", T.int32(-2139062144))"


def has_vpdpbusd(spec: TargetSpec, lanes: int) -> bool:
    """Whether the target has ``vpdpbusd`` on vectors of this many int32 lanes."""
    if lanes == 16:
        return spec.has("avx512vnni")
    return lanes in (4, 8) and (spec.has("avx512vnni", "avx512vl") or spec.has("avxvnni"))


def dot(spec: TargetSpec, lanes: int, left: str = "uint8") -> DotIntrinsic:
    """The dot product of 8-bit activations with signed weights for a target, registered.

    Unsigned activations take ``vpdpbusd`` where the target has it. Signed ones take
    ``vpdpbssd``, else ``vpdpbusd`` on shifted activations less the shift's share. Without VNNI
    both take ``vpmaddwd`` on numbers widened to 16 bits.

    Args:
        spec: The target.
        lanes: int32 accumulators of one call: 16 (zmm), 8 (ymm) or 4 (xmm).
        left: Dtype of the activations, ``uint8`` or ``int8``.
    """
    signed = left == "int8"
    sizes = {"bits": 32 * lanes, "bytes": 4 * lanes, "halves": 2 * lanes}
    four = _FOUR.format(dtype=left)
    if signed and lanes in (4, 8) and spec.has("avxvnniint8"):
        instruction, body = "vpdpbssd", _VPDPBSSD.format(a=four, **sizes)
    elif has_vpdpbusd(spec, lanes):
        instruction = "vpdpbusd"
        body = (_VPDPBUSD_LESS_SHIFT if signed else _VPDPBUSD).format(
            a=_FOUR_SHIFTED if signed else four, **sizes
        )
    else:
        instruction = "vpmaddwd"
        even_a, odd_a = _even_and_odd(_FOURS_A.format(a=four, **sizes), 2 * lanes, signed=signed)
        even_b, odd_b = _even_and_odd(_FOURS_B.format(**sizes), 2 * lanes, signed=True)
        body = _PMADDWD.format(
            pmaddwd=_PMADDWD_NAMES[lanes], even_a=even_a, odd_a=odd_a, even_b=even_b, odd_b=odd_b
        )
    name = f"tilewright.{'s8s8' if signed else 'u8s8'}.{instruction}.{lanes}"
    intrinsic = DotIntrinsic(name, lanes, 4, (left, "int8", "int32"), instruction)
    register(intrinsic, body)
    return intrinsic
