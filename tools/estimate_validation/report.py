"""Statistics of the validation, and its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.measurer import KernelEstimate, estimate_blocks
from compiler.estimate.memory import REVISION
from compiler.lower.tasks import Task
from targets import cpu_name
from targets.spec import TargetSpec
from tools.bench.machine import slug
from tools.estimate_validation import networks
from tools.estimate_validation.kept import read_rows
from tools.estimate_validation.page import PREDICTORS, page


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; equal values share a rank."""
    first, second = _ranks(one), _ranks(other)
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, float)
    order = np.sort(array)
    left, right = np.searchsorted(order, array, "left"), np.searchsorted(order, array, "right")
    ranks: npt.NDArray[np.float64] = (left + right) / 2.0
    return ranks


def write_report(
    work: Path,
    processor: TargetSpec,
    target: str,
    out: Path | None,
) -> None:
    """Estimate every candidate, compare with what was measured, print and write."""
    costs = BlockCosts(cost_model(processor))
    tasks = []
    for number, (kind, text) in enumerate(json.loads((work / "tasks.json").read_text())):
        folder = work / f"task-{number:02}"
        if not (folder / "truth.json").exists():
            continue
        rows = json.loads((folder / "rows.json").read_text())
        runs = json.loads((folder / "truth.json").read_text())
        found = [
            estimate_blocks(read_rows(folder / f"{row['number']:02}.json"), costs, processor)
            for row in rows
        ]
        tasks.append(_compare(kind, Task.from_json(text), rows, runs, found, processor))
        _print(tasks[-1])
    timed = (work / "networks" / "measured.json").exists()
    data = {
        "cpu": cpu_name(),
        "target": target,
        "model": str(costs.model),
        "revision": REVISION,
        "clock_hz": processor.clock_hz,
        "tasks": tasks,
        "networks": networks.compare(work / "networks", processor) if timed else [],
    }
    if out is not None:
        name = f"estimate-validation-{slug(str(data['cpu']))}"
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(data) + "\n")
        own = out / f"{name}.notes.md"  # written by hand, of these figures
        notes = own.read_text(encoding="utf-8") if own.exists() else ""
        (out / f"{name}.md").write_text(page(data, notes), encoding="utf-8")
        print(f"wrote {out / name}.md")


def _compare(
    kind: str,
    task: Task,
    rows: Sequence[dict[str, Any]],
    runs: Sequence[Sequence[float]],
    found: Sequence[KernelEstimate],
    processor: TargetSpec,
) -> dict[str, Any]:
    measured = [float(v) for v in np.median(np.asarray(runs), axis=0)]
    cycles = [ns * 1e-9 * processor.clock_hz for ns in measured]
    predictors = {
        "estimate": [e.cycles for e in found],
        "core": [e.core_cycles for e in found],
        "instructions": [float(e.instructions) for e in found],
        "analytic": [float(row["analytic"]) for row in rows],
    }
    best = min(cycles)
    pairs = zip(predictors["estimate"], cycles, strict=True)
    repeated = [spearman(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :]]
    return {
        "kind": kind,
        "precision": "float32" if task.workload.dtypes[0] == "float32" else "int8",
        "workload": str(task.workload),
        "choices": len(rows),
        "runs": len(runs),
        "spearman": {name: spearman(v, cycles) for name, v in predictors.items()},
        "spearman_of_runs": mean(repeated) if repeated else None,
        "pick_slowdown": {name: cycles[int(np.argmin(v))] / best for name, v in predictors.items()},
        "ratio": float(np.median([estimate / truth for estimate, truth in pairs])),
        "spread": max(cycles) / best,
        "candidates": [
            {
                "choice": row["choice"],
                "measured_ns": [float(run[i]) for run in runs],
                "instructions": e.instructions,
                "core_cycles": e.core_cycles,
                "stall_cycles": e.stall_cycles,
                "cycles": e.cycles,
                "misses": list(e.traffic.misses),
                "ahead": list(e.traffic.ahead),
            }
            for i, (row, e) in enumerate(zip(rows, found, strict=True))
        ],
    }


def _print(task: dict[str, Any]) -> None:
    ranks = " ".join(f"{name} {task['spearman'][name]:.3f}" for name in PREDICTORS)
    again = task["spearman_of_runs"]
    print(
        f"{task['kind']:10} {task['workload'][:48]:48} {ranks} "
        f"pick {task['pick_slowdown']['estimate']:.2f} ratio {task['ratio']:.2f} "
        f"spread {task['spread']:.1f} runs {'-' if again is None else f'{again:.3f}'}"
    )


__all__ = ["spearman", "write_report"]
