"""Chains of instructions through memory, which `llvm-mca` does not see.

A register that is spilled in a loop is stored in one place and loaded in another: the load waits
for the store. llvm-mca takes loads and stores for independent, so that a sum that is kept on the
stack seems as fast as one in a register. Only x86, whose 16 vector registers make it common.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Cycles from what is stored until a load of the same place has it (measured: vectors, EPYC of the
#: fourth generation), and those until an instruction has its result.
_FORWARD = 10.0
_LATENCY = (
    (re.compile(r"vf(n?m)(add|sub|addsub)"), 4.0),
    (re.compile(r"v(add|sub|mul|cvt|round)\w*[ps][sd]$"), 3.0),
    (re.compile(r"vp(madd|mul|sad)"), 3.0),
    (re.compile(r"v(max|min)p"), 2.0),
    (re.compile(r"v(p?div|p?sqrt)"), 12.0),
    (re.compile(r"vmov|mov"), 0.0),
)
_SLOT = re.compile(r"-?\w*\(%(?:rsp|rbp)\)")
_REGISTER = re.compile(r"%(?:([xyz]mm\d+)|(\w+))")
_OPERANDS = re.compile(r",\s*(?![^(]*\))")
_RUNS = 6


def carried_cycles(lines: Sequence[str]) -> float:
    """Cycles from one run of code to the next that chains through the stack need at the least.

    Args:
        lines: Instructions as `llvm-mc` prints them, AT&T's way; run over and over.

    Returns:
        0 if nothing is stored on the stack and loaded again.
    """
    steps = [step for step in map(_step, lines) if step is not None]
    stored = {to for _, to, _ in steps if "(" in to}
    if not any(stored & set(sources) for sources, _, _ in steps):
        return 0.0
    ready: dict[str, float] = {}
    ends = []
    for _ in range(_RUNS):
        for sources, to, latency in steps:
            start = max((ready.get(name, 0.0) for name in sources), default=0.0)
            ready[to] = start + (_FORWARD if "(" in to else latency)
        ends.append(max(ready.values()))
    # The first runs have chains of their own; a longest one goes on from run to run.
    return max(0.0, (ends[-1] - ends[1]) / (_RUNS - 2))


def _step(line: str) -> tuple[tuple[str, ...], str, float] | None:
    """What a vector instruction reads, what it writes, and after how many cycles."""
    name, _, rest = line.partition("#")[0].strip().partition("\t")
    operands = [operand.strip() for operand in _OPERANDS.split(rest)] if rest else []
    if not name.startswith("v") or not operands:
        return None
    *sources, to = operands
    if name.startswith("vf"):
        sources.append(to)  # what is added to
    if name.startswith(("vxor", "vpxor")) and len(set(sources)) == 1:
        sources = []
    target = _name(to)
    if target is None:
        return None
    latency = next((cycles for pattern, cycles in _LATENCY if pattern.match(name)), 1.0)
    read = tuple(found for operand in sources if (found := _name(operand)) is not None)
    return read, target, latency


def _name(operand: str) -> str | None:
    """A vector register's number, or a place on the stack; None for anything else."""
    if _SLOT.fullmatch(operand):
        return operand
    found = _REGISTER.fullmatch(operand)
    return found[1][1:] if found and found[1] else None


__all__ = ["carried_cycles"]
