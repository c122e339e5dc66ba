"""Elementwise chains, layout changes, slices, gathers and resizes: one pass over the output."""

from __future__ import annotations

from typing import Any

from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    extent,
    is_reduction,
    lanes_of,
    leaf_blocks,
    outputs,
    parallelize,
    vectorize_inner,
)
from schedules.tvm_adapter import Schedule, tirx
from targets.spec import TargetSpec


class Injective:
    """Inline the chain into its outputs and vectorize the last dimension."""

    name = "injective"
    builds_choices = False

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        blocks = leaf_blocks(sch)
        if any(is_reduction(sch, b) for b in blocks):
            raise NotApplicableError("the function reduces")
        kind = classify(sch, blocks)
        results = outputs(sch)
        names = [sch.get(b).name_hint for b in results]
        for block in blocks:
            if sch.get(block).name_hint not in names:
                sch.compute_inline(block)
        for block in results:
            # TVM's loop partition mixes up widths of integers where an index is read.
            schedule_one(sch, block, spec, peel=kind != "gather")
        return Applied(kind)


def schedule_one(sch: Schedule, block: Any, spec: TargetSpec, *, peel: bool = True) -> None:
    """Parallel over the outer dimensions of one injective block, vectors along the last.

    With `peel` a rest that does not fill a vector is a loop of its own.
    """
    loops = sch.get_loops(block)
    if not loops:
        return
    lanes = lanes_of(sch, block, spec)
    if len(loops) > 1 and is_plain_elementwise(sch, block):
        loops = [sch.fuse(*loops)]
    size = extent(sch, loops[-1])
    if size is None or size >= lanes // 2:
        static = all(extent(sch, loop) is not None for loop in loops[:-1])
        parts = vectorize_inner(sch, loops[-1], lanes, unroll=4, peel=static and peel)
        loops = [*loops[:-1], *(parts[:-1] if len(parts) > 1 else [])]
    else:
        loops = loops[:-1]
    if not loops:
        return
    outer = sch.fuse(*loops[: max(1, len(loops) - 1)]) if len(loops) > 2 else loops[0]
    parallelize(sch, [outer])


def is_plain_elementwise(sch: Schedule, block: Any) -> bool:
    """Whether every operand has the output's shape and is read at the output's own index."""
    node = sch.get(block)
    shape = [str(v) for v in node.writes[0].source.shape]
    index = [str(r.min) for r in node.writes[0].region]
    for region in node.reads:
        if not region.source.shape:
            continue
        if [str(v) for v in region.source.shape] != shape:
            return False
        if [str(r.min) for r in region.region] != index:
            return False
    return all(isinstance(v, tirx.IntImm) for v in node.writes[0].source.shape)


LAYOUT_NAMES = ("transpose", "reshape", "concatenate", "strided_slice", "split", "pad",
                "expand_dims", "squeeze", "broadcast_to", "tile", "repeat", "flip", "roll",
                "dynamic_strided_slice")  # fmt: skip


def classify(sch: Schedule, blocks: list[Any]) -> str:
    """Kind of operator, from the names of TVM's compute definitions."""
    names = [str(sch.get(b).name_hint).removeprefix("T_") for b in blocks]
    if any(n.startswith(("take", "gather")) for n in names):
        return "gather"
    if any(n.startswith("resize") for n in names):
        return "resize"
    if all(n.startswith(LAYOUT_NAMES) for n in names):
        return "layout"
    return "elementwise"
