"""What the dot-product intrinsics share: their description, their text, their registration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from string import Template

from schedules.encodings import Packing
from schedules.tvm_adapter import s_tir, tvm


@dataclass(frozen=True, slots=True)
class DotIntrinsic:
    """An instruction (or a few) that adds short dot products to a vector of accumulators.

    It computes ``C[j] += sum over k of A[k] * B[j, k]`` for ``j < lanes`` and ``k < group``,
    products and sums in the accumulator's dtype. A schedule tensorizes the loop over `j`
    around the loop over `k` with it; the weights lie packed ``[..., lanes, group]``, without
    gaps, and code generation refuses others.

    With `packing`, `B` is ``[lanes, group]`` bytes of as many codes each: `A` has ``codes *
    group`` elements, of which part ``p`` meets the codes in field ``p`` of the bytes.

    Attributes:
        name: What `Schedule.tensorize` takes.
        lanes: Accumulators of one call.
        group: Products that one instruction adds up in one lane.
        dtypes: Of `A`, of `B` and of `C`.
        instruction: The instruction that shall be in the assembly, as it is written there.
    """

    name: str
    lanes: int
    group: int
    dtypes: tuple[str, str, str]
    instruction: str
    packing: Packing | None = None


_TEXT = Template("""
@T.prim_func(s_tir=True, private=True)
def dot(
    A: T.Buffer(($steps,), "$a", offset_factor=1, strides=[1]),
    B: T.Buffer(($lanes, $group), "$b", offset_factor=1, strides=[$group, 1]),
    C: T.Buffer(($lanes,), "$c", offset_factor=1, strides=[1]),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:$lanes], A[0:$steps], B[0:$lanes, 0:$group])
        T.writes(C[0:$lanes])
$body
""")

_LOOPS = Template("""
        for i in T.serial(0, $lanes):
            for k in T.serial(0, $group):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "$c") * T.cast(B[vi, vk], "$c")
""")

_ENCODED_LOOPS = Template("""
        for i in T.serial(0, $lanes):
            for p in T.serial(0, $parts):
                for k in T.serial(0, $group):
                    with T.sblock("update"):
                        vi, vp, vk = T.axis.remap("SRR", [i, p, k])
                        C[vi] = C[vi] + T.cast(A[vp * $group + vk], "$c") * T.cast($code, "$c")
""")


@cache
def register(intrinsic: DotIntrinsic, body: str, library: str = "") -> None:
    """Make an intrinsic known to TVM, once in a process.

    Args:
        intrinsic: What it computes.
        body: TVMScript statements that compute it, indented by nothing.
        library: LLVM IR that the statements call into, available as ``LIBRARY``.
    """
    from tvm.script import tirx as script

    a, b, c = intrinsic.dtypes
    packing = intrinsic.packing
    parts = packing.per_byte if packing else 1
    fields = {"lanes": intrinsic.lanes, "group": intrinsic.group, "steps": parts * intrinsic.group,
              "a": a, "b": b, "c": c}  # fmt: skip
    if packing is None:
        loops = _LOOPS.substitute(fields)
    else:
        moved = f'T.shift_right(B[vi, vk], T.cast(vp * {packing.bits}, "uint8"))'
        code = f'T.cast(T.bitwise_and({moved}, T.uint8({packing.mask})), "int8")'
        code += f" * T.int8({packing.step})" if packing.step != 1 else ""
        code += f" - T.int8({packing.offset})" if packing.offset else ""
        loops = _ENCODED_LOOPS.substitute(fields, parts=parts, code=code)
    indented = "\n".join(f"        {line}" for line in body.strip().splitlines())
    names = {"T": script, "LIBRARY": library}
    description, implementation = (
        tvm.script.from_source(_TEXT.substitute(fields, body=text), names)
        for text in (loops, Template(indented).substitute(fields))
    )
    s_tir.TensorIntrin.register(intrinsic.name, description, implementation, override=True)


def every(dtype: str, number: int, count: int) -> str:
    """TVMScript of a vector that holds one number `count` times."""
    return f"T.broadcast(T.{dtype}({number}), {count})"


def weight_bytes(count: int, packing: Packing | None, *, part: int = 0, row: int = 0) -> str:
    """TVMScript of a vector of int8 weights: whole bytes, or one field of each of them.

    Args:
        count: How many.
        packing: How weights of fewer bits lie in bytes; None where they have whole ones.
        part: Which field.
        row: Column of `B` that the first one is in.
    """
    if packing is None:
        return f'B.vload([{row}, 0], dtype="int8x{count}")'
    field = f'B.vload([{row}, 0], dtype="uint8x{count}")'
    if part:
        field = f"T.shift_right({field}, {every('uint8', part * packing.bits, count)})"
    field = f"T.bitwise_and({field}, {every('uint8', packing.mask, count)})"
    field = f'T.reinterpret("int8x{count}", {field})'
    if packing.step != 1:
        field = f"({field} * {every('int8', packing.step, count)})"
    return f"({field} - {every('int8', packing.offset, count)})" if packing.offset else field


def register_bytes(
    instruction: str, lanes: int, left: str, packing: Packing | None, sums: str, variant: str = ""
) -> DotIntrinsic:
    """A dot product of four 8-bit activations with signed weights, made known to TVM.

    Args:
        instruction: What multiplies, as in assembly.
        lanes: int32 accumulators of one call.
        left: Dtype of the activations, ``uint8`` or ``int8``.
        packing: How weights of fewer bits lie in bytes; None where they have whole ones.
        sums: TVMScript of the accumulators' new values.
        variant: Tells apart intrinsics of one instruction.
    """
    name = f"tilewright.{'u8s8' if left == 'uint8' else 's8s8'}.{instruction}{variant}"
    dtypes = (left, "int8", "int32")
    if packing is not None:
        name += f".packed{packing.bits}.{packing.step}.{packing.offset}"
        dtypes = (left, "uint8", "int32")
    intrinsic = DotIntrinsic(name, lanes, 4, dtypes, instruction, packing)
    register(intrinsic, f"C[T.ramp(0, 1, $lanes)] = {sums}")
    return intrinsic
