"""Cycles that a processor in order takes to let code in, where LLVM has no model of it.

For Cortex-A7, by the peak rates of its target file: 64 bits of integers or of loads a cycle, one
lane of 32 bits of floating point, two scalar instructions, no vector instruction beside another.
These are assumptions, as the file's rates are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: LLVM's names of the processors that this is for.
IN_ORDER = frozenset(("cortex-a7",))
_SCALAR = 0.5
_MOVES = ("vld", "vst", "vpush", "vpop")
_PRODUCTS = ("vmul", "vmla", "vmls", "vfma", "vfms", "vnm", "vfn", "vdiv", "vsqrt")
_LIST = re.compile(r"\{([^}]*)\}")
_HALF, _WHOLE = re.compile(r"\bd\d+"), re.compile(r"\bq\d+")


def issue_cycles(lines: Iterable[str]) -> float:
    """Cycles until all of a piece of code is let in (estimated).

    Args:
        lines: Its instructions as `llvm-mc` prints them.
    """
    return sum(map(_cycles, lines))


def _cycles(line: str) -> float:
    name, _, operands = line.strip().partition("\t")
    if not name.startswith("v"):
        return _SCALAR
    if name.startswith(_MOVES):
        listed = _LIST.search(operands)
        return float(max(1, len(_HALF.findall(listed[1] if listed else ""))))
    whole, half = _WHOLE.search(operands) is not None, _HALF.search(operands) is not None
    if ".f64" in name:
        return 4.0 if name.startswith(_PRODUCTS) else 1.0
    if ".f32" in name:
        return 4.0 if whole else 2.0 if half else 1.0
    return 2.0 if whole else 1.0


__all__ = ["IN_ORDER", "issue_cycles"]
