"""Depthwise convolutions of bytes on NEON: 16 channels of a tile of outputs together."""

from __future__ import annotations

import json
from math import ceil
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import window_bytes
from schedules.cpu.compute.canonical import geometry_of
from schedules.cpu.compute.neon_integers import BYTES
from schedules.space import Choice, Decision, Space
from schedules.workload import LEAST, Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "bytes"
STRIPS = (1, 2, 4, 7, 8, 14, 16, 28)
#: Rows and columns of outputs.
TILES = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2))
QUAD_TILES = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2))
ORDERS = ("channels", "blocks", "rows")
#: Larger windows are written out in too many statements.
MAX_WINDOW = 49
MAX_STATEMENTS = 1200
#: Slots of the two vector pipelines for 16 results: product, shift, narrowing, the store.
_REQUANTIZE = 18.0
_PIPELINES = 2
#: Cycles of a turn of the loop over tiles beside its vectors.
_TURN = 3.0
#: For a number of outputs: one waits for its own sums, many do not fit into the registers.
_CROWDED = {1: 1.2, 2: 1.0, 3: 1.1, 4: 1.12}
_CROWDED_QUADS = {1: 1.2, 2: 1.1, 4: 1.0, 8: 1.2}
#: Where a tile hangs over, or has weights for many rows, LLVM holds more than there are registers.
_HELD = 1.8
#: Cycles to make 16 bytes signed and write them: stores of whole vectors take two.
_COPY = 3.5
#: Cycles to make four times 16 bytes signed and write them interleaved.
_COPY_QUAD = 5.0
#: Rows of outputs whose data are made signed together, at least.
_ROWS = 4


