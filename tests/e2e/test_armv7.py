"""Models for 32-bit ARM, with a runtime built from its sources, on emulated processors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import compiler
from compiler.deploy import write_deployment
from schedules.cpu.intrinsics import select
from targets import get_target
from tests.support.boards import emulate, emulates_32, selftest

pytestmark = pytest.mark.compile


def test_products_of_bytes_are_those_of_32_bit_arm() -> None:
    """LLVM ends the process where it meets an instruction of 64-bit ARM."""
    from tests.conformance.test_dot_intrinsics import build

    spec = get_target("arm/armv7")
    for left in ("uint8", "int8"):
        _, assembly = build(select.dot_intrinsic((left, "int8", "int32"), spec, 4), spec)
        assert re.search(r"\bvmull\.s8\b", assembly)


class Small(torch.nn.Module):
    """Convolutions of every kind and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.same = torch.nn.Conv2d(16, 20, 3, padding=1)
        self.dense = torch.nn.Linear(20, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.depthwise(torch.relu(self.stem(image))))
        return self.dense(torch.relu(self.same(hidden)).mean((2, 3)))


@pytest.mark.slow
@emulates_32
def test_models_run_without_python(tmp_path: Path) -> None:
    """float32 close to PyTorch, int8 with the bits of x86; TVM's runtime is built here."""
    torch.manual_seed(0)
    net, inputs = Small().eval(), (torch.randn(1, 3, 32, 32),)
    rng = np.random.default_rng(0)
    calibration = [(rng.standard_normal((1, 3, 32, 32), np.float32),) for _ in range(8)]

    def answers(name: str, target: str, **options: object) -> dict[str, object]:
        bundle = compiler.compile(
            net, target, example_inputs=inputs, measure=False, name="small", **options
        )
        digests.append(bundle.manifest.golden_sha256)
        if target == "x86":
            return {}
        folder = write_deployment(bundle, tmp_path / name).path
        return selftest(folder, "cortex-a7")

    digests: list[str] = []
    folder = tmp_path / "float32"

    def answer(*words: str) -> str:
        done = emulate(folder, "cortex-a7", *words)
        assert done.returncode == 4, done.stderr
        return done.stderr

    assert float(str(answers("float32", "arm/armv7")["error"])) < 1e-5
    assert "has no RPC" in answer("--rpc", "9190")
    library = folder / "module.so"
    library.write_bytes(library.read_bytes().replace(bytes.fromhex("1e1514422fde25d2"), bytes(8)))
    assert "Invalid VM file format" in answer(str(folder), "--selftest")
    digests.clear()
    answers("x86", "x86", quantize="int8", calibration=calibration)
    assert answers("int8", "arm/armv7", quantize="int8", calibration=calibration)["same_bits"]
    assert digests[0] == digests[1]
