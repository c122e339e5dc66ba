"""The direct algorithm: convolutions and matrix products with a register tile.

`schedules.cpu.compute.packed` holds the definitions, `schedules.cpu.rules.tiled` the schedule.
"""

from __future__ import annotations

import json
from math import ceil, prod
from typing import Any

from schedules.cpu.annotations import CHOICE, DOT
from schedules.cpu.compute import packed
from schedules.cpu.compute.canonical import geometry_of
from schedules.cpu.intrinsics.select import dot_group, dot_intrinsic, dot_lanes
from schedules.cpu.tiling import RankedTile, RegisterTile, rank_register_tiles
from schedules.space import Choice, Decision, Space
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "direct"
#: Tiles that a search may choose from, the analytic model's favourites.
MAX_TILES = 32
#: Steps of the reduction written out one after the other.
UNROLLS = (1, 2, 4, 8)


class Direct:
    """A block of accumulators in registers over the whole reduction, weights packed for it."""

    operators = frozenset({"conv2d", "dense", "batch_matmul"})
    algorithms = frozenset({ALGORITHM})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`."""
        tiles = self._tiles(workload, spec)
        orders = ("columns", "strip", "rows") if workload.operator == "conv2d" else (
            "columns", "rows")  # fmt: skip
        order = "columns" if _weights_are_larger(workload) else orders[1]
        decisions = [
            Decision("tile", tuple(t.tile.as_list() for t in tiles[:MAX_TILES])),
            Decision("unroll", UNROLLS),
        ]
        default: Choice = {
            "algorithm": ALGORITHM,
            "tile": tiles[0].tile.as_list(),
            "unroll": 1,
        }
        if workload.operator != "batch_matmul":
            decisions.append(Decision("order", orders))
            default["order"] = order
        if workload.operator == "conv2d" and _needs_padding(workload):
            decisions.append(Decision("pad", ("once", "strip")))
            default["pad"] = "once"
        return (Space(ALGORITHM, tuple(decisions), default),)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: multiply-adds over the rate of the register tile.

        Infinite for what would build the same kernel as another choice: padding by strips
        without strips, a reduction that does not fall into unrolled steps.
        """
        if choice.get("pad") == "strip" and choice["order"] != "strip":
            return float("inf")
        if _steps(workload) % choice["unroll"]:
            return float("inf")
        wanted = RegisterTile(*choice["tile"])
        for ranked in self._tiles(workload, spec):
            if ranked.tile == wanted:
                return workload.flops / 2 / max(ranked.macs_per_cycle, 1e-3)
        return float("inf")

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        tile = RegisterTile(*choice["tile"])
        attrs = {CHOICE: json.dumps(choice, sort_keys=True)}
        if _group(workload) > 1:
            attrs[DOT] = dot_intrinsic(workload.dtypes, spec, tile.lanes).name
        accumulator = workload.dtypes[2]
        a = workload.attributes
        if workload.operator == "dense":
            n = int(workload.weight[1])
            return packed.matmul_packed(data, weight, n, tile, accumulator, attrs)
        if workload.operator == "batch_matmul":
            return packed.batch_matmul(
                data, weight, tile, accumulator, attrs,
                transpose_rhs=a["transpose_rhs"], group=_group(workload),
            )  # fmt: skip
        return packed.conv2d_packed(
            data, weight, int(workload.weight[0]), geometry_of(workload), tile, accumulator, attrs,
            input_dilation=tuple(a.get("input_dilation", (1, 1))),
            out_size=(int(workload.output[1]), int(workload.output[2])),
            pad_value=a.get("pad_value", 0),
        )  # fmt: skip

    def packed_shape(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[Extent, ...]:
        """See `schedules.space.Template`."""
        if workload.operator == "batch_matmul":
            return workload.weight
        columns, group = RegisterTile(*choice["tile"]).columns, _group(workload)
        lanes = (columns, group) if group > 1 else (columns,)
        if workload.operator == "dense":
            reduction, n = (int(v) for v in workload.weight)
            return (ceil(n / columns), ceil(reduction / group), *lanes)
        outputs, inner, kh, kw = (int(v) for v in workload.weight)
        groups = int(workload.attributes["groups"])
        panels = groups * ceil(outputs // groups / columns)
        return (panels, kh, kw, ceil(inner / group), *lanes)

    def packed_dtype(self, workload: Workload) -> str:
        """See `schedules.space.Template`."""
        return workload.dtypes[1]

    def pack(self, workload: Workload, choice: Choice, spec: TargetSpec, weight: Any) -> Any:
        """See `schedules.space.Template`; the right side of ``batch_matmul`` stays as it is."""
        columns = RegisterTile(*choice["tile"]).columns
        group = _group(workload)
        if workload.operator == "dense":
            return packed.pack_matrix(weight, columns, group)
        if workload.operator == "batch_matmul":
            return weight
        groups = int(workload.attributes["groups"])
        return packed.pack_kernel(weight, columns, groups, group)

    def _tiles(self, workload: Workload, spec: TargetSpec) -> list[RankedTile]:
        rows, columns, row_elements = _matrix(workload)
        groups = int(workload.attributes.get("groups", 1))
        ranked = rank_register_tiles(
            spec, rows, columns // groups, workload.dtypes[2],
            row_elements * _ITEM_BYTES.get(workload.dtypes[0], 4),
            exact=groups > 1, group=_group(workload),
        )  # fmt: skip
        allowed = dot_lanes(workload.dtypes, spec) if _group(workload) > 1 else None
        return [r for r in ranked if allowed is None or r.tile.lanes in allowed]


_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1}


def _group(workload: Workload) -> int:
    """Elements that are multiplied and added up in one step."""
    if workload.operator == "conv2d" and int(workload.attributes["groups"]) > 1:
        return 1
    return dot_group(workload.dtypes)


def _matrix(workload: Workload) -> tuple[tuple[int, int], int, int]:
    """Extents of the rows, the columns, and elements from one row's data to the next's."""

    def known(extent: int | str, otherwise: int) -> int:
        return extent if isinstance(extent, int) else otherwise

    if workload.operator == "conv2d":
        _, height, width, channels = workload.output
        stride = int(workload.attributes["strides"][1])
        return (known(height, 0), known(width, 0)), known(channels, 1), (
            known(workload.data[3], 1) * stride
        )  # fmt: skip
    rows = known(workload.output[-2], 0)
    return (1, rows), known(workload.output[-1], 48), known(workload.data[-1], 1)


def _needs_padding(workload: Workload) -> bool:
    return any(workload.attributes["padding"]) or prod(int(v) for v in workload.weight[2:]) > 1


def _weights_are_larger(workload: Workload) -> bool:
    """Whether the weights outweigh the activations: then they are what to read only once."""

    def size(extents: tuple[int | str, ...]) -> int:
        return prod(v if isinstance(v, int) else 1 for v in extents)

    return size(workload.weight) >= size(workload.data)


def _steps(workload: Workload) -> int:
    """Iterations of the innermost loop of the reduction; 0 where it is symbolic."""
    reduction = workload.data[-1] if workload.operator != "conv2d" else workload.weight[1]
    return ceil(reduction / _group(workload)) if isinstance(reduction, int) else 0
