"""Convolutions and matrix products on AMX tiles."""

from __future__ import annotations

from math import gcd, prod
from typing import Any

from schedules.cpu.amx import block as amx
from schedules.cpu.amx.cost import MULTIPLY_CYCLES
from schedules.cpu.amx.plan import PLAN_ANNOTATION, TilePlan
from schedules.cpu.annotations import KERNEL
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    annotation,
    check_covered,
    choice_of,
    extent,
    find_kernel,
    inline_between,
    outputs,
    pad_rows,
    parallelize,
    same_block,
    stages_with_role,
    vectorize_inner,
)
from schedules.tvm_adapter import Schedule, ir, s_tir, tirx
from targets.spec import TargetSpec

KINDS = frozenset({"amx_dense", "amx_conv2d"})
#: Iterations of the parallel loop: enough for many cores to finish together, each long
#: enough that what it does once does not count.
MAX_CHUNKS = 64
MIN_CHUNK_CYCLES = 5000
#: Narrower vectors are not worth a test for each of them.
MIN_LANES = 4


class AmxTiled:
    """Multiply tiles with AMX, one block of positions times a panel of columns at a time.

    The loops become ``blocks > tile instructions``; the block leaves its accumulators in a
    buffer that stays in the first cache, where bias, activation and residual take them from.
    The tiles are configured once by each task of the parallel loop.
    """

    name = "amx"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, KINDS)
        if not spec.has("amx-tile"):
            raise NotApplicableError(f"{spec.name} has no AMX")
        kind = str(annotation(sch, heart, KERNEL)).removeprefix("amx_")
        choice = choice_of(sch, heart)
        plan = TilePlan.from_json(str(annotation(sch, heart, PLAN_ANNOTATION)))
        stages = stages_with_role(sch, "pad")
        inline_between(sch, [heart, *stages])
        consumers = [b for b in outputs(sch) if not same_block(sch, b, heart)]
        for consumer in consumers:
            check_covered(sch, heart, consumer)
        if not consumers:
            consumers = [sch.cache_write(heart, 0, "global")]

        lanes = spec.vector_lanes("float32")
        node = sch.get(heart)
        spatial_count = sum(v.iter_type == tirx.IterVar.DataPar for v in node.iter_vars)
        loops = sch.get_loops(heart)
        spatial, reduction = loops[:spatial_count], loops[spatial_count:]
        *rows, columns = spatial
        columns_outer, columns_inner = sch.split(columns, [None, plan.columns])
        if kind == "conv2d":
            *lead, height, width = rows
            per_block = int(choice["lines"])
            outer, lines = sch.split(height, [None, per_block])
            inner = [lines, width, columns_inner]
        else:
            *lead, positions = rows
            outer, positions = sch.split(positions, [None, plan.positions])
            inner = [positions, columns_inner]
        blocks = [*lead, outer]
        tiles = [columns_outer, *blocks] if choice["order"] == "columns" else (
            [*blocks, columns_outer])  # fmt: skip
        sch.reorder(*tiles, *inner, *reduction)
        for stage in stages:
            stage_loops = sch.get_loops(stage)
            parallelize(sch, stage_loops[:2])
            pad_rows(sch, stage_loops, lanes)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, tiles[-1])
            width = _whole_vectors(sch, consumer, lanes)
            if width >= MIN_LANES:  # else LLVM vectorizes, with masks
                vectorize_inner(sch, sch.get_loops(consumer)[-1], width)
        accumulators = sch.get(heart).writes[0].source
        whole = sch.blockize(inner[0])
        tasks = _tasks(sch, tiles, plan)
        _replace(sch, whole, plan, accumulators)
        _configure_tasks(sch, tasks, plan)
        return Applied(
            kind,
            f"AMX {plan.instruction}, {plan.row_tiles}x{plan.column_tiles} tiles of "
            f"{plan.rows}x{plan.step_bytes} bytes",
        )


