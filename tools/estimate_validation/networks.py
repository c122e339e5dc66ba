"""Whole networks: estimated against measured ratios of the times of two variants."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import compiler
from compiler.deploy.folder import write_deployment
from compiler.estimate import estimate_model
from targets.spec import TargetSpec
from tools.zoo.nets import build, samples

NETS = ("resnet18", "mobilenet_v2", "minilm_l6")
_ROUNDS, _RUNS = 15, 5


def _stack(width: float) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Convolutions as ResNet-18 has them; the share `width` of their channels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 64
    for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        kept = round(channels * width)
        layers += [nn.Conv2d(before, kept, 3, stride=stride, padding=1), nn.ReLU()]
        before = kept
    return nn.Sequential(*layers).eval(), (torch.randn(1, 64, 56, 56),)


def variants() -> dict[str, Callable[[str, Path], Any]]:
    """What is compiled, by name: called with the target and an empty folder for records."""

    def of(net: str, *, tuned: bool, int8: bool) -> Callable[[str, Path], Any]:
        def make(target: str, empty: Path) -> Any:
            module, inputs = build(net)
            return compiler.compile(
                module, target, example_inputs=inputs, name=net, measure=False,
                records=empty if tuned else False,
                quantize="int8" if int8 else None,
                calibration=samples(net, 4) if int8 else None,
            )  # fmt: skip

        return make

    def stack(width: float) -> Callable[[str, Path], Any]:
        def make(target: str, _empty: Path) -> Any:
            module, inputs = _stack(width)
            return compiler.compile(
                module, target, example_inputs=inputs, measure=False, records=False
            )

        return make

    found: dict[str, Callable[[str, Path], Any]] = {}
    for net in NETS:
        found[f"{net} float32"] = of(net, tuned=False, int8=False)
        found[f"{net} float32 tuned"] = of(net, tuned=True, int8=False)
        found[f"{net} int8"] = of(net, tuned=False, int8=True)
    found["convolutions dense"] = stack(1.0)
    found["convolutions pruned"] = stack(0.75)
    return found


#: What is compared: of the first, the share that the second takes.
RATIOS = (
    *((f"{net} float32", f"{net} float32 tuned", "tuned/untuned") for net in NETS),
    *((f"{net} float32", f"{net} int8", "int8/float32") for net in NETS),
    ("convolutions dense", "convolutions pruned", "pruned/dense"),
)


def prepare(work: Path, target: str, processor: TargetSpec) -> None:
    """Compile and estimate what is not there yet."""
    for name, make in variants().items():
        folder = work / name.replace(" ", "-")
        if (folder / "estimate.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        saved = folder / "bundle.tw"
        if not saved.exists():
            with tempfile.TemporaryDirectory() as empty:
                make(target, Path(empty)).save(saved)
        bundle = compiler.load(saved)
        cost = estimate_model(bundle, processor=processor)
        write_deployment(bundle, folder / "model")
        (folder / "estimate.json").write_text(
            json.dumps(
                {
                    "instructions": cost.instructions,
                    "core_cycles": sum(kernel.core_cycles for kernel in cost.kernels),
                    "cycles": cost.cycles,
                }
            )
        )
        print(f"{name}: {cost.cycles / 1e6:.1f} M cycles (estimated)", flush=True)


def measure(work: Path, cpu: int) -> None:
    """Time all of them in turn."""
    os.sched_setaffinity(0, {cpu})  # and those that it starts
    taken: dict[str, list[float]] = {name: [] for name in variants()}
    for _ in range(_ROUNDS):
        for name, times in taken.items():
            folder = work / name.replace(" ", "-") / "model"
            done = subprocess.run(
                [str(folder / "run"), str(folder), "--bench", str(_RUNS), "--warmup", "2",
                 "--threads", "1", "--json"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            times.append(float(json.loads(done.stdout)["median_ms"]))
    (work / "measured.json").write_text(json.dumps(taken))


def compare(work: Path) -> list[dict[str, Any]]:
    """The ratios, estimated and measured."""
    measured = json.loads((work / "measured.json").read_text())
    estimated = {
        name: json.loads((work / name.replace(" ", "-") / "estimate.json").read_text())
        for name in variants()
    }
    rows = []
    for one, other, kind in RATIOS:
        # Within a round the machine is about as busy for both.
        truth = median(b / a for a, b in zip(measured[one], measured[other], strict=True))
        row = {"of": one, "by": other, "kind": kind, "measured": truth}
        for figure in ("cycles", "core_cycles", "instructions"):
            row[figure] = estimated[other][figure] / estimated[one][figure]
        row["error"] = row["cycles"] / truth - 1
        rows.append(row)
    return rows
