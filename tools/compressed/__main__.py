"""`python -m tools.compressed`: sizes on disk and latency of the six networks, compressed.

For each network and recipe a bundle is compiled, saved, and its size compared with the float32
bundle's. Then all bundles of a network are run in turn, in rounds, in one process on one pinned
thread, so that a busy neighbour costs them alike; the figure is the median of the ratios of a
round. Recipes that read samples get those of the zoo.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

import compiler
from compiler import Quantize
from compiler._version import __version__
from targets import cpu_name
from tools.zoo import nets

NETS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0", "minilm_l6", "vit_tiny")
RECIPES = ("int8-weights", "int4-weights", "codebook-weights", "float16-weights", "int8-dynamic")
SAMPLES = 16
ROUNDS = 15
#: At most so many seconds of a network's rounds.
SECONDS = 60.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--no-speed", is_flag=True, help="Sizes only.")
@click.option("--records/--no-records", default=True, help="Use shipped tuning records.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.argument("names", nargs=-1)
def main(
    recipes: tuple[str, ...],
    no_speed: bool,
    records: bool,
    json_path: Path | None,
    names: tuple[str, ...],
) -> None:
    """Measure the six networks, or those named; or single layers, such as gemv-4096."""
    import torch

    known = (*NETS, *LAYERS)
    if unknown := [n for n in names if n not in known]:
        raise click.UsageError(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    found: dict[str, Any] = {"version": __version__, "cpu": cpu_name(), "networks": {}}
    click.echo(
        f"{cpu_name()}, one pinned thread; sizes of saved bundles; latency: median of rounds"
    )
    for name in names or NETS:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(name, recipes, Path(folder), speed=not no_speed, records=records)
        found["networks"][name] = rows
        show(name, rows)
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(
    name: str, recipes: Iterable[str], folder: Path, *, speed: bool, records: bool
) -> dict[str, dict[str, Any]]:
    """Sizes, and latencies if `speed`, of one network by recipe, ``float32`` included."""
    model, inputs = LAYERS[name]() if name in LAYERS else nets.build(name)
    arrays = [value.numpy() for value in inputs]
    own = 4 * sum(p.numel() for p in model.parameters())
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], Any]] = {}
    expected: Any = None
    for recipe in ("float32", *recipes):
        options: dict[str, Any] = {}
        if recipe != "float32":
            parsed = parse(recipe)
            options["quantize"] = parsed
            if parsed.needs_calibration:
                options["calibration"] = samples(name, inputs)
        made = compiler.compile(
            model, example_inputs=inputs, target="x86", threads=1, measure=False,
            records=None if records else False, tolerance=float("inf"), **options,
        )  # fmt: skip
        path = made.save(folder / f"{name}-{recipe.replace('/', '-')}.tw")
        bundle = compiler.load(path)
        output = first(bundle(*arrays))
        expected = output if expected is None else expected
        parameters = sum(int(a.nbytes) for a in bundle.parameters.values())
        rows[recipe] = {
            "bundle_bytes": path.stat().st_size,
            "parameter_bytes": parameters,
            "share_of_model": path.stat().st_size / own,
            "share": path.stat().st_size / rows["float32"]["bundle_bytes"] if rows else 1.0,
            "cosine": cosine(output, expected),
        }
        runs[recipe] = partial(bundle, *arrays)
    if speed:
        times = interleaved(runs)
        for recipe, seconds in times.items():
            rows[recipe]["milliseconds"] = statistics.median(seconds) * 1e3
            ratios = [a / b for a, b in zip(times["float32"], seconds, strict=True)]
            rows[recipe]["speedup"] = statistics.median(ratios)
    return rows


def interleaved(runs: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each run in each round, on the thread's own CPU clock."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    begin = time.monotonic()
    for number in range(ROUNDS):
        for name, run in runs.items():
            run()  # fills the caches with this one's weights
            start = time.thread_time()
            run()
            times[name].append(time.thread_time() - start)
        if number >= 2 and time.monotonic() - begin > SECONDS:
            break
    return times


def first(outputs: Any) -> Any:
    """The first output."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def cosine(a: Any, b: Any) -> float:
    """Cosine between two outputs."""
    x, y = (np.asarray(v, np.float64).reshape(-1) for v in (a, b))
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def show(name: str, rows: dict[str, dict[str, Any]]) -> None:
    """One line a recipe."""
    click.echo(f"\n{name}")
    for recipe, row in rows.items():
        line = f"  {recipe:24s} {row['bundle_bytes'] / 1e6:8.2f} MB  {row['share']:6.1%}"
        line += f"  {row['share_of_model']:6.1%} of the model's"
        line += f"  parameters {row['parameter_bytes'] / 1e6:8.2f} MB  cosine {row['cosine']:.5f}"
        if "milliseconds" in row:
            line += f"  {row['milliseconds']:8.2f} ms  {row['speedup']:5.2f}x"
        click.echo(line)


def samples(name: str, inputs: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Inputs to calibrate by: those of the zoo, or random ones."""
    import torch

    if name not in LAYERS:
        return [tuple(s) for s in nets.samples(name, SAMPLES)]
    return [tuple(torch.randn_like(v) for v in inputs) for _ in range(SAMPLES)]


def linear(rows: int, inner: int, outer: int) -> tuple[Any, tuple[Any, ...]]:
    """A linear layer on so many rows."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(inner, outer).eval(), (torch.randn(rows, inner),)


def convolution(size: int, inner: int, outer: int, kernel: int) -> tuple[Any, tuple[Any, ...]]:
    """A convolution of a square image with padding."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(inner, outer, kernel, padding=kernel // 2)
    return layer.eval(), (torch.randn(1, inner, size, size),)


#: Single layers: matrix-vector products whose weights lie in the second cache, in the third, and
#: in memory; a product of a sentence; convolutions.
LAYERS: Mapping[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "gemv-512": lambda: linear(1, 512, 512),
    "gemv-1280": lambda: linear(1, 1280, 1000),
    "gemv-4096": lambda: linear(1, 4096, 4096),
    "gemv-8192": lambda: linear(1, 8192, 8192),
    "gemm-128": lambda: linear(128, 384, 1536),
    "conv-3x3": lambda: convolution(14, 256, 256, 3),
    "conv-1x1": lambda: convolution(14, 256, 1024, 1),
}


def parse(recipe: str) -> Quantize:
    """A recipe's word, or ``weights:activations`` such as ``int4/group64:float32``."""
    if ":" in recipe:
        weights, _, activations = recipe.partition(":")
        return Quantize(weights=weights, activations=activations)
    parsed = Quantize.parse(recipe)
    if not isinstance(parsed, Quantize):
        raise click.UsageError(f"{recipe!r} is no recipe")
    return parsed


if __name__ == "__main__":
    main()
