"""Softmax, normalizations and reductions of rows: all stages of one row together."""

from __future__ import annotations

from schedules.cpu.annotations import KERNEL
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    annotation,
    extent,
    find_kernel,
    is_reduction,
    lanes_of,
    leaf_blocks,
    outputs,
    parallelize,
    role,
    same_block,
    vectorize_inner,
)
from schedules.tvm_adapter import Schedule
from targets.spec import TargetSpec

KINDS = frozenset({"softmax", "layer_norm", "row_reduction"})


class RowByRow:
    """Run every stage on one row before the next, vectorized along the row."""

    name = "row-by-row"
    builds_choices = False

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, KINDS)
        kind = str(annotation(sch, heart, KERNEL))
        if not any(same_block(sch, heart, b) for b in outputs(sch)):
            raise NotApplicableError("the rows are followed by another stage")
        lanes = lanes_of(sch, heart, spec)
        stages = [b for b in leaf_blocks(sch) if not same_block(sch, b, heart)]
        for stage in list(stages):
            if role(sch, stage) == "inline":
                sch.compute_inline(stage)
        stages = [b for b in leaf_blocks(sch) if not same_block(sch, b, heart)]
        loops = sch.get_loops(heart)
        lead = loops if kind == "row_reduction" else loops[:-1]
        if not lead:
            lead = [sch.add_unit_loop(loops[0] if loops else heart)]
        row = sch.fuse(*lead) if len(lead) > 1 else lead[0]
        chunk = row
        count = extent(sch, row)
        pieces = next((d for d in range(32, 1, -1) if count is not None and count % d == 0), 0)
        if pieces and count is not None and count > pieces:
            # TVM allocates what does not fit on the stack once for each parallel iteration.
            chunk, row = sch.split(row, [pieces, None])
        depth = 1 if chunk is row else 2
        for stage in reversed(stages):
            sch.compute_at(stage, row)
        for stage in [*stages, heart]:
            inner = sch.get_loops(stage)[depth:]
            name = role(sch, stage)
            if name == "lanes":
                lane, step = inner[-2], inner[-1]
                sch.reorder(step, lane)
                sch.vectorize(lane)
                # Peels the first step, which sets the sums to zero.
                sch.annotate(step, "pragma_loop_partition_hint", 1)
            elif name == "fold" or is_reduction(sch, stage):
                if inner and (extent(sch, inner[-1]) or 99) <= 16:
                    sch.unroll(inner[-1])
            elif inner:
                vectorize_inner(sch, inner[-1], lanes, peel=count is not None)
        parallelize(sch, [chunk])
        return Applied("reduction" if kind == "row_reduction" else kind, any_index=True)
