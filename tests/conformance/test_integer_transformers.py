"""Transformers on integers: compiled, they give the bits of the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compiler.compress.plan import CompressionPlan
from compiler.compress.recipe import Quantize
from compiler.errors import PlanError
from compiler.frontend import import_model
from compiler.stages import Imported, StageLog
from tests.conformance.kernel_suite import seeded
from tools.integer_networks import bits, compiled, plan_of, reference
from tools.zoo.nets import BENCHMARKS
from tools.zoo.nets import build as build_net
from tools.zoo.nets.transformers import BertLayer, ViTBlock

pytestmark = pytest.mark.compile
LENGTH, WIDTH = 9, 16


class Encoder(nn.Module):
    """One layer of each style: a mask, constants, one projection for three, a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.place = nn.Parameter(torch.randn(1, LENGTH + 1, WIDTH))
        self.start = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.before, self.after = ViTBlock(WIDTH, 2), BertLayer(WIDTH, 2, 32)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.start.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.place
        mask = (1.0 - keep.to(x.dtype))[:, None, None, :] * -3.0e38
        y = self.norm(self.after(self.before(y), mask))
        return self.head(y[:, 0]) + y.mean(1)[:, :5]


def samples(count: int) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    keep = np.ones((1, LENGTH + 1), np.int64)
    keep[:, -3:] = 0
    return [
        (rng.standard_normal((1, LENGTH, 8)).astype(np.float32), np.roll(keep, i, 1))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def encoder() -> tuple[Imported, nn.Module]:
    net = seeded(Encoder())
    inputs = tuple(map(torch.from_numpy, samples(1)[0]))
    return import_model(net, inputs, log=StageLog()), net


@pytest.fixture(scope="module")
def plan(encoder: tuple[Imported, nn.Module]) -> CompressionPlan:
    return plan_of(encoder[0], samples(6), Quantize(rounding="adaround"))


def test_the_plan(plan: CompressionPlan) -> None:
    kinds = {o.kind for o in plan.operators.values() if o.precision == "int8"}
    assert {"nn.softmax", "nn.layer_norm", "matmul", "nn.gelu", "concat", "add"} <= kinds
    wide = [n for n, t in plan.tensors.items() if t.dtype == "int16"]
    assert any(n.endswith(":add") for n in wide)
    assert any(n.endswith("@int8") for n in plan.tensors)
    assert plan.smoothings
    assert plan.roundings
    assert CompressionPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "target", ["x86", pytest.param("x86/generic-avx2", marks=pytest.mark.slow)]
)
def test_bits(encoder: tuple[Imported, nn.Module], plan: CompressionPlan, target: str) -> None:
    imported, net = encoder
    for given in samples(2)[1:]:
        wanted = reference(imported, plan, list(given))
        assert bits(compiled(imported, plan, list(given), target)) == bits(wanted)
        with torch.no_grad():
            real = net(*map(torch.from_numpy, given)).numpy()
        assert np.abs(wanted[0] - real).max() < 0.1 * np.abs(real).max()


@pytest.mark.slow
def test_powers_of_two(encoder: tuple[Imported, nn.Module]) -> None:
    imported, _ = encoder
    recipe = Quantize(weights="int8/tensor", power_of_two=True)
    plan = plan_of(imported, samples(4), recipe)
    given = list(samples(1)[0])
    assert bits(compiled(imported, plan, given, "x86")) == bits(reference(imported, plan, given))


def test_a_softmax_that_float32_reads_is_refused(
    encoder: tuple[Imported, nn.Module], plan: CompressionPlan
) -> None:
    name = next(n for n, o in plan.operators.items() if any("softmax" in i for i in o.inputs))
    edited = plan.with_operator(name, precision="float32", epilogue=())
    with pytest.raises(PlanError, match="no product of integers"):
        reference(encoder[0], edited, list(samples(1)[0]))


def test_damaged_roundings_are_refused(
    encoder: tuple[Imported, nn.Module], plan: CompressionPlan
) -> None:
    from dataclasses import replace

    name = next(iter(plan.roundings))
    for text, message in (("!", "packed text"), ("eJwDAAAAAAE=", "another size")):
        edited = replace(plan, roundings={**plan.roundings, name: text})
        with pytest.raises(PlanError, match=message):
            reference(encoder[0], edited, list(samples(1)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_networks(name: str) -> None:
    net, inputs = build_net(name)
    imported = import_model(net, inputs, log=StageLog())
    arrays = [v.numpy() for v in inputs]
    plan = plan_of(imported, [tuple(arrays)] * 2, Quantize(correct_bias=False))
    assert bits(compiled(imported, plan, arrays, "x86")) == bits(reference(imported, plan, arrays))
