"""Compares estimated with measured times, kernel by kernel, on this machine.

    python -m tools.estimate_validation count WORK
    python -m tools.estimate_validation measure WORK
    python -m tools.estimate_validation networks WORK
    python -m tools.estimate_validation instructions WORK
    python -m tools.estimate_validation report WORK [--out docs/benchmarks]

Each step keeps what it did in the folder WORK and goes on where it was stopped. `count` builds
choices of each task for a target that QEMU emulates on x86 (it knows no AVX-512) and counts them;
`measure` and `networks` want a quiet machine; they leave out what others disturbed.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from compiler.estimate.costs import cost_model
from compiler.estimate.measurer import Counted, EstimatedRunner
from compiler.lower.tasks import Task
from compiler.tune.measure.base import Failed
from compiler.tune.measure.builder import LocalBuilder
from compiler.tune.measure.processes import WorkerServer
from schedules.cpu import templates
from targets import TargetSpec, get_target, host_target
from tools.estimate_validation import candidates, instructions, networks, truth
from tools.estimate_validation.kept import row_of
from tools.estimate_validation.report import write_report

TARGET = "x86/generic-avx2"
_BYTES_PER_CYCLE = 4.0


def _processor() -> TargetSpec:
    """This machine, its memory as fast as a quiet one's: how fast it is now is others' affair."""
    here = host_target()
    return replace(here, memory_bandwidth_bytes_per_s=_BYTES_PER_CYCLE * here.clock_hz)


@click.group()
def main() -> None:
    """Estimated against measured."""


_work = click.argument("work", type=click.Path(path_type=Path, file_okay=False))


@main.command()
@_work
@click.option("--choices", type=int, default=24, show_default=True, help="Of each task.")
def count(work: Path, choices: int) -> None:
    """Build choices of each task and count them in emulation."""
    spec = get_target(TARGET)
    work.mkdir(parents=True, exist_ok=True)
    index = work / "tasks.json"
    if not index.exists():
        found = candidates.find_tasks(spec)
        index.write_text(json.dumps([[kind, task.to_json()] for kind, task in found.values()]))
    server = WorkerServer()
    builder = LocalBuilder(server, spec, workers=2)
    runner = EstimatedRunner(server, spec, processor=_processor(), workers=2)
    try:
        for number, (kind, text) in enumerate(json.loads(index.read_text())):
            folder = work / f"task-{number:02}"
            if not (folder / "done").exists():
                started = time.monotonic()
                folder.mkdir(exist_ok=True)
                _count(folder, text, choices, builder, runner)
                (folder / "done").touch()
                task = Task.from_json(text)
                print(f"{kind}: {task.workload}: {time.monotonic() - started:.0f} s", flush=True)
    finally:
        builder.close()
        runner.close()
        server.close()


def _count(
    folder: Path, text: str, choices: int, builder: LocalBuilder, runner: EstimatedRunner
) -> None:
    spec = get_target(TARGET)
    task = Task.from_json(text)

    def build(choice: Any, name: str) -> Path:
        kept = folder / f"{name}.so"
        if kept.exists():
            return kept
        built = builder.build(text, choice, lambda: False).result()
        if isinstance(built, Failed):
            raise click.ClickException(f"{task.workload}: {choice}: {built.reason}")
        kept.write_bytes(built.library.read_bytes())
        built.library.unlink()
        return kept

    reference = build(None, "reference")

    def one(item: tuple[int, Any]) -> dict[str, Any] | None:
        number, choice = item
        library = build(choice, f"{number:02}")
        counted = runner.count(text, reference, choice, library)
        if not isinstance(counted, Counted):
            print(f"{task.workload}: {choice}: {counted.reason}", flush=True)
            return None
        blocks = [row_of(block) for block in counted.blocks]
        (folder / f"{number:02}.json").write_text(json.dumps(blocks))
        analytic = templates.estimated_cycles(task.workload, choice, spec)
        return {"number": number, "choice": choice, "analytic": analytic}

    with ThreadPoolExecutor(2) as pool:
        spread = candidates.spread_choices(task, spec, choices)
        rows = [row for row in pool.map(one, enumerate(spread)) if row is not None]
    (folder / "rows.json").write_text(json.dumps(rows))


@main.command()
@_work
@click.option("--cpu", type=int, default=1, show_default=True, help="To run on.")
@click.option("--seconds", type=float, default=30.0, show_default=True, help="For a task.")
@click.option("--again", is_flag=True, help="Once more, beside what was measured before.")
def measure(work: Path, cpu: int, seconds: float, again: bool) -> None:
    """Measure the same shared objects on this machine."""
    for number, (kind, text) in enumerate(json.loads((work / "tasks.json").read_text())):
        folder = work / f"task-{number:02}"
        if not (folder / "done").exists() or ((folder / "truth.json").exists() and not again):
            continue
        # A process for each task: what it did to this one's memory is gone with it.
        process = multiprocessing.get_context("fork").Process(
            target=_measure, args=(folder, text, cpu, seconds)
        )
        process.start()
        process.join()
        print(f"{kind}: {Task.from_json(text).workload}: {process.exitcode}", flush=True)


def _measure(folder: Path, text: str, cpu: int, seconds: float) -> None:
    rows = json.loads((folder / "rows.json").read_text())
    pairs = [(row["choice"], folder / f"{row['number']:02}.so") for row in rows]
    found = truth.measure(Task.from_json(text), pairs, get_target(TARGET), cpu, seconds)
    kept = folder / "truth.json"
    runs = json.loads(kept.read_text()) if kept.exists() else []
    kept.write_text(json.dumps([*runs, found.nanoseconds]))
    print(f"{min(found.samples)} samples or more; {100 * found.disturbed:.0f} % left out")


@main.command(name="networks")
@_work
@click.option("--cpu", type=int, default=1, show_default=True, help="To run on.")
@click.option("--measure/--no-measure", "timed", default=True, help="Or only estimate.")
def whole_networks(work: Path, cpu: int, timed: bool) -> None:
    """Estimate and measure whole networks."""
    folder = work / "networks"
    networks.prepare(folder, TARGET, _processor())
    if timed:
        networks.measure(folder, cpu)
        for row in networks.compare(folder, _processor()):
            print(json.dumps(row))


@main.command(name="instructions")
@_work
@click.option("--cpu", type=int, default=1, show_default=True, help="To run on.")
def single_instructions(work: Path, cpu: int) -> None:
    """Measure instructions by themselves, beside what llvm-mca says before and after mending."""
    work.mkdir(parents=True, exist_ok=True)
    rows = instructions.compare(cost_model(_processor()), cpu)
    (work / "instructions.json").write_text(json.dumps(rows))
    for row in rows:
        print(f"{row['name']:36} {row['measured']:5.2f} {row['model']:5.2f} {row['mended']:5.2f}")


@main.command()
@_work
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Of the page.")
def report(work: Path, out: Path | None) -> None:
    """Estimate, compare, and write the page."""
    write_report(work, _processor(), TARGET, out)


if __name__ == "__main__":
    main()
