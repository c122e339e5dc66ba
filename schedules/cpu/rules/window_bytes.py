"""Depthwise convolutions of bytes on NEON."""

from __future__ import annotations

import json
from math import gcd
from typing import Any

from schedules.cpu.compute import window_bytes
from schedules.cpu.compute.neon_integers import BYTES
from schedules.cpu.compute.packed import ConvGeometry
from schedules.cpu.microkernels.base import every, number, ramp
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    annotation,
    check_covered,
    choice_of,
    extent,
    find_kernel,
    inline_between,
    outputs,
    pad_rows,
    parallelize,
    replace_body,
    same_block,
    stages_with_role,
    store_lanes,
)
from schedules.cpu.rules.starts import LANES, fill, take_bias
from schedules.tvm_adapter import Schedule, tirx
from targets.spec import TargetSpec


class WindowBytes:
    """A tile of outputs of 16 channels at a time, written as vector statements.

    The loops become ``strips > blocks of channels and rows > tiles``; the data become signed,
    with their borders, strip by strip, and what is fused runs on each tile in registers.
    """

    name = "window-bytes"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, frozenset({window_bytes.KIND}))
        choice = choice_of(sch, heart)
        rows, columns = choice["tile"]
        pads = stages_with_role(sch, "pad")
        quads, begun = stages_with_role(sch, "quads"), stages_with_role(sch, "start")
        inline_between(sch, [heart, *pads, *quads, *begun])
        consumers = [b for b in outputs(sch) if not same_block(sch, b, heart)]
        for consumer in consumers:
            check_covered(sch, heart, consumer)
        if begun:
            first = sch.get(begun[0]).reads[0].source
            bias = take_bias(sch, heart, consumers)

            def vector(block: Any, at: int) -> Any:
                return tirx.BufferLoad(first, [ramp(block * BYTES + at, LANES)])

            fill(sch, begun[0], bias, BYTES, rows * columns, vector)
        if not consumers:
            consumers = [sch.cache_write(heart, 0, "global")]
        n, h, w, c, _, _ = sch.get_loops(heart)
        # In two steps: a strip that hangs over leaves the rows of a tile alone.
        upper, hi = sch.split(h, [None, rows])
        ho, hm = sch.split(upper, [None, choice["strip"]])
        wo, wi = sch.split(w, [None, columns])
        co, ci = sch.split(c, [None, BYTES])
        outer = {"blocks": [co, hm, wo], "rows": [hm, co, wo], "channels": [hm, wo, co]}[
            choice["order"]
        ]
        sch.reorder(n, ho, *outer, hi, wi, ci)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, outer[-1])
            # A loop of one iteration is not there.
            *places, channels = sch.get_loops(consumer)[2 + len(outer) :]
            size = extent(sch, channels)
            if size is None:
                raise NotApplicableError("the epilogue has a symbolic number of channels")
            width = store_lanes(sch, consumer, spec, BYTES, 4)
            if size > width:
                several, channels = sch.split(channels, [None, width])
                sch.unroll(several)
            sch.vectorize(channels)
            for loop in places:
                sch.unroll(loop)
            if int(sch.get(consumer).writes[0].source.shape[-1]) % BYTES:
                sch.annotate(co, "pragma_loop_partition_hint", 1)
        for pad in pads:
            sch.compute_at(pad, ho)
            node = sch.get(pad)
            widths = [int(r.source.shape[-1]) for r in (*node.reads, *node.writes)]
            pad_rows(sch, sch.get_loops(pad), gcd(*widths, BYTES))
        for stage in quads:
            padding = json.loads(str(annotation(sch, stage, window_bytes.PADDING)))
            sch.compute_at(stage, ho, preserve_unit_loops=True)
            _interleave(sch, sch.blockize(sch.get_loops(stage)[2]), tuple(padding))
        parallelize(sch, [n, ho])
        _replace(sch, sch.blockize(hi), choice)
        how = "places by twos" if choice["multiply"] == "smull" else "rows by fours"
        return Applied("depthwise_conv2d", f"{rows}x{columns} outputs x {BYTES}, {how}")


def _replace(sch: Schedule, heart: Any, choice: dict[str, Any]) -> None:
    """Put vector statements in the place of the heart's loops."""
    block = sch.get(heart)
    write = block.writes[0]
    rows, columns = choice["tile"]
    by_rank = {len(r.source.shape): r for r in block.reads}
    quads = choice["multiply"] == "quads"
    data = by_rank.pop(6 if quads else 4)
    plain, begun = by_rank.pop(1, None), by_rank.pop(2, None)
    (weights,) = by_rank.values()
    registers = tirx.decl_buffer([rows * columns * BYTES], "int32", "registers")
    geometry = ConvGeometry(tuple(choice["strides"]), (0, 0, 0, 0), tuple(choice["dilation"]))

    def starts(region: Any) -> tuple[Any, ...]:
        return tuple(r.min for r in region.region)

    def first(place: int, part: int) -> Any:
        if begun is not None:
            at = ramp(number(place * BYTES + part * LANES), LANES)
            return tirx.BufferLoad(begun.source, [begun.region[0].min, at])
        if plain is not None:
            at = ramp(weights.region[0].min * BYTES + part * LANES, LANES)
            return tirx.BufferLoad(plain.source, [at])
        return every("int32", 0, LANES)

    n, y, *_ = starts(data)
    x, channel = (data.region[3].min, data.region[4].min) if quads else starts(data)[2:]
    body = window_bytes.statements(
        data.source, weights.source, first, write.source,
        ((n, y, x, channel), starts(write), weights.region[0].min),
        kernel=tuple(choice["kernel"]), geometry=geometry, tile=(rows, columns),
        registers=registers, dots=choice["multiply"] != "smull", quads=quads,
    )  # fmt: skip
    replace_body(sch, heart, body, [registers])


def _interleave(sch: Schedule, stage: Any, padding: tuple[int, int, int, int]) -> None:
    """Put vector statements in the place of the loops that interleave rows of a tile."""
    block = sch.get(stage)
    read, write = block.reads[0], block.writes[0]
    at = (write.region[0].min, write.region[1].min)
    body = window_bytes.quad_statements(read.source, write.source, at, padding)
    replace_body(sch, stage, body)
