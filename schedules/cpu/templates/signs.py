"""Convolutions and products of signs: words of 32, compared and counted."""

from __future__ import annotations

import json
from math import ceil, prod
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import packed, signs
from schedules.cpu.compute.canonical import geometry_of
from schedules.cpu.tiling import RankedTile, RegisterTile, rank_register_tiles
from schedules.space import Choice, Decision, Space
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "popcount"
MAX_TILES = 24
UNROLLS = (1, 2, 4)
#: Instructions for one vector of words: exclusive or, count, addition.
_NATIVE = 3.0
#: Multiply-adds that a core of interest could start for each product of signs: it starts two of
#: the instructions at a time.
LEAST_SHARE = _NATIVE / 2 / signs.WORD
#: And where counting is done by tables of four bits, in registers.
_BY_TABLE = 14.0
#: Vector registers beside accumulators, weights and one word of data.
_RESERVED = 2


class Signs:
    """Vectors of output channels: exclusive or with a word of data, count, add."""

    operators = signs.OPERATORS
    algorithms = frozenset({ALGORITHM})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`."""
        tiles = _tiles(workload, spec)
        conv = workload.operator == "binary_conv2d"
        orders = ("columns", "strip", "rows") if conv else ("columns", "rows")
        decisions = [
            Decision("tile", tuple(t.tile.as_list() for t in tiles[:MAX_TILES])),
            Decision("unroll", UNROLLS),
            Decision("order", orders),
        ]
        default: Choice = {
            "algorithm": ALGORITHM,
            "tile": tiles[0].tile.as_list(),
            "unroll": 1,
            "order": "columns" if _weights_are_larger(workload) else orders[1],
        }
        if conv and any(workload.attributes["padding"]):
            decisions.append(Decision("pad", ("once", "strip")))
            default["pad"] = "once"
        return (Space(ALGORITHM, tuple(decisions), default),)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: as for floats, with more instructions a step.

        Infinite for what would build the same kernel as another choice.
        """
        if choice.get("pad") == "strip" and choice["order"] != "strip":
            return float("inf")
        if int(workload.data[-1]) % choice["unroll"]:
            return float("inf")
        wanted = RegisterTile(*choice["tile"])
        # The tiles are ranked for multiply-adds, of which a core of interest starts as many
        # in a cycle as it starts two of these instructions.
        steps = (_NATIVE if spec.has("avx512vpopcntdq") else _BY_TABLE) / 2
        for ranked in _tiles(workload, spec):
            if ranked.tile == wanted:
                words = prod(int(v) for v in workload.output) * prod(_reduction(workload))
                return words * steps / max(ranked.macs_per_cycle, 1e-3)
        return float("inf")

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, *weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        tile = RegisterTile(*choice["tile"])
        # The schedule is that of other kernels with a register tile.
        attrs = {CHOICE: json.dumps({**choice, "algorithm": "direct"}, sort_keys=True)}
        if workload.operator == "binary_dense":
            counts = signs.matmul_packed(data, weight[0], int(workload.weight[1]), tile, attrs)
        else:
            counts = signs.conv2d_packed(
                data, weight[0], int(workload.weight[0]), geometry_of(workload), tile, attrs
            )
        return signs.finish(workload, counts)

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        columns = RegisterTile(*choice["tile"]).columns
        plain = [int(v) for v in workload.weight]
        if workload.operator == "binary_dense":
            words, n = plain
            return (((ceil(n / columns), words, columns), "uint32"),)
        outputs, words, kh, kw = plain
        return (((ceil(outputs / columns), kh, kw, words, columns), "uint32"),)

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`."""
        columns = RegisterTile(*choice["tile"]).columns
        if workload.operator == "binary_dense":
            return (packed.pack_matrix(weight[0], columns),)
        return (packed.pack_kernel(weight[0], columns),)


def _tiles(workload: Workload, spec: TargetSpec) -> list[RankedTile]:
    conv = workload.operator == "binary_conv2d"
    rows, row_bytes = (1, _known(workload.output[-2])), _known(workload.data[-1]) * 4
    if conv:
        rows = (_known(workload.output[1]), _known(workload.output[2]))
        row_bytes *= int(workload.attributes["strides"][1])
    ranked = rank_register_tiles(
        spec, rows, _known(workload.output[-1]) or 1, "int32", row_bytes, reserved=_RESERVED
    )
    return list(ranked)


def _reduction(workload: Workload) -> list[int]:
    """Words in a sum, by dimension."""
    if workload.operator == "binary_dense":
        return [int(workload.weight[0])]
    return [int(v) for v in workload.weight[1:]]


def _weights_are_larger(workload: Workload) -> bool:
    return prod(_known(v) or 1 for v in workload.weight) >= prod(
        _known(v) or 1 for v in workload.data
    )


def _known(extent: Extent) -> int:
    return extent if isinstance(extent, int) else 0
