"""Winograd's algorithm for 3x3 convolutions, on float32 or bfloat16 data."""

from __future__ import annotations

import json
import math
from math import ceil, prod
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import winograd
from schedules.cpu.compute.winograd import Tiling
from schedules.cpu.preparation import KernelTransform
from schedules.cpu.tiling import RegisterTile, rank_register_tiles
from schedules.space import Choice, Decision, Space
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

#: Dtypes of data, weight and sums. Products are float32: rounding the transformed numbers to
#: bfloat16 would cost most of its digits.
DTYPES = {("float32",) * 3, ("bfloat16", "bfloat16", "float32")}
#: Outputs of a tile along one axis -> name of the algorithm.
ALGORITHMS = {2: "winograd-2x2", 4: "winograd-4x4"}
MAX_TILES = 12
#: Vector operations a tile and channel vector for both transforms, and for that back.
TRANSFORM_STEPS = {2: (48, 28), 4: (290, 190)}
#: What one core reads from its caches and from memory, orders of magnitude for the ranking.
L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, MEMORY_BYTES_PER_CYCLE = 24.0, 10.0, 6.5
#: Panels of one vector read so many short runs of weights that they lose this much.
NARROW_PANEL = 1.2
#: Fewer channels than this do not pay for the transforms.
MIN_CHANNELS = 16


