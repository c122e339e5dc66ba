"""`python -m tools.accuracy`: train the small networks, and measure what int8 costs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import compiler
from compiler import CompressionPlan, Quantize, __version__
from compiler.errors import TilewrightError
from targets import cpu_name
from tools.accuracy import fashion
from tools.accuracy import train as training
from tools.accuracy.networks import NETWORKS
from tools.accuracy.sequences import MINILM, SILERO, sentence_encoder, speech_detector

WEIGHTS = Path(__file__).parent / "weights"
EFFICIENTNET = "efficientnet-lite0"
#: Images of one inference of the small networks, and calibration samples.
BATCH, CALIBRATION = 100, 1600
#: Augmented images for comparing logits, of each photograph; and for calibration.
VARIATIONS, CALIBRATION_VARIATIONS = 15, 13
#: Photographs that calibration sees, of the 20; the others are held out.
SEEN = 10

_data = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=fashion.INSTALLED,
    show_default=True,
    help="Folder of Fashion-MNIST's files; fetched from Debian into it if it is not there.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Accuracy of compressed networks on real data."""


@main.command()
@_data
@click.option("--epochs", default=training.EPOCHS, show_default=True)
@click.argument("names", nargs=-1)
def train(data: Path, epochs: int, names: tuple[str, ...]) -> None:
    """Train the small networks on Fashion-MNIST and keep their weights beside this tool."""
    import torch

    torch.set_num_threads(1)
    _ensure(data)
    images = fashion.load(data, "train")
    for name in names or NETWORKS:
        model = training.train(name, images, click.echo, epochs)
        training.save(model, WEIGHTS / f"{name}.safetensors")


@main.command()
@_data
@click.option(
    "--checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of checkpoints, by which interrupted trainings go on.",
)
@click.argument("network", required=False)
@click.argument("words", nargs=-1)
def qat(data: Path, checkpoints: Path | None, network: str | None, words: tuple[str, ...]) -> None:
    """Train the small networks for fewer bits, and keep weights and plans beside this tool.

    NETWORK is one of them, WORDS are recipes: w4a8, ternary, binary; by default all.
    """
    import torch

    from tools.accuracy import qat as qat_training

    torch.set_num_threads(1)
    _ensure(data)
    images = fashion.load(data, "train")
    for name, word in qat_training.RECIPES:
        if (network and name != network) or (words and word not in words):
            continue
        model = training.load(name, WEIGHTS / f"{name}.safetensors")
        file = checkpoints / f"{name}-{word}.ckpt" if checkpoints else None
        trained, plan, result = qat_training.train_for(name, word, model, images, click.echo, file)
        if result.interrupted:
            click.echo("interrupted: nothing was written", err=True)
            sys.exit(130)
        training.save(trained, WEIGHTS / f"{name}-{word}.safetensors")
        plan.save(WEIGHTS / f"{name}-{word}.plan.json")


@main.command()
@_data
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.argument("network", required=False)
@click.argument("words", nargs=-1)
def trained(
    data: Path, json_path: Path | None, network: str | None, words: tuple[str, ...]
) -> None:
    """Measure the trained plans: accuracy of the compiled bundles on the 10,000 test images."""
    import torch

    from tools.accuracy.qat import RECIPES

    torch.set_num_threads(1)
    _ensure(data)
    rows = []
    for name, word in RECIPES:
        if (network and name != network) or (words and word not in words):
            continue
        if not (WEIGHTS / f"{name}-{word}.plan.json").is_file():
            click.echo(f"{name} {word}: not trained yet (python -m tools.accuracy qat)", err=True)
            continue
        rows.append({"network": name, "recipe": word, **_trained(name, word, data)})
        click.echo(json.dumps(rows[-1]))
    if json_path is not None:
        _write(json_path, rows)


