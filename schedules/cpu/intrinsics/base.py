"""What the dot-product intrinsics share: their description, their text, their registration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from string import Template

from schedules.tvm_adapter import s_tir, tvm


@dataclass(frozen=True, slots=True)
class DotIntrinsic:
    """An instruction (or a few) that adds short dot products to a vector of accumulators.

    It computes ``C[j] += sum over k of A[k] * B[j, k]`` for ``j < lanes`` and ``k < group``,
    products and sums in the accumulator's dtype. A schedule tensorizes the loop over `j`
    around the loop over `k` with it; the weights lie packed ``[..., lanes, group]``, without
    gaps, and code generation refuses others.

    Attributes:
        name: What `Schedule.tensorize` takes.
        lanes: Accumulators of one call.
        group: Steps of the reduction of one call.
        dtypes: Of `A`, of `B` and of `C`.
        instruction: The instruction that shall be in the assembly, as it is written there.
    """

    name: str
    lanes: int
    group: int
    dtypes: tuple[str, str, str]
    instruction: str


_TEXT = Template("""
@T.prim_func(s_tir=True, private=True)
def dot(
    A: T.Buffer(($group,), "$a", offset_factor=1, strides=[1]),
    B: T.Buffer(($lanes, $group), "$b", offset_factor=1, strides=[$group, 1]),
    C: T.Buffer(($lanes,), "$c", offset_factor=1, strides=[1]),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:$lanes], A[0:$group], B[0:$lanes, 0:$group])
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
    fields = {"lanes": intrinsic.lanes, "group": intrinsic.group, "a": a, "b": b, "c": c}
    loops = _LOOPS.substitute(fields)
    indented = "\n".join(f"        {line}" for line in body.strip().splitlines())
    names = {"T": script, "LIBRARY": library}
    description, implementation = (
        tvm.script.from_source(_TEXT.substitute(fields, body=text), names)
        for text in (loops, Template(indented).substitute(fields))
    )
    s_tir.TensorIntrin.register(intrinsic.name, description, implementation, override=True)
