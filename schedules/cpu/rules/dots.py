"""Depthwise convolutions of bytes by four-byte dot products."""

from __future__ import annotations

from math import gcd
from typing import Any

from schedules.cpu.compute import dots
from schedules.cpu.compute.integers import PACKED_LANES
from schedules.cpu.compute.packed import ConvGeometry
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    check_covered,
    choice_of,
    extent,
    find_kernel,
    inline_between,
    output_dtype,
    outputs,
    pad_rows,
    parallelize,
    replace_body,
    same_block,
    stages_with_role,
)
from schedules.tvm_adapter import Schedule, tirx
from targets.spec import TargetSpec

KINDS = frozenset({"depthwise_dots"})


class WindowDots:
    """A row of outputs of a block of channels at a time, written as vector statements.

    The loops become ``strips > blocks of channels and rows > tiles``; the data are padded strip
    by strip, and bias, requantization and what else is fused run on each tile in registers.
    """

    name = "window-dots"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, KINDS)
        choice = choice_of(sch, heart)
        columns, lanes = choice["tile"]
        pads = stages_with_role(sch, "pad")
        inline_between(sch, [heart, *pads])
        consumers = [b for b in outputs(sch) if not same_block(sch, b, heart)]
        for consumer in consumers:
            check_covered(sch, heart, consumer)
        if not consumers:
            consumers = [sch.cache_write(heart, 0, "global")]
        n, h, w, c, _, _ = sch.get_loops(heart)
        block = 4 * lanes
        ho, hi = sch.split(h, [None, choice["strip"]])
        wo, wi = sch.split(w, [None, columns])
        co, ci = sch.split(c, [None, block])
        outer = [co, hi] if choice["order"] == "blocks" else [hi, co]
        sch.reorder(n, ho, *outer, wo, wi, ci)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, wo)
            *_, rows, inner = sch.get_loops(consumer)
            _write_tile(sch, consumer, rows, inner)
            if int(sch.get(consumer).writes[0].source.shape[-1]) % block:
                sch.annotate(co, "pragma_loop_partition_hint", 1)
        for pad in pads:
            sch.compute_at(pad, ho)
            node = sch.get(pad)
            channels = [int(r.source.shape[-1]) for r in (*node.reads, *node.writes)]
            pad_rows(sch, sch.get_loops(pad), gcd(*channels, spec.vector_lanes("uint8")))
        parallelize(sch, [n, ho])
        _replace(sch, sch.blockize(wi), choice)
        return Applied("depthwise_conv2d", f"{columns} outputs x 4x{lanes}, rows by fours")


def _write_tile(sch: Schedule, block: Any, rows: Any, columns: Any) -> None:
    """Vectors of the epilogue: sums are in registers of 16 lanes."""
    size = extent(sch, columns)
    if size is None:
        raise NotApplicableError("the epilogue has a symbolic number of channels")
    channels = int(sch.get(block).writes[0].source.shape[-1])
    narrow = output_dtype(sch, block) in ("uint8", "int8")
    lanes = PACKED_LANES if narrow and channels % PACKED_LANES == 0 else 16
    if size > lanes:
        upper, columns = sch.split(columns, [None, lanes])
        sch.unroll(upper)
    sch.vectorize(columns)
    sch.unroll(rows)


def _replace(sch: Schedule, heart: Any, choice: dict[str, Any]) -> None:
    """Put vector statements in the place of the heart's loops."""
    block = sch.get(heart)
    columns, lanes = choice["tile"]
    write = block.writes[0]
    data, weight = block.reads
    registers = tirx.decl_buffer([columns * 4 * lanes], "int32", "registers")
    kh, kw = choice["kernel"]
    geometry = ConvGeometry(tuple(choice["strides"]), (0, 0, 0, 0), tuple(choice["dilation"]))

    def starts(region: Any) -> tuple[Any, ...]:
        return tuple(r.min for r in region.region)

    body = dots.statements(
        data.source, weight.source, write.source, (starts(data), starts(weight), starts(write)),
        kernel=(kh, kw), geometry=geometry, columns=columns, lanes=lanes, registers=registers,
    )  # fmt: skip
    replace_body(sch, heart, body, [registers])