def _replace(sch: Schedule, heart: Any, plan: TilePlan, accumulators: Any) -> None:
    """Put tile instructions in the place of the heart's loops."""
    block = sch.get(heart)
    write = block.writes[0]
    data, weight = (region.source for region in block.reads)
    if int(weight.shape[-1]) != 4 // plan.item_bytes:
        raise NotApplicableError("the operands are not in the order of the definition")
    starts = [r.min for r in write.region]
    extents = [r.extent for r in write.region]
    *places, first_column = starts
    strides = [tirx.Var(f"stride{i}", "int32") for i in range(len(extents) - 1)]
    block_buffer = tirx.decl_buffer(
        extents, accumulators.dtype, "accumulators", strides=[*strides, tirx.IntImm("int32", 1)],
        scope=accumulators.scope(), offset_factor=1, elem_offset=tirx.Var("first", "int32"),
    )  # fmt: skip
    line_stride = strides[-2] if plan.lines > 1 else 0
    position_stride = strides[-1]
    item = plan.item_bytes
    base = _first_element(data, places, plan)
    panel = tirx.floordiv(first_column, plan.columns) * (plan.panel_bytes // item)

    def address(buffer: Any, first: Any) -> Any:
        return lambda offset: amx.address(buffer, tirx.Cast("int64", first * item) + offset)

    def accumulator(line: Any, position: Any, column: int) -> Any:
        place = line * line_stride + position * position_stride + column
        return amx.address(block_buffer, (place + block_buffer.elem_offset) * 4)

    body = amx.multiply_block(
        plan, address(data, base), address(weight, panel), accumulator, position_stride * 4
    )
    whole = [_whole(b) for b in (data, weight)]
    new = s_tir.SBlock(
        block.iter_vars, whole, [write], block.name_hint, body,
        match_buffers=[s_tir.MatchBufferRegion(block_buffer, write)],
        annotations=dict(block.annotations.items()),
    )  # fmt: skip
    sch.state.replace(sch.get_sref(heart), new, {block: new})


def _first_element(data: Any, places: list[Any], plan: TilePlan) -> Any:
    """Position in the data's memory of the element that a block's reduction begins with."""
    shape = [int(v) for v in data.shape]
    if plan.line_bytes:  # lines of a convolution: image, line, position
        image, line, _ = places
        return image * prod(shape[1:]) + line * (plan.line_bytes // plan.item_bytes)
    first, size = 0, 1
    for place, extent_ in zip(reversed([*places, 0]), reversed(shape), strict=True):
        first, size = first + place * size, size * extent_
    return first


def _whole_vectors(sch: Schedule, block: Any, lanes: int) -> int:
    """Lanes of vectors that are in an output's line altogether or not at all."""
    return gcd(int(sch.get(block).writes[0].source.shape[-1]), lanes)


def _tasks(sch: Schedule, tiles: list[Any], plan: TilePlan) -> Any:
    """Make one parallel loop of the loops over blocks; returns it.

    An iteration gets its memory for accumulators once, so small blocks are gathered.
    """
    blocks = sch.fuse(*tiles) if len(tiles) > 1 else tiles[0]
    total = extent(sch, blocks)
    if total is None:
        raise NotApplicableError("the output's size is not known")
    work = total * plan.multiplications * MULTIPLY_CYCLES
    most = max(1, min(total, MAX_CHUNKS, int(work / MIN_CHUNK_CYCLES)))
    chunks = max(d for d in range(1, most + 1) if total % d == 0)
    if 4 * chunks < most:
        chunks = total  # a number without good divisors
    if chunks == 1:
        return blocks  # too little to share out
    loop = sch.split(blocks, [chunks, None])[0] if chunks < total else blocks
    sch.parallel(loop)
    return loop


def _configure_tasks(sch: Schedule, loop: Any, plan: TilePlan) -> None:
    """Configure the tiles at the start of every task, and release them at its end.

    Without more a parallel loop becomes a task that holds the loop alone; TVM's launch point
    puts what stands beside the loop into the task too.
    """
    config = tirx.decl_buffer([16], "uint32", "tile_config")
    node = sch.get(loop)
    parallel = node.kind == tirx.ForKind.PARALLEL
    launch = tirx.For(
        tirx.Var("task", "int32"), 0, 1, tirx.ForKind.SERIAL,
        tirx.SeqStmt(
            [_opaque("amx_configure", amx.load_config(config)), node,
             _opaque("amx_release", amx.release())]
        ),
        annotations={"pragma_parallel_launch_point": 1} if parallel else {},
    )  # fmt: skip
    body = tirx.SeqStmt([_opaque("amx_describe", amx.write_config(plan, config)), launch])
    sch.state.replace(sch.get_sref(loop), _opaque("amx_tasks", body, [config]), {})


def _opaque(name: str, body: Any, buffers: list[Any] | None = None) -> Any:
    block = s_tir.SBlock([], [], [], name, body, alloc_buffers=buffers)
    return s_tir.SBlockRealize([], True, block)


def _whole(buffer: Any) -> Any:
    return tirx.BufferRegion(buffer, [ir.Range(0, extent_) for extent_ in buffer.shape])