class Winograd:
    """Tiles of outputs from fewer products, at the price of transforms and larger weights."""

    operators = frozenset({"conv2d"})
    algorithms = frozenset(ALGORITHMS.values())
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`."""
        if not _fits(workload) or _in_tiles(workload, spec):
            return ()
        found = []
        for m, name in ALGORITHMS.items():
            tiling = _tiling(workload, m)
            strips = [s for s in range(1, tiling.down + 1) if tiling.down % s == 0 and s <= 14]
            shapes = [
                (s, tile) for s in strips for tile in _tiles(workload, spec, s, tiling.across)
            ]
            if not shapes:
                continue
            choices: list[Choice] = [
                {"algorithm": name, "strip": s, "tile": tile, "unroll": 1} for s, tile in shapes
            ]
            default = min(choices, key=lambda c: self.estimated_cycles(workload, c, spec))
            tiles: list[list[int]] = []
            for _, tile in shapes:
                if tile not in tiles:
                    tiles.append(tile)
            found.append(
                Space(
                    name,
                    (
                        Decision("strip", tuple(strips)),
                        Decision("tile", tuple(tiles)),
                        Decision("unroll", (1, 2, 4)),
                    ),
                    default,
                )
            )
        return tuple(found)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: products, transforms, and weights from afar.

        Infinite where the tile does not fill the strip, or the reduction the unrolled steps.
        """
        m = _m(choice)
        tiling = _tiling(workload, m)
        outputs, inner = (int(v) for v in workload.weight[:2])
        batch = int(workload.data[0])
        wanted = RegisterTile(*choice["tile"])
        rows = choice["strip"] * tiling.across
        lanes = spec.vector_lanes("float32")
        peak = spec.peak_ops_per_cycle.get("float32", 2.0 * lanes)
        fma_per_cycle = min(2.0, max(0.5, peak / (2 * lanes)))
        if inner % choice["unroll"]:
            return math.inf
        if tiling.down % choice["strip"] or not _fills(wanted.rows, rows, tiling.across):
            return math.inf
        ranked = rank_register_tiles(spec, (1, rows), outputs)
        rate = next((r.macs_per_cycle for r in ranked if r.tile == wanted), 1.0)
        places, tiles = tiling.places**2, tiling.down * tiling.across * batch
        strips = ceil(tiling.down / choice["strip"])
        computed = strips * choice["strip"] * tiling.across * batch
        products = places * computed * inner * outputs / rate
        if wanted.vectors == 1:
            products *= NARROW_PANEL
        into, back = TRANSFORM_STEPS[m]
        vectors = (into * ceil(inner / lanes) + back * ceil(outputs / lanes)) * tiles
        weights = 4.0 * places * inner * outputs
        buffers = 4.0 * places * rows * (inner + outputs)
        l2 = spec.cache_bytes(2) or 1 << 20
        # The transformed weights are read once a strip, from wherever they fit; reading ahead
        # from memory overlaps with the products.
        if weights + buffers < l2 / 2:
            products += weights * strips / L2_BYTES_PER_CYCLE
        elif weights < spec.cache_bytes(3) / 2:
            products += weights * strips / L3_BYTES_PER_CYCLE
        else:
            products = max(products, weights * strips / MEMORY_BYTES_PER_CYCLE)
        cycles = products + vectors / fma_per_cycle
        if buffers > l2:
            cycles += 2 * buffers * strips / L3_BYTES_PER_CYCLE
        return cycles

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        _, height, width, channels = (int(v) for v in workload.output)
        return winograd.conv2d_winograd(
            data, weight, channels, (height, width), workload.attributes["padding"],
            _tiling(workload, _m(choice)), {CHOICE: json.dumps(choice, sort_keys=True)},
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        columns = RegisterTile(*choice["tile"]).columns
        outputs, inner = (int(v) for v in workload.weight[:2])
        places = _m(choice) + 2
        shape = (places, places, ceil(outputs / columns), inner, columns)
        return ((shape, "float32"),)  # rounded once, before the transform

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`."""
        columns = RegisterTile(*choice["tile"]).columns
        return (winograd.pack_transformed(weight[0], _m(choice), columns),)

    def transform(self, workload: Workload, choice: Choice, spec: TargetSpec) -> KernelTransform:
        """See `schedules.cpu.preparation.Preparing`."""
        outputs, inner = (int(v) for v in workload.weight[:2])
        ((shape, dtype),) = self.packed(workload, choice, spec)
        return KernelTransform(
            matrix=winograd.KERNEL_TRANSFORM[_m(choice)],
            divisor=1,
            inner=inner,
            outputs=outputs,
            columns=RegisterTile(*choice["tile"]).columns,
            dtype="float32",
            packed=(tuple(int(v) for v in shape), dtype),
            place=lambda panel, i, j, channel, column: [i, j, panel, channel, column],
        )


def _fits(workload: Workload) -> bool:
    return workload.dtypes in DTYPES and is_plain(workload) and int(workload.data[3]) % 4 == 0


def is_plain(workload: Workload) -> bool:
    """Whether a convolution has a window of 3x3 without holes or steps, and enough channels."""
    a = workload.attributes
    return (
        workload.is_static
        and tuple(workload.weight[2:]) == (3, 3)
        and prod(a["strides"]) == prod(a["dilation"]) == int(a["groups"]) == 1
        and prod(a.get("input_dilation", (1, 1))) == 1
        and min(int(v) for v in workload.weight[:2]) >= MIN_CHANNELS
    )


def _in_tiles(workload: Workload, spec: TargetSpec) -> bool:
    """Whether `winograd_tiles` has kernels for it."""
    return spec.machine == "aarch64" and workload.dtypes[0] == "float32"


def _m(choice: Choice) -> int:
    return next(m for m, name in ALGORITHMS.items() if name == choice["algorithm"])


def _tiling(workload: Workload, m: int) -> Tiling:
    return Tiling.of(m, int(workload.output[1]), int(workload.output[2]))


def _tiles(workload: Workload, spec: TargetSpec, strip: int, across: int) -> list[list[int]]:
    """Register tiles that fill a strip: parts of its lines, or whole lines."""
    rows = strip * across
    ranked = rank_register_tiles(spec, (1, rows), int(workload.weight[0]))
    fitting = [r.tile.as_list() for r in ranked if _fills(r.tile.rows, rows, across)]
    return fitting[:MAX_TILES]


def _fills(tile: int, rows: int, across: int) -> bool:
    """Whether tiles of so many rows fill a strip, and cut its lines evenly or not at all."""
    return rows % tile == 0 and (across % tile == 0 or tile % across == 0)
