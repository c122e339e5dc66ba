"""`tilewright tune`: search for faster kernels for a model, and keep them as records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.cli import tune_view
from compiler.cli.inputs import read_inputs
from compiler.cli.model import (
    command_line,
    load_model,
    model_arguments,
    records_option,
    target_argument,
    with_model_options,
)
from compiler.cli.output import WIDE, Session, console, with_common_options
from compiler.cli.quantize import (
    calibration_option,
    keep_option,
    quantize_arguments,
    quantize_option,
    read_recipe,
    samples,
)

if TYPE_CHECKING:
    from compiler.tune.result import TuneResult


@click.command("tune")
@with_model_options
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Minutes to take at most."
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="Candidates to measure at most; 2000 if --minutes is not given either.",
)
@records_option
@quantize_option
@calibration_option
@keep_option
@click.option(
    "--tasks",
    metavar="PATTERN",
    help="Tune only kernels whose operator, name or workload matches: conv2d, *1x56x56*, several "
    "separated by commas.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Seed of the search.")  # fmt: skip
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that build candidates; by default what suits the machine.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Count what earlier runs measured on this machine, or measure everything anew.",
)
@click.option(
    "--tracker",
    metavar="HOST:PORT",
    help="TVM RPC tracker; candidates run on its devices. RPC has no protection: tunnel it.",
)
@click.option(
    "--device",
    metavar="NAME,...",
    help="Boards to run candidates on: devices of `tilewright devices`, or user@host; with "
    "--tracker, the key of its devices.",
)
@click.option("--dask", metavar="ADDRESS", help="Dask scheduler whose workers build candidates.")
@with_common_options
@click.pass_obj
def tune(
    session: Session,
    model: str,
    target: str,
    inputs: tuple[str, ...],
    weights: Path | None,
    name: str | None,
    threads: int,
    dynamic_batch: bool,
    precision: str,
    minutes: float | None,
    trials: int | None,
    records: Path | None,
    quantize: str | None,
    calibration: Path | None,
    keep: tuple[str, ...],
    tasks: str | None,
    seed: int,
    workers: int | None,
    resume: bool,
    tracker: str | None,
    device: str | None,
    dask: str | None,
) -> None:
    """Search for faster kernels for MODEL and keep them as tuning records.

    `tilewright compile` then uses them. Ctrl-C stops and keeps all that was found; the same
    command continues.
    """
    from compiler.api import choose_target, tune_model
    from compiler.options import open_records
    from compiler.search import check_measurable
    from compiler.tune.options import Tune

    limits = {} if minutes is None and trials is None else {"trials": trials, "minutes": minutes}
    options = Tune(
        **limits,  # type: ignore[arg-type]  # each value has its own type
        tasks=tasks, seed=seed, workers=workers, resume=resume, tracker=tracker, device=device,
        dask=dask,
    )  # fmt: skip
    recipe = read_recipe(quantize, keep)
    spec = choose_target(target_argument(target), measure=False)
    check_measurable(spec, options, threads)
    given = read_inputs(inputs)
    store = open_records(records, options).folder
    if given.describe():
        session.message(f"note: {given.describe()}")
    session.kept = f"the records written so far are in {store}; the same command continues"
    with session.working(), session.progress() as progress:
        progress("frontend", "load PyTorch and TVM")
        session.import_heavy("torch", "schedules.tvm_adapter")
        progress("frontend", "read the model")
        loaded = load_model(model, weights, given, name)
        title = f"Tuning {loaded.name or 'the model'} for {spec.name}"
        with tune_view.follow(session, progress, title) as on_tune:
            result = tune_model(
                loaded.model,
                spec,
                tune=options,
                example_inputs=loaded.example_inputs,
                dynamic_batch=dynamic_batch,
                name=loaded.name,
                threads=threads,
                records=records,
                precision=precision,
                progress=progress,
                on_tune=on_tune,
                quantize=recipe,
                calibration=samples(calibration),
            )
    arguments = [model, *model_arguments(inputs, weights, threads, dynamic_batch=dynamic_batch)]
    arguments += ["--target", target]
    if precision != "float32":
        arguments += ["--precision", precision]
    if records is not None:
        arguments += ["--records", str(records)]
    arguments += quantize_arguments(quantize, calibration, keep)
    _show(session, result, str(store), spec.name, command_line("compile", *arguments))
    if session.stopped or result.interrupted:
        raise click.exceptions.Exit(session.stopped or 130)


def _show(session: Session, result: TuneResult, store: str, target: str, next_command: str) -> None:
    """The summary of a run."""
    if session.json:
        session.document({"store": store, "target": target, **tune_view.document(result)})
    else:
        screen = console(stderr=False)
        width = screen.width if screen.is_terminal else WIDE
        session.show(tune_view.tasks_table(result.tasks, width=width), wide=True)
        session.show(tune_view.summary_text(result, store))
    if result.interrupted:
        session.message("interrupted: everything found so far is kept; the same command continues")
    elif not session.json:
        session.show(f"use it: {next_command}")


__all__ = ["tune"]
