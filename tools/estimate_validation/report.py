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
from tools.estimate_validation.fit import NAMES, elsewhere, fitted, parts_of
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
    tasks: list[dict[str, Any]] = []
    parts: list[list[list[float]]] = []
    for number, (kind, text) in enumerate(json.loads((work / "tasks.json").read_text())):
        folder = work / f"task-{number:02}"
        if not (folder / "truth.json").exists():
            continue
        rows = json.loads((folder / "rows.json").read_text())
        runs = json.loads((folder / "truth.json").read_text())
        ran = [read_rows(folder / f"{row['number']:02}.json") for row in rows]
        found = [estimate_blocks(blocks, costs, processor) for blocks in ran]
        parts.append([parts_of(blocks, costs.costs(blocks), processor) for blocks in ran])
        tasks.append(_compare(kind, Task.from_json(text), rows, runs, found, processor))
    _fit(tasks, parts)
    for task in tasks:
        _print(task)
    timed = (work / "networks" / "measured.json").exists()
    data = {
        "cpu": cpu_name(),
        "target": target,
        "model": str(costs.model),
        "revision": REVISION,
        "clock_hz": processor.clock_hz,
        "shares": _shares(tasks, parts),
        "tasks": tasks,
        "instructions": _kept(work / "instructions.json"),
        "network_rounds": networks.ROUNDS,
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


def _fit(tasks: list[dict[str, Any]], parts: Sequence[Sequence[Sequence[float]]]) -> None:
    """Add to each task what shares do that were fitted to the others."""
    measured = [[row["measured_cycles"] for row in task["candidates"]] for task in tasks]
    for task, cycles, other in zip(tasks, measured, elsewhere(parts, measured), strict=True):
        task["spearman"]["others"] = spearman(other, cycles)
        task["pick_slowdown"]["others"] = cycles[int(np.argmin(other))] / min(cycles)
        for row, estimate in zip(task["candidates"], other, strict=True):
            row["cycles_by_others"] = estimate


def _shares(
    tasks: Sequence[dict[str, Any]], parts: Sequence[Sequence[Sequence[float]]]
) -> dict[str, float]:
    """The shares that fit all tasks best."""
    measured = [row["measured_cycles"] for task in tasks for row in task["candidates"]]
    found = fitted(np.asarray([row for rows in parts for row in rows]), np.asarray(measured))
    return {name: round(float(share), 4) for name, share in zip(NAMES, found, strict=True)}


def _kept(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def _compare(
    kind: str,
    task: Task,
    rows: Sequence[dict[str, Any]],
    runs: Sequence[Sequence[float]],
    found: Sequence[KernelEstimate],
    processor: TargetSpec,
) -> dict[str, Any]:
    measured = [float(v) for v in np.min(np.asarray(runs), axis=0)]
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
                "measured_cycles": cycles[i],
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
    ranks = " ".join(f"{name} {task['spearman'][name]:.2f}" for name in PREDICTORS)
    again = task["spearman_of_runs"]
    print(
        f"{task['kind']:10} {task['workload'][:48]:48} {ranks} "
        f"pick {task['pick_slowdown']['estimate']:.2f} ratio {task['ratio']:.2f} "
        f"spread {task['spread']:.1f} runs {'-' if again is None else f'{again:.3f}'}"
    )


__all__ = ["spearman", "write_report"]
