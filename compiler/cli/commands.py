"""The subcommands. Each parses its strings, calls the library, and shows the result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from compiler.cli import tune_view
from compiler.cli.inputs import GivenInputs, check_output, read_inputs, write_outputs
from compiler.cli.inspect_vta import inspect_vta, vta_cycles, vta_text
from compiler.cli.model import (
    THREADS_HELP,
    command_line,
    input_option,
    load_model,
    model_arguments,
    records_option,
    target_argument,
    with_model_options,
)
from compiler.cli.output import Session, with_common_options
from compiler.cli.quantize import (
    calibration_option,
    evaluate_option,
    keep_option,
    quantize_arguments,
    quantize_option,
    read_metric,
    read_recipe,
    samples,
)
from compiler.cli.tables import (
    coverage_document,
    inspect_tables,
    kernels_table,
    outputs_table,
    statistics,
    summary,
    target_table,
    targets_table,
    verification_text,
)
from compiler.codec import encode
from compiler.errors import BundleError, InputError, NotTunedError

if TYPE_CHECKING:
    from compiler.package import Bundle


#: Runs that are not counted before `run --bench` measures.
_WARMUP = 3
_bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))


@click.command("compile")
@with_model_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where the bundle goes; by default the model's name with .tw.",
)
@click.option("--folder", is_flag=True, help="Write the bundle as a folder, not as a zip file.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the report as an HTML page, too.",
)
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Measure the latency report on this machine; by default where it can run the code.",
)
@click.option(
    "--estimate/--no-estimate",
    default=None,
    help="Where this machine cannot run the code: count instructions in emulation for the report; "
    "by default where qemu and llvm-mca are installed.",
)
@click.option(
    "--device",
    metavar="NAME|user@board",
    help="Measure on this board, one of `tilewright devices`, in place of this machine.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="Largest accepted error against PyTorch, relative to an output's largest magnitude; by "
    "default 0.01, in bfloat16 0.05, quantized 0.5.",
)
@click.option(
    "--tune",
    "tune_text",
    metavar="LIMIT",
    help="Search for faster kernels first: for so long (30m, 90s, 1h30m), for a number of trials "
    "(2000), or both (30m,2000).",
)
@records_option
@click.option(
    "--no-records", is_flag=True, help="Look at no tuning records: every kernel is a default."
)
@quantize_option
@calibration_option
@evaluate_option
@keep_option
@click.option(
    "--save-plan",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the plan, which can be edited and given to --quantize.",
)
@click.option(
    "--require-tuned",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Fail (exit code 8) if less than this share of the FLOPs of kernels that can be tuned "
    "runs on tuning records: 0.9.",
)
@click.option(
    "--host",
    metavar="NAME|FILE.toml|board",
    help="With --target vta: the processor that the other operators are compiled for; by default "
    "this machine, where VTA is simulated. `board` is the one beside the VTA.",
)
@with_common_options
@click.pass_obj
def compile_(
    session: Session,
    model: str,
    target: str,
    inputs: tuple[str, ...],
    weights: Path | None,
    output: Path | None,
    folder: bool,
    html: Path | None,
    name: str | None,
    threads: int,
    dynamic_batch: bool,
    precision: str,
    measure: bool | None,
    estimate: bool | None,
    device: str | None,
    tolerance: float | None,
    tune_text: str | None,
    records: Path | None,
    no_records: bool,
    quantize: str | None,
    calibration: Path | None,
    evaluate: str | None,
    keep: tuple[str, ...],
    save_plan: Path | None,
    require_tuned: float | None,
    host: str | None,
) -> None:
    """Compile MODEL into a bundle.

    MODEL is `file.py:factory` (a function or class that makes a torch.nn.Module) or a `.pt2`
    file of torch.export.
    """
    from compiler.api import choose_target
    from compiler.api import compile as compile_model
    from compiler.options import open_records
    from compiler.package.atomic import check_destination
    from compiler.package.manifest import MANIFEST
    from compiler.tune.options import Tune
    from targets import missing_features

    if html is not None and measure is False:
        raise click.UsageError("--html needs the report: leave out --no-measure")
    if no_records and (records is not None or tune_text is not None):
        raise click.UsageError("--no-records excludes --records and --tune")
    tune = Tune.parse(tune_text)
    spec = choose_target(target_argument(target), measure=measure is True and device is None)
    recipe = read_recipe(quantize, keep, shifts=spec.family == "vta")
    metric = read_metric(evaluate)
    if save_plan is not None and recipe is None and not model.endswith(".pt2"):
        raise click.UsageError("--save-plan belongs to --quantize, or to a quantized .pt2 file")
    given = read_inputs(inputs)
    # Before the minutes of work, not after.
    if output is not None:
        check_destination(output, folder_if=MANIFEST if folder else None)
    if html is not None:
        check_destination(html)
    if save_plan is not None:
        check_destination(save_plan)
    if given.describe():
        session.message(f"note: {given.describe()}")
    store = open_records(False if no_records else records, tune)
    if tune is not None:
        session.kept = (
            f"no bundle was written; the records found so far are in {store.folder}, and the same "
            "command continues"
        )
    with session.working(), session.progress() as progress:
        progress("frontend", "load PyTorch and TVM")
        session.import_heavy("torch", "schedules.tvm_adapter")
        progress("frontend", "read the model")
        loaded = load_model(model, weights, given, name)
        title = f"Tuning {loaded.name or 'the model'} for {spec.name}"
        with tune_view.follow(session, progress, title) as on_tune:
            try:
                bundle = compile_model(
                    loaded.model,
                    spec,
                    example_inputs=loaded.example_inputs,
                    dynamic_batch=dynamic_batch,
                    name=loaded.name,
                    threads=threads,
                    measure=measure,
                    estimate=estimate,
                    device=device,
                    tolerance=tolerance,
                    progress=progress,
                    tune=tune or False,
                    records=False if no_records else records,
                    precision=precision,
                    require_tuned=require_tuned,
                    on_tune=on_tune,
                    quantize=recipe,
                    evaluate=metric,
                    calibration=samples(calibration),
                    host=None if host is None else target_argument(host),
                )
            except NotTunedError as error:
                same = model_arguments(inputs, weights, threads, dynamic_batch=dynamic_batch)
                same += tuple(quantize_arguments(quantize, calibration, keep))
                raise error.named(model, *same) from error
        if html is not None and bundle.report is None:
            raise InputError(
                "there is no report to write a page of: nothing was measured or estimated",
                where="--html",
                hint="leave it out, or compile for a processor",
            )
        progress("package", "write")
        path = bundle.save(output or Path(f"{_file_name(bundle.name)}.tw"), folder=folder)
        if html is not None and bundle.report is not None:
            bundle.report.to_html(html)
        if save_plan is not None:
            if bundle.plan is None:
                raise InputError(
                    "there is no plan to save: the program is not quantized",
                    where="--save-plan",
                    hint="add --quantize int8",
                )
            bundle.plan.save(save_plan)
    if measure is None and device is None and missing_features(bundle.target):
        session.message(_not_measured(bundle, path))
    size = _size_of(path)
    if session.json:
        session.document(
            {
                "bundle": str(path),
                "bundle_bytes": size,
                "html": str(html) if html else None,
                "random_inputs": given.random,
                **_describe(bundle.manifest),
                "report": _report_document(bundle.report),
            }
        )
        return
    if bundle.report is not None:
        session.show(bundle.report)
    session.show(summary(bundle, path, size))
    if html is not None:
        session.show(f"report written to {html}")


@click.command("run")
@_bundle_argument
@input_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the outputs: .npz by name, or .npy for a single one.",
)
@click.option("--verify", is_flag=True, help="Replay the golden pair first; exit 8 if it fails.")
@click.option("--bench", type=click.IntRange(min=1), metavar="N", help="Time N inferences.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help=THREADS_HELP + " By default as many as it was compiled for.",
)
@click.option(
    "--device",
    metavar="simulator|BOARD|FILE.toml",
    help="What VTA programs run on: the simulator (the default), a board's name (pynq, ultra96, "
    "zcu104, de10nano), or a file that says how one is reached.",
)
@with_common_options
@click.pass_obj
def run(
    session: Session,
    bundle: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    verify: bool,
    bench: int | None,
    threads: int | None,
    device: str | None,
) -> None:
    """Run BUNDLE on inputs; without any, on its golden inputs."""
    from compiler.api import load

    loaded = load(bundle, threads=threads, device=device)
    if output is not None:
        check_output(output, len(loaded.outputs))
    given = read_inputs(inputs, loaded.inputs)
    note = given.describe() if given else "no --input: running on the bundle's golden inputs"
    if note:
        session.message(f"note: {note}")
    session.import_heavy("schedules.tvm_adapter")
    verification = loaded.verify() if verify else None
    arrays = _model_inputs(loaded, given)
    result = loaded(*arrays)
    outputs = dict(
        zip(
            [spec.name for spec in loaded.outputs],
            result if isinstance(result, tuple) else (result,),
            strict=True,
        )
    )
    if output is not None:
        write_outputs(output, outputs)
    accelerated = vta_cycles(loaded)
    # VTA's programs are left out of the host's time: the simulator's own means nothing.
    with loaded.executor.offloading(dry=True):
        seconds = loaded.executor.time(arrays, warmup=_WARMUP, repeat=bench) if bench else ()
    latency = _latency(seconds, loaded.threads) if seconds else None
    if session.json:
        session.document(
            {
                "bundle": str(bundle),
                "inputs": "given" if given else "golden",
                "random_inputs": given.random,
                "outputs": [statistics(name, array) for name, array in outputs.items()],
                "output": str(output) if output else None,
                "verification": dataclasses.asdict(verification) if verification else None,
                "latency": latency,
                "vta": accelerated,
            }
        )
        return
    session.show(outputs_table(outputs))
    if verification is not None:
        session.show(verification_text(verification))
    if accelerated is not None:
        session.show(vta_text(accelerated))
    if latency is not None:
        whose = "latency" if accelerated is None else "the host's part"
        session.show(
            f"{whose}: p10 {latency['p10_ms']:.3f} ms, median {latency['median_ms']:.3f} ms, "
            f"p90 {latency['p90_ms']:.3f} ms (measured, {latency['runs']} runs after {_WARMUP}, "
            f"threads: {loaded.threads}; {latency['cpu']})"
        )
    if output is not None:
        session.show(f"outputs written to {output}")


@click.command("report")
@_bundle_argument
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the report as one self-contained HTML page.",
)
@with_common_options
@click.pass_obj
def report(session: Session, bundle: Path, html: Path | None) -> None:
    """Show the latency report that BUNDLE brings; nothing is run."""
    from compiler.package import read_contents
    from compiler.package.manifest import REPORT
    from compiler.report import Report

    contents = read_contents(bundle)
    if REPORT not in contents.data:
        raise BundleError(
            "the bundle holds no report: it was compiled without measuring",
            where=str(bundle),
            hint=f"measure it with `tilewright run {bundle} --bench 50`, or compile again",
        )
    found = Report.from_json(contents.data[REPORT], where=f"{bundle}: {REPORT}")
    if html is not None:
        found.to_html(html)
        session.message(f"report written to {html}")
    if session.json:
        session.document(_report_document(found))
    elif html is None:
        session.show(found)


@click.command("targets")
@click.argument("name", required=False)
@with_common_options
@click.pass_obj
def targets(session: Session, name: str | None) -> None:
    """List the targets and what works, or the facts of the one called NAME."""
    from targets import get_target, list_targets

    if name is not None:
        spec = get_target(target_argument(name))
        if session.json:
            session.document(encode(spec))
        else:
            session.show(target_table(spec))
        return
    found = list_targets()
    if session.json:
        session.document([encode(spec) for spec in found])
    else:
        session.show(targets_table(found))


@click.command("inspect")
@_bundle_argument
@click.option("--kernels", is_flag=True, help="List every kernel.")
@click.option(
    "--vta",
    "vta_",
    is_flag=True,
    help="Show the VTA programs: where each layer's cycles go (simulated), and the disassembly.",
)
@click.option("--layer", metavar="NAME", help="With --vta: only the instructions of this layer.")
@with_common_options
@click.pass_obj
def inspect_(session: Session, bundle: Path, kernels: bool, vta_: bool, layer: str | None) -> None:
    """Show what BUNDLE holds, after checking it; no code of it is loaded.

    Works for a bundle of another machine as well.
    """
    from compiler.package import check_host, read_contents

    if layer is not None and not vta_:
        raise click.UsageError("--layer belongs to --vta")
    contents = read_contents(bundle)
    if vta_:
        document = inspect_vta(session, contents, layer)
        if session.json:
            session.document(document)
        return
    problem = None
    try:
        check_host(contents.manifest, str(bundle))
    except BundleError as error:
        problem = error.message
    if session.json:
        document = {
            "bundle": str(bundle),
            "kind": contents.kind,
            **_describe(contents.manifest),
            "target_facts": encode(contents.manifest.target),
            "required_features": list(contents.manifest.required_features),
            "platform": encode(contents.manifest.platform),
            "toolchain": dict(contents.manifest.toolchain),
            "members": {
                name: {**encode(member), "packed_bytes": contents.packed_bytes[name]}
                for name, member in contents.members.items()
            },
            "parameters": encode(contents.manifest.parameters),
            "prepared": encode(contents.manifest.prepared),
            "coverage": coverage_document(contents.manifest.kernels),
            "runs_here": problem is None,
            "why_not": problem,
        }
        if kernels:
            document["kernels"] = encode(contents.manifest.kernels)
        session.document(document)
        return
    for table in inspect_tables(contents, problem):
        session.show(table)
    if kernels:
        session.show(kernels_table(contents))


def _model_inputs(bundle: Bundle, given: GivenInputs) -> tuple[Any, ...]:
    from compiler.runtime.check import bind

    if not given:
        return bundle.golden.inputs
    return bind(bundle.inputs, given.positional, given.named, "--input")


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "model"


def _not_measured(bundle: Bundle, path: Path) -> str:
    """That the report's times are not measured, and how to measure."""
    text = f"not measured: this machine cannot run code for {bundle.target.name}"
    if bundle.target.family == "arm":
        text += f"; on a board: `{command_line('bench', str(path), '--device', 'NAME')}`"
    return text


