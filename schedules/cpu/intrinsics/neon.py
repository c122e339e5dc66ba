"""Dot products of four 8-bit integers into int32 on ARM: ``usdot``, ``sdot``, ``smull``.

Weights lie in fours along the reduction, as on x86, four columns to a vector of 128 bits. All are
exact, whatever the bytes: pairs of products are added up in 32 bits, since two of them may not fit
into 16.

Only processors with i8mm multiply unsigned with signed bytes. Elsewhere unsigned activations are
shifted into the signed range by 128, and what the shift takes away, 128 times the sum of the
weights, is added again in each step; it is the same for all rows of a register tile, so that LLVM
computes it once.
"""

from __future__ import annotations

from schedules.cpu.intrinsics.base import DotIntrinsic, every, register_bytes, weight_bytes
from schedules.encodings import Packing
from targets.spec import TargetSpec

#: int32 accumulators of one call: a vector of 128 bits.
LANES = 4

_SUMS = 'C.vload([0], dtype="int32x4")'
_FOUR = 'T.reinterpret("int32", A.vload([{at}], dtype="{dtype}x4"))'
#: Turns the top bit of each byte: unsigned bytes less 128, read as signed ones.
_SHIFTED = "T.bitwise_xor({four}, T.int32(-2139062144))"


def instruction(spec: TargetSpec, left: str) -> str:
    """The instruction that multiplies on a target.

    Args:
        spec: The target.
        left: Dtype of the activations, ``uint8`` or ``int8``.
    """
    if left == "uint8" and spec.has("i8mm"):
        return "usdot"
    return "sdot" if spec.has("dotprod") else "smull"


def dot(spec: TargetSpec, left: str = "uint8", packing: Packing | None = None) -> DotIntrinsic:
    """The dot product of 8-bit activations with signed weights for a target, registered.

    Args:
        spec: The target.
        left: Dtype of the activations, ``uint8`` or ``int8``.
        packing: How weights of fewer bits lie in bytes; None where they have whole ones.
    """
    name = instruction(spec, left)
    shifted = left == "uint8" and name != "usdot"
    sums = _SUMS
    for part in range(packing.per_byte if packing else 1):
        four = _FOUR.format(at=4 * part, dtype=left)
        four = _SHIFTED.format(four=four) if shifted else four
        if name == "smull":
            sums = _widening(sums, four, part, packing, shifted=shifted)
        else:
            kind = "uint8" if name == "usdot" else "int8"
            weights = weight_bytes(16, packing, part=part)
            activations = f'T.reinterpret("{kind}x16", T.broadcast({four}, 4))'
            sums = _call("int32x4", name, sums, activations, weights)
            if shifted:  # twice 64, since 128 is no signed byte
                half = _call("int32x4", name, every("int32", 0, 4), every("int8", 64, 16), weights)
                sums = f"({sums} + T.shift_left({half}, {every('int32', 1, 4)}))"
    return register_bytes(name, LANES, left, packing, sums)


def _widening(sums: str, four: str, part: int, packing: Packing | None, *, shifted: bool) -> str:
    """Products in 16 bits, two columns at a time, and their sums in 32 bits."""
    activations = f'T.reinterpret("int8x8", T.broadcast({four}, 2))'
    pairs = []
    for row in (0, 2):
        weights = weight_bytes(8, packing, part=part, row=row)
        products = _call("int16x8", "smull", activations, weights)
        pairs.append(_call("int32x4", "saddlp", products))
    result = f"({sums} + {_call('int32x4', 'addp', *pairs)})"
    if not shifted:
        return result
    total = _call("int16x8", "saddlp", weight_bytes(16, packing, part=part))
    total = _call("int32x4", "saddlp", total)
    return f"({result} + T.shift_left({total}, {every('int32', 7, 4)}))"


def _call(dtype: str, name: str, *arguments: str) -> str:
    return f'T.call_llvm_pure_intrin("{dtype}", "llvm.aarch64.neon.{name}", {", ".join(arguments)})'
