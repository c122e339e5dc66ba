"""Convolutions and matrix products on packed weights: one block of accumulators at a time."""

from __future__ import annotations

from schedules.cpu.annotations import DOT, KERNEL, STEP
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    annotation,
    check_covered,
    choice_of,
    extent,
    find_kernel,
    inline_between,
    is_cut,
    output_dtype,
    outputs,
    pad_rows,
    parallelize,
    same_block,
    stages_with_role,
    store_lanes,
    store_tile,
    vectorize_inner,
)
from schedules.tvm_adapter import Schedule, tirx
from targets.spec import TargetSpec

KINDS = frozenset({"dense", "batch_matmul", "conv2d"})


class RegisterTiled:
    """Keep a register tile of the output in registers over the whole reduction.

    The loops become ``tiles of columns and rows > reduction > rows > vectors > lanes``; bias,
    activation and residual run on each tile while it is still in registers.
    """

    name = "register-tiled"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, KINDS)
        kind = str(annotation(sch, heart, KERNEL))
        choice = choice_of(sch, heart)
        if choice["algorithm"] != "direct":
            raise NotApplicableError(f"the algorithm is {choice['algorithm']}")
        row_outer, row_inner, vectors, lanes = choice["tile"]
        stages = [*stages_with_role(sch, "pad"), *stages_with_role(sch, "pack")]
        inline_between(sch, [heart, *stages])
        consumers = [b for b in outputs(sch) if not same_block(sch, b, heart)]
        for consumer in consumers:
            check_covered(sch, heart, consumer)
        if not consumers:
            consumers = [sch.cache_write(heart, 0, "global")]

        node = sch.get(heart)
        spatial_count = sum(v.iter_type == tirx.IterVar.DataPar for v in node.iter_vars)
        loops = sch.get_loops(heart)
        spatial, reduction = loops[:spatial_count], loops[spatial_count:]
        *lead, rows, columns = spatial
        co, cv, ci = sch.split(columns, [None, vectors, lanes])
        ro, ri = sch.split(rows, [None, row_inner])
        inner = [ri, cv, ci]
        outer = [ro]
        if kind == "conv2d":
            ho, hi = sch.split(lead.pop(), [None, row_outer])
            inner.insert(0, hi)
            outer.insert(0, ho)
        if kind == "batch_matmul":
            tiles = [*lead, co, *outer]
        elif choice["order"] == "columns":
            tiles = [co, *lead, *outer]
        elif choice["order"] == "strip":
            tiles = [*lead, *outer[:-1], co, outer[-1]]
        else:
            tiles = [*lead, *outer, co]
        dot = annotation(sch, heart, DOT)
        count = int(annotation(sch, heart, STEP) or 0)
        within = [reduction.pop() for _ in range(count)][::-1]
        if dot is not None:
            sch.reorder(*tiles, *reduction, *inner, *within)
        else:  # the codes in a byte, one after the other
            sch.reorder(*tiles, *reduction, *within, *inner)
            for loop in within:
                sch.unroll(loop)
        for stage in stages:
            if kind == "batch_matmul" and lead:
                sch.compute_at(stage, lead[-1])
                vectorize_inner(sch, sch.get_loops(stage)[-1], lanes)
            elif choice.get("pad") == "strip" and choice["order"] == "strip":
                sch.compute_at(stage, ho)
                pad_rows(sch, sch.get_loops(stage), lanes)
            else:
                stage_loops = sch.get_loops(stage)
                parallelize(sch, stage_loops[:2])
                pad_rows(sch, stage_loops, lanes)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, tiles[-1])
            tile_loops = sch.get_loops(consumer)[len(tiles) :]
            if tile_loops:  # none for a single element
                width = store_lanes(sch, consumer, spec, vectors * lanes, lanes)
                store_tile(sch, tile_loops[:-1], tile_loops[-1], width)
        if any(is_cut(sch, consumer, vectors * lanes) for consumer in consumers):
            sch.annotate(co, "pragma_loop_partition_hint", 1)
        parallelize(sch, tiles)
        if dot is None:
            sch.vectorize(ci)
        for loop in inner[:-1]:
            sch.unroll(loop)
        first_step = reduction[0]
        if choice["unroll"] > 1 and (extent(sch, reduction[-1]) or 0) % choice["unroll"] == 0:
            steps, unrolled = sch.split(reduction[-1], [None, choice["unroll"]])
            sch.unroll(unrolled)
            first_step = reduction[0] if len(reduction) > 1 else steps
        dtype = output_dtype(sch, heart)
        start = sch.decompose_reduction(heart, first_step)
        if dot is not None:
            sch.vectorize(sch.get_loops(start)[-1])
            sch.tensorize(ci, str(dot))
        return Applied(kind, f"tile {row_outer}x{row_inner} rows, {vectors}x{lanes} {dtype}")
