"""Whole quantized networks: compiled, they give the bits of the NumPy reference."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compiler.build import build
from compiler.compress.apply import Applied, apply_plan
from compiler.compress.interpret import interpret
from compiler.compress.plan import CompressionPlan
from compiler.errors import PlanError
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.runtime import Executor
from compiler.stages import Imported, StageLog
from targets import TargetSpec, get_target
from tests.conformance.kernel_suite import seeded
from tests.support.plans import naive_plan, plain_module
from tools.zoo.nets import build as build_net

pytestmark = pytest.mark.compile


class Small(nn.Module):
    """Every operator that has an integer form once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, 1, 1)
        self.grouped = nn.Conv2d(16, 16, 3, 1, 2, dilation=2, groups=4, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.wide = nn.Conv2d(16, 20, 1)
        self.head = nn.Linear(20 + 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        y = functional.relu6(self.inner(x)) + x
        y = functional.max_pool2d(functional.relu(y), 3, 2, 1)
        y = torch.sigmoid(self.depthwise(y)) * self.grouped(y)
        z = torch.cat([functional.silu(self.wide(y)), y], 1)
        z = functional.avg_pool2d(functional.interpolate(z, scale_factor=2), 2)
        return self.head(functional.adaptive_avg_pool2d(z, 1).flatten(1))


def compare(
    imported: Imported,
    plan: CompressionPlan,
    inputs: list[np.ndarray],
    spec: TargetSpec,
    workdir: Path,
) -> Applied:
    module, state = plain_module(imported, spec)
    integers, applied = apply_plan(module, state.table, plan)
    wanted = np.asarray(interpret(integers, inputs))
    log = StageLog()
    built = build(lower(imported, spec, log, plan=plan), spec, log, workdir)
    executor = Executor(
        built.library, built.inputs, built.outputs, built.parameters, built.prepared
    )
    given = executor.run(*inputs)
    given = np.asarray(given[0] if isinstance(given, (tuple, list)) else given)
    assert given.tobytes() == np.ascontiguousarray(wanted).tobytes()
    return applied


@pytest.fixture(scope="module")
def small() -> tuple[Imported, torch.Tensor, torch.Tensor]:
    net, x = seeded(Small()), torch.randn(1, 3, 30, 26, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return import_model(net, (x,), log=StageLog()), x, net(x)


@pytest.mark.parametrize(
    ("dtype", "target"),
    [
        ("uint8", "x86"),
        pytest.param("uint8", "x86/generic-avx2", marks=pytest.mark.slow),
        pytest.param("int8", "x86", marks=pytest.mark.slow),
        ("int8", "x86/generic-avx2"),
    ],
)
def test_a_network_of_all_operators(small, target, dtype, tmp_path):
    imported, x, _ = small
    spec = get_target(target)
    plan = naive_plan(imported, spec, [x.numpy()], dtype=dtype)
    applied = compare(imported, plan, [x.numpy()], spec, tmp_path)
    assert not applied.real
    assert applied.borders == 2


def test_integers_are_near_the_float_network(small):
    imported, x, real = small
    spec = get_target("x86")
    module, state = plain_module(imported, spec)
    integers, _ = apply_plan(module, state.table, naive_plan(imported, spec, [x.numpy()]))
    result = np.asarray(interpret(integers, [x.numpy()]))
    assert np.abs(result - real.numpy()).max() < 0.05 * np.abs(real.numpy()).max()


@pytest.mark.slow
def test_powers_of_two_are_shifts(small, tmp_path):
    imported, x, _ = small
    spec = get_target("x86")
    plan = naive_plan(imported, spec, [x.numpy()], power_of_two=True)
    applied = compare(imported, plan, [x.numpy()], spec, tmp_path)
    assert applied.shifts >= 6


@pytest.mark.slow
def test_operators_in_float32_stand_between_conversions(small, tmp_path):
    imported, x, _ = small
    spec = get_target("x86")
    plan = naive_plan(imported, spec, [x.numpy()], real=("nn.max_pool2d",))
    applied = compare(imported, plan, [x.numpy()], spec, tmp_path)
    assert len(applied.real) == 1
    assert applied.borders == 4


class TestPlansThatCannotBeApplied:
    def apply(self, small, change):
        imported, x, _ = small
        spec = get_target("x86")
        plan = change(naive_plan(imported, spec, [x.numpy()]))
        module, state = plain_module(imported, spec)
        apply_plan(module, state.table, plan)

    def test_a_bias_that_would_overflow(self, small):
        def tiny(plan: CompressionPlan) -> CompressionPlan:
            name = next(n for n, o in plan.operators.items() if o.weight is not None)
            weight = plan.operators[name].weight
            scales = tuple(1e-13 for _ in weight.scales)
            scales = tuple(float(np.float32(s)) for s in scales)
            return plan.with_operator(name, weight=replace(weight, scales=scales))

        with pytest.raises(PlanError, match=r"too large|32 bits"):
            self.apply(small, tiny)

    def test_an_operator_that_is_not_there(self, small):
        def other(plan: CompressionPlan) -> CompressionPlan:
            operator = next(iter(plan.operators.values()))
            return replace(plan, operators={**plan.operators, "nowhere:conv2d": operator})

        with pytest.raises(PlanError, match=re.escape("nowhere:conv2d")):
            self.apply(small, other)

    def test_another_number_of_scales(self, small):
        def fewer(plan: CompressionPlan) -> CompressionPlan:
            name = next(n for n, o in plan.operators.items() if o.weight is not None)
            weight = plan.operators[name].weight
            return plan.with_operator(name, weight=replace(weight, scales=weight.scales[:3]))

        with pytest.raises(PlanError, match="3 scales for"):
            self.apply(small, fewer)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_lite0"])
def test_benchmark_networks(name, tmp_path):
    net, inputs = build_net(name)
    imported = import_model(net, inputs, log=StageLog())
    spec = get_target("x86")
    arrays = [v.numpy() for v in inputs]
    applied = compare(imported, naive_plan(imported, spec, arrays), arrays, spec, tmp_path)
    assert not applied.real