class WindowBytes:
    """Vectors of 16 channels by ``smull``, or where there are dot products by ``sdot``.

    Decisions: ``tile`` (rows and columns of outputs), ``strip`` (tiles below each other whose
    data are made signed together), ``order`` (the outermost loop is of ``blocks`` of channels or of
    ``rows``, or the innermost one of ``channels``) and ``multiply`` (``smull``, ``sdot``, or
    ``quads``: ``sdot`` on rows that are interleaved when they are copied).
    """

    operators = frozenset({"depthwise_conv2d"})
    algorithms = frozenset({ALGORITHM})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`; empty but for bytes on AArch64.

        Pairs of products by ``smull`` fit into 16 bits unless a weight is -128.
        """
        if spec.machine != "aarch64" or not _fits(workload):
            return ()
        ways = [*(["sdot"] if spec.has("dotprod") else []),
                *([] if LEAST in workload.attributes else ["smull"])]  # fmt: skip
        quads = spec.has("dotprod") and int(workload.data[3]) % BYTES == 0
        found = [self._quads(workload, spec)] if quads and _is_dense(workload) else []
        found += [self._rows(workload, spec, ways)] if ways else []
        found.sort(key=lambda space: self.estimated_cycles(workload, space.default, spec))
        return tuple(found)

    def _quads(self, workload: Workload, spec: TargetSpec) -> Space:
        """Tiles of rows that are interleaved when they are copied; strips would share nothing."""
        tiles = _tiles(workload, QUAD_TILES)
        default = min(
            (_choice(tile, "quads") for tile in tiles),
            key=lambda c: self.estimated_cycles(workload, c, spec),
        )
        decisions = (
            Decision("tile", tuple(tiles)),
            Decision("multiply", ("quads",)),
            Decision("strip", (1,)),
            Decision("order", ORDERS),
        )
        return Space(ALGORITHM, decisions, default)

    def _rows(self, workload: Workload, spec: TargetSpec, ways: list[str]) -> Space:
        """Data that are copied row by row."""
        _, height, _, channels = (int(v) for v in workload.output)
        tiles = _tiles(workload, TILES)
        best = min(
            (_choice(tile, way) for tile in tiles for way in ways),
            key=lambda c: self.estimated_cycles(workload, c, spec),
        )
        count = ceil(height / best["tile"][0])
        strips = sorted({s for s in STRIPS if s <= count} | {1})
        even = [s for s in strips if count % s == 0 and s * best["tile"][0] <= 2 * _ROWS]
        best["strip"] = max(even) if max(even) > 1 else min(_ROWS, max(strips))
        if channels <= 2 * BYTES:  # LLVM would write such a short loop out, and mix its turns
            best["order"] = "rows"
        decisions = (
            Decision("tile", tuple(tiles)),
            Decision("multiply", tuple(ways)),
            Decision("strip", tuple(strips)),
            Decision("order", ORDERS),
        )
        return Space(ALGORITHM, decisions, best)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: instructions of the vector pipelines."""
        rows, columns = choice["tile"]
        batch, height, width, channels = (int(v) for v in workload.output)
        kh, kw = (int(v) for v in workload.weight[2:])
        strides, dilation = workload.attributes["strides"], workload.attributes["dilation"]
        outputs = rows * columns
        count = window_bytes.steps(kh, rows, strides[0])
        dots = sum(
            window_bytes.uses(row, step, kh, strides[0])
            for row in range(rows) for step in range(count)
        )  # fmt: skip
        vectors = 4.0 * dots * columns * kw
        if choice["multiply"] == "sdot":
            pixels = len({w * strides[1] + k * dilation[1]
                          for w in range(columns) for k in range(kw)})  # fmt: skip
            vectors += 8.0 * pixels * count
        elif choice["multiply"] == "smull":
            vectors = outputs * (2.0 * kh * kw + 4.0 * ceil(kh * kw / 2))
        quads = choice["multiply"] == "quads"
        crowded = (_CROWDED_QUADS if quads else _CROWDED)[outputs]
        each = (vectors + outputs * _REQUANTIZE) / _PIPELINES * crowded + _TURN
        if quads and (width % columns or rows > 2 or (count > 1 and height % rows)):
            each *= _HELD
        # What other orders of the loops leave in registers is more than there are.
        each *= 1.0 if choice["order"] == "channels" else 1.1
        blocks = ceil(channels / BYTES)
        tiles = ceil(height / rows) * ceil(width / columns) * blocks
        if quads:
            copies = ceil(height / rows) * count * int(workload.data[2]) * blocks
            return batch * (tiles * each + copies * _COPY_QUAD)
        strip = choice["strip"] * rows
        read = ((strip - 1) * strides[0] + kh) / (strip * strides[0])  # more where strips overlap
        image = int(workload.data[1]) * int(workload.data[2]) * blocks
        return batch * (tiles * each + image * read * _COPY)

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, *weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        a = workload.attributes
        kernel = (int(workload.weight[2]), int(workload.weight[3]))
        attrs = {CHOICE: json.dumps({**choice, "kernel": kernel, "strides": a["strides"],
                                     "dilation": a["dilation"]}, sort_keys=True)}  # fmt: skip
        return window_bytes.depthwise_conv2d(
            data, weight, int(workload.output[3]), kernel, geometry_of(workload),
            tuple(choice["tile"]), attrs, int(a.get("pad_value", 0)),
            dots=choice["multiply"] != "smull", quads=choice["multiply"] == "quads",
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        channels, _, kh, kw = (int(v) for v in workload.weight)
        return window_bytes.packed_shapes(
            channels, (kh, kw), choice["tile"][0], int(workload.attributes["strides"][0]),
            dots=choice["multiply"] != "smull", shifted=workload.dtypes[0] == "uint8",
        )  # fmt: skip

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`."""
        if choice["multiply"] == "smull" and (weight[0] == -128).any():
            raise ValueError("the choice is for weights of at least -127")
        return window_bytes.pack(
            weight[0], choice["tile"][0], int(workload.attributes["strides"][0]),
            dots=choice["multiply"] != "smull", shifted=workload.dtypes[0] == "uint8",
        )  # fmt: skip


def _choice(tile: list[int], way: str) -> Choice:
    return {"algorithm": ALGORITHM, "tile": tile, "multiply": way, "strip": 1, "order": "channels"}


def _tiles(workload: Workload, tiles: tuple[tuple[int, int], ...]) -> list[list[int]]:
    """Those of some tiles that a workload's output holds, and that are not too much code."""
    _, height, width, _ = (int(v) for v in workload.output)
    return [list(t) for t in tiles if t[0] <= height and t[1] <= width
            and _statements(workload, t) <= MAX_STATEMENTS
            and (t[0] == 1 or _is_dense(workload))] or [[1, 1]]  # fmt: skip


def _fits(workload: Workload) -> bool:
    if workload.dtypes[0] not in ("uint8", "int8") or not workload.is_static:
        return False
    if workload.dtypes[1:] != ("int8", "int32") or workload.data[3] != workload.output[3]:
        return False
    kh, kw = (int(v) for v in workload.weight[2:])
    return kh * kw <= MAX_WINDOW


def _is_dense(workload: Workload) -> bool:
    return all(int(v) == 1 for v in workload.attributes["dilation"])


def _statements(workload: Workload, tile: tuple[int, int]) -> int:
    kh, kw = (int(v) for v in workload.weight[2:])
    return tile[0] * tile[1] * kh * kw * 4
