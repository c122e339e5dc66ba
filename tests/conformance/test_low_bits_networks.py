"""Whole networks on weights of one and two bits: compiled, they give the reference's bits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compiler.build import build
from compiler.compress.apply import apply_plan
from compiler.compress.calibrate import calibrate
from compiler.compress.interpret import interpret
from compiler.compress.plan import CompressionPlan, ModelIdentity
from compiler.compress.recipe import Quantize
from compiler.compress.sites import plain_graph
from compiler.errors import PlanError
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.runtime import Executor
from compiler.stages import Imported, StageLog
from tests.conformance.kernel_suite import seeded
from tests.conformance.test_integer_kernels import runnable
from tests.support.plans import plain_module

pytestmark = pytest.mark.compile


class Net(nn.Module):
    """A residual block, two convolutions in a row, one behind a ReLU, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, 1, 1)
        self.conv = nn.Conv2d(20, 20, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(20)
        self.down = nn.Conv2d(20, 36, 3, 2, 1)
        self.wide = nn.Conv2d(36, 36, 1)
        self.after = nn.Conv2d(36, 16, 3, 1, 1)
        self.inner = nn.Linear(16, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.norm(self.conv(x))
        x = torch.relu(self.wide(self.down(x)))
        x = self.after(x).mean((2, 3))
        return self.head(self.inner(x))


SAMPLES = [torch.randn(1, 3, 9, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]


@pytest.fixture(scope="module")
def imported() -> Imported:
    return import_model(seeded(Net()), (SAMPLES[0],), log=StageLog())


def plan_of(
    imported: Imported, recipe: Quantize, samples: Sequence[torch.Tensor] = SAMPLES
) -> CompressionPlan:
    module, state = plain_module(imported, runnable("x86"))
    graph = plain_graph(module, state.table.name_of)
    arrays = [(s.numpy(),) for s in samples]
    return calibrate(graph, ModelIdentity("net", "", ""), arrays, recipe).plan


def outputs(
    imported: Imported,
    plan: CompressionPlan,
    target: str,
    workdir,
    samples: Sequence[torch.Tensor] = SAMPLES,
    *,
    exact: bool = True,
) -> list[np.ndarray]:
    """What the network gives, once it is found to be the reference's; in float with a tolerance."""
    spec = runnable(target)
    module, state = plain_module(imported, spec)
    integers, _ = apply_plan(module, state.table, plan)
    log = StageLog()
    built = build(lower(imported, spec, log, plan=plan), spec, log, workdir)
    executor = Executor(
        built.library, built.inputs, built.outputs, built.parameters, built.prepared
    )
    found = []
    for sample in samples:
        wanted = np.asarray(interpret(integers, [sample.numpy()]))
        given = executor.run(sample.numpy())
        given = np.asarray(given[0] if isinstance(given, (tuple, list)) else given)
        if exact:
            assert given.tobytes() == np.ascontiguousarray(wanted).tobytes()
        else:  # what is float32 has last digits of its own
            np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
        found.append(given)
    return found


RECIPES = {
    "w2a8": Quantize(weights="ternary/channel"),
    "w1a8": Quantize(weights="binary/tensor"),
    "w1a1": Quantize(weights="binary/channel", activations="binary"),
    "w1a1-all": Quantize(weights="binary/channel", activations="binary", ends="same"),
    "w1a1-float": Quantize(weights="binary/channel", activations="binary", ends="float32"),
}


@pytest.mark.parametrize("name", [pytest.param("w2a8", marks=pytest.mark.slow), "w1a1"])
def test_a_network(imported, name, tmp_path):
    outputs(imported, plan_of(imported, RECIPES[name]), "x86", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("target", ["x86/cascadelake", "x86/generic-avx2"])
def test_a_network_on_other_targets(imported, name, target, tmp_path):
    plan = plan_of(imported, RECIPES[name])
    outputs(imported, plan, target, tmp_path, exact=name != "w1a1-float")


class TestPlans:
    """Which layers get what."""

    def test_ends_stay_at_8_bits(self, imported):
        plan = plan_of(imported, RECIPES["w2a8"])
        stored = {n: o.weight.dtype for n, o in plan.operators.items() if o.weight is not None}
        assert stored.pop("stem:conv2d") == stored.pop("head:matmul") == "int8"
        assert set(stored.values()) == {"ternary"}
        assert "first layer" in plan.operators["stem:conv2d"].why
        assert not any(o.weight.scales for n, o in plan.operators.items() if n in stored)
        assert set(plan.bias_corrections) == {"stem:conv2d", "head:matmul"}

    def test_signs_of_what_is_never_negative_are_not_read(self, imported):
        plan = plan_of(imported, RECIPES["w1a1"])
        after = plan.operators["after:conv2d"]
        assert (after.precision, after.weight.dtype) == ("int8", "binary")
        assert "never negative" in after.why

    def test_what_only_signs_are_read_of_is_not_stored(self, imported):
        plan = plan_of(imported, RECIPES["w1a1"])
        assert plan.operators["wide:conv2d"].inputs == ("down:add",)
        assert "down:add" not in plan.tensors
        module, state = plain_module(imported, runnable("x86"))
        text = apply_plan(module, state.table, plan)[0]["main"].script()
        assert 'dtype="uint8", high=1, low=0, shift=0' in text

    def test_ends_in_float32(self, imported):
        plan = plan_of(imported, RECIPES["w1a1-float"])
        assert plan.operators["stem:conv2d"].precision == "float32"
        assert "input:x" not in plan.tensors
        assert plan.operators["conv:conv2d"].precision == "binary"

    def test_a_plan_reads_back(self, imported):
        plan = plan_of(imported, RECIPES["w1a1-all"])
        assert CompressionPlan.from_json(plan.to_json()) == plan

    def test_one_bit_needs_a_binary_weight(self, imported):
        plan = plan_of(imported, RECIPES["w1a1"])
        weight = replace(plan.operators["conv:conv2d"].weight, dtype="ternary")
        with pytest.raises(ValueError, match="multiplies signs, and the weight is ternary"):
            plan.with_operator("conv:conv2d", weight=weight)

    @pytest.mark.parametrize("scale", ["-1.0", "null", "0.1"])
    def test_signs_need_a_scale(self, imported, scale):
        text = plan_of(imported, RECIPES["w1a1"]).to_json()
        other = re.sub(r'"sign_scale": [\d.]+', f'"sign_scale": {scale}', text, count=1)
        assert other != text
        with pytest.raises(PlanError, match=r"positive|float32 number|sign_scale"):
            CompressionPlan.from_json(other)

    def test_another_number_of_scales(self, imported):
        plan = plan_of(imported, RECIPES["w2a8"])
        weight = replace(plan.operators["conv:conv2d"].weight, scales=(0.5, 0.25), method="given")
        module, state = plain_module(imported, runnable("x86"))
        with pytest.raises(PlanError, match="2 scales for 20 channels"):
            apply_plan(module, state.table, plan.with_operator("conv:conv2d", weight=weight))


class Encoder(nn.Module):
    """A transformer's layer, whose residual paths have 16 bits, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 32)
        self.layer = nn.TransformerEncoderLayer(
            32, 4, 48, dropout=0.0, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


@pytest.mark.parametrize("word", ["binary", pytest.param("ternary", marks=pytest.mark.slow)])
def test_a_transformer_on_few_bits(word: str, tmp_path) -> None:
    samples = [torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    net = import_model(seeded(Encoder()), (samples[0],), log=StageLog())
    recipe = Quantize.parse(word)
    assert isinstance(recipe, Quantize)
    plan = plan_of(net, recipe, samples)
    dtypes = [o.weight.dtype for o in plan.operators.values() if o.weight is not None]
    assert dtypes.count(recipe.weight_form.dtype) >= 4
    outputs(net, plan, "x86", tmp_path, samples)
