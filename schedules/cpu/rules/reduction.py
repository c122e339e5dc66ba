"""Reductions that no compute definition of ours stands behind.

Pooling over all positions, arg-max, means over several axes.
"""

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
)
from schedules.cpu.rules.injective import schedule_one
from schedules.tvm_adapter import Schedule, tirx
from targets.spec import TargetSpec


class Reduction:
    """Stage by stage: reductions vectorized over a kept last dimension where there is one."""

    name = "reduction"
    builds_choices = False

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        blocks = leaf_blocks(sch)
        if not any(is_reduction(sch, b) for b in blocks):
            raise NotApplicableError("nothing is reduced")
        results = [sch.get(b).name_hint for b in outputs(sch)]
        for block in blocks:
            node = sch.get(block)
            if is_reduction(sch, block) or node.name_hint in results:
                continue
            sch.compute_inline(block)
        for block in leaf_blocks(sch):
            if is_reduction(sch, block):
                self._reduce(sch, block, spec)
            else:
                schedule_one(sch, block, spec)
        return Applied("reduction")

    def _reduce(self, sch: Schedule, block: Any, spec: TargetSpec) -> None:
        node = sch.get(block)
        count = sum(v.iter_type == tirx.IterVar.DataPar for v in node.iter_vars)
        loops = sch.get_loops(block)
        spatial, reduced = loops[:count], loops[count:]
        if not spatial or len(node.writes) != 1:
            return
        lanes = lanes_of(sch, block, spec)
        size = extent(sch, spatial[-1])
        if size is not None and size >= lanes and keeps_last_dimension(node):
            while size % lanes and lanes > 4:
                lanes //= 2
            if size % lanes == 0:
                outer, inner = sch.split(spatial[-1], [None, lanes])
                sch.reorder(*spatial[:-1], outer, *reduced, inner)
                sch.vectorize(inner)
                parallelize(sch, [*spatial[:-1], outer])
                sch.decompose_reduction(block, reduced[0])
                return
        parallelize(sch, spatial)


def keeps_last_dimension(node: Any) -> bool:
    """Whether the last dimension of the input is one of the output's, so vectors run along it."""
    spatial = [v.var for v in node.iter_vars if v.iter_type == tirx.IterVar.DataPar]
    for region in node.reads:
        if len(region.region) and len(region.source.shape) > 1:
            return bool(spatial) and region.region[-1].min.same_as(spatial[-1])
    return False
