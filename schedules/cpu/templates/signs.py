"""Convolutions and products of signs: words of 32, compared and counted."""

from __future__ import annotations

import json
from math import ceil, prod
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import packed, sign_tables, signs
from schedules.cpu.compute.canonical import geometry_of
from schedules.cpu.tiling import RankedTile, RegisterTile, rank_register_tiles
from schedules.space import Choice, Decision, Space
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "popcount"
TABLES = "tables"
MAX_TILES = 24
UNROLLS = (1, 2, 4)
#: Instructions for one vector of words: exclusive or, count, addition.
_NATIVE = 3.0
#: Multiply-adds that a core of interest could start for each product of signs: it starts two of
#: the instructions at a time.
LEAST_SHARE = _NATIVE / 2 / signs.WORD
#: And where LLVM counts by arithmetic and tables of four bits.
_COUNTED = 22.0
#: Vector registers beside accumulators, weights and one word of data.
_RESERVED = 2
#: Instructions started in a cycle, on vectors of the widest kind.
_RATE = 2.0
#: Instructions of a byte of data: to look up, per vector; to find the table, per row; to take
#: weights apart, per vector of them.
_LOOK_UP, _FIND, _SPLIT = 4.0, 2.5, 3.0
#: And to add a vector of bytes to counts in int32, for each vector of those.
_WIDEN = 3.0
_MOST_ROWS, _MOST_COUNTS = 14, 14


class Signs:
    """Vectors of output channels: exclusive or with a word of data, count, add.

    Where no instruction counts bits in vectors, tables in registers do.
    """

    operators = signs.OPERATORS
    algorithms = frozenset({ALGORITHM, TABLES})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`."""
        tiles = _tiles(workload, spec)
        conv = workload.operator == "binary_conv2d"
        orders = ("columns", "strip", "rows") if conv else ("columns", "rows")
        order = "columns" if _weights_are_larger(workload) else orders[1]
        decisions = [
            Decision("tile", tuple(t.tile.as_list() for t in tiles[:MAX_TILES])),
            Decision("unroll", UNROLLS),
            Decision("order", orders),
        ]
        default: Choice = {
            "algorithm": ALGORITHM, "tile": tiles[0].tile.as_list(), "unroll": 1, "order": order
        }  # fmt: skip
        if conv and any(workload.attributes["padding"]):
            decisions.append(Decision("pad", ("once", "strip")))
            default["pad"] = "once"
        found = [Space(ALGORITHM, tuple(decisions), default)]
        if wide := _table_tiles(workload, spec):
            tables: Choice = {
                "algorithm": TABLES, "tile": wide[0].as_list(),
                "order": "columns" if order == "columns" else "rows",
            }  # fmt: skip
            both = (
                Decision("tile", tuple(t.as_list() for t in wide[:MAX_TILES])),
                Decision("order", ("columns", "rows")),
            )
            found.append(Space(TABLES, both, tables))
        return tuple(found)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: as for floats, with more instructions a step.

        Infinite for what would build the same kernel as another choice.
        """
        if choice["algorithm"] == TABLES:
            return _table_cycles(workload, RegisterTile(*choice["tile"]), spec)
        if choice.get("pad") == "strip" and choice["order"] != "strip":
            return float("inf")
        if int(workload.data[-1]) % choice["unroll"]:
            return float("inf")
        wanted = RegisterTile(*choice["tile"])
        # The tiles are ranked for multiply-adds, of which a core of interest starts as many
        # in a cycle as it starts two of these instructions.
        steps = (_NATIVE if _counts_bits(spec) else _COUNTED) / 2
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
        tables = choice["algorithm"] == TABLES
        module: Any = sign_tables if tables else signs
        # The schedule of words is that of other kernels with a register tile.
        named = choice if tables else {**choice, "algorithm": "direct"}
        attrs = {CHOICE: json.dumps(named, sort_keys=True)}
        if workload.operator == "binary_dense":
            counts = module.matmul_packed(data, weight[0], int(workload.weight[1]), tile, attrs)
        else:
            counts = module.conv2d_packed(
                data, weight[0], int(workload.weight[0]), geometry_of(workload), tile, attrs
            )
        return signs.finish(workload, counts)

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        columns = RegisterTile(*choice["tile"]).columns
        plain = [int(v) for v in workload.weight]
        if choice["algorithm"] == TABLES:
            dense = workload.operator == "binary_dense"
            outputs, words, *kernel = reversed(plain) if dense else plain
            panels = ceil(outputs / columns)
            return (((panels, *kernel, words, sign_tables.BYTES, columns), "uint8"),)
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
            panels = packed.pack_matrix(weight[0], columns)
        else:
            panels = packed.pack_kernel(weight[0], columns)
        return (sign_tables.split_words(panels) if choice["algorithm"] == TABLES else panels,)


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


def _counts_bits(spec: TargetSpec) -> bool:
    """Whether an instruction counts the bits in each element of a vector."""
    return spec.has("avx512vpopcntdq") or not spec.has("avx2")


def _table_tiles(workload: Workload, spec: TargetSpec) -> list[RegisterTile]:
    """Tiles of counts in bytes, the best by the model first; none where bits are counted."""
    if _counts_bits(spec):
        return []
    most = 64 if spec.has("avx512bw") else 32
    rows = _known(workload.output[-2]) or _MOST_ROWS
    found = [
        RegisterTile(1, row, vectors, lanes)
        for lanes in (64, 32, 16)
        for vectors in (1, 2, 4)
        for row in range(1, min(_MOST_ROWS, rows) + 1)
        if lanes <= most and row * vectors <= _MOST_COUNTS
    ]
    return sorted(found, key=lambda t: (_table_cycles(workload, t, spec), -t.rows))


def _table_cycles(workload: Workload, tile: RegisterTile, spec: TargetSpec) -> float:
    *lead, rows, columns = (_known(v) or 1 for v in workload.output)
    tiles = prod(lead) * ceil(rows / tile.rows) * ceil(columns / tile.columns)
    words = int(workload.data[-1])
    places = prod(_reduction(workload)) // words
    vectors = tile.rows * tile.vectors
    step = vectors * _LOOK_UP + tile.rows * _FIND + tile.vectors * _SPLIT
    narrow = max(1, tile.lanes // spec.vector_lanes("int32"))
    part = step * sign_tables.BYTES * sign_tables.chunk_of(words) + vectors * narrow * _WIDEN
    return tiles * places * (words // sign_tables.chunk_of(words)) * part / _RATE


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
