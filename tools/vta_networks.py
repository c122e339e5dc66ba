"""Whole networks on VTA: are their bits those of x86, and what do they take?

``python -m tools.vta_networks``. Each network is compiled for VTA with the default recipe, and
for x86 with the very plan that came out. Outputs are compared bit for bit; cycles are simulated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import compiler
from compiler.report.vta import describe_vta
from targets import cpu_name
from tools.accuracy import train
from tools.accuracy.networks import NETWORKS as FASHION

Arrays = list[np.ndarray[Any, Any]]
_WEIGHTS = Path(__file__).parent / "accuracy" / "weights"


def _random(shape: tuple[int, ...], count: int) -> Arrays:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]


def _fashion(name: str) -> tuple[Any, Arrays]:
    return train.load(name, _WEIGHTS / f"{name}.safetensors"), _random((1, 1, 28, 28), 16)


def _zoo(name: str) -> tuple[Any, Arrays]:
    from tools.zoo.nets import build

    return build(name)[0], _random((1, 3, 224, 224), 4)


def _efficientnet(_name: str) -> tuple[Any, Arrays]:
    from tools.accuracy.imagenet import variations
    from tools.demo import assets

    if absent := assets.missing():
        assets.install(absent, click.echo)
    paths = [image.path for image in assets.labelled_images()]
    return assets.load_model(), list(variations(paths[:8], 2, seed=1))


NETWORKS: dict[str, Callable[[str], tuple[Any, Arrays]]] = {
    **dict.fromkeys(FASHION, _fashion),
    "resnet18": _zoo,
    "mobilenet_v2": _zoo,
    "efficientnet-lite0": _efficientnet,
}


def _measure(name: str, target: str, images: int) -> dict[str, Any]:
    model, samples = NETWORKS[name](name)
    start = time.perf_counter()
    bundle = compiler.compile(
        model, target, example_inputs=(samples[0],), name=name, calibration=iter(samples),
        measure=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if bundle.vta is None:
        raise click.ClickException(f"{name}: nothing is on VTA")
    same = compiler.compile(
        model, example_inputs=(samples[0],), name=name, quantize=bundle.plan, measure=False
    )
    start = time.perf_counter()
    equal = sum(bool((bundle(x) == same(x)).all()) for x in samples[:images])
    simulated = (time.perf_counter() - start) / images
    found = describe_vta(bundle.vta, device=target, host_ms=0.0)
    steps = {s.name: s.milliseconds for s in bundle.manifest.stages}
    first, *rest = found.layers
    return {
        "network": name,
        "target": target,
        "images_compared": images,
        "images_with_equal_bits": equal,
        "golden_sha256_equal": bundle.manifest.golden_sha256 == same.manifest.golden_sha256,
        "layers_on_vta": len(found.layers),
        "programs": len(found.programs),
        "operators_on_the_host": {row.name: row.why for row in found.host},
        "cycles_simulated": int(found.cycles.value),
        "ms_simulated": round(found.time.value, 3),
        "utilization_percent": round(found.utilization.value, 1),
        "first_layer": [first.name, int(first.cycles.value)],
        "cycles_without_first_and_pooling": sum(
            int(row.cycles.value) for row in rest if row.operator != "max_pool2d"
        ),
        "slowest_layers": [
            [row.name, row.operator, int(row.cycles.value), round(row.utilization.value, 1)]
            for row in sorted(found.layers, key=lambda r: -r.cycles.value)[:5]
        ],
        "instructions": sum(p.instructions for p in found.programs),
        "program_bytes": int(sum(p.size.value for p in found.programs)),
        "constant_bytes": int(sum(p.weights.value for p in found.programs)),
        "energy_mj_estimated": round(found.energy.value, 3),
        "compile_seconds": round(seconds, 1),
        "offload_seconds": round(steps["OffloadToVta"] / 1e3, 2),
        "seconds_an_image": round(simulated, 2),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--target", default="vta", show_default=True)
@click.option("--images", default=3, show_default=True, help="Images that are compared.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.argument("names", nargs=-1, type=click.Choice(tuple(NETWORKS)))
def main(target: str, images: int, json_path: Path | None, names: tuple[str, ...]) -> None:
    """Compile networks for VTA, compare their bits with x86's, and say where cycles go."""
    rows = list(_rows(names or tuple(NETWORKS), target, images))
    if json_path is not None:
        document = {
            "cpu": cpu_name(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "version": compiler.__version__,
            "rows": rows,
        }
        json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if any(row["images_with_equal_bits"] != row["images_compared"] for row in rows):
        raise click.ClickException("some bits differ")


def _rows(names: tuple[str, ...], target: str, images: int) -> Iterator[dict[str, Any]]:
    for name in names:
        row = _measure(name, target, images)
        click.echo(json.dumps(row))
        yield row


if __name__ == "__main__":
    main()
