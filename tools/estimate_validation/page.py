"""The validation's page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

#: What ranks candidates, and its heading.
PREDICTORS = {
    "estimate": "estimate",
    "core": "llvm-mca alone",
    "instructions": "instructions",
    "analytic": "analytic model",
}
WANTED = 0.9

_HEAD = """# Estimated against measured cycles

{kernels} kernels of {tasks} tasks were measured on one core of an {cpu} and estimated by
{model}, as [tuning without the board](../tuning.md#without-the-board) does it. They were compiled
for `{target}`, since QEMU knows no AVX-512. The choices of a task go from its best to its worst
by the analytic model, two thirds of them from the better half. Measured: medians over rounds in
which all choices of a task take turns, pinned, weights cold.

**Spearman's correlation is {wanted} or more on {good} of {tasks} tasks**, {rho:.2f} in the
mean; what the estimate picks is at most {worst:.0f} % slower than the true best, {pick:.0f} % in
the mean.
"""

_RUNS = """
*Two runs*: the correlation of one measurement with another one; no estimate can do better. Figures
without a unit are ratios; all candidates are in the JSON file.
"""

_NETWORKS = """
## Whole networks

Times of the second as a share of the first's, on the same core. *Pruned* is a stack of convolutions
with 75 % of the channels of *dense*.

"""

_NOTES = """
## What remains

{own}- Not modelled: mispredicted branches, address translation, other cores, clocks that depend on
  the code.
- The shares of the formula were chosen by hand for these tasks, on one processor. On ARM nothing
  could be measured.
"""


def page(data: dict[str, Any], notes: str = "") -> str:
    """The page.

    Args:
        data: As the JSON file holds it.
        notes: What is to be said of this machine's figures, a list in Markdown.
    """
    tasks = data["tasks"]
    picks = [task["pick_slowdown"]["estimate"] for task in tasks]
    head = _HEAD.format(
        kernels=sum(task["choices"] for task in tasks), tasks=len(tasks), cpu=data["cpu"],
        model=data["model"], target=data["target"], wanted=WANTED,
        good=sum(task["spearman"]["estimate"] >= WANTED for task in tasks),
        rho=mean(task["spearman"]["estimate"] for task in tasks),
        worst=100 * (max(picks) - 1), pick=100 * (mean(picks) - 1),
    )  # fmt: skip
    columns = ["kind", "workload", ">choices", ">worst/best"]
    columns += [f">{name}" for name in PREDICTORS.values()]
    columns += [">two runs", ">pick/best", ">estimated/measured"]
    table = _table(columns, [*map(_task_row, tasks), _mean_row(tasks)])
    text = head + "\n" + table + _RUNS
    if data["networks"]:
        columns = ["ratio", "first", "second", ">measured", ">estimated", ">llvm-mca alone"]
        text += _NETWORKS + _table(
            [*columns, ">instructions", ">error"], map(_network_row, data["networks"])
        )
    return text + _NOTES.format(own=notes)


def _task_row(task: dict[str, Any]) -> list[str]:
    again = task["spearman_of_runs"]
    ranks = [f"{task['spearman'][name]:.2f}" for name in PREDICTORS]
    if task["spearman"]["estimate"] >= WANTED:
        ranks[0] = f"**{ranks[0]}**"
    return [
        f"{task['kind']}, {task['precision']}",
        task["workload"].partition(" + ")[0],
        str(task["choices"]),
        f"{task['spread']:.1f}",
        *ranks,
        "" if again is None else f"{again:.2f}",
        f"{task['pick_slowdown']['estimate']:.2f}",
        f"{task['ratio']:.2f}",
    ]


def _mean_row(tasks: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "mean",
        "",
        "",
        f"{mean(task['spread'] for task in tasks):.1f}",
        *(f"{mean(task['spearman'][name] for task in tasks):.2f}" for name in PREDICTORS),
        "",
        f"{mean(task['pick_slowdown']['estimate'] for task in tasks):.2f}",
        f"{mean(task['ratio'] for task in tasks):.2f}",
    ]


def _network_row(row: dict[str, Any]) -> list[str]:
    figures = ("measured", "cycles", "core_cycles", "instructions")
    return [
        row["kind"],
        row["of"],
        row["by"],
        *(f"{row[figure]:.2f}" for figure in figures),
        f"{100 * row['error']:+.0f} %",
    ]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        [column.removeprefix(">") for column in columns],
        ["--:" if column.startswith(">") else ":--" for column in columns],
        *rows,
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


__all__ = ["PREDICTORS", "page"]
