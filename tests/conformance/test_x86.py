"""The kernel suite on every x86 feature level that this machine can run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from targets import get_target
from tests.conformance.cases import check, seeded
from tests.conformance.kernel_suite import KernelSuite

pytestmark = pytest.mark.compile


class TestHost(KernelSuite):
    target = "x86"


@pytest.mark.slow
class TestGenericAvx2(KernelSuite):
    target = "x86/generic-avx2"


@pytest.mark.slow
class TestCascadeLake(KernelSuite):
    target = "x86/cascadelake"


@pytest.mark.slow
class TestSapphireRapids(KernelSuite):
    target = "x86/sapphirerapids"


class Mixed(nn.Module):
    """One operator of each kind that has a schedule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 2, 1)
        self.same = nn.Conv2d(24, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 5, padding=2, groups=24)
        self.grouped = nn.Conv2d(24, 40, 3, padding=1, groups=4)
        self.pointwise = nn.Conv2d(40, 33, 1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.norm = nn.LayerNorm(33)
        self.dense = nn.Linear(33, 10)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.same(torch.relu(self.stem(image)))
        x = self.pool(torch.relu(self.grouped(torch.sigmoid(self.depthwise(x)))))
        words = self.norm(self.pointwise(x).flatten(2).transpose(1, 2))
        scores = torch.softmax(words @ words.transpose(1, 2), -1)
        return self.dense(scores @ words), x.mean((2, 3))


def test_a_network_without_avx512(tmp_path: Path) -> None:
    check(seeded(Mixed()), (torch.randn(1, 3, 21, 19),), get_target("x86/generic-avx2"), tmp_path)
