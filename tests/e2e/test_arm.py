"""Models for ARM, run without Python on emulated processors: the answers alone, never the time."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import compiler
from compiler.cli.app import run_cli
from compiler.deploy import write_deployment

QEMU = shutil.which("qemu-aarch64")
ROOT = Path("/usr/aarch64-linux-gnu")
pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(
        QEMU is None or not (ROOT / "lib/libc.so.6").exists(),
        reason="needs Debian's qemu-user, libc6-arm64-cross and libstdc++6-arm64-cross",
    ),
]


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


def emulate(folder: Path, cpu: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [QEMU or "", "-cpu", cpu, "-L", str(ROOT), str(folder / "run"), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def model() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return Small().eval(), (torch.randn(1, 3, 32, 32),)


@pytest.mark.parametrize("target", ["arm/rpi4", "arm/cortex-a53"])
def test_float32_agrees_with_pytorch_on_every_core(model, target: str, tmp_path: Path) -> None:
    net, inputs = model
    bundle = compiler.compile(net, target, example_inputs=inputs, measure=False, name="small")
    folder = write_deployment(bundle, tmp_path / "small").path
    for cpu in ("cortex-a53", "cortex-a72", "max"):
        done = emulate(folder, cpu, "--selftest", "--json")
        assert done.returncode == 0, (cpu, done.stderr)
        result = json.loads(done.stdout)["selftest"]
        assert result["error"] < 1e-5, (cpu, result)


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


@pytest.mark.parametrize(
    ("target", "cpu"),
    [
        ("arm/rpi4", "cortex-a72"),
        ("arm/neoverse-n1", "neoverse-n1"),
        pytest.param("arm/neoverse-v1", "max", marks=pytest.mark.slow),
    ],
)
def test_int8_gives_the_bits_of_x86(
    model, quantized: compiler.Bundle, target: str, cpu: str, tmp_path: Path
) -> None:
    net, inputs = model
    here, there = (
        quantized,
        compiler.compile(
            net, target, example_inputs=inputs, measure=False, name="small", quantize=quantized.plan
        ),
    )
    assert there.manifest.golden_sha256 == here.manifest.golden_sha256
    folder = write_deployment(there, tmp_path / "small").path
    done = emulate(folder, cpu, "--selftest", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["selftest"]["same_bits"]


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


def test_code_for_newer_cores_stops_on_older_ones(model, tmp_path: Path) -> None:
    """What gates features is the processor that was compiled for."""
    net, inputs = model
    bundle = compiler.compile(net, "arm/rpi5", example_inputs=inputs, measure=False, name="small")
    folder = write_deployment(bundle, tmp_path / "small").path
    assert emulate(folder, "cortex-a76", "--selftest").returncode == 0


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
    done = emulate(folder, "cortex-a72", "--selftest", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["selftest"]["error"] < 0.02
