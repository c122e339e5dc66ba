"""What LLVM's models of processors have wrong, mended before they are asked.

llvm-mca takes no figures but its own. What can be changed is the code that it is asked about: an
instruction that it takes for slower, or for faster, than the processor does is replaced by one with
about the same operands that it has right. Each fault was measured, and is again by
``python -m tools.estimate_validation instructions`` (docs/benchmarks/estimate-validation-*.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mend:
    """An instruction that a model has wrong.

    Attributes:
        fault: What the processor does otherwise.
        pattern: The instruction as `llvm-mc` prints it, without its tab and remarks.
        instead: What the model is asked about; groups of the pattern as in `re.sub`.
    """

    fault: str
    pattern: str
    instead: str


_MEMORY = r"(-?\w*\([^)]*\))"
_WIDE, _HALF = r"(%[xy]mm\d+)", r"%[xy](mm\d+)"

#: Measured on an EPYC of the fourth generation; LLVM 19's model.
_ZEN_4 = (
    Mend(
        "a load that broadcasts needs no vector unit",
        rf"v(?:p?broadcast(?:ss|d|sd|q)) {_MEMORY}, {_WIDE}",
        r"vmovups \1, \2",
    ),
    Mend(
        "a load that widens goes through one of two shuffle units once, not thrice",
        rf"vpmov[sz]x\w\w {_MEMORY}, {_WIDE}",
        r"vbroadcastss \1, \2",
    ),
    Mend(
        "vectors are stored beside two loads: they do not share the loads' ways in",
        rf"v?mov(?:[ua]p[sd]|dq[ua]|ntps|[dq]|ss|sd) %[xy]mm\d+, {_MEMORY}",
        r"movq %rsp, \1",
    ),
    Mend(
        "the larger and the smaller are found by the adders, not by the multipliers",
        r"v(?:max|min)p([sd]) (.*)",
        r"vaddp\1 \2",
    ),
    Mend(
        "packing takes one of two units for one cycle, not for two",
        rf"vpack[su]s\w\w {_WIDE}, {_WIDE}, {_WIDE}",
        r"vpunpckldq \1, \2, \3",
    ),
    Mend(
        "taking the upper half takes one of two units for one cycle, not for two",
        rf"vextract[if]128 (\$\w+), {_HALF}, {_HALF}",
        r"vpshufd \1, %x\2, %x\3",
    ),
    Mend(
        "permuting halves takes one of two units for one cycle, not for two",
        rf"vperm(?:q|pd) (\$\w+), {_WIDE}, {_WIDE}",
        r"vpshufd \1, \2, \3",
    ),
)
_COMPILED: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {}
#: By LLVM's name of the processor.
MENDS: Mapping[str, tuple[Mend, ...]] = {"znver4": _ZEN_4}


def mended(lines: Sequence[str], processor: str) -> list[str]:
    """Instructions as a processor's model is to be asked about them.

    Args:
        lines: As `llvm-mc` prints them.
        processor: LLVM's name.
    """
    if processor not in MENDS:
        return list(lines)
    if processor not in _COMPILED:
        _COMPILED[processor] = tuple(
            (re.compile(mend.pattern.replace(" ", r"\s+", 1)), mend.instead)
            for mend in MENDS[processor]
        )
    return [_mended(line, _COMPILED[processor]) for line in lines]


def _mended(line: str, mends: Sequence[tuple[re.Pattern[str], str]]) -> str:
    words = line.partition("#")[0].strip()
    for pattern, instead in mends:
        found = pattern.fullmatch(words)
        if found:
            return "\t" + found.expand(instead)
    return line


__all__ = ["MENDS", "Mend", "mended"]
