"""Shares of the formula from what was measured, and how well they do elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt

from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.memory import Traffic, lines_of, memory_line_cycles
from compiler.lower.tasks import Task
from targets.spec import TargetSpec
from tools.estimate_validation.kept import read_rows
from tools.estimate_validation.report import spearman

#: What is fitted, as `compiler.estimate.memory` has it: shares, and cycles a line.
NAMES = ("core", "bound", "read from L2", "read from L3", "written, from L2 or L3", "memory, share")

_PASSES = 5000

Array = npt.NDArray[np.float64]


def fit_shares(work: Path, processor: TargetSpec) -> None:
    """Fit all shares but those of misses that no prefetcher foresees, and print them.

    Squares of relative errors are least, shares not negative. *Elsewhere*: each task by shares
    fitted to all others.
    """
    costs = BlockCosts(cost_model(processor))
    rows, truth, tasks, names = [], [], [], []
    for number, (kind, text) in enumerate(json.loads((work / "tasks.json").read_text())):
        folder = work / f"task-{number:02}"
        if not (folder / "truth.json").exists():
            continue
        runs = np.asarray(json.loads((folder / "truth.json").read_text()), float)
        names.append(f"{kind}: {str(Task.from_json(text).workload)[:48]}")
        for row, ns in zip(
            json.loads((folder / "rows.json").read_text()), np.median(runs, axis=0), strict=True
        ):
            blocks = read_rows(folder / f"{row['number']:02}.json")
            found = costs.costs(blocks)
            near, far, memory = lines_of(Traffic.of(blocks), processor)
            rows.append([
                sum(cost.cycles for cost in found), sum(cost.bound for cost in found),
                near.read, far.read, near.written + far.written,
                memory_line_cycles(processor) * (memory.read + memory.written),
            ])  # fmt: skip
            truth.append(float(ns) * 1e-9 * processor.clock_hz)
            tasks.append(len(names) - 1)
    parts, cycles, of = np.asarray(rows, float), np.asarray(truth), np.asarray(tasks)
    shares = _fitted(parts, cycles)
    for name, share in zip(NAMES, shares, strict=True):
        print(f"{name:24} {share:7.3f}")
    here, elsewhere = [], []
    for i, name in enumerate(names):
        own = of == i
        others = _fitted(parts[~own], cycles[~own])
        here.append(spearman(list(parts[own] @ shares), list(cycles[own])))
        elsewhere.append(spearman(list(parts[own] @ others), list(cycles[own])))
        ratio = float(np.median(parts[own] @ others / cycles[own]))
        print(f"{name:60} fitted {here[-1]:.2f} elsewhere {elsewhere[-1]:.2f} ratio {ratio:.2f}")
    print(f"mean: fitted {mean(here):.3f} elsewhere {mean(elsewhere):.3f}")
    print(f"0.9 or more elsewhere: {sum(rank >= 0.9 for rank in elsewhere)} of {len(names)}")


def _fitted(parts: Array, cycles: Array) -> Array:
    """Shares, not negative, with the least squares of relative errors: one after the other."""
    shares: Array = np.zeros(parts.shape[1])
    ratios = parts / cycles[:, None]
    squares, wanted = ratios.T @ ratios, ratios.T @ np.ones(len(cycles))
    for _ in range(_PASSES):
        for i in range(len(shares)):
            rest = wanted[i] - squares[i] @ shares + squares[i, i] * shares[i]
            shares[i] = max(0.0, rest / squares[i, i]) if squares[i, i] > 0 else 0.0
    return shares


__all__ = ["NAMES", "fit_shares"]
