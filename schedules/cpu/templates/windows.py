"""Depthwise convolutions and pooling: windows over vectors of channels."""

from __future__ import annotations

import json
from math import prod
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import window
from schedules.cpu.compute.canonical import geometry_of, pooling
from schedules.space import Choice, Decision, Space
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "window"
MAX_ACCUMULATORS = 14
_WIDENED_CYCLES, _REQUANTIZE_CYCLES = 1.5, 8.0
STRIPS = (1, 2, 4, 7, 8, 14, 16)


class Windows:
    """A few neighbouring outputs of a few vectors of channels together."""

    operators = frozenset({"depthwise_conv2d", "pool2d"})
    algorithms = frozenset({ALGORITHM})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`."""
        _, height, width, channels = (v if isinstance(v, int) else 1 for v in workload.output)
        lanes = spec.vector_lanes(workload.dtypes[2])
        while lanes > 4 and channels % lanes:
            lanes //= 2
        vectors = next(v for v in (4, 3, 2, 1) if channels % (v * lanes) == 0 or v == 1)
        budget = max(1, min(MAX_ACCUMULATORS, spec.vector_registers - 4))
        outputs = _best_divisor(width, max(1, budget // vectors))
        padded = _needs_padding(workload)
        strip = _best_divisor(height, 8) if padded else 1
        tiles = sorted(
            {(v, w)
             for v in range(1, 5) if v == 1 or channels % (v * lanes) == 0
             for w in range(1, min(width, budget // v) + 1) if width % w == 0 or w == 4}
            | {(vectors, outputs)}
        )  # fmt: skip
        strips = sorted({s for s in STRIPS if s <= height} | {strip}) if padded else [1]
        default: Choice = {
            "algorithm": ALGORITHM,
            "tile": [outputs, vectors, lanes],
            "strip": strip,
        }
        decisions = (
            Decision("tile", tuple([w, v, lanes] for v, w in tiles)),
            Decision("strip", tuple(strips)),
        )
        return (Space(ALGORITHM, decisions, default),)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: limited by loads, of which neighbours share some."""
        outputs, vectors, lanes = choice["tile"]
        if workload.operator == "pool2d":
            kh, kw = workload.attributes["kernel"]
        else:
            kh, kw = (int(v) for v in workload.weight[2:])
        stride = int(workload.attributes["strides"][1])
        steps = kh * kw * outputs * vectors
        loads = kh * vectors * ((outputs - 1) * stride + kw) + kh * kw * vectors
        peak = spec.peak_ops_per_cycle.get("float32", 2.0 * lanes)
        per_tile = max(steps / max(0.5, peak / (2 * lanes)), loads / 2) + 2.0
        if workload.dtypes[1:] == ("int8", "int32"):
            # Widening both factors and the requantization count more than the products.
            per_tile = outputs * vectors * (_WIDENED_CYCLES * kh * kw + _REQUANTIZE_CYCLES) + 2.0
        total = prod(v if isinstance(v, int) else 1 for v in workload.output)
        return per_tile * total / (outputs * vectors * lanes)

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, weight: Any = None
    ) -> Any:
        """See `schedules.space.Template`."""
        attrs = {CHOICE: json.dumps(choice, sort_keys=True)}
        if workload.operator == "pool2d":
            return pooling(workload, data, attrs)
        return window.depthwise_conv2d(
            data, weight, geometry_of(workload), workload.dtypes[2], attrs,
            workload.attributes.get("pad_value", 0),
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        channels, _, kh, kw = workload.weight
        shape = (kh, kw, channels)
        return ((shape, workload.dtypes[1]),)

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`."""
        return (window.pack_depthwise(weight[0]),)


def _needs_padding(workload: Workload) -> bool:
    """Whether the definition has a padding stage: windows reach over an edge."""
    a = workload.attributes
    if any(a["padding"]):
        return True
    kernel = a["kernel"] if workload.operator == "pool2d" else workload.weight[2:]
    return any(
        (int(out) - 1) * stride + (int(k) - 1) * dilation + 1 > int(size)
        for out, stride, k, dilation, size in zip(
            workload.output[1:3], a["strides"], kernel, a["dilation"], workload.data[1:3],
            strict=True,
        )
    )  # fmt: skip


def _best_divisor(value: int, limit: int) -> int:
    """The divisor of `value` up to `limit`, or `limit` itself where divisors are too small."""
    best = max(d for d in range(1, max(1, min(value, limit)) + 1) if value % d == 0)
    return best if best * 2 > min(value, limit) else min(value, limit)
