"""Winograd's convolutions: strips of tiles, each transformed, multiplied and transformed back."""

from __future__ import annotations

from typing import Any

from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    choice_of,
    extent,
    find_kernel,
    inline_between,
    outputs,
    pad_rows,
    parallelize,
    stages_with_role,
    vectorize_inner,
)
from schedules.tvm_adapter import Schedule
from targets.spec import TargetSpec


class WinogradStrips:
    """All steps for one strip of tiles before the next, so that its buffers stay in the cache."""

    name = "winograd"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, frozenset({"winograd"}))
        choice = choice_of(sch, heart)
        strip = choice["strip"]
        _, rows, vectors, lanes = choice["tile"]
        transforms = stages_with_role(sch, "transform")
        into, across, back = transforms
        pads = stages_with_role(sch, "pad")
        inline_between(sch, [heart, *pads, *transforms])
        consumers = outputs(sch)
        if len(consumers) != 1:
            raise NotApplicableError("the epilogue has several outputs")
        consumer = consumers[0]
        loops = sch.get_loops(consumer)
        if len(loops) != 4:
            raise NotApplicableError("the epilogue changes the number of dimensions")
        m = len(sch.get(back).writes[0].region) and _m(sch, back)
        n, h, w, o = loops
        lanes_out = _lanes(extent(sch, o), spec)
        strips, th, hm = sch.split(h, [None, strip, m])
        tw, wm = sch.split(w, [None, m])
        ov, ol = sch.split(o, [None, lanes_out])
        sch.reorder(n, strips, th, tw, ov, hm, wm, ol)
        sch.compute_at(back, ov, preserve_unit_loops=True)
        *_, i, j, lane = sch.get_loops(back)
        sch.vectorize(lane)
        sch.unroll(i)
        sch.unroll(j)
        sch.unroll(hm)
        sch.unroll(wm)
        sch.vectorize(ol)

        sch.compute_at(heart, strips, preserve_unit_loops=True)
        *_, i, j, _, th, tw, o, k = sch.get_loops(heart)
        row = sch.fuse(th, tw)
        ro, ri = sch.split(row, [None, rows])
        co, cv, ci = sch.split(o, [None, vectors, lanes])
        sch.reorder(i, j, co, ro, k, ri, cv, ci)
        first = k
        if choice["unroll"] > 1 and (extent(sch, k) or 0) % choice["unroll"] == 0:
            first, unrolled = sch.split(k, [None, choice["unroll"]])
            sch.unroll(unrolled)
        sch.unroll(ri)
        sch.unroll(cv)
        sch.vectorize(ci)
        accumulators = sch.cache_write(heart, 0, "global")
        sch.reverse_compute_at(accumulators, ro, preserve_unit_loops=True)
        *tile, column = sch.get_loops(accumulators)[-4:]
        vectorize_inner(sch, column, lanes)
        for loop in tile:
            sch.unroll(loop)

        sch.compute_at(across, strips, preserve_unit_loops=True)
        *_, i, j, _, th, tw, c = sch.get_loops(across)
        channels = extent(sch, c) or 1
        width = _lanes(channels, spec)
        cv, ci = sch.split(c, [None, width])
        sch.reorder(th, tw, cv, i, j, ci)
        sch.compute_at(into, cv, preserve_unit_loops=True)
        for loop in (i, j):
            sch.unroll(loop)
        sch.vectorize(ci)
        *_, i, j, ci = sch.get_loops(into)
        sch.unroll(i)
        sch.unroll(j)
        sch.vectorize(ci)
        for pad in pads:
            pad_loops = sch.get_loops(pad)
            parallelize(sch, pad_loops[:2])
            pad_rows(sch, pad_loops, spec.vector_lanes("float32"))
        parallelize(sch, [n, strips])
        sch.decompose_reduction(heart, first)
        return Applied(
            "conv2d", f"{choice['algorithm']}, strips of {strip}, {rows} rows, {vectors}x{lanes}"
        )


def _m(sch: Schedule, back: Any) -> int:
    """Outputs of a tile along one axis: an extent of the transform back."""
    return int(sch.get(back).writes[0].source.shape[3])


def _lanes(channels: int | None, spec: TargetSpec) -> int:
    lanes = spec.vector_lanes("float32")
    while lanes > 1 and (channels or 1) % lanes:
        lanes //= 2
    return lanes
