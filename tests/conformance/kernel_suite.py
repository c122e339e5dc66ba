"""One conformance suite for kernels, run for each target that this machine can execute.

Random operators are compiled through the whole pipeline and compared with PyTorch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from compiler.runtime import Executor
from targets import TargetSpec, get_target, missing_features
from tests.conformance.cases import Function, check, compile_and_run, seeded

EXAMPLES = settings(
    max_examples=int(os.environ.get("TILEWRIGHT_EXAMPLES", "2")),
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a compile a step makes shrinking too slow
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
sizes = st.integers(3, 19)
channels = st.sampled_from([1, 3, 8, 16, 24, 33, 40, 64])


class KernelSuite:
    """Subclass and name a target, and what runs its code if that is not this machine."""

    target: str
    executor: Callable[..., Any] = Executor

    @property
    def spec(self) -> TargetSpec:
        """The target, or a skip if this machine cannot run its code."""
        spec = get_target(self.target)
        missing = missing_features(spec)
        if missing and self.executor is Executor:
            pytest.skip(f"this CPU lacks {', '.join(missing)}")
        return spec

    def run(self, module: nn.Module, *inputs: torch.Tensor, tolerance: float = 1e-5) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check(module, inputs, self.spec, Path(folder), tolerance=tolerance, make=self.executor)

    @EXAMPLES
    @given(
        size=st.tuples(sizes, sizes),
        inner=channels,
        outer=channels,
        kernel=st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (7, 7)]),
        stride=st.integers(1, 3),
        padding=st.integers(0, 3),
        dilation=st.integers(1, 2),
        bias=st.booleans(),
        batch=st.integers(1, 2),
    )
    def test_conv2d(self, size, inner, outer, kernel, stride, padding, dilation, bias, batch):
        reach = [dilation * (k - 1) + 1 for k in kernel]
        if any(s + 2 * padding < r for s, r in zip(size, reach, strict=True)):
            return
        conv = nn.Conv2d(inner, outer, kernel, stride, padding, dilation, bias=bias)
        net = nn.Sequential(conv, nn.ReLU())
        self.run(seeded(net), torch.randn(batch, inner, *size))

    @EXAMPLES
    @given(
        size=st.tuples(sizes, sizes),
        groups=st.sampled_from([2, 4, 8, 33]),
        per_group=st.sampled_from([1, 2, 5, 16]),
        multiplier=st.integers(1, 3),
        kernel=st.sampled_from([1, 3, 5]),
        stride=st.integers(1, 2),
    )
    def test_grouped_and_depthwise(self, size, groups, per_group, multiplier, kernel, stride):
        conv = nn.Conv2d(
            groups * per_group, groups * per_group * multiplier, kernel, stride, kernel // 2,
            groups=groups,
        )  # fmt: skip
        net = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.Hardswish())
        self.run(seeded(net), torch.randn(1, conv.in_channels, *size))

    @EXAMPLES
    @given(
        size=st.tuples(sizes, sizes),
        inner=channels,
        outer=channels,
        kernel=st.integers(1, 4),
        stride=st.integers(1, 3),
        padding=st.integers(0, 2),
        extra=st.integers(0, 1),
    )
    def test_transposed(self, size, inner, outer, kernel, stride, padding, extra):
        if padding >= kernel or extra >= stride:
            return
        net = nn.ConvTranspose2d(inner, outer, kernel, stride, padding, extra)
        self.run(seeded(net), torch.randn(1, inner, *size))

    @EXAMPLES
    @given(
        length=st.integers(7, 50),
        inner=channels,
        outer=channels,
        kernel=st.integers(1, 5),
        stride=st.integers(1, 2),
    )
    def test_conv1d(self, length, inner, outer, kernel, stride):
        net = nn.Sequential(
            nn.Conv1d(inner, outer, kernel, stride, kernel // 2), nn.BatchNorm1d(outer), nn.GELU()
        )
        self.run(seeded(net), torch.randn(2, inner, length))

    @EXAMPLES
    @given(
        rows=st.integers(1, 40),
        inner=st.sampled_from([1, 7, 32, 100]),
        outer=st.sampled_from([1, 3, 10, 48, 65, 1000]),
        lead=st.sampled_from([(), (2,), (2, 3)]),
    )
    def test_linear(self, rows, inner, outer, lead):
        net = nn.Sequential(nn.Linear(inner, outer), nn.SiLU())
        self.run(seeded(net), torch.randn(*lead, rows, inner))

    @EXAMPLES
    @given(
        batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
        m=st.integers(1, 40),
        k=st.sampled_from([1, 5, 32]),
        n=st.sampled_from([1, 7, 16, 49, 64]),
        transpose=st.booleans(),
    )
    def test_matmul(self, batch, m, k, n, transpose):
        right = torch.randn(*batch, n, k) if transpose else torch.randn(*batch, k, n)
        net = Function(
            (lambda a, b: a @ b.transpose(-1, -2)) if transpose else (lambda a, b: a @ b)
        )
        self.run(net, torch.randn(*batch, m, k), right)

    @EXAMPLES
    @given(
        rows=st.sampled_from([(1,), (5,), (3, 4)]),
        length=st.sampled_from([1, 7, 32, 49, 197, 384]),
        kind=st.sampled_from(["softmax", "log_softmax", "layer_norm", "mean", "sum", "amax"]),
    )
    def test_rows(self, rows, length, kind):
        functions = {
            "softmax": lambda x: torch.softmax(x, -1),
            "log_softmax": lambda x: torch.log_softmax(x, -1),
            "layer_norm": lambda x: F.layer_norm(x, (length,)),
            "mean": lambda x: x.mean(-1),
            "sum": lambda x: x.sum(-1, keepdim=True),
            "amax": lambda x: x.amax(-1),
        }
        self.run(Function(functions[kind]), torch.randn(*rows, length) * 3)

    @EXAMPLES
    @given(
        size=st.tuples(st.integers(4, 19), st.integers(4, 19)),
        depth=channels,
        kernel=st.integers(2, 3),
        stride=st.integers(1, 3),
        padding=st.integers(0, 1),
        ceil=st.booleans(),
        kind=st.sampled_from(["max", "avg", "avg-inner"]),
    )
    def test_pooling(self, size, depth, kernel, stride, padding, ceil, kind):
        pool: nn.Module
        if kind == "max":
            pool = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
        else:
            pool = nn.AvgPool2d(kernel, stride, padding, ceil, kind == "avg")
        net = nn.Sequential(nn.Conv2d(depth, depth, 1), pool)
        self.run(seeded(net), torch.randn(1, depth, *size))

    def test_activations(self):
        functions = (nn.ReLU6(), nn.GELU(), nn.GELU("tanh"), nn.Sigmoid(), nn.Tanh(), nn.ELU(),
                     nn.LeakyReLU(0.1), nn.Softplus(), nn.Mish())  # fmt: skip
        wide = torch.cat([torch.linspace(-20, 20, 1003), torch.tensor([0.0, -0.0, 1e-6, 80.0])])
        net = Function(lambda x: tuple(function(x) for function in functions))
        self.run(net, wide.reshape(1, -1))

    def test_activations_keep_nan(self):
        functions = (nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.SiLU())
        x = torch.linspace(-8, 8, 40).reshape(1, -1)
        x[0, 3] = torch.nan
        net = Function(lambda x: tuple(function(x) for function in functions))
        with tempfile.TemporaryDirectory() as folder:
            results = compile_and_run(net, (x,), self.spec, Path(folder), self.executor)
        assert [torch.isnan(r).nonzero().tolist() for r in results] == [[[0, 3]]] * 4

    def test_softmax_over_any_axis(self):
        net = Function(lambda x: tuple(torch.softmax(x, axis) for axis in range(4)))
        self.run(net, torch.randn(2, 5, 7, 6))

    def test_group_norm(self):
        class Norms(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Conv2d(3, 16, 3)
                self.norms = nn.ModuleList(nn.GroupNorm(groups, 16) for groups in (1, 4, 16))

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                hidden = self.first(x)
                return tuple(F.relu(norm(hidden)) for norm in self.norms)

        self.run(seeded(Norms()), torch.randn(1, 3, 9, 9))

    def test_squeeze_and_excite_broadcasts_a_small_product(self):
        class Excite(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Conv2d(24, 8, 1)
                self.second = nn.Conv2d(8, 24, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                scale = F.relu(self.first(x.mean((2, 3), keepdim=True)))
                return x * torch.sigmoid(self.second(scale))

        self.run(seeded(Excite()), torch.randn(2, 24, 9, 7))

    def test_padding_before_and_after_a_convolution(self):
        class Padded(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Conv2d(8, 16, 3, 2)
                self.second = nn.Conv2d(16, 16, 1)

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return tuple(
                    F.pad(F.relu(self.second(self.first(F.pad(x, padding)))), padding)
                    for padding in ((0, 1, 0, 1), (1, 1, 1, 1), (1, 2, 0, 3))
                )

        self.run(seeded(Padded()), torch.randn(1, 8, 14, 14))
