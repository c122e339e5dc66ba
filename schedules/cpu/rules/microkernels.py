"""Convolutions and matrix products by micro-kernels: a block of sums in registers at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schedules.cpu.annotations import KERNEL, SIZE
from schedules.cpu.compute.lanes import SUM_BYTES
from schedules.cpu.microkernels import kernel_named
from schedules.cpu.microkernels.base import (
    Block,
    Groups,
    MicroKernel,
    every,
    number,
    ramp,
    statements,
)
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    annotation,
    check_covered,
    choice_of,
    find_kernel,
    inline_between,
    is_cut,
    outputs,
    pad_rows,
    parallelize,
    replace_body,
    same_block,
    stages_with_role,
    store_lanes,
    store_tile,
    vectorize_inner,
)
from schedules.cpu.rules.starts import LANES, fill, take_bias
from schedules.cpu.tiling import RegisterTile
from schedules.tvm_adapter import Analyzer, Schedule, ir, tirx
from targets.spec import TargetSpec

KINDS = frozenset({"lanes_dense", "lanes_batch_matmul", "lanes_conv2d"})


class MicroKernels:
    """A block of rows and columns over the whole reduction, written as vector statements.

    The loops become ``tiles of columns and rows > block``; bias, activation and residual run on
    each block while it is still in registers.
    """

    name = "micro-kernels"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, KINDS)
        kind = str(annotation(sch, heart, KERNEL)).removeprefix("lanes_")
        choice = choice_of(sch, heart)
        tile = RegisterTile(*choice["tile"])
        stages = [*stages_with_role(sch, "pad"), *stages_with_role(sch, "pack")]
        begun = stages_with_role(sch, "start")
        inline_between(sch, [heart, *stages, *begun])
        for _ in stages_with_role(sch, "pad")[1:]:  # padded, laid out as lines, shifted: at once
            sch.compute_inline(stages.pop(0))
        recipe = recipe_of(sch, heart)
        left = "uint8" if recipe.first is not None else recipe.dtypes[0]
        kernel = kernel_named(
            str(choice["kernel"]), (left, *recipe.dtypes[1:]), spec,
            constant=kind != "batch_matmul", narrow=choice["kernel"] == "smlal",
        )  # fmt: skip
        consumers = [b for b in outputs(sch) if not same_block(sch, b, heart)]
        for consumer in consumers:
            check_covered(sch, heart, consumer)
        if begun:
            bias = take_bias(sch, heart, consumers)
            fill_starts(sch, begun[0], bias, tile)
        if not consumers:
            consumers = [sch.cache_write(heart, 0, "global")]

        loops = sch.get_loops(heart)
        *lead, rows, columns = loops[: recipe.spatial]
        reduction = loops[recipe.spatial :]
        co, ci = sch.split(columns, [None, tile.columns])
        ro, ri = sch.split(rows, [None, tile.row_inner])
        inner, outer = [ri, ci], [ro]
        if kind == "conv2d":
            ho, hi = sch.split(lead.pop(), [None, tile.row_outer])
            inner.insert(0, hi)
            outer.insert(0, ho)
        tiles = _order(kind, str(choice.get("order", "columns")), lead, outer, co)
        sch.reorder(*tiles, *inner, *reduction)
        for stage in stages:
            self._place_stage(sch, stage, kind, choice, lead, outer, tile, spec)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, tiles[-1])
            tile_loops = sch.get_loops(consumer)[len(tiles) :]
            if tile_loops:  # none for a single element
                width = store_lanes(sch, consumer, spec, tile.columns, tile.lanes)
                store_tile(sch, tile_loops[:-1], tile_loops[-1], width)
        if any(is_cut(sch, consumer, tile.columns) for consumer in consumers):
            sch.annotate(co, "pragma_loop_partition_hint", 1)
        parallelize(sch, tiles)
        replace(sch, sch.blockize(inner[0]), recipe, kernel, tile, int(choice["unroll"]))
        return Applied(
            kind,
            f"{kernel.instruction}, tile {tile.row_outer}x{tile.row_inner} rows, "
            f"{tile.vectors}x{tile.lanes} columns",
            any_index=True,
        )

    @staticmethod
    def _place_stage(
        sch: Schedule,
        stage: Any,
        kind: str,
        choice: Mapping[str, Any],
        lead: Sequence[Any],
        outer: Sequence[Any],
        tile: RegisterTile,
        spec: TargetSpec,
    ) -> None:
        """Where padded or packed activations are made, and by how many elements at a time."""
        if kind == "batch_matmul" and lead:
            sch.compute_at(stage, lead[-1])
            vectorize_inner(sch, sch.get_loops(stage)[-1], tile.lanes)
            return
        if choice.get("pad") == "strip" and choice.get("order") == "strip":
            sch.compute_at(stage, outer[0])
            loops = sch.get_loops(stage)
        else:
            loops = sch.get_loops(stage)
            parallelize(sch, loops[:2])
        node = sch.get(stage)
        lanes = spec.vector_lanes(str(node.writes[0].source.dtype))
        read, written = (int(r[0].source.shape[-1]) for r in (node.reads, node.writes))
        if len(node.reads[0].source.shape) > len(node.writes[0].source.shape):
            _, inside = sch.split(loops[-1], [None, read])  # channels of a position
            sch.unroll(inside)
            return
        while lanes > 1 and (read % lanes or written % lanes):
            lanes //= 2
        pad_rows(sch, loops, lanes if lanes > 1 else tile.lanes)


@dataclass(frozen=True)
class Recipe:
    """What a product's block reads, taken from its definition before it is scheduled.

    Attributes:
        spatial: Number of axes that are no reduction's.
        data: The load of an activation.
        weight: The load of a weight.
        first: The load of what a column's sum starts with, if it does not start with 0.
        variables: The axes that the loads' indices are written in, spatial ones first.
        extents: Of the axes of the reduction.
        size: Elements of its innermost loop; a step of it is one or more of them.
        dtypes: Of activations, weights and sums.
    """

    spatial: int
    data: Any
    weight: Any
    first: Any | None
    variables: tuple[Any, ...]
    extents: tuple[int, ...]
    size: int
    dtypes: tuple[str, str, str]


def recipe_of(sch: Schedule, heart: Any) -> Recipe:
    """Reads what a product's block computes.

    Raises:
        NotApplicableError: It is no sum over products of two plain elements.
    """
    node = sch.get(heart)
    written = node.writes[0].source
    value = node.body.value
    found = [v for v in loads_in(value) if not v.source.same_as(written)]
    if len(found) not in (2, 3) or len(loads_in(value)) != len(found) + 1:
        raise NotApplicableError("the product reads more than its operands")
    spatial = [v for v in node.iter_vars if v.iter_type == tirx.IterVar.DataPar]
    reduction = [v for v in node.iter_vars if v.iter_type == tirx.IterVar.CommReduce]
    extents = []
    for axis in reduction:
        if not isinstance(axis.dom.extent, tirx.IntImm):
            raise NotApplicableError("the reduction's size is not known")
        extents.append(int(axis.dom.extent))
    data, weight = found[:2]
    return Recipe(
        len(spatial), data, weight, next(iter(found[2:]), None),
        tuple(v.var for v in (*spatial, *reduction)), tuple(extents),
        int(annotation(sch, heart, SIZE) or extents[-1]),
        (str(data.source.dtype), str(weight.source.dtype), str(written.dtype)),
    )  # fmt: skip


def replace(
    sch: Schedule,
    heart: Any,
    recipe: Recipe,
    kernel: MicroKernel,
    tile: RegisterTile,
    unroll: int = 1,
) -> None:
    """Put a micro-kernel's statements in the place of a block's loops.

    Args:
        sch: The schedule.
        heart: The block around the loops over rows, columns and the whole reduction, as
            `Schedule.blockize` makes it.
        recipe: What the definition said.
        kernel: What multiplies.
        tile: Rows (of the last dimension but one, and the one before) and columns.
        unroll: Chunks of the reduction in an iteration.
    """
    block = sch.get(heart)
    write = block.writes[0]
    starts = [r.min for r in write.region]
    depth = 1 if kernel.group == 1 else 2
    *outer, steps = recipe.extents[: len(recipe.extents) - depth + 1]
    groups = Groups(recipe.size, kernel.group, kernel.chunk)
    if groups.steps != steps:
        raise NotApplicableError("the reduction has other steps than the kernel's")
    zero = number(0)

    def place(row: int, loops: Sequence[Any], step: Any) -> dict[Any, Any]:
        spatial = list(starts)
        spatial[-2] = spatial[-2] + row % tile.row_inner
        if len(spatial) > 2:
            spatial[-3] = spatial[-3] + row // tile.row_inner
        inner = [step, *([zero] if depth == 2 else [])]
        return dict(zip(recipe.variables, [*spatial, *loops, *inner], strict=True))

    def activation(row: int, loops: tuple[Any, ...], at: Any, count: int) -> Any:
        *lead, last = indices(recipe.data, place(row, loops, zero))
        return tirx.BufferLoad(recipe.data.source, [*lead, ramp(last + at, count)])

    def weight(loops: tuple[Any, ...], step: Any, at: int, count: int) -> Any:
        *lead, last = indices(recipe.weight, place(0, loops, step))
        return tirx.BufferLoad(recipe.weight.source, [*lead, ramp(last + at, count)])

    def first(row: int, vector: int) -> Any:
        if recipe.first is None:
            return every(recipe.dtypes[2], 0, kernel.lanes)
        panel, column = indices(recipe.first, place(row, [zero] * len(outer), zero))
        at = ramp(column + vector * kernel.lanes, kernel.lanes)
        return tirx.BufferLoad(recipe.first.source, [panel, at])

    def store(row: int, vector: int, value: Any) -> Any:
        at = place(row, [zero] * len(outer), zero)
        *lead, column = [at[v] for v in recipe.variables[: recipe.spatial]]
        at = ramp(column + vector * kernel.lanes, kernel.lanes)
        return tirx.BufferStore(write.source, value, [*lead, at])

    sums = kernel.sums(tile.rows, tile.vectors)
    body = statements(
        kernel,
        Block(tile.rows, tile.vectors, tuple(outer), groups, activation, weight, first, store),
        sums, unroll,
    )  # fmt: skip
    if recipe.dtypes[0] == "bfloat16":  # see `schedules.cpu.intrinsics.bf16`
        for buffer in (recipe.data.source, recipe.weight.source):
            body = tirx.AttrStmt(number(0), "tilewright.keep_bfloat16", buffer.data, body)
    replace_body(sch, heart, body, sums.buffers)


def fill_starts(sch: Schedule, stage: Any, bias: Any | None, tile: RegisterTile) -> None:
    """Write what sums start with: bytes in front of each panel, and a bias."""
    packed = sch.get(stage).reads[0].source

    def vector(panel: Any, first: int) -> Any:
        raw = tirx.BufferLoad(packed, [panel, ramp(SUM_BYTES * first, SUM_BYTES * LANES)])
        return tirx.reinterpret(f"int32x{LANES}", raw)

    fill(sch, stage, bias, tile.columns, tile.rows, vector)


def loads_in(value: Any) -> list[Any]:
    """The loads of buffers in an expression, in order; not those in their indices."""
    if isinstance(value, ir.TensorLoad):
        return [value]
    return [load for part in _parts(value) for load in loads_in(part)]


def indices(load: Any, values: Mapping[Any, Any]) -> list[Any]:
    """A load's indices with its variables replaced."""
    analyzer = Analyzer()
    return [analyzer.simplify(_substitute(index, values)) for index in load.indices]


