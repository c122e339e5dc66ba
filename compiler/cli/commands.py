"""The subcommands. Each parses its strings, calls the library, and shows the result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.inputs import GivenInputs, check_output, read_inputs, write_outputs
from compiler.cli.output import Session, with_common_options
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
from compiler.errors import BundleError, InputError

if TYPE_CHECKING:
    from compiler.package import Bundle


#: Runs that are not counted before `run --bench` measures.
_WARMUP = 3
_INPUT_HELP = (
    "An input, as often as the model has some: x.npy, x.npz (by name), a shape filled with "
    "seeded random numbers such as 1x3x224x224 or 1x128/int64:1000 (0 to 999), or any of them "
    "for a named input: NAME=..."
)
_bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
_input_option = click.option(
    "-i", "--input", "inputs", multiple=True, metavar="INPUT", help=_INPUT_HELP
)
_threads_help = "Threads that the model runs on."


@click.command("compile")
@click.argument("model")
@click.option(
    "--target",
    default="x86",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Device to compile for; x86 is this machine. `tilewright targets` lists them.",
)
@_input_option
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="State dict (.pt, .pth) or .safetensors to load into the factory's model.",
)
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
@click.option("--name", metavar="NAME", help="The model's name.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help=_threads_help
)
@click.option("--dynamic-batch", is_flag=True, help="Axis 0 of every input may vary.")
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="Measure the latency report on this machine.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-2,
    show_default=True,
    help="Largest accepted error against PyTorch, relative to an output's largest magnitude.",
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
    measure: bool,
    tolerance: float,
) -> None:
    """Compile MODEL into a bundle.

    MODEL is `file.py:factory` (a function or class that makes a torch.nn.Module) or a `.pt2`
    file of torch.export.
    """
    from compiler.api import choose_target
    from compiler.api import compile as compile_model
    from compiler.package.atomic import check_destination
    from compiler.package.manifest import MANIFEST

    if html is not None and not measure:
        raise click.UsageError("--html needs the report: leave out --no-measure")
    spec = choose_target(_target_argument(target), measure=measure)
    given = read_inputs(inputs)
    # Before the minutes of work, not after.
    if output is not None:
        check_destination(output, folder_if=MANIFEST if folder else None)
    if html is not None:
        check_destination(html)
    if given.describe():
        session.message(f"note: {given.describe()}")
    with session.working(), session.progress() as progress:
        progress("frontend", "load PyTorch and TVM")
        session.import_heavy("torch", "schedules.tvm_adapter")
        progress("frontend", "read the model")
        loaded, own_inputs, own_name = _read_model(model, weights)
        bundle = compile_model(
            loaded,
            spec,
            example_inputs=_example_inputs(given, own_inputs),
            dynamic_batch=dynamic_batch,
            name=name or own_name,
            threads=threads,
            measure=measure,
            tolerance=tolerance,
            progress=progress,
        )
        progress("package", "write")
        path = bundle.save(output or Path(f"{_file_name(bundle.name)}.tw"), folder=folder)
        if html is not None and bundle.report is not None:
            bundle.report.to_html(html)
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
@_input_option
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
    help=_threads_help + " By default as many as it was compiled for.",
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
) -> None:
    """Run BUNDLE on inputs; without any, on its golden inputs."""
    from compiler.api import load

    loaded = load(bundle, threads=threads)
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
            }
        )
        return
    session.show(outputs_table(outputs))
    if verification is not None:
        session.show(verification_text(verification))
    if latency is not None:
        session.show(
            f"latency: p10 {latency['p10_ms']:.3f} ms, median {latency['median_ms']:.3f} ms, "
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
        spec = get_target(_target_argument(name))
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
@with_common_options
@click.pass_obj
def inspect_(session: Session, bundle: Path, kernels: bool) -> None:
    """Show what BUNDLE holds, after checking it; no code of it is loaded.

    Works for a bundle of another machine as well.
    """
    from compiler.package import check_host, read_contents

    contents = read_contents(bundle)
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


def _target_argument(text: str) -> str | Path:
    return Path(text) if text.endswith(".toml") else text


def _read_model(model: str, weights: Path | None) -> tuple[Any, Any, str | None]:
    """A model, the example inputs that it brings itself (or None), and its name."""
    from compiler.frontend import read_model

    return read_model(model, weights=weights)


def _example_inputs(given: GivenInputs, own: Any) -> Any:
    if not given:
        return own
    if given.positional and given.named:
        raise InputError(
            "some inputs are given by name and some by position",
            where="--input",
            hint="name all of them or none",
        )
    return dict(given.named) if given.named else given.positional


def _model_inputs(bundle: Bundle, given: GivenInputs) -> tuple[Any, ...]:
    from compiler.runtime.check import bind

    if not given:
        return bundle.golden.inputs
    return bind(bundle.inputs, given.positional, given.named, "--input")


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "model"


def _size_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def _describe(manifest: Any) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "created": manifest.created,
        "target": manifest.target.name,
        "threads": manifest.threads,
        "inputs": encode(manifest.inputs),
        "outputs": encode(manifest.outputs),
        "parameter_count": len(manifest.parameters),
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
