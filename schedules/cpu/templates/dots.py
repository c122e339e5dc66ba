"""Depthwise convolutions of 8-bit activations by four-byte dot products."""

from __future__ import annotations

import json
from math import ceil
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import dots
from schedules.cpu.compute.canonical import geometry_of
from schedules.cpu.intrinsics.vnni import has_vpdpbusd
from schedules.space import Choice, Decision, Space
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "dots"
STRIPS = (1, 2, 4, 7, 8, 14, 16, 28)
MAX_COLUMNS = 8
#: Larger windows are written out in too many statements.
MAX_WINDOW = 49
#: int32 lanes of an instruction.
LANES = (16, 8, 4)
#: What is left of the first cache for the data that a loop comes back to.
_L1_BYTES = 24 << 10
#: Cycles of a vector's requantization beside its dot products.
EPILOGUE_CYCLES = 8.0


class Dots:
    """Four rows of a window in one instruction; needs ``vpdpbusd`` and unsigned activations.

    Decisions: ``tile`` (outputs side by side, and int32 lanes: a block has four times as many
    channels), ``strip`` (rows of outputs that are padded together) and ``order`` (the loop
    outside the other: ``blocks`` of channels, or ``rows``).
    """

    operators = frozenset({"depthwise_conv2d"})
    algorithms = frozenset({ALGORITHM})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`; empty without VNNI, and for signed activations."""
        if not _fits(workload):
            return ()
        _, height, width, channels = (int(v) for v in workload.output)
        kh, stride = int(workload.weight[2]), int(workload.attributes["strides"][0])
        allowed = [v for v in LANES if has_vpdpbusd(spec, v) and 16 * v <= 16 * max(4, channels)]
        if not allowed:
            return ()
        tiles = [[w, lanes] for lanes in allowed
                 for w in range(1, min(width, MAX_COLUMNS) + 1)
                 if (width % w == 0 or w in (2, 4)) and 4 * w < spec.vector_registers]  # fmt: skip
        strips = sorted({s for s in STRIPS if s <= height} | {height} if height <= 28 else
                        {s for s in STRIPS if s <= height})  # fmt: skip
        strip = max(s for s in strips if s <= 14 and (height % s == 0 or s == 1))
        ranked = sorted(
            tiles,
            key=lambda t: self.estimated_cycles(
                workload, {"algorithm": ALGORITHM, "tile": t, "strip": strip}, spec
            ),
        )
        # The rows that a block of channels reads shall stay in the first cache.
        read = (strip * stride + kh) * int(workload.data[2]) * 64
        order = "blocks" if read <= _L1_BYTES else "rows"
        default: Choice = {
            "algorithm": ALGORITHM, "tile": ranked[0], "strip": strip, "order": order,
        }  # fmt: skip
        return (
            Space(
                ALGORITHM,
                (
                    Decision("tile", tuple(ranked)),
                    Decision("strip", tuple(strips)),
                    Decision("order", ("blocks", "rows")),
                ),
                default,
            ),
        )

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: unpacking, dot products and the requantization."""
        columns, lanes = choice["tile"]
        batch, height, width, channels = (int(v) for v in workload.output)
        kh, kw = (int(v) for v in workload.weight[2:])
        stride = int(workload.attributes["strides"][1])
        steps = ceil(kh / dots.ROWS)
        pixels = (columns - 1) * stride + kw
        full = spec.vector_lanes("int32")
        width_share = max(0.5, lanes / full)  # of the time of a whole vector
        each = columns * 4 * (kw * steps * 1.5 + EPILOGUE_CYCLES) + pixels * steps * (5.5 + kh)
        each = each * width_share + 6.0 + 4 * kw * steps
        tiles = batch * height * ceil(width / columns) * ceil(channels / (4 * lanes))
        return tiles * each

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, *weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        columns, lanes = choice["tile"]
        a = workload.attributes
        kernel = (int(workload.weight[2]), int(workload.weight[3]))
        attrs = {CHOICE: json.dumps({**choice, "kernel": kernel, "strides": a["strides"],
                                     "dilation": a["dilation"]}, sort_keys=True)}  # fmt: skip
        return dots.depthwise_conv2d(
            data, weight[0], int(workload.output[3]), kernel, geometry_of(workload), columns, lanes,
            attrs, a.get("pad_value", 0),
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        channels, _, kh, kw = (int(v) for v in workload.weight)
        return ((dots.packed_shape(channels, (kh, kw), choice["tile"][1]), "int8"),)

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`."""
        return (dots.pack(weight[0], choice["tile"][1]),)


def _fits(workload: Workload) -> bool:
    if workload.dtypes != ("uint8", "int8", "int32") or not workload.is_static:
        return False
    kh, kw = (int(v) for v in workload.weight[2:])
    return workload.data[3] == workload.output[3] and kh * kw <= MAX_WINDOW
