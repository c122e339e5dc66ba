"""Winograd's convolutions on NEON: strips of tiles, panels of outputs, blocks in registers."""

from __future__ import annotations

from math import gcd
from typing import Any

from schedules.cpu.compute import winograd_vectors
from schedules.cpu.compute.winograd_tiles import KIND
from schedules.cpu.microkernels.base import Block, Groups, every, ramp, statements
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    check_covered,
    choice_of,
    find_kernel,
    inline_between,
    output_dtype,
    outputs,
    pad_rows,
    parallelize,
    replace_body,
    stages_with_role,
    store_tile,
)
from schedules.cpu.templates.winograd_tiles import kernel_of, tile_outputs
from schedules.tvm_adapter import Schedule, tirx
from targets.spec import TargetSpec

#: Channels whose data are transformed side by side: what 16 bytes hold once they are factors.
FACTORS = {"int16": 8, "float32": 4}


class WinogradTiles:
    """Products of a block for all places, then its outputs, bias, requantization and all.

    The loops become ``strips > panels of outputs > blocks of tiles > places > reduction``. The
    data of a strip are transformed before; products of a block stay in the first cache.
    """

    name = "winograd-tiles"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, frozenset({KIND}))
        choice = choice_of(sch, heart)
        lines, across, vectors, lanes = choice["tile"]
        m = tile_outputs(choice)
        (into,), (back,) = stages_with_role(sch, "transform"), stages_with_role(sch, "back")
        pads = stages_with_role(sch, "pad")
        inline_between(sch, [heart, into, back, *pads])
        consumers = outputs(sch)
        for consumer in consumers:
            check_covered(sch, back, consumer)

        n, h, w, o, i, j = sch.get_loops(back)
        strips, blocks, line, hm = sch.split(h, [None, choice["strip"] // lines, lines, m])
        rests, tile, wm = sch.split(w, [None, across, m])
        panels, vector, lane = sch.split(o, [None, vectors * lanes // 4, 4])
        sch.reorder(n, strips, panels, blocks, rests, line, tile, vector, hm, wm, i, j, lane)

        sch.compute_at(heart, rests, preserve_unit_loops=True)
        *_, line_in, _, _, _ = sch.get_loops(heart)

        sch.compute_at(into, strips, preserve_unit_loops=True)
        *_, i, j, _, th, tw, c, y, x = sch.get_loops(into)
        cv, ci = sch.split(c, [None, FACTORS[output_dtype(sch, into)]])
        sch.reorder(th, tw, cv, i, j, y, x, ci)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, rests)
            tile_loops = sch.get_loops(consumer)[-3:]
            store_tile(sch, tile_loops[:-1], tile_loops[-1], min(8, vectors * lanes))
        if any(int(sch.get(c).writes[0].source.shape[-1]) % (vectors * lanes) for c in consumers):
            sch.annotate(panels, "pragma_loop_partition_hint", 1)
        for pad in pads:
            loops = sch.get_loops(pad)
            parallelize(sch, loops[:2])
            node = sch.get(pad)
            channels = [int(r.source.shape[-1]) for r in (*node.reads, *node.writes)]
            pad_rows(sch, loops, gcd(*channels, spec.vector_lanes(output_dtype(sch, pad))))
        parallelize(sch, [n, strips, panels])
        _replace_transform(sch, sch.blockize(i), m)
        _replace_product(sch, sch.blockize(line_in), choice)
        _replace_back(sch, sch.blockize(hm), m)
        return Applied(
            "conv2d",
            f"{choice['algorithm']}, strips of {choice['strip']}, {lines}x{across} tiles, "
            f"{vectors}x{lanes}",
        )


def _starts(region: Any) -> list[Any]:
    return [r.min for r in region.region]


def _replace_transform(sch: Schedule, block: Any, m: int) -> None:
    node = sch.get(block)
    (read,), (write,) = node.reads, node.writes
    dtype = str(write.source.dtype)
    lanes = FACTORS[dtype]
    n, h, w, c = _starts(read)
    i0, j0, *place, channel = _starts(write)

    def load(y: int, x: int) -> Any:
        value = tirx.BufferLoad(read.source, [n, h + y, w + x, ramp(c, lanes)])
        return value if str(read.source.dtype) == dtype else value.astype(f"{dtype}x{lanes}")

    def store(i: int, j: int, value: Any) -> Any:
        return tirx.BufferStore(write.source, value, [i0 + i, j0 + j, *place, ramp(channel, lanes)])

    replace_body(sch, block, winograd_vectors.transform_data(m, load, store, dtype, lanes))


def _replace_back(sch: Schedule, block: Any, m: int) -> None:
    node = sch.get(block)
    (read,), (write,) = node.reads, node.writes
    dtype = str(write.source.dtype)
    i0, j0, *place, channel = _starts(read)
    n, h, w, o = _starts(write)

    def load(i: int, j: int) -> Any:
        return tirx.BufferLoad(read.source, [i0 + i, j0 + j, *place, ramp(channel, 4)])

    def store(y: int, x: int, value: Any) -> Any:
        return tirx.BufferStore(write.source, value, [n, h + y, w + x, ramp(o, 4)])

    replace_body(sch, block, winograd_vectors.transform_back(m, load, store, dtype, 4))


def _replace_product(sch: Schedule, block: Any, choice: dict[str, Any]) -> None:
    node = sch.get(block)
    factors, packed = node.reads
    if len(packed.source.shape) != 5:
        raise NotApplicableError("the operands are not in the order of the definition")
    (write,) = node.writes
    lines, across, vectors, lanes = choice["tile"]
    kernel = kernel_of(choice)
    i, j, n, th, tw, _ = _starts(factors)
    panel, _, _, _, column = _starts(packed)
    inner = int(packed.source.shape[3])
    out_i, out_j, *_, out_o = _starts(write)
    out_n, out_h, out_w = _starts(write)[2:5]

    def activation(row: int, _: tuple[Any, ...], at: Any, count: int) -> Any:
        place = [i, j, n, th + row // across, tw + row % across, ramp(at, count)]
        return tirx.BufferLoad(factors.source, place)

    def weight(_: tuple[Any, ...], step: Any, first: int, count: int) -> Any:
        return tirx.BufferLoad(packed.source, [panel, i, j, step, ramp(column + first, count)])

    def store(row: int, vector: int, value: Any) -> Any:
        place = [out_i, out_j, out_n, out_h + row // across, out_w + row % across]
        return tirx.BufferStore(write.source, value, [*place, ramp(out_o + vector * lanes, lanes)])

    rows = lines * across
    sums = kernel.sums(rows, vectors)
    accumulator = str(write.source.dtype)
    body = statements(
        kernel,
        Block(
            rows, vectors, (), Groups(inner, 1, kernel.chunk), activation, weight,
            lambda *_: every(accumulator, 0, lanes), store,
        ),
        sums, choice["unroll"],
    )  # fmt: skip
    replace_body(sch, block, body, [sums.buffer])
