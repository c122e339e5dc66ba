"""Models for ARM, run without Python on emulated processors: the answers alone, never the time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import compiler
from compiler.cli.app import run_cli
from compiler.deploy import write_deployment
from tests.support.boards import emulates, lacks_an_instruction, selftest
from tests.support.emulated import CPUS, RUNS_ON

pytestmark = [pytest.mark.compile, emulates]


class Small(torch.nn.Module):
    """Convolutions of every kind and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = torch.nn.Conv2d(16, 24, 1)
        self.norm = torch.nn.BatchNorm2d(24)
        self.dense = torch.nn.Linear(24, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.depthwise(torch.relu(self.stem(image))))
        hidden = torch.nn.functional.relu6(self.norm(self.pointwise(hidden)))
        return self.dense(hidden.mean((2, 3)))


class Words(torch.nn.Module):
    """A transformer's layer between operators that stay float32."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 32)
        self.layer = torch.nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, activation="gelu", batch_first=True
        )
        self.norm = torch.nn.GroupNorm(4, 32)
        self.head = torch.nn.Linear(32, 5)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.layer(self.embed(words)).mean(1))
        return torch.softmax(self.head(hidden), -1)


@pytest.fixture(scope="module")
def model() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return Small().eval(), (torch.randn(1, 3, 32, 32),)


@pytest.mark.parametrize(
    "target", ["arm/rpi4", pytest.param("arm/cortex-a53", marks=pytest.mark.slow)]
)
def test_code_for_the_oldest_cores_runs_on_every_core(model, target: str, tmp_path: Path) -> None:
    net, inputs = model
    bundle = compiler.compile(net, target, example_inputs=inputs, measure=False, name="small")
    folder = write_deployment(bundle, tmp_path / "small").path
    for cpu in CPUS:
        assert selftest(folder, cpu)["error"] < 1e-5, cpu


@pytest.fixture(scope="module")
def quantized(model) -> compiler.Bundle:
    """For this machine; its plan serves the others."""
    net, inputs = model
    rng = np.random.default_rng(0)
    calibration = [(rng.standard_normal((1, 3, 32, 32), np.float32),) for _ in range(8)]
    return compiler.compile(
        net, "x86", example_inputs=inputs, measure=False, name="small",
        quantize="int8", calibration=calibration,
    )  # fmt: skip


@pytest.fixture(scope="module")
def deployed(
    model, quantized: compiler.Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of the quantized model for a target, made once."""
    net, inputs = model

    @cache
    def deploy(target: str) -> Path:
        bundle = compiler.compile(
            net, target, example_inputs=inputs, measure=False, name="small", quantize=quantized.plan
        )
        assert bundle.manifest.golden_sha256 == quantized.manifest.golden_sha256
        return write_deployment(bundle, tmp_path_factory.mktemp("deployed") / "small").path

    return deploy


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("arm/rpi4", marks=pytest.mark.slow),
        "arm/neoverse-n1",
        pytest.param("arm/neoverse-v1", marks=pytest.mark.slow),
    ],
)
def test_int8_gives_the_bits_of_x86(deployed: Callable[[str], Path], target: str) -> None:
    assert selftest(deployed(target), RUNS_ON[target][0])["same_bits"]


@pytest.mark.parametrize(
    ("target", "older"),
    [
        ("arm/neoverse-n1", "cortex-a72"),
        pytest.param("arm/neoverse-v1", "neoverse-n1", marks=pytest.mark.slow),
    ],
)
def test_code_for_newer_cores_stops_on_older_ones(
    deployed: Callable[[str], Path], target: str, older: str
) -> None:
    """Else code that runs without a feature would prove nothing about who needs it."""
    folder = deployed(target)
    assert lacks_an_instruction(folder, older)
    assert selftest(folder, RUNS_ON[target][0])["same_bits"]


def test_code_for_another_machine_is_not_measured(tmp_path: Path, capsys) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(8, 4).eval()\n"
    )
    words = ["compile", f"{tmp_path}/net.py:make", "-i", "1x8", "--target", "arm"]
    page = tmp_path / "net.html"
    more = ["--no-estimate", "-o", str(tmp_path / "net.tw"), "--html", str(page)]
    assert run_cli([*words, *more]) == 0
    shown = capsys.readouterr()
    assert "not measured: this machine cannot run code for arm/rpi4" in shown.err
    assert "latency, at least" in shown.out
    assert "Latency, at least" in page.read_text(encoding="utf-8")
    assert run_cli([*words, "--measure"]) == 3


@pytest.mark.parametrize(
    "recipe",
    [
        "int8",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("int8-dynamic", "int4-weights", "codebook-weights")
        ),
    ],
)
def test_parts_in_float_are_compared_within_a_tolerance(recipe: str, tmp_path: Path) -> None:
    """Their last digits are the target's own, so that bits cannot be those of the reference."""
    torch.manual_seed(0)
    net, words = Words().eval(), torch.randint(0, 50, (1, 12))
    samples = [(torch.randint(0, 50, (1, 12)),) for _ in range(8)] if recipe == "int8" else None
    bundle = compiler.compile(
        net, "arm/rpi4", example_inputs=(words,), measure=False, name="words", quantize=recipe,
        calibration=samples,
    )  # fmt: skip
    assert bundle.manifest.golden_source == "reference"
    folder = write_deployment(bundle, tmp_path / "words").path
    assert selftest(folder, "cortex-a72")["error"] < 0.02
