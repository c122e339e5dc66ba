"""`tilewright compare`: one model on several targets, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.cli.inputs import read_inputs
from compiler.cli.model import (
    load_model,
    records_option,
    target_argument,
    with_targets_model_options,
)
from compiler.cli.output import Session, with_common_options
from compiler.cli.quantize import (
    calibration_option,
    keep_option,
    quantize_option,
    read_recipe,
    samples,
)


@click.command()
@with_targets_model_options
@click.option(
    "--targets", required=True, metavar="NAME,NAME,...",
    help="The targets, with commas: arm/rpi4,arm/rpi5,x86. Names or TOML files. Ratios are to the "
    "first.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Keep the bundles in this folder.",
)  # fmt: skip
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="PATH",
    help="Write the comparison as one self-contained HTML page, too.",
)  # fmt: skip
@click.option(
    "--estimate/--no-estimate",
    default=None,
    help="As in `tilewright compile`, for targets whose code this machine cannot run.",
)
@records_option
@click.option("--no-records", is_flag=True, help="Look at no tuning records.")
@quantize_option
@calibration_option
@keep_option
@with_common_options
@click.pass_context
def compare(
    context: click.Context,
    model: str,
    targets: str,
    inputs: tuple[str, ...],
    weights: Path | None,
    output: Path | None,
    html: Path | None,
    estimate: bool | None,
    name: str | None,
    threads: int,
    dynamic_batch: bool,
    precision: str,
    records: Path | None,
    no_records: bool,
    quantize: str | None,
    calibration: Path | None,
    keep: tuple[str, ...],
) -> None:
    """Compile MODEL for several targets and compare sizes, memory and latency.

    Where this machine runs a target's code its latency is measured, elsewhere it is estimated from
    counted instructions; the table says which. A target that fails keeps the others; the exit code
    is then that of the first failure.
    """
    from compiler.comparison import compare_targets
    from compiler.package.atomic import check_destination

    session: Session = context.obj
    if no_records and records is not None:
        raise click.UsageError("--no-records excludes --records")
    names = [target_argument(text.strip()) for text in targets.split(",") if text.strip()]
    recipe = read_recipe(quantize, keep)
    if html is not None:
        check_destination(html)
    given = read_inputs(inputs)
    if given.describe():
        session.message(f"note: {given.describe()}")
    with session.working(), session.progress() as progress:
        progress("frontend", "load PyTorch and TVM")
        session.import_heavy("torch", "schedules.tvm_adapter")
        progress("frontend", "read the model")
        loaded = load_model(model, weights, given, name)
        found = compare_targets(
            loaded.model,
            names,
            save=output,
            progress=progress,
            on_target=lambda row: session.message(
                f"{row.target}: {row.error or 'done'}, {row.seconds:.0f} s"
            ),
            example_inputs=loaded.example_inputs,
            dynamic_batch=dynamic_batch,
            name=loaded.name,
            threads=threads,
            precision=precision,
            estimate=estimate,
            records=False if no_records else records,
            quantize=recipe,
            calibration=samples(calibration),
        )
        if html is not None:
            found.to_html(html)
    if session.json:
        session.document(found.to_dict())
    else:
        session.show(found.table(), wide=True)
        for text in found.remarks():
            session.show(text)
        if html is not None:
            session.show(f"comparison written to {html}")
    context.exit(found.exit_code)


__all__ = ["compare"]
