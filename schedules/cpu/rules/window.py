"""Depthwise convolutions and pooling: vectors of channels, windows unrolled."""

from __future__ import annotations

from schedules.cpu.annotations import KERNEL
from schedules.cpu.rules.base import (
    Applied,
    annotation,
    check_covered,
    choice_of,
    extent,
    find_kernel,
    inline_between,
    outputs,
    pad_rows,
    parallelize,
    same_block,
    stages_with_role,
)
from schedules.tvm_adapter import Schedule
from targets.spec import TargetSpec

KINDS = frozenset({"depthwise_conv2d", "pool2d"})
MAX_UNROLLED_WINDOW = 9


class ChannelWindow:
    """Compute a few neighbouring outputs of a few vectors of channels together.

    Padding is done strip by strip, just before the rows that need it, so that it stays in
    the first caches; the overlap of neighbouring windows is loaded once.
    """

    name = "channel-window"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, KINDS)
        kind = str(annotation(sch, heart, KERNEL))
        pads = stages_with_role(sch, "pad")
        inline_between(sch, [heart, *pads])
        consumers = [b for b in outputs(sch) if not same_block(sch, b, heart)]
        for consumer in consumers:
            check_covered(sch, heart, consumer)
        if not consumers:
            consumers = [sch.cache_write(heart, 0, "global")]
        n, h, w, c, kh, kw = sch.get_loops(heart)
        channels = extent(sch, c) or 1
        choice = choice_of(sch, heart)
        tile_w, vectors, lanes = choice["tile"]
        tile_h = choice["strip"]

        ho, hi = sch.split(h, [None, tile_h])
        wo, wi = sch.split(w, [None, tile_w])
        cut = channels % (vectors * lanes) != 0
        co, cv, ci = sch.split(c, [None, vectors, lanes])
        sch.reorder(n, ho, hi, co, wo, kh, kw, wi, cv, ci)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, wo)
            *_, rows, columns = sch.get_loops(consumer)
            if (extent(sch, columns) or 0) > lanes:
                upper, columns = sch.split(columns, [None, lanes])
                sch.unroll(upper)
            sch.vectorize(columns)
            sch.unroll(rows)
        if cut:
            sch.annotate(co, "pragma_loop_partition_hint", 1)
        for pad in pads:
            sch.compute_at(pad, ho)
            pad_rows(sch, sch.get_loops(pad), lanes)
        parallelize(sch, [n, ho])
        sch.vectorize(ci)
        sch.unroll(cv)
        sch.unroll(wi)
        window = (extent(sch, kh) or 99) * (extent(sch, kw) or 99)
        if window <= MAX_UNROLLED_WINDOW * 3:
            sch.unroll(kw)
            if window <= MAX_UNROLLED_WINDOW:
                sch.unroll(kh)
        sch.decompose_reduction(heart, kh)
        return Applied(
            "pool" if kind == "pool2d" else kind, f"{tile_w} outputs x {vectors}x{lanes}"
        )
