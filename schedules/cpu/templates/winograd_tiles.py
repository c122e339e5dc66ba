"""Winograd's algorithm on NEON: float32, and 8-bit integers exactly.

`schedules.cpu.compute.winograd_tiles` has the arithmetic. Integers are for processors without a
dot product of bytes: products of 16 bits are a quarter as many as the direct algorithm's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import winograd_tiles
from schedules.cpu.compute.winograd_tiles import TRANSFORMS, Grid
from schedules.cpu.microkernels.base import MicroKernel
from schedules.cpu.microkernels.neon_float import FloatByElement
from schedules.cpu.microkernels.neon_words import MAX_ROWS, WordsByElement
from schedules.cpu.preparation import KernelTransform
from schedules.cpu.templates.winograd import is_plain
from schedules.cpu.tiling import RegisterTile
from schedules.space import Choice, Decision, Space
from schedules.workload import SUM_BITS, Extent, Workload
from targets.spec import TargetSpec

FLOATS = {2: "tiled-winograd-2x2", 4: "tiled-winograd-4x4"}
INTEGERS = {2: "integer-winograd-2x2", 4: "integer-winograd-4x4"}
MAX_TILES = 12
#: Chunks of the reduction written out one after the other.
UNROLLS = (1, 2)
#: Cycles of both transforms for a vector of 16 bytes on a core that does one multiply-add of
#: float32 vectors in a cycle: to factors, and back.
TRANSFORM_CYCLES = {2: (60.0, 45.0), 4: (240.0, 150.0)}
#: Cycles a product of a block waits at its beginning and its end.
START_CYCLES = 20.0
#: Cycles that an iteration of the reduction takes beside its products.
STEP_CYCLES = 2.0
#: Share of the shorter one of computing and reading that the other does not hide.
UNHIDDEN = 0.05
#: Bytes that one core reads in a cycle from its caches, and from memory at most.
L2_BYTES_PER_CYCLE, MEMORY_BYTES_PER_CYCLE = 8.0, 4.0


class WinogradTiles:
    """A block of tiles at a time: all its products, then its outputs."""

    operators = frozenset({"conv2d"})
    algorithms = frozenset({*FLOATS.values(), *INTEGERS.values()})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`."""
        if not _fits(workload, spec):
            return ()
        names = INTEGERS if workload.is_integer else FLOATS
        found = []
        for m, name in names.items():
            if workload.is_integer and not _proven(workload, m):
                continue
            choices: list[Choice] = [
                {"algorithm": name, "strip": strip, "tile": tile, "unroll": unroll}
                for tile in _tiles(workload, m)
                for strip in _strips(workload, m, tile)
                for unroll in UNROLLS
            ]
            choices.sort(key=lambda c: self.estimated_cycles(workload, c, spec))
            tiles: list[list[int]] = []
            strips: list[int] = []
            for choice in choices:
                if choice["tile"] not in tiles and len(tiles) < MAX_TILES:
                    tiles.append(choice["tile"])
                if choice["strip"] not in strips:
                    strips.append(choice["strip"])
            found.append(
                Space(
                    name,
                    (
                        Decision("strip", tuple(sorted(strips))),
                        Decision("tile", tuple(tiles)),
                        Decision("unroll", UNROLLS),
                    ),
                    choices[0],
                )
            )
        return tuple(found)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: products, transforms, and weights from afar.

        Infinite where blocks do not divide the strip, or have several lines that are not whole.
        """
        m = tile_outputs(choice)
        lines, across, vectors, _ = choice["tile"]
        kernel = kernel_of(choice)
        outputs, inner = (int(v) for v in workload.weight[:2])
        chunks = inner / kernel.chunk
        if choice["strip"] % lines or int(chunks) % choice["unroll"]:
            return math.inf
        grid = _grid(workload, choice)
        down, wide = grid.tiles
        if lines > 1 and across != wide:
            return math.inf
        batch, places = int(workload.data[0]), (m + 2) ** 2
        tiles, panels = down * wide * batch, ceil(outputs / (vectors * kernel.lanes))
        blocks = tiles / grid.rows * panels * places
        each = kernel.cycles(grid.rows, vectors, spec) + STEP_CYCLES / choice["unroll"]
        cycles = blocks * (chunks * each + START_CYCLES)
        into, back = TRANSFORM_CYCLES[m]
        faster = max(1.0, spec.peak_ops_per_cycle.get("float32", 8.0) / 8)
        item = 2 if workload.is_integer else 4
        cycles += tiles * into * ceil(inner * item / 16) / faster
        cycles += tiles * back * panels * vectors * kernel.lanes / 4 / faster
        # Factors of a strip are read once a panel, weights once a strip: from the second cache
        # where they fit, beside the products, else from memory.
        strips = batch * down // choice["strip"]
        weights = float(item * places * inner * panels * vectors * kernel.lanes)
        factors = float(item * places * choice["strip"] * wide * inner)
        second = max(spec.cache_bytes(2), 1 << 18)
        if factors > second / 2:
            cycles += factors * strips * panels / L2_BYTES_PER_CYCLE
        if weights + factors > second:  # read ahead, beside the products
            reading = weights * strips / _bytes_per_cycle(weights, spec)
            cycles = max(cycles, reading) + UNHIDDEN * min(cycles, reading)
        return cycles

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        a = workload.attributes
        return winograd_tiles.conv2d(
            data, weight, int(workload.output[3]), a["padding"], _grid(workload, choice),
            {CHOICE: json.dumps(choice, sort_keys=True)}, a.get("pad_value", 0),
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        columns = RegisterTile(*choice["tile"]).columns
        outputs, inner = (int(v) for v in workload.weight[:2])
        places = tile_outputs(choice) + 2
        shape = (ceil(outputs / columns), places, places, inner, columns)
        return ((shape, "int16" if workload.is_integer else "float32"),)

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`."""
        columns = RegisterTile(*choice["tile"]).columns
        chunk = kernel_of(choice).chunk
        return (winograd_tiles.pack_kernel(weight[0], tile_outputs(choice), columns, chunk),)

    def transform(self, workload: Workload, choice: Choice, spec: TargetSpec) -> KernelTransform:
        """See `schedules.cpu.preparation.Preparing`."""
        outputs, inner = (int(v) for v in workload.weight[:2])
        transforms = TRANSFORMS[tile_outputs(choice)]
        ((shape, dtype),) = self.packed(workload, choice, spec)
        return KernelTransform(
            matrix=transforms.kernel,
            divisor=1 if workload.is_integer else transforms.scale,
            inner=inner,
            outputs=outputs,
            columns=RegisterTile(*choice["tile"]).columns,
            dtype=workload.dtypes[1],
            packed=(tuple(int(v) for v in shape), dtype),
            place=lambda panel, i, j, channel, column: [panel, i, j, channel, column],
        )


