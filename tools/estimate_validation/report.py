"""Statistics of the validation, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.counting import Block
from compiler.estimate.measurer import estimate_blocks
from compiler.lower.tasks import Task
from targets.spec import TargetSpec


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; equal values share a rank."""
    ranks = [_ranks(values) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, float)
    order = np.sort(array)
    return (np.searchsorted(order, array, "left") + np.searchsorted(order, array, "right")) / 2


def write_report(
    work: Path,
    processor: TargetSpec,
    out: Path | None,
    *,
    read_blocks: Callable[[Path], list[Block]],
) -> None:
    """Estimate every candidate, compare with what was measured, print and write."""
    costs = BlockCosts(cost_model(processor))
    tasks = []
    for number, (kind, text) in enumerate(json.loads((work / "tasks.json").read_text())):
        folder = work / f"task-{number:02}"
        if not (folder / "truth.json").exists():
            continue
        rows = json.loads((folder / "rows.json").read_text())
        measured = json.loads((folder / "truth.json").read_text())
        found = [
            estimate_blocks(read_blocks(folder / f"{row['number']:02}.json"), costs, processor)
            for row in rows
        ]
        tasks.append(_compare(kind, Task.from_json(text), rows, measured, found, processor))
    for task in tasks:
        print(
            f"{task['kind']:10} {task['workload'][:52]:52} {task['choices']:3} "
            f"rho {task['spearman']['estimate']:.3f} core {task['spearman']['core']:.3f} "
            f"instr {task['spearman']['instructions']:.3f} "
            f"analytic {task['spearman']['analytic']:.3f} "
            f"pick {task['pick_slowdown']['estimate']:.2f} ratio {task['ratio']:.2f} "
            f"spread {task['spread']:.1f}"
        )


def _compare(
    kind: str,
    task: Task,
    rows: Sequence[dict[str, Any]],
    measured: Sequence[float],
    found: Sequence[Any],
    processor: TargetSpec,
) -> dict[str, Any]:
    cycles = [ns * 1e-9 * processor.clock_hz for ns in measured]
    predictors = {
        "estimate": [e.cycles for e in found],
        "core": [e.core_cycles for e in found],
        "instructions": [float(e.instructions) for e in found],
        "analytic": [row["analytic"] for row in rows],
    }
    best = min(cycles)
    return {
        "kind": kind,
        "workload": str(task.workload),
        "choices": len(rows),
        "spearman": {name: spearman(v, cycles) for name, v in predictors.items()},
        "pick_slowdown": {name: cycles[int(np.argmin(v))] / best for name, v in predictors.items()},
        "ratio": float(
            np.median([e / t for e, t in zip(predictors["estimate"], cycles, strict=True)])
        ),
        "spread": max(cycles) / best,
        "candidates": [
            {
                "choice": row["choice"],
                "measured_ns": ns,
                "measured_cycles": c,
                "instructions": e.instructions,
                "core_cycles": e.core_cycles,
                "stall_cycles": e.stall_cycles,
                "misses": list(e.traffic.misses),
                "ahead": list(e.traffic.ahead),
            }
            for row, ns, c, e in zip(rows, measured, cycles, found, strict=True)
        ],
    }
