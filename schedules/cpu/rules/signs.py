"""Packing of signs, a word at a time, and products of signs by tables in registers."""

from __future__ import annotations

from schedules.cpu.annotations import LIBRARY
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
    same_block,
    stages_with_role,
    store_tile,
)
from schedules.tvm_adapter import Schedule, tirx
from targets.spec import TargetSpec

KINDS = frozenset({"sign"})
#: Words of a pixel that are written out one after the other.
UNROLLED = 16


class PackedSigns:
    """One comparison a word, words of a pixel side by side, pixels in parallel."""

    name = "packed-signs"
    builds_choices = False

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, KINDS)
        *outer, words = sch.get_loops(heart)
        if outer:
            pixels = sch.fuse(*outer)
        else:
            pixels, words = sch.split(words, [1, None])
        sch.parallel(pixels)
        sch.annotate(pixels, "pragma_import_llvm", annotation(sch, heart, LIBRARY))
        if (extent(sch, words) or UNROLLED + 1) <= UNROLLED:
            sch.unroll(words)
        return Applied("sign", "32 signs in a word")


class SignTables:
    """A tile of counts in bytes over a part of the reduction, added up in int32."""

    name = "sign-tables"
    builds_choices = True

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, frozenset({"signs"}))
        choice = choice_of(sch, heart)
        _, row_inner, vectors, lanes = choice["tile"]
        (partial,) = stages_with_role(sch, "partial")
        pads = stages_with_role(sch, "pad")
        inline_between(sch, [heart, partial, *pads])
        consumers = [b for b in outputs(sch) if not same_block(sch, b, heart)]
        for consumer in consumers:
            check_covered(sch, heart, consumer)
        if not consumers:
            raise NotApplicableError("nothing stands behind the counts")
        node = sch.get(heart)
        count = sum(v.iter_type == tirx.IterVar.DataPar for v in node.iter_vars)
        loops = sch.get_loops(heart)
        *lead, rows, columns = loops[:count]
        reduction = loops[count:]
        wide = min(spec.vector_lanes("int32"), lanes)
        co, cv, ci = sch.split(columns, [None, vectors * lanes // wide, wide])
        ro, ri = sch.split(rows, [None, row_inner])
        tiles = [co, *lead, ro] if choice["order"] == "columns" else [*lead, co, ro]
        sch.reorder(*tiles, *reduction, ri, cv, ci)
        for pad in pads:
            stage_loops = sch.get_loops(pad)
            parallelize(sch, stage_loops[:2])
            pad_rows(sch, stage_loops, wide)
        sch.compute_at(partial, reduction[-1], preserve_unit_loops=True)
        within = sch.get_loops(partial)[len(tiles) + len(reduction) :]
        *places, word, byte = within
        position = count - 1
        column, column_inner = sch.split(places[position], [vectors, lanes])
        others = [loop for i, loop in enumerate(places) if i != position]
        sch.reorder(word, byte, *others, column, column_inner)
        for consumer in consumers:
            sch.reverse_compute_at(consumer, tiles[-1])
            tile_loops = sch.get_loops(consumer)[len(tiles) :]
            if tile_loops:
                store_tile(sch, tile_loops[:-1], tile_loops[-1], wide)
        sch.vectorize(ci)
        sch.vectorize(column_inner)
        for loop in (byte, *others, column, ri, cv):
            sch.unroll(loop)
        parallelize(sch, tiles)
        sch.annotate(tiles[0], "pragma_import_llvm", annotation(sch, heart, LIBRARY))
        sch.decompose_reduction(heart, reduction[0])
        sch.decompose_reduction(partial, word)
        kind = str(node.name_hint).removeprefix("binary_")
        return Applied(kind, f"tile {row_inner} rows, {vectors}x{lanes} bytes, tables")
