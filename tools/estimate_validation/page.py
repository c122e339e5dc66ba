"""The validation's page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

#: What ranks candidates, and its heading.
PREDICTORS = {
    "estimate": "estimate",
    "others": "others' shares",
    "core": "llvm-mca alone",
    "instructions": "instructions",
    "analytic": "analytic model",
}
WANTED = 0.9

_HEAD = """# Estimated against measured cycles

{kernels} kernels of {tasks} tasks were measured on one core of an {cpu} and estimated by
{model}, as [tuning without the board](../tuning.md#without-the-board) does it. They were compiled
for `{target}`, since QEMU knows no AVX-512. The choices of a task go from its best to its worst
by the analytic model, two thirds of them from the better half. Measured: rounds in which all
choices of a task take turns in an order that changes, pinned, weights cold, the lower fifth of 40
samples, and of {runs} processes the one in which a choice was fastest. A sample is left out if a
fixed piece of arithmetic took longer before or after it than it can: then somebody else had a share
of the core.

**Spearman's correlation is {wanted} or more on {good} of {tasks} tasks**, {rho:.2f} in the
mean; what the estimate picks is at most {worst:.0f} % slower than the true best, {pick:.0f} % in
the mean. With shares of the formula that were fitted to the other tasks alone it is {wanted} or
more on {others}, {rho_others:.2f} in the mean.
"""

_RUNS = """
*Others' shares*: each task by shares fitted to all other tasks. *llvm-mca alone*: of mended code
(below), with chains through spilled registers. *Two runs*: the correlation of one process's times
with another one's. Figures without a unit are ratios; all candidates are in the JSON file.
"""

_NETWORKS = """
## Whole networks

Times of the second as a share of the first's, on the same core: sums over their kernels, each the
lower fifth of {rounds} runs. *Pruned* is a stack of convolutions with 75 % of the channels of
*dense*.

"""

_INSTRUCTIONS = """
## The model of the processor

Cycles of instructions that do not wait for each other (but where it says *in turn*), all operands
in the first cache: measured (least of many runs), by {model}, and by the same of the code as
it is asked about (`compiler/estimate/models.py`), with chains through the stack. Bold: more than
20 % off.

"""

_NOTES = """
## What remains

{own}- Not modelled: mispredicted branches, address translation, other cores, clocks that depend on
  the code.
- The shares of the formula were fitted to these tasks, on one processor. On ARM nothing could be
  measured, and neither LLVM's models nor chains through spilled registers are mended there.
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
        runs=max(task["runs"] for task in tasks),
        others=sum(task["spearman"]["others"] >= WANTED for task in tasks),
        rho_others=mean(task["spearman"]["others"] for task in tasks),
        worst=100 * (max(picks) - 1), pick=100 * (mean(picks) - 1),
    )  # fmt: skip
    columns = ["kind", "workload", ">choices", ">worst/best"]
    columns += [f">{name}" for name in PREDICTORS.values()]
    columns += [">two runs", ">pick/best", ">estimated/measured"]
    table = _table(columns, [*map(_task_row, tasks), _mean_row(tasks)])
    text = head + "\n" + table + _RUNS
    if data["networks"]:
        columns = ["ratio", "first", "second", ">measured", ">estimated", ">llvm-mca alone"]
        text += _NETWORKS.format(rounds=data["network_rounds"]) + _table(
            [*columns, ">instructions", ">error"], map(_network_row, data["networks"])
        )
    if data["instructions"]:
        text += _INSTRUCTIONS.format(model=data["model"]) + _table(
            ["instructions", ">measured", ">model", ">mended"],
            map(_instruction_row, data["instructions"]),
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


def _instruction_row(row: dict[str, Any]) -> list[str]:
    figures = [f"{row[figure]:.2f}" for figure in ("measured", "model", "mended")]
    if abs(row["model"] - row["measured"]) > 0.2 * row["measured"]:
        figures[1] = f"**{figures[1]}**"
    return [row["name"], *figures]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        [column.removeprefix(">") for column in columns],
        ["--:" if column.startswith(">") else ":--" for column in columns],
        *rows,
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


__all__ = ["PREDICTORS", "page"]