@main.command()
@_data
@click.option("--method", "methods", multiple=True, default=("mse",), show_default=True)
@click.option("--equalize", is_flag=True, help="Equalize neighbouring layers first.")
@click.option("--power-of-two", is_flag=True, help="Scales that are powers of two.")
@click.option("--rounding", default="nearest", show_default=True, help="nearest or adaround.")
@click.option("--per-tensor", is_flag=True, help="One scale a weight.")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="WORD",
    help="Recipes by name, such as int4-weights, in place of the options before.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.argument("names", nargs=-1)
def measure(
    data: Path,
    methods: tuple[str, ...],
    equalize: bool,
    power_of_two: bool,
    rounding: str,
    per_tensor: bool,
    recipes: tuple[str, ...],
    json_path: Path | None,
    names: tuple[str, ...],
) -> None:
    """Quantize networks and compare them with float32 (all of them, or those named)."""
    import torch

    torch.set_num_threads(1)
    rows = []
    try:
        for name in names or (*NETWORKS, EFFICIENTNET, MINILM, SILERO):
            made = [
                Quantize(
                    weights="int8/tensor" if per_tensor else "int8/channel",
                    calibrate=method,
                    equalize=equalize,
                    power_of_two=power_of_two,
                    rounding=rounding,
                )
                for method in methods
            ]
            for recipe in map(_recipe, recipes) if recipes else made:
                start = time.perf_counter()
                row = _measure(name, data, recipe)
                row["seconds"] = round(time.perf_counter() - start, 1)
                rows.append({"network": name, "recipe": recipe.to_dict(), **row})
                click.echo(json.dumps(rows[-1]))
    except TilewrightError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    if json_path is not None:
        _write(json_path, rows)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    document = {
        "cpu": cpu_name(),
        "version": __version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load_1min": os.getloadavg()[0],
        "rows": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _recipe(word: str) -> Quantize:
    recipe = Quantize.parse(word)
    if not isinstance(recipe, Quantize):
        raise click.UsageError(f"{word!r} names no recipe")
    return recipe


def _ensure(data: Path) -> None:
    if not any(data.glob("t10k-images*")):
        fashion.fetch(data)


def _measure(name: str, data: Path, recipe: Quantize) -> dict[str, Any]:
    """The figures of one network."""
    if name == EFFICIENTNET:
        return _efficientnet(recipe)
    if name == MINILM:
        return sentence_encoder(recipe, _figures)
    if name == SILERO:
        return speech_detector(recipe, _figures)
    return _fashion(name, data, recipe)


def _fashion(name: str, data: Path, recipe: Quantize) -> dict[str, Any]:
    """Share of right answers on the 10,000 test images, before and after."""
    _ensure(data)
    test, pool = fashion.load(data, "t10k"), fashion.load(data, "train")
    model = training.load(name, WEIGHTS / f"{name}.safetensors")

    def accuracy(run: Callable[..., Any]) -> float:
        right = 0
        for start in range(0, len(test.images), BATCH):
            logits = np.asarray(run(test.images[start : start + BATCH]))
            right += int((logits.argmax(axis=1) == test.labels[start : start + BATCH]).sum())
        return right / len(test.images)

    bundle = compiler.compile(
        model,
        example_inputs=(pool.images[:BATCH],),
        name=name,
        quantize=recipe,
        calibration=_batches(pool.images[BATCH : BATCH + CALIBRATION])
        if recipe.needs_calibration
        else None,
        evaluate=accuracy,
    )
    return _figures(bundle)


def _trained(name: str, word: str, data: Path) -> dict[str, Any]:
    """Share of right answers: the float32 network, its plan without training, and trained."""
    test, pool = fashion.load(data, "t10k"), fashion.load(data, "train")

    def accuracy(run: Callable[..., Any]) -> float:
        right = 0
        for start in range(0, len(test.images), BATCH):
            logits = np.asarray(run(test.images[start : start + BATCH]))
            right += int((logits.argmax(axis=1) == test.labels[start : start + BATCH]).sum())
        return right / len(test.images)

    from compiler.quantization import float_model
    from compiler.source import read_source
    from compiler.stages import StageLog

    plain = training.load(name, WEIGHTS / f"{name}.safetensors")
    source = read_source(plain, (test.images[:BATCH],), name, StageLog())
    before = accuracy(float_model(source))
    plan = CompressionPlan.load(WEIGHTS / f"{name}-{word}.plan.json")
    bundle = compiler.compile(
        training.load(name, WEIGHTS / f"{name}-{word}.safetensors"),
        example_inputs=(pool.images[:BATCH],),
        name=name,
        quantize=plan,
        measure=False,
        tolerance=1e9,  # binary and ternary weights are not near those that they come from
    )
    after = accuracy(bundle)
    stored = Counter(
        f"{o.precision}: {o.weight.dtype}" for o in plan.operators.values() if o.weight
    )
    return {
        "float32": before,
        "trained": after,
        "change_points": round(100 * (after - before), 2),
        "weights": dict(stored),
        "parameter_bytes": bundle.parameter_bytes,
        "golden_sha256": bundle.manifest.golden_sha256,
    }


def _batches(images: Any) -> Iterator[Any]:
    for start in range(0, len(images) - BATCH + 1, BATCH):
        yield images[start : start + BATCH]


def _efficientnet(recipe: Quantize) -> dict[str, Any]:
    """Top-1 on the 20 photographs, and cosine of the logits on variations of them."""
    from tools.accuracy.imagenet import variations
    from tools.demo import assets
    from tools.demo.measure import hits
    from tools.demo.preprocess import read_image

    if absent := assets.missing():
        assets.install(absent, click.echo)
    model = assets.load_model()
    images = assets.labelled_images()
    paths = [image.path for image in images]
    inputs = [read_image(path) for path in paths]
    labels = [image.label for image in images]

    def top1(run: Callable[..., Any]) -> float:
        return float(hits(np.concatenate([np.asarray(run(x)) for x in inputs]), labels, 1))

    bundle = compiler.compile(
        model,
        example_inputs=(inputs[0],),
        name=EFFICIENTNET,
        quantize=recipe,
        calibration=variations(paths[:SEEN], CALIBRATION_VARIATIONS, seed=1)
        if recipe.needs_calibration
        else None,
        evaluate=top1,
    )
    import torch

    cosines = []
    for x in variations(paths, VARIATIONS, seed=2):
        with torch.no_grad():
            want = model(torch.from_numpy(x)).numpy().ravel().astype(np.float64)
        got = np.asarray(bundle(x)).ravel().astype(np.float64)
        cosines.append(float(want @ got / np.sqrt((want @ want) * (got @ got))))
    held_out = cosines[SEEN * VARIATIONS :]
    return {
        **_figures(bundle),
        "images": len(labels),
        "logits_compared": len(cosines),
        "cosine_mean": float(np.mean(cosines)),
        "cosine_least": float(np.min(cosines)),
        "cosine_mean_held_out": float(np.mean(held_out)),
    }


def _figures(bundle: Any) -> dict[str, Any]:
    """What the report says."""
    found = bundle.report.quantization
    layers = [row for row in found.layers if row.sqnr is not None]
    worst = min(layers, key=lambda row: row.sqnr.value) if layers else None
    noise = (
        {"worst_layer": worst.name, "worst_sqnr_db_simulated": worst.sqnr.value} if worst else {}
    )
    return {
        "before": found.metric_before.value,
        "after": found.metric_after.value,
        "int8_operators": sum(row.precision == "int8" for row in found.layers),
        "operators": len(found.layers),
        "samples": found.samples,
        "bytes_before": int(found.bytes_before.value),
        "bytes_after": int(found.bytes_after.value),
        **noise,
        "latency_ms": bundle.report.latency.median.value,
        "golden_sha256": found.golden_sha256,
    }


if __name__ == "__main__":
    main()
