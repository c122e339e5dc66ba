"""Tunes the six benchmark networks for ARM processors without one, and ships the records.

    python -m tools.arm_records tune STORE --minutes 60
    python -m tools.arm_records ship STORE

Candidates run in emulation and their cost is estimated, so that the records are marked as such.
`tune` works network by network and can be stopped and started again on the same store at any time:
what was estimated is not estimated again, and what is done passes by. `ship` copies the best record
of each kernel and processor to the records that come with Tilewright, and takes out those that
they beat, or that were estimated in an older way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from compiler.api import tune_model
from compiler.tune.events import Event, Improved, Note
from compiler.tune.options import Tune
from schedules.records import Record, RecordStore
from schedules.records.ranking import by_machine
from tools.zoo.nets import BENCHMARKS, build, samples

TARGETS = ("arm/cortex-a72", "arm/neoverse-n1")
PRECISIONS = ("float32", "int8")
#: Shares of the time: the more different kernels, and the longer they take in emulation.
_WEIGHTS = {
    "resnet18": 1.5,
    "resnet50": 2.5,
    "mobilenet_v2": 1.5,
    "efficientnet_lite0": 1.5,
    "minilm_l6": 1.0,
    "vit_tiny": 1.5,
}
_CALIBRATION = 4
_SHIPPED = Path("schedules/records/data/arm")


@click.group()
def main() -> None:
    """Records for ARM processors, from estimates."""


def _several(name: str, choices: tuple[str, ...], text: str) -> Callable[[Any], Any]:
    return click.option(
        name, multiple=True, type=click.Choice(choices), default=choices, help=text
    )  # fmt: skip


@main.command()
@click.argument("store", type=click.Path(path_type=Path, file_okay=False))
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), required=True,
              help="For all together; what one run leaves goes to the others.")  # fmt: skip
@click.option("--target", "targets", multiple=True, default=TARGETS, help="ARM targets.")
@_several("--network", BENCHMARKS, "Benchmark networks.")
@_several("--precision", PRECISIONS, "float32 or int8.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that build and emulate.")
@click.option("--tasks", help="Only kernels that match, see `tilewright tune --tasks`.")
def tune(
    store: Path,
    minutes: float,
    targets: tuple[str, ...],
    network: tuple[str, ...],
    precision: tuple[str, ...],
    workers: int | None,
    tasks: str | None,
) -> None:
    """Tune, network by network, and keep the records in STORE."""
    runs = [(net, kind, target) for net in network for kind in precision for target in targets]
    end = time.monotonic() + 60 * minutes
    for number, (net, kind, target) in enumerate(runs):
        left = (end - time.monotonic()) / 60
        if left <= 0:
            _say(f"the time is used up; {len(runs) - number} of {len(runs)} runs are left")
            return
        share = left * _WEIGHTS[net] / sum(_WEIGHTS[name] for name, _, _ in runs[number:])
        _say(f"{net} {kind} for {target}: {share:.1f} minutes")
        if not _tune(store, net, kind, target, share, workers, tasks):
            sys.exit(130)


def _tune(
    store: Path,
    net: str,
    kind: str,
    target: str,
    minutes: float,
    workers: int | None,
    tasks: str | None,
) -> bool:
    """One run; False if it was interrupted."""
    module, inputs = build(net)

    def show(event: Event) -> None:
        if isinstance(event, Improved):
            before = "–" if event.before_us is None else f"{event.before_us:.0f}"
            _say(f"  {event.task}: {before} → {event.after_us:.0f} µs ({event.label})")
        elif isinstance(event, Note):
            _say(f"  {event.text}")

    result = tune_model(
        module,
        target,
        tune=Tune(trials=None, minutes=minutes, records=store, workers=workers, tasks=tasks),
        example_inputs=inputs,
        name=net,
        quantize="int8" if kind == "int8" else None,
        calibration=samples(net, _CALIBRATION) if kind == "int8" else None,
        on_tune=show,
    )
    label = result.tasks[0].label if result.tasks else "estimated"
    ends = [
        "?" if us is None else f"{us / 1e3:.2f}"
        for us in (result.default_end_to_end_us, result.end_to_end_us)
    ]
    _say(
        f"  {result.stop}: {result.trials} trials ({result.resumed} known), {result.rejected} "
        f"rejected, {result.failed} failed; kernels {' → '.join(ends)} ms ({label})"
    )
    return not result.interrupted


@main.command()
@click.argument("store", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=_SHIPPED,
              show_default=True, help="The records that are shipped.")  # fmt: skip
def ship(store: Path, into: Path) -> None:
    """Copy the best record of each kernel and processor from STORE, without its history."""
    shipped = RecordStore(into)
    known = {record.id for record in shipped}
    best = {record.id: record for record in _best(RecordStore(store))}
    for record in best.values():
        shipped.add(record)
    kept = {record.id for record in _best(shipped)}
    gone = [record for record in shipped if record.id not in kept]
    for record in gone:
        shipped.path_of(record).unlink()
    _say(f"{len(kept - known)} new, {len(gone)} beaten and removed, {len(kept)} in {into}")


def _best(store: RecordStore) -> Iterator[Record]:
    """The best record of each workload and processor, by the newest estimates that it has."""
    groups: dict[str, list[Record]] = {}
    for record in store:
        groups.setdefault(record.workload.key, []).append(record)
    for records in groups.values():
        best = [ranked[0] for ranked in by_machine(records).values()]
        # Figures of different formulas are those of different machines, and do not compare.
        best.sort(key=lambda record: record.provenance.date)
        yield from {record.provenance.cpu.name: record for record in best}.values()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