def _size_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def _describe(manifest: Any) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "created": manifest.created,
        "target": manifest.target.name,
        "threads": manifest.threads,
        "precision": manifest.precision,
        "inputs": encode(manifest.inputs),
        "outputs": encode(manifest.outputs),
        "parameter_count": len(manifest.parameters),
        "parameter_bytes": manifest.parameter_bytes,
        "loaded_parameter_bytes": manifest.loaded_parameter_bytes,
        "kernel_count": len(manifest.kernels),
        "planned_activation_bytes": manifest.planned_activation_bytes,
        "golden_source": manifest.golden_source,
        "stages": encode(manifest.stages),
    }


def _report_document(found: Any) -> Any:
    return None if found is None else json.loads(found.to_json())


def _latency(seconds: tuple[float, ...], threads: int) -> dict[str, Any]:
    import numpy as np

    from targets import cpu_name

    low, high = np.percentile(seconds, (10, 90))
    return {
        "p10_ms": float(low) * 1e3,
        "median_ms": median(seconds) * 1e3,
        "p90_ms": float(high) * 1e3,
        "runs": len(seconds),
        "warmup": _WARMUP,
        "threads": threads,
        "cpu": cpu_name(),
        "label": "measured",
    }


__all__ = ["compile_", "inspect_", "report", "run", "targets"]
