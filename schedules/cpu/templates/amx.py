"""The AMX algorithm: dense products and convolutions of int8 and bfloat16 on tile registers.

`schedules.cpu.amx` holds plans, definitions and packing, `schedules.cpu.rules.amx` the schedule.
"""

from __future__ import annotations

import json
from itertools import product
from math import ceil
from typing import Any

from schedules.cpu.amx import cost
from schedules.cpu.amx import plan as plans
from schedules.cpu.amx.plan import BLOCKINGS, TILE_COLUMNS, TILE_ROWS, Geometry, geometry
from schedules.space import Choice, Decision, Space
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "amx"
#: Positions of a block that a search may choose from, at most.
MAX_SIZES = 8
#: A part of a reduction that goes through memory has at least so many steps.
MIN_STEPS_OF_A_PASS = 8
#: Accumulators of a block that still leave room in the first cache, in bytes.
MAX_BLOCK_BYTES = 32 << 10


class Amx:
    """Tiles of activations and of packed weights, multiplied 16 rows x 16 columns at a time.

    Decisions: ``blocking`` (tiles of accumulators in registers, along positions and columns),
    ``positions`` or ``lines`` (what a block spans), ``rows`` (rows of a tile: ``full``, or as
    few as make the tiles of a line ``even``), ``order`` (the outer loop: ``rows`` or
    ``columns``), for products ``passes`` (parts of the reduction), for convolutions ``walk``
    (over each line by itself, or ``flat`` over several as one).
    """

    operators = frozenset({"conv2d", "dense"})
    algorithms = frozenset({ALGORITHM})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`; empty on targets without AMX."""
        if not _fits(workload, spec):
            return ()
        columns = int(workload.output[-1])
        wide = ceil(columns / TILE_COLUMNS)
        blockings = tuple([r, c] for r, c in BLOCKINGS if c <= wide)
        decisions = [
            Decision("blocking", blockings),
            Decision("rows", ("even", "full")),
            Decision("order", ("columns", "rows")),
        ]
        if workload.operator == "dense":
            decisions.append(Decision("positions", _product_sizes(int(workload.output[-2]))))
            decisions.append(Decision("passes", _passes(workload)))
        else:
            plain = tuple(workload.attributes["strides"]) == (1, 1)
            decisions.append(Decision("walk", ("lines", "flat") if plain else ("lines",)))
            decisions.append(Decision("lines", _line_counts(workload)))
        default = min(
            _choices(decisions), key=lambda choice: self.estimated_cycles(workload, choice, spec)
        )
        return (Space(ALGORITHM, tuple(decisions), default),)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template` and `schedules.cpu.amx.cost`."""
        return cost.cycles(workload, _geometry(workload, choice, spec), choice["order"], spec)

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        from schedules.cpu.amx import compute
        from schedules.cpu.compute.canonical import geometry_of

        shape = _geometry(workload, choice, spec)
        text, accumulator = json.dumps(choice, sort_keys=True), workload.dtypes[2]
        if workload.operator == "dense":
            columns = int(workload.output[-1])
            return compute.matmul(data, weight, columns, shape, accumulator, text)
        batch, height, width, channels = (int(v) for v in workload.output)
        return compute.conv2d(
            data, weight, (batch, height, width, channels), geometry_of(workload),
            _kernel(workload), shape, accumulator, text, workload.attributes.get("pad_value", 0),
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        shape = plans.packed_weight_shape(_geometry(workload, choice, spec), _kernel(workload))
        return ((shape, workload.dtypes[1]),)

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`."""
        from schedules.cpu.amx.compute import pack_weight

        dense = workload.operator == "dense"
        plain = weight[0][None, None] if dense else weight[0].transpose(2, 3, 1, 0)
        return (pack_weight(plain, _geometry(workload, choice, spec)),)


def _fits(workload: Workload, spec: TargetSpec) -> bool:
    if not workload.is_static or plans.instruction_for(workload, spec) is None:
        return False
    a = workload.attributes
    return workload.operator != "conv2d" or (
        int(a["groups"]) == 1 and all(v == 1 for v in a.get("input_dilation", (1, 1)))
    )


def _geometry(workload: Workload, choice: Choice, spec: TargetSpec) -> Geometry:
    instruction = plans.instruction_for(workload, spec)
    if instruction is None:
        raise ValueError(f"{spec.name} has no tile instruction for {workload.dtypes}")
    return geometry(workload, choice, instruction)


def _kernel(workload: Workload) -> tuple[int, int]:
    if workload.operator == "dense":
        return (1, 1)
    return int(workload.weight[2]), int(workload.weight[3])


def _product_sizes(rows: int) -> tuple[int, ...]:
    """Rows of a block of a product: equal parts of whole tiles where the rows divide so."""
    sizes = {rows} if rows <= 16 * TILE_ROWS else set()
    for tiles in (2, 4, 6, 8, 12, 16):
        parts = ceil(rows / (tiles * TILE_ROWS))
        size = ceil(rows / parts)
        if size * parts == rows or size >= TILE_ROWS:
            sizes.add(size)
    exact = sorted(s for s in sizes if rows % s == 0)
    return tuple((exact or sorted(sizes))[:MAX_SIZES])


def _passes(workload: Workload) -> tuple[int, ...]:
    item = 2 if workload.dtypes[0] == "bfloat16" else 1
    steps = plans.choose_run(int(workload.data[-1]), 1, item).steps
    return tuple(
        p for p in (1, 2, 4, 8) if p == 1 or (steps % p == 0 and steps // p >= MIN_STEPS_OF_A_PASS)
    )


def _line_counts(workload: Workload) -> tuple[int, ...]:
    """Lines of a block: divisors of the output's height that keep the accumulators small."""
    _, height, width, _ = (int(v) for v in workload.output)
    line_bytes = width * 2 * TILE_COLUMNS * 4
    fitting = [
        d for d in range(1, height + 1)
        if height % d == 0 and (d == 1 or d * line_bytes <= MAX_BLOCK_BYTES)
    ]  # fmt: skip
    return tuple(fitting[-MAX_SIZES:])


def _choices(decisions: list[Decision]) -> list[Choice]:
    names = [d.name for d in decisions]
    return [
        {"algorithm": ALGORITHM, **dict(zip(names, values, strict=True))}
        for values in product(*(d.options for d in decisions))
    ]