def tile_outputs(choice: Choice) -> int:
    """Outputs of a tile along one axis."""
    return next(m for names in (FLOATS, INTEGERS) for m, name in names.items()
                if name == choice["algorithm"])  # fmt: skip


def kernel_of(choice: Choice) -> MicroKernel:
    """What multiplies."""
    return WordsByElement() if choice["algorithm"] in INTEGERS.values() else FloatByElement()


def proven(workload: Workload, spec: TargetSpec, weight: Callable[[], Any]) -> Workload:
    """The workload with `SUM_BITS`, where integers can be computed so and the weights allow it.

    It is the same number for all weights whose sums have as many bits or fewer: records then
    serve all of them.

    Args:
        workload: A convolution.
        spec: The target.
        weight: Gives the weights (NumPy, ``OIHW``).
    """
    if not _fits(workload, spec) or not workload.is_integer:
        return workload
    low, high = (0, 255) if workload.dtypes[0] == "uint8" else (-128, 127)
    bits = min(t.sum_bits for t in TRANSFORMS.values())
    if winograd_tiles.bits_of_sums(weight(), low, high) > bits:
        return workload
    return replace(workload, attributes={**workload.attributes, SUM_BITS: bits})


def _fits(workload: Workload, spec: TargetSpec) -> bool:
    floats = workload.dtypes in (("float32",) * 3, ("float16", "float16", "float32"))
    integers = workload.dtypes in (("uint8", "int8", "int32"), ("int8", "int8", "int32"))
    return (
        spec.machine == "aarch64"
        and (floats or (integers and not spec.has("dotprod")))
        and not workload.weight_encoding
        and is_plain(workload)
        and int(workload.data[3]) % (4 if floats else 8) == 0
    )


def _proven(workload: Workload, m: int) -> bool:
    """Whether every sum is known to come out of the arithmetic as it is."""
    bits = int(workload.attributes.get(SUM_BITS, 0))
    return 0 < bits <= TRANSFORMS[m].sum_bits


def _grid(workload: Workload, choice: Choice) -> Grid:
    lines, across, _, _ = choice["tile"]
    _, height, width, _ = (int(v) for v in workload.output)
    return Grid(tile_outputs(choice), height, width, choice["strip"], lines, across)


def _tiles(workload: Workload, m: int) -> list[list[int]]:
    """Blocks whose sums, rows and weights fit into 32 registers."""
    _, height, width, outputs = (int(v) for v in workload.output)
    down, wide = ceil(height / m), ceil(width / m)
    kernel = WordsByElement() if workload.is_integer else FloatByElement()
    most = ceil(outputs / kernel.lanes)
    found = []
    for vectors in range(1, min(most, 6) + 1):
        for across in range(1, min(wide, MAX_ROWS) + 1):
            for lines in range(1, (MAX_ROWS // across if across == wide else 1) + 1):
                rows = lines * across
                if lines <= down and kernel.registers(rows, vectors) <= 31:
                    found.append([lines, across, vectors, kernel.lanes])
    return found


def _strips(workload: Workload, m: int, tile: list[int]) -> list[int]:
    """Strips of whole blocks, up to the whole output."""
    blocks = ceil(ceil(int(workload.output[1]) / m) / tile[0])
    return [tile[0] * n for n in range(1, blocks + 1) if blocks % n == 0]


def _bytes_per_cycle(size: float, spec: TargetSpec) -> float:
    """What one core reads in a cycle of weights that do not fit into its second cache."""
    if size < spec.cache_bytes(3) / 2:
        return L2_BYTES_PER_CYCLE
    return min(MEMORY_BYTES_PER_CYCLE, spec.memory_bandwidth_bytes_per_s / spec.clock_hz)


__all__ = ["WinogradTiles", "kernel_of", "proven", "tile_outputs"]
