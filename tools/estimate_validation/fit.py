"""Shares of the formula from what was measured, and how well they do elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compiler.estimate.costs import Cost
from compiler.estimate.counting import Block
from compiler.estimate.memory import Traffic, lines_of, memory_line_cycles
from targets.spec import TargetSpec

#: What is fitted, as `compiler.estimate.memory` has it: shares, and cycles a line.
NAMES = ("core", "bound", "read from L2", "read from L3", "written, from L2 or L3", "memory, share")

_PASSES = 5000

Array = npt.NDArray[np.float64]


def parts_of(blocks: Sequence[Block], found: Sequence[Cost], processor: TargetSpec) -> list[float]:
    """What the shares are of, in the order of `NAMES`.

    Args:
        blocks: What ran, with misses of three simulated caches.
        found: What it takes.
        processor: Whose caches were simulated.
    """
    near, far, memory = lines_of(Traffic.of(blocks), processor)
    return [
        sum(cost.cycles for cost in found), sum(cost.bound for cost in found),
        near.read, far.read, near.written + far.written,
        memory_line_cycles(processor) * (memory.read + memory.written),
    ]  # fmt: skip


def elsewhere(
    parts: Sequence[Sequence[Sequence[float]]], cycles: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Cycles of each task's candidates by shares that were fitted to all other tasks.

    Args:
        parts: Of each task's candidates, as `parts_of` gives them.
        cycles: That were measured.
    """
    result = []
    for i in range(len(parts)):
        others = [k for k in range(len(parts)) if k != i]
        shares = fitted(
            np.concatenate([np.asarray(parts[k], float) for k in others]),
            np.concatenate([np.asarray(cycles[k], float) for k in others]),
        )
        result.append([float(v) for v in np.asarray(parts[i], float) @ shares])
    return result


def fitted(parts: Array, cycles: Array) -> Array:
    """Shares, not negative, with the least squares of relative errors: one after the other."""
    shares: Array = np.zeros(parts.shape[1])
    ratios = parts / cycles[:, None]
    squares, wanted = ratios.T @ ratios, ratios.T @ np.ones(len(cycles))
    for _ in range(_PASSES):
        for i in range(len(shares)):
            rest = wanted[i] - squares[i] @ shares + squares[i, i] * shares[i]
            shares[i] = max(0.0, rest / squares[i, i]) if squares[i, i] > 0 else 0.0
    return shares


__all__ = ["NAMES", "elsewhere", "fitted", "parts_of"]