_BINARY = (tirx.Add, tirx.Sub, tirx.Mul, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max,
           tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or)  # fmt: skip


def _parts(value: Any) -> list[Any]:
    if isinstance(value, _BINARY):
        return [value.a, value.b]
    if isinstance(value, tirx.Cast):
        return [value.value]
    if isinstance(value, ir.Call):
        return list(value.args)
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return []
    raise NotApplicableError(f"the product's definition has a {type(value).__name__}")


def _substitute(value: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(value, tirx.Var):
        return next((v for k, v in values.items() if k.same_as(value)), value)
    parts = [_substitute(part, values) for part in _parts(value)]
    if isinstance(value, ir.Call) and not str(value.op.name).endswith("if_then_else"):
        raise NotApplicableError(f"an index of the product has a {value.op.name}")
    if isinstance(value, _BINARY):
        return type(value)(*parts)
    if isinstance(value, tirx.Cast):
        return tirx.Cast(value.ty.dtype, *parts)
    if isinstance(value, ir.Call):
        return tirx.if_then_else(*parts)  # the only one, see `_parts`
    return value


def _order(kind: str, order: str, lead: list[Any], outer: list[Any], columns: Any) -> list[Any]:
    """The loops over tiles, outermost first."""
    if kind == "batch_matmul":
        return [*lead, columns, *outer]
    if order == "columns":
        return [columns, *lead, *outer]
    if order == "strip":
        return [*lead, *outer[:-1], columns, outer[-1]]
    return [*lead, *outer, columns]
