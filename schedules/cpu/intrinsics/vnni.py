"""Dot products of four 8-bit integers into int32: ``vpdpbusd``, ``vpdpbssd`` and exact AVX2.

Weights lie in fours along the reduction (VNNI-4 order: ``[reduction / 4, columns, 4]``). All
are exact: nothing saturates between the 8-bit factors and the 32-bit sum, which wraps.
(``vpmaddubsw``, the usual way on AVX2, saturates its 16-bit pair sums and is not used.)

``vpdpbusd`` multiplies unsigned activations with signed weights. Signed ones are shifted into the
unsigned range by 128, and what the shift adds is taken off again in each step.
"""

from __future__ import annotations

from schedules.cpu.intrinsics.base import DotIntrinsic, register_bytes, weight_bytes
from schedules.encodings import Packing
from targets.spec import TargetSpec

# Expressions of TVMScript: sums {c}, four activations {a} as an int32, weights {b}.

_VPDPBUSD = """T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx512.vpdpbusd.{bits}",
    {c},
    T.reinterpret("uint8x{bytes}", T.broadcast({a}, $lanes)),
    {b},
)"""

_VPDPBSSD = """T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx2.vpdpbssd.{bits}",
    {c},
    T.reinterpret("int8x{bytes}", T.broadcast({a}, $lanes)),
    {b},
)"""

# The product with 128s is the same for every row of a tile, so LLVM computes it once a step.
_VPDPBUSD_LESS_SHIFT = """(T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx512.vpdpbusd.{bits}",
    {c},
    T.reinterpret("uint8x{bytes}", T.broadcast({a}, $lanes)),
    {b},
) - T.call_llvm_pure_intrin(
    "int32x$lanes",
    "llvm.x86.avx512.vpdpbusd.{bits}",
    T.broadcast(0, $lanes),
    T.broadcast(T.uint8(128), {bytes}),
    {b},
))"""

# Steps 0 and 2 of each column as 16-bit numbers, then steps 1 and 3; `vpmaddwd` multiplies
# and adds pairs of them in 32 bits.
_PMADDWD = """(
    {c}
    + T.call_llvm_pure_intrin("int32x$lanes", "llvm.x86.{pmaddwd}", {even_a}, {even_b})
    + T.call_llvm_pure_intrin("int32x$lanes", "llvm.x86.{pmaddwd}", {odd_a}, {odd_b})
)"""
_FOURS_A = 'T.reinterpret("int16x{halves}", T.broadcast({a}, $lanes))'
_FOURS_B = 'T.reinterpret("int16x{halves}", {b})'


def _even_and_odd(fours: str, halves: int, *, signed: bool) -> tuple[str, str]:
    """TVMScript of the low and of the high byte of each 16-bit element, widened to 16 bits."""
    eight = f"T.broadcast(T.int16(8), {halves})"
    high = f"T.shift_right({fours}, {eight})"
    if signed:  # up, and down again with copies of the sign
        return f"T.shift_right(T.shift_left({fours}, {eight}), {eight})", high
    low = f"T.broadcast(T.int16(255), {halves})"
    return f"T.bitwise_and({fours}, {low})", f"T.bitwise_and({high}, {low})"


_PMADDWD_NAMES = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}

# Unsigned activations times codes of a few bits, in pairs, and the pairs of all fields of a byte,
# fit into 16 bits: 8 pairs of 255 times 1, 4 times 1, or 2 times 8. Fields of a byte are added
# up there, and once for all of them in 32 bits.
_PMADDUBSW_NAMES = {
    4: "ssse3.pmadd.ub.sw.128", 8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"
}  # fmt: skip
_PAIRS = """T.call_llvm_pure_intrin(
    "int16x{halves}", "llvm.x86.{pmaddubsw}", T.reinterpret("uint8x{bytes}", {a}), {b}
)"""
_ADD_PAIRS = """T.call_llvm_pure_intrin(
    "int32x$lanes", "llvm.x86.{pmaddwd}", {pairs}, T.broadcast(T.int16(1), {halves})
)"""

_SUMS = 'C.vload([0], dtype="int32x$lanes")'
_FOUR = 'T.reinterpret("int32", A.vload([{at}], dtype="{dtype}x4"))'
#: Turns the top bit of each byte: adds 128 to signed bytes, read as unsigned ones.
_FOUR_SHIFTED = "T.bitwise_xor(" + _FOUR + ", T.int32(-2139062144))"


def has_vpdpbusd(spec: TargetSpec, lanes: int) -> bool:
    """Whether the target has ``vpdpbusd`` on vectors of this many int32 lanes."""
    if lanes == 16:
        return spec.has("avx512vnni")
    return lanes in (4, 8) and (spec.has("avx512vnni", "avx512vl") or spec.has("avxvnni"))


