"""An estimate of what an AMX kernel takes, in cycles of one core.

The figures of the instructions are those of Intel's optimization manual for Sapphire Rapids
(chapter "Intel AMX"): a multiplication occupies the tile unit for 16 cycles, whatever the
rows, and gives its result after 52; a tile load takes 8 cycles of the two load ports; a store
16. Loads and multiplications overlap. Nothing of this was measured on this project's own
machines, which have no AMX: the estimate ranks choices, and is reported as an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from schedules.cpu.amx.plan import Geometry
from schedules.workload import Workload
from targets.spec import TargetSpec

MULTIPLY_CYCLES = 16.0
MULTIPLY_LATENCY_CYCLES = 52.0
LOAD_CYCLES = 8.0
STORE_CYCLES = 16.0
#: What the second cache gives to the first in a cycle.
L2_BYTES_PER_CYCLE = 48.0
#: A vector of the epilogue: loaded, converted, stored.
EPILOGUE_CYCLES_PER_VECTOR = 3.0
#: Around a block: its loop, and its share of the memory for accumulators.
BLOCK_CYCLES = 60.0
#: Configuration, release, start of a task.
TASK_CYCLES = 500.0
COPY_BYTES_PER_CYCLE = 16.0


@dataclass(frozen=True)
class Counts:
    """Instructions of a whole kernel, by the plan."""

    multiplications: int
    data_loads: int
    weight_loads: int
    accumulator_loads: int
    stores: int


def count(shape: Geometry) -> Counts:
    """How often a kernel executes each tile instruction."""
    plan = shape.plan
    tiles = plan.lines * plan.tiles_per_line
    blocks = -(-tiles // plan.row_tiles)
    accumulators = tiles * plan.column_tiles * shape.blocks
    return Counts(
        multiplications=accumulators * plan.steps,
        data_loads=tiles * plan.steps * shape.blocks,
        weight_loads=blocks * plan.column_tiles * plan.steps * shape.blocks,
        accumulator_loads=accumulators * (plan.passes - 1),
        stores=accumulators * plan.passes,
    )


def cycles(workload: Workload, shape: Geometry, order: str, spec: TargetSpec) -> float:
    """Estimated cycles of the kernel with an epilogue that stores its output once."""
    plan, counts = shape.plan, count(shape)
    tiles = plan.lines * plan.tiles_per_line
    register_blocks = -(-tiles // plan.row_tiles) * plan.passes * shape.blocks
    loads = counts.data_loads + counts.weight_loads + counts.accumulator_loads
    tile_unit = MULTIPLY_CYCLES * counts.multiplications
    load_ports = LOAD_CYCLES * loads + STORE_CYCLES * counts.stores
    traffic = _second_cache_bytes(shape, order, spec) / L2_BYTES_PER_CYCLE
    total = max(tile_unit, LOAD_CYCLES * loads, traffic)
    # Accumulators are stored when the last multiplication is done; the next ones start then.
    total += register_blocks * MULTIPLY_LATENCY_CYCLES
    total += load_ports - LOAD_CYCLES * loads
    vectors = prod(int(v) for v in workload.output) / spec.vector_lanes("float32")
    total += EPILOGUE_CYCLES_PER_VECTOR * vectors + BLOCK_CYCLES * shape.blocks + TASK_CYCLES
    if shape.source is not None:
        lead = workload.data[: 1 if workload.operator == "conv2d" else -2]
        copied = prod(int(v) for v in lead) * prod(shape.source) * shape.run.channels
        total += copied * plan.item_bytes / COPY_BYTES_PER_CYCLE
    return total


def _second_cache_bytes(shape: Geometry, order: str, spec: TargetSpec) -> float:
    """Bytes that come from the second cache, where the first does not hold them."""
    plan, counts = shape.plan, count(shape)
    first = (spec.cache_bytes(1) or 32 << 10) * 0.8
    tile = plan.rows * plan.step_bytes
    # What a pass over the block reads, each byte once.
    data = plan.positions * plan.lines * plan.position_bytes / plan.passes
    weights = plan.panel_bytes / plan.passes
    accumulators = plan.lines * plan.positions * plan.columns * 4
    # Rows that are read again before the whole panel has passed.
    working = weights + plan.row_tiles * plan.rows * plan.steps * plan.step_bytes / plan.passes
    weight_bytes = counts.weight_loads * plan.weight_tile_bytes
    if working <= first:
        weight_bytes = plan.panel_bytes * shape.blocks
        if order == "columns" and plan.passes == 1:
            weight_bytes = plan.panel_bytes * shape.panels
    data_bytes = counts.data_loads * tile
    if order == "rows" and data + weights + accumulators <= first:
        data_bytes = int(data * plan.passes * shape.blocks / shape.panels)
    elif data + accumulators <= first or plan.lines * plan.tiles_per_line <= plan.row_tiles:
        data_bytes = int(min(data_bytes, data * plan.passes * shape.blocks))
    return weight_bytes + data_bytes
