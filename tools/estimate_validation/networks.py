"""Whole networks: estimated against measured ratios of the times of two variants."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import compiler
from compiler.deploy.folder import write_deployment
from compiler.estimate.profile import ModelCounts, count_model, estimate_counts
from targets.spec import TargetSpec
from tools.estimate_validation import truth
from tools.estimate_validation.kept import block_of, row_of
from tools.zoo.nets import build, samples

NETS = ("resnet18", "mobilenet_v2", "minilm_l6")
ROUNDS, _RUNS = 25, 1


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
    """Compile and count what is not there yet."""
    for name, make in variants().items():
        folder = _folder(work, name)
        if (folder / "counts.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        saved = folder / "bundle.tw"
        if not saved.exists():
            with tempfile.TemporaryDirectory() as empty:
                make(target, Path(empty)).save(saved)
        bundle = compiler.load(saved)
        if not (folder / "model").exists():
            write_deployment(bundle, folder / "model")
        counts = count_model(bundle, processor=processor)
        blocks = [row_of(block) for block in counts.blocks]
        (folder / "counts.json").write_text(json.dumps([blocks, counts.symbols]))
        print(f"{name}: counted", flush=True)


def estimate(work: Path, processor: TargetSpec) -> dict[str, dict[str, float]]:
    """Figures of every variant that was counted: instructions and estimated cycles."""
    found = {}
    for name in variants():
        folder = _folder(work, name)
        blocks, symbols = json.loads((folder / "counts.json").read_text())
        counts = ModelCounts(
            tuple(block_of(row) for row in blocks), tuple((at, kernel) for at, kernel in symbols)
        )
        cost = estimate_counts(compiler.load(folder / "bundle.tw"), counts, processor=processor)
        found[name] = {
            "instructions": float(cost.instructions),
            "core_cycles": sum(kernel.core_cycles for kernel in cost.kernels),
            "cycles": cost.cycles,
        }
    return found


def measure(work: Path, cpu: int) -> None:
    """Time every call of a kernel, of all variants in turn."""
    os.sched_setaffinity(0, {cpu})  # and those that it starts
    with tempfile.TemporaryDirectory() as folder:
        alone = truth.Alone(truth.make_probe(Path(folder)))
    taken: dict[str, list[list[float]]] = {name: [] for name in variants()}
    for _ in range(ROUNDS):
        for name, rounds in taken.items():
            model = _folder(work, name) / "model"
            alone.wait()
            done = subprocess.run(
                [str(model / "run"), str(model), "--bench", str(_RUNS), "--warmup", "1",
                 "--threads", "1", "--json", "--profile"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            rounds.append([float(ms) for _name, ms in json.loads(done.stdout)["kernels"]])
    (work / "measured.json").write_text(json.dumps(taken))


def compare(work: Path, processor: TargetSpec) -> list[dict[str, Any]]:
    """The ratios, estimated and measured.

    What a network takes is the sum over its kernels' calls, each the lower fifth of its rounds.
    """
    rounds = json.loads((work / "measured.json").read_text())
    measured = {
        name: sum(truth.low(list(call)) for call in zip(*rows, strict=True))
        for name, rows in rounds.items()
    }
    estimated = estimate(work, processor)
    rows = []
    for one, other, kind in RATIOS:
        ratio = measured[other] / measured[one]
        row: dict[str, Any] = {"of": one, "by": other, "kind": kind, "measured": ratio}
        row["measured_ms"] = [measured[one], measured[other]]
        row["estimated_ms"] = [
            1e3 * estimated[name]["cycles"] / processor.clock_hz for name in (one, other)
        ]
        for figure in ("cycles", "core_cycles", "instructions"):
            row[figure] = estimated[other][figure] / estimated[one][figure]
        row["error"] = row["cycles"] / ratio - 1
        rows.append(row)
    return rows


def _folder(work: Path, name: str) -> Path:
    return work / name.replace(" ", "-")


__all__ = ["NETS", "ROUNDS", "compare", "estimate", "measure", "prepare", "variants"]