def dot(
    spec: TargetSpec, lanes: int, left: str = "uint8", packing: Packing | None = None
) -> DotIntrinsic:
    """The dot product of 8-bit activations with signed weights for a target, registered.

    Unsigned activations take ``vpdpbusd`` where the target has it. Signed ones take
    ``vpdpbssd``, else ``vpdpbusd`` on shifted activations less the shift's share. Without VNNI
    both take ``vpmaddwd`` on numbers widened to 16 bits. Weights of fewer bits are taken out of
    their bytes first, which serves all rows of a register tile; without VNNI they are so small
    that ``vpmaddubsw`` does not saturate.

    Args:
        spec: The target.
        lanes: int32 accumulators of one call: 16 (zmm), 8 (ymm) or 4 (xmm).
        left: Dtype of the activations, ``uint8`` or ``int8``.
        packing: How weights of fewer bits lie in bytes; None where they have whole ones.
    """
    signed = left == "int8"
    parts = packing.per_byte if packing else 1
    if signed and lanes in (4, 8) and spec.has("avxvnniint8"):
        instruction = "vpdpbssd"
    elif has_vpdpbusd(spec, lanes):
        instruction = "vpdpbusd"
    else:
        instruction = "vpmaddwd" if packing is None else "vpmaddubsw"
    sums = _SUMS if instruction != "vpmaddubsw" else _by_pairs(lanes, left, packing)
    for part in range(parts if instruction != "vpmaddubsw" else 0):
        sums = _product(
            instruction, lanes, left, 4 * part, weight_bytes(4 * lanes, packing, part=part), sums
        )
    return register_bytes(instruction, lanes, left, packing, sums, f".{lanes}")


def _by_pairs(lanes: int, left: str, packing: Packing | None) -> str:
    """TVMScript of sums to which the products with all fields of the weights' bytes are added."""
    sizes = {"bytes": 4 * lanes, "halves": 2 * lanes}
    parts = packing.per_byte if packing else 1
    largest = max(abs(v) for v in packing.limits) if packing else 128
    if parts * 2 * 255 * largest > 32767:
        raise ValueError(f"sums of pairs with {packing} do not fit into 16 bits")

    def added(activations: list[str]) -> str:
        pairs = [
            _PAIRS.format(
                pmaddubsw=_PMADDUBSW_NAMES[lanes],
                a=a,
                b=weight_bytes(4 * lanes, packing, part=part),
                **sizes,
            )
            for part, a in enumerate(activations)
        ]
        return _ADD_PAIRS.format(pmaddwd=_PMADDWD_NAMES[lanes], pairs=" + ".join(pairs), **sizes)

    four = _FOUR_SHIFTED if left == "int8" else _FOUR
    sums = added(
        [f"T.broadcast({four.format(at=4 * p, dtype=left)}, $lanes)" for p in range(parts)]
    )
    if left == "uint8":
        return f"({_SUMS} + {sums})"
    # What the shift adds is the same for every row of a tile.
    shift = added([f"T.broadcast(T.uint8(128), {4 * lanes})"] * parts)
    return f"({_SUMS} + {sums} - {shift})"


def _product(instruction: str, lanes: int, left: str, at: int, weights: str, sums: str) -> str:
    """TVMScript of sums to which products with four activations from `at` are added."""
    signed = left == "int8"
    sizes = {"bits": 32 * lanes, "bytes": 4 * lanes, "halves": 2 * lanes}
    four = _FOUR.format(at=at, dtype=left)
    if instruction == "vpdpbssd":
        return _VPDPBSSD.format(a=four, b=weights, c=sums, **sizes)
    if instruction == "vpdpbusd" and signed:
        shifted = _FOUR_SHIFTED.format(at=at, dtype=left)
        return _VPDPBUSD_LESS_SHIFT.format(a=shifted, b=weights, c=sums, **sizes)
    if instruction == "vpdpbusd":
        return _VPDPBUSD.format(a=four, b=weights, c=sums, **sizes)
    even_a, odd_a = _even_and_odd(_FOURS_A.format(a=four, **sizes), 2 * lanes, signed=signed)
    even_b, odd_b = _even_and_odd(_FOURS_B.format(b=weights, **sizes), 2 * lanes, signed=True)
    return _PMADDWD.format(
        pmaddwd=_PMADDWD_NAMES[lanes], c=sums, even_a=even_a, odd_a=odd_a, even_b=even_b,
        odd_b=odd_b,
    )  # fmt: skip
