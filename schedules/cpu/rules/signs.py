"""Packing of signs: a word at a time, with functions of our own."""

from __future__ import annotations

from schedules.cpu.annotations import LIBRARY
from schedules.cpu.rules.base import Applied, annotation, extent, find_kernel
from schedules.tvm_adapter import Schedule
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
