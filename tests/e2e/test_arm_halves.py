"""Numbers of 16 bits on emulated ARM processors, with and without arithmetic for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compiler
from compiler.deploy import write_deployment
from compiler.errors import InputError
from compiler.options import check_precision
from targets import get_target
from tests.support.boards import emulates, lacks_an_instruction, selftest


@pytest.mark.parametrize("target", ["x86", "arm/rpi4", "arm/cortex-a53", "arm/armv7"])
def test_float16_needs_a_processor_that_has_it(target: str) -> None:
    with pytest.raises(InputError, match="does not compute in float16"):
        check_precision("float16", get_target(target))
    check_precision("bfloat16", get_target(target))
    for name in ("arm/rpi5", "arm/neoverse-n1", "arm/neoverse-v1"):
        check_precision("float16", get_target(name))


class Mixed(torch.nn.Module):
    """Convolutions with rests of every kind, a long sum, and attention under a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 20, 3, stride=2, padding=1)
        self.same = torch.nn.Conv2d(20, 40, 3, padding=1)
        self.depthwise = torch.nn.Conv2d(40, 40, 3, padding=1, groups=40)
        self.grouped = torch.nn.Conv2d(40, 24, 3, groups=2)
        self.pointwise = torch.nn.Conv2d(24, 33, 1)
        self.long = torch.nn.Linear(33 * 14 * 14, 12)
        self.last = torch.nn.Linear(33, 7)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.same(torch.relu(self.stem(image))))
        hidden = self.pointwise(torch.relu(self.grouped(torch.relu(self.depthwise(hidden)))))
        words = hidden.flatten(2).transpose(1, 2)
        scores = words @ words.transpose(1, 2)
        later = torch.ones(scores.shape[-2:]).triu(1) * torch.finfo(torch.float32).min
        mixed = torch.softmax(scores + later, -1) @ words
        return self.long(hidden.flatten(1)), self.last(mixed)


@pytest.mark.slow
@pytest.mark.compile
@emulates
@pytest.mark.parametrize(
    ("target", "precision", "cpu", "largest"),
    [
        ("arm/neoverse-n1", "float16", "neoverse-n1", 2e-3),
        ("arm/neoverse-v1", "float16", "max", 2e-3),
        ("arm/neoverse-v1", "bfloat16", "max", 2e-2),
        ("arm/rpi4", "bfloat16", "cortex-a72", 2e-2),
    ],
)
def test_halves_agree_with_pytorch(
    target: str, precision: str, cpu: str, largest: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, inputs = Mixed().eval(), (torch.randn(1, 3, 32, 32),)
    bundle = compiler.compile(
        net, target, example_inputs=inputs, measure=False, estimate=False, name="mixed",
        precision=precision,
    )  # fmt: skip
    folder = write_deployment(bundle, tmp_path / "mixed").path
    assert selftest(folder, cpu)["error"] < largest
    if target != "arm/rpi4":
        assert lacks_an_instruction(folder, "cortex-a53")
