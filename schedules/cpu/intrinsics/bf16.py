"""Dot products of bfloat16 pairs into float32: ``vdpbf16ps``, and the same with plain FMAs.

Weights lie in pairs along the reduction (VNNI-2 order: ``[reduction / 2, columns, 2]``), so a
32-bit element of a vector holds two steps of one column.

``vdpbf16ps`` takes subnormal inputs for zero and flushes subnormal results, whatever the
control register says; `vdpbf16ps_model` in the tests is its arithmetic, bit by bit.
"""

from __future__ import annotations

from textwrap import indent

from schedules.cpu.intrinsics.base import DotIntrinsic, register
from targets.spec import TargetSpec

#: LLVM's intrinsic takes vectors of `bfloat`, a type that TVM's code generator does not have.
#: So it is called through a function on 32-bit elements, which LLVM inlines.
_LIBRARY = """
declare <{lanes} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(
    <{lanes} x float>, <{halves} x bfloat>, <{halves} x bfloat>)

define <{lanes} x float> @tilewright_dpbf16ps_{bits}(
    <{lanes} x float> %c, <{lanes} x i32> %a, <{lanes} x i32> %b) {{
  %x = bitcast <{lanes} x i32> %a to <{halves} x bfloat>
  %y = bitcast <{lanes} x i32> %b to <{halves} x bfloat>
  %r = call <{lanes} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(
      <{lanes} x float> %c, <{halves} x bfloat> %x, <{halves} x bfloat> %y)
  ret <{lanes} x float> %r
}}
"""

# Before code generation TVM turns buffers of bfloat16 that a kernel holds inside (padded
# activations, packed products) into float32, unless their address is used as it is: hence
# the attributes, which mean nothing else.
_KEEP = """
with T.attr(0, "tilewright.keep_bfloat16", A.data):
    with T.attr(0, "tilewright.keep_bfloat16", B.data):
"""

_NATIVE = """
with T.attr(0, "pragma_import_llvm", LIBRARY):
    C[T.ramp(0, 1, $lanes)] = T.call_pure_extern(
        "tilewright_dpbf16ps_{bits}",
        C.vload([0], dtype="float32x$lanes"),
        T.broadcast(T.reinterpret("int32", A.vload([0], dtype="bfloat16x2")), $lanes),
        T.reinterpret("int32x$lanes", B.vload([0, 0], dtype="bfloat16x{halves}")),
        dtype="float32x$lanes",
    )
"""

# A bfloat16 is the upper half of a float32: the even step of a pair moves up, the odd one
# only loses its lower half. Broadcasts of A and the halves of B serve a whole register tile.
_WIDENED = """
C[T.ramp(0, 1, $lanes)] = (
    C.vload([0], dtype="float32x$lanes")
    + T.reinterpret("float32x$lanes", {a} << {half})
    * T.reinterpret("float32x$lanes", {b} << {half})
    + T.reinterpret("float32x$lanes", {a} & {upper})
    * T.reinterpret("float32x$lanes", {b} & {upper})
)
"""
_WIDENED_OPERANDS = {
    "a": 'T.broadcast(T.reinterpret("int32", A.vload([0], dtype="bfloat16x2")), $lanes)',
    "b": 'T.reinterpret("int32x$lanes", B.vload([0, 0], dtype="bfloat16x{halves}"))',
    "half": "T.broadcast(T.int32(16), $lanes)",
    "upper": "T.broadcast(T.int32(-65536), $lanes)",
}


def native_lanes(spec: TargetSpec) -> tuple[int, ...]:
    """Lanes that the target's bfloat16 instruction comes in, widest first; empty without one."""
    if not spec.has("avx512bf16"):
        return ()
    return (16, 8) if spec.has("avx512vl") else (16,)


def dot(spec: TargetSpec, lanes: int) -> DotIntrinsic:
    """The dot product of bfloat16 pairs for a target, registered.

    ``vdpbf16ps`` where the target has it at this width, else two FMAs on widened halves, at
    the rate of float32.

    Args:
        spec: The target.
        lanes: float32 accumulators of one call: 16 (zmm), 8 (ymm) or 4 (xmm).
    """
    if lanes in native_lanes(spec):
        intrinsic = DotIntrinsic(
            f"tilewright.bf16.dpbf16ps.{lanes}", lanes, 2, ("bfloat16", "bfloat16", "float32"),
            "vdpbf16ps",
        )  # fmt: skip
        sizes = {"lanes": lanes, "halves": 2 * lanes, "bits": 32 * lanes}
        register(intrinsic, _kept(_NATIVE.format(**sizes)), library=_LIBRARY.format(**sizes))
        return intrinsic
    intrinsic = DotIntrinsic(
        f"tilewright.bf16.fma.{lanes}", lanes, 2, ("bfloat16", "bfloat16", "float32"), "vfmadd231ps"
    )
    operands = {k: text.format(halves=2 * lanes) for k, text in _WIDENED_OPERANDS.items()}
    register(intrinsic, _kept(_WIDENED.format(**operands)))
    return intrinsic


def _kept(statements: str) -> str:
    """The statements within the attributes that keep the operands in bfloat16."""
    return _KEEP.strip() + indent(statements, " " * 8)
