"""Dot products of four 8-bit integers into int32 on 32-bit ARM: ``vmull``, ``vpaddl``, ``vpadd``.

The same layout and the same bits as on 64-bit ARM, with the instructions that ARMv7 has: pairs of
products are made of eight bytes at a time, since only halves of its registers multiply, and are
added up in 32 bits. Unsigned activations are shifted into the signed range by 128, and what that
takes away is added again (`schedules.cpu.intrinsics.neon` tells how).
"""

from __future__ import annotations

from schedules.cpu.intrinsics.base import DotIntrinsic, every, register_bytes, weight_bytes
from schedules.encodings import Packing

#: int32 accumulators of one call: a vector of 128 bits.
LANES = 4

_FOUR = 'T.reinterpret("int32", A.vload([{at}], dtype="{dtype}x4"))'
#: Turns the top bit of each byte: unsigned bytes less 128, read as signed ones.
_SHIFTED = "T.bitwise_xor({four}, T.int32(-2139062144))"


def dot(left: str = "uint8", packing: Packing | None = None) -> DotIntrinsic:
    """The dot product of 8-bit activations with signed weights, registered.

    Args:
        left: Dtype of the activations, ``uint8`` or ``int8``.
        packing: How weights of fewer bits lie in bytes; None where they have whole ones.
    """
    shifted = left == "uint8"
    sums = 'C.vload([0], dtype="int32x4")'
    for part in range(packing.per_byte if packing else 1):
        four = _FOUR.format(at=4 * part, dtype=left)
        four = _SHIFTED.format(four=four) if shifted else four
        activations = f'T.reinterpret("int8x8", T.broadcast({four}, 2))'
        halves = []
        for row in (0, 2):
            weights = weight_bytes(8, packing, part=part, row=row)
            pairs = _call("int32x4", "vpaddls", _call("int16x8", "vmulls", activations, weights))
            if shifted:
                total = _call("int32x4", "vpaddls", _call("int16x8", "vmulls", _HALF, weights))
                pairs = f"({pairs} + T.shift_left({total}, {every('int32', 1, 4)}))"
            halves.append(_add_pairs(pairs))
        sums = f'({sums} + T.vectorcombine("int32x4", {halves[0]}, {halves[1]}))'
    return register_bytes("vmull.s8", LANES, left, packing, sums)


#: Half of 128, which is no signed byte: products with it are taken twice.
_HALF = every("int8", 64, 8)


def _add_pairs(value: str) -> str:
    low, high = (_call("int32x2", f"T.{part}", value) for part in ("vectorlow", "vectorhigh"))
    return _call("int32x2", "vpadd", low, high)


def _call(dtype: str, name: str, *arguments: str) -> str:
    if name.startswith("T."):
        return f'{name}("{dtype}", {", ".join(arguments)})'
    return f'T.call_llvm_pure_intrin("{dtype}", "llvm.arm.neon.{name}", {", ".join(arguments)})'
