"""Tuning of integer kernels: records of a quantized model, and compilations that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import CompressionPlan, Tune, compile, tune_model
from compiler.cli.app import run_cli
from compiler.errors import CalibrationError, NotTunedError
from schedules.records import RecordStore

pytestmark = [pytest.mark.compile, pytest.mark.slow]


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4),
        )  # fmt: skip


def make() -> nn.Module:
    return Net().eval()


def images(seed: int, spread: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(spread / 3, spread, (1, 8, 6, 6)).astype(np.float32) for _ in range(8)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the quantized model's kernels."""
    folder = tmp_path_factory.mktemp("int8") / "records"
    result = tune_model(
        make(), example_inputs=(images(0)[0],), tune=Tune(trials=4, records=folder),
        quantize="int8", calibration=images(0),
    )  # fmt: skip
    assert result.trials == 4
    return folder


def test_records_are_of_integer_kernels(store: Path) -> None:
    records = list(RecordStore(store))
    assert {r.workload.operator for r in records} == {"conv2d", "depthwise_conv2d", "dense"}
    assert {r.workload.dtypes for r in records} == {("uint8", "int8", "int32")}
    assert all("pad_value" not in r.workload.attributes for r in records)


def test_records_serve_another_calibration(store: Path) -> None:
    """Other scales and zero points are the same kernels."""
    options: dict[str, Any] = {
        "example_inputs": (images(0)[0],), "quantize": "int8", "measure": False,
        "calibration": images(5, spread=2.5),
    }  # fmt: skip
    bundle = compile(make(), records=store, require_tuned=1.0, **options)
    heavy = [k for k in bundle.kernels if k.source != "rule"]
    assert {k.source for k in heavy} == {"record"}
    plain = compile(make(), records=False, **options)
    assert bundle.manifest.golden_sha256 == plain.manifest.golden_sha256
    with pytest.raises(NotTunedError, match="are required"):
        compile(make(), records=store.parent / "none", require_tuned=0.5, **options)


def test_compile_searches_with_a_plan(tmp_path: Path, store: Path) -> None:
    bundle = compile(
        make(), example_inputs=(images(0)[0],), quantize="int8", calibration=images(0),
        tune=Tune(trials=3, tasks="dense", records=tmp_path / "records"), measure=False,
    )  # fmt: skip
    assert isinstance(bundle.plan, CompressionPlan)
    assert [k.source for k in bundle.kernels if "dense" in k.name] == ["record"]


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = tmp_path / "samples.npz"
    np.savez(samples, input=np.concatenate(images(0)))
    same = [f"{__file__}:make", "-i", "1x8x6x6", "--records", str(tmp_path / "records"),
            "--quantize", "int8"]  # fmt: skip
    assert run_cli(["tune", *same]) == 5
    assert "--calibration" in capsys.readouterr().err
    same += ["--calibration", str(samples)]
    assert run_cli(["tune", *same, "--trials", "3", "--keep", "9"]) == 5
    assert "'9'" in capsys.readouterr().err
    assert run_cli(["tune", *same, "--trials", "3", "--tasks", "conv2d"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert f"--quantizeint8--calibration{samples}" in shown
    out = ["-o", str(tmp_path / "net.tw"), "--no-measure", "--require-tuned", "1.0"]
    assert run_cli(["compile", *same, *out]) == 8
    hint = "".join(capsys.readouterr().err.split())
    assert f"--quantizeint8--calibration{samples}" in hint


def test_a_search_needs_samples() -> None:
    with pytest.raises(CalibrationError, match="no calibration samples"):
        tune_model(make(), example_inputs=(torch.zeros(1, 8, 6, 6),), quantize="int8")
