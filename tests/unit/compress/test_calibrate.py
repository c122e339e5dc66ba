"""Calibration of small networks: groups, ranges, corrections, and samples that do not do."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler.compress.calibrate import calibrate
from compiler.compress.evaluate import Evaluator
from compiler.compress.groups import find_groups
from compiler.compress.plan import CompressionPlan, ModelIdentity
from compiler.compress.recipe import Quantize
from compiler.compress.sites import PlainGraph
from compiler.errors import CalibrationError, InputError
from compiler.frontend import import_model
from compiler.lower.plain import plain_graph_of
from compiler.stages import StageLog
from targets import get_target

IDENTITY = ModelIdentity("net", "0", "0")
SHAPE = (1, 3, 12, 12)
Sample = tuple[np.ndarray, ...]


class Net(nn.Module):
    """Convolutions, a residual, pooling, a concatenation, and operators without integers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU6()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(16, 16, 3, stride=2)
        self.narrow = nn.Conv2d(16, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.norm2(self.conv(x)))
        x = torch.cat([nn.functional.max_pool2d(x, 2), nn.functional.avg_pool2d(x, 2)], 1)
        x = self.narrow(torch.relu(self.wide(x)))
        return self.head(torch.softmax(x, 1).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        # Channels of very different sizes, for equalization.
        net.wide.weight *= torch.logspace(-2, 1, 16)[:, None, None, None]
    return net


def graph_of(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> PlainGraph:
    imported = import_model(model, (torch.zeros(shape),), log=StageLog())
    return plain_graph_of(imported, get_target("x86"))


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> PlainGraph:
    return graph_of(model)


def samples(count: int = 12, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Iterator[Sample]:
    rng = np.random.default_rng(seed)
    return ((rng.standard_normal(shape).astype(np.float32),) for _ in range(count))


def plan_of(graph: PlainGraph, data: Any = None, **options: Any) -> CompressionPlan:
    data = samples() if data is None else data
    return calibrate(graph, IDENTITY, data, Quantize(**options)).plan


@pytest.fixture(scope="module")
def plan(graph: PlainGraph) -> CompressionPlan:
    return plan_of(graph)


def test_the_evaluator_gives_what_pytorch_gives(model: nn.Module, graph: PlainGraph) -> None:
    (x,) = next(samples())
    seen: list[str] = []
    (got,) = Evaluator(graph).run([torch.from_numpy(x)], lambda name, _: seen.append(name))
    torch.testing.assert_close(got, model(torch.from_numpy(x)).detach(), rtol=1e-4, atol=1e-5)
    assert seen[0] == "input:x"
    assert set(seen) == {"input:x", *(s.name for s in graph.sites)}


def test_operators_that_the_evaluator_is_not_told_about_are_compiled() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (
                torch.atan(nn.functional.avg_pool2d(x, 3, 2, 1)) + torch.clamp(x, -0.5)[..., :2, :2]
            )

    net = Odd()
    x = torch.randn(1, 2, 4, 4)
    graph = graph_of(net, (1, 2, 4, 4))
    (got,) = Evaluator(graph).run([x], lambda _name, _value: None)
    torch.testing.assert_close(got, net(x), rtol=1e-4, atol=1e-5)


def test_groups(plan: CompressionPlan) -> None:
    operators = plan.operators
    assert operators["stem:conv2d"].epilogue == ("norm:add", "relu:clip")
    assert operators["stem:conv2d"].output == "relu:clip"
    assert operators[":add"].inputs == ("relu:clip", "norm2:add")
    assert operators[":add"].epilogue == ("relu:clip#2",)
    assert [n for n, o in operators.items() if o.precision == "int8"] == [
        "stem:conv2d", "conv:conv2d", ":add", ":max_pool2d", ":avg_pool2d", ":concat",
        "wide:conv2d", "narrow:conv2d", "head:matmul",
    ]  # fmt: skip
    assert "last axis" in operators[":softmax"].why
    assert "softmax" in operators[":mean"].why


def test_an_int8_operator_before_float32_gives_float32(plan: CompressionPlan) -> None:
    assert plan.operators["narrow:conv2d"].output == "narrow:add"
    assert "narrow:add" not in plan.tensors
    assert "head:add" not in plan.tensors


def test_concatenated_and_pooled_tensors_share_their_range(plan: CompressionPlan) -> None:
    shared = [":max_pool2d", ":avg_pool2d", ":concat"]
    scales = {(plan.tensors[n].scale, plan.tensors[n].zero_point) for n in shared}
    assert len(scales) == 1
    assert plan.tensors[":concat"].shared_with == "relu:clip#2"


def test_noise_is_measured_by_layer(plan: CompressionPlan) -> None:
    for operator in plan.operators.values():
        if operator.precision == "int8":
            assert operator.sqnr_db is not None
            assert 15.0 < operator.sqnr_db < 80.0
        else:
            assert operator.sqnr_db is None


def test_weights_have_one_scale_a_channel(graph: PlainGraph, plan: CompressionPlan) -> None:
    weight = plan.operators["head:matmul"].weight
    assert weight is not None
    assert (weight.parameter, weight.axis, len(weight.scales)) == ("head.weight", 1, 5)
    single = plan_of(graph, weights="int8/tensor").operators["wide:conv2d"].weight
    assert single is not None
    assert len(single.scales) == 1


def test_deterministic(graph: PlainGraph, plan: CompressionPlan) -> None:
    assert plan_of(graph).to_json() == plan.to_json()


def test_power_of_two(graph: PlainGraph) -> None:
    plan = plan_of(graph, power_of_two=True)
    scales = [t.scale for t in plan.tensors.values()]
    scales += [s for o in plan.operators.values() if o.weight for s in o.weight.scales]
    assert all(np.frexp(s)[0] == 0.5 for s in scales)
    # What only shifts pads with zeros and multiplies signed numbers.
    assert {(t.dtype, t.zero_point) for t in plan.tensors.values()} == {("int8", 0)}


@pytest.mark.parametrize("method", ["minmax", "average", "percentile", "kl"])
def test_every_method_makes_a_plan(graph: PlainGraph, method: str) -> None:
    plan = plan_of(graph, calibrate=method)
    assert plan.tensors["input:x"].method == method
    noise = plan.operators["stem:conv2d"].sqnr_db
    assert noise is not None
    assert noise > 15.0


def test_keep(graph: PlainGraph) -> None:
    plan = plan_of(graph, keep=["wide", "head:matmul"])
    for name in ("wide:conv2d", "head:matmul"):
        assert plan.operators[name].precision == "float32"
        assert "keep" in plan.operators[name].why
    # Nobody reads the concatenation as integers now.
    assert plan.operators[":concat"].precision == "float32"


def test_keep_of_a_layer_that_does_not_exist(graph: PlainGraph) -> None:
    with pytest.raises(InputError, match="'hea'") as caught:
        find_groups(graph, ["hea"])
    assert "'head'" in str(caught.value)


def test_equalization_leaves_the_float_model_as_it_is(graph: PlainGraph) -> None:
    plan = plan_of(graph, equalize=True, calibrate="minmax", correct_bias=False)
    (pair,) = plan.equalizations
    assert (pair.first, pair.second) == ("wide:conv2d", "narrow:conv2d")
    plain = plan_of(graph, calibrate="minmax", correct_bias=False)
    # Channels of like size need no scales that far apart ...
    assert _spread(plan) < _spread(plain) / 5
    # ... and what comes out in the end has the range that it had.
    assert plan.operators["narrow:conv2d"].sqnr_db is not None
    assert plan.operators["narrow:conv2d"].sqnr_db > plain.operators["narrow:conv2d"].sqnr_db - 1


def _spread(plan: CompressionPlan) -> float:
    """How far apart the scales of the channels are."""
    weight = plan.operators["wide:conv2d"].weight
    assert weight is not None
    return max(weight.scales) / min(weight.scales)


def test_bias_correction_is_the_mean_error_of_rounding(graph: PlainGraph) -> None:
    corrected = plan_of(graph, weights="int8/tensor")
    plain = plan_of(graph, weights="int8/tensor", correct_bias=False)
    assert plain.bias_corrections == {}
    assert set(corrected.bias_corrections) == {
        n for n, o in corrected.operators.items() if o.weight is not None
    }
    noise = [p.operators["wide:conv2d"].sqnr_db or 0.0 for p in (corrected, plain)]
    assert noise[0] >= noise[1] - 0.05


def test_memory_does_not_grow_with_the_samples(graph: PlainGraph) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        plan_of(graph, samples(count), correct_bias=False, calibrate="minmax")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(3)
    assert peak(24) < peak(6) + 100_000


def test_progress_is_told(graph: PlainGraph) -> None:
    told: list[tuple[int, str]] = []
    recipe = Quantize(calibrate="minmax")
    calibrate(graph, IDENTITY, samples(4), recipe, lambda n, text: told.append((n, text)))
    assert [n for n, text in told if text == "samples seen"] == [1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples(graph: PlainGraph, count: int) -> None:
    with pytest.raises(CalibrationError, match="no sample" if count == 0 else "one sample only"):
        plan_of(graph, samples(count))


def test_few_samples_are_remarked(graph: PlainGraph) -> None:
    result = calibrate(graph, IDENTITY, samples(3), Quantize(calibrate="minmax"))
    assert any("only 3 samples" in note for note in result.notes)


def test_constant_activations(graph: PlainGraph) -> None:
    blank = [(np.zeros(SHAPE, np.float32),)] * 4
    with pytest.raises(CalibrationError, match="0 everywhere in all 4") as caught:
        plan_of(graph, blank)
    assert "input:x" in str(caught.value)


@pytest.mark.parametrize(("value", "says"), [(np.inf, "infinities"), (np.nan, "NaN")])
def test_activations_that_are_no_numbers(graph: PlainGraph, value: float, says: str) -> None:
    bad = np.full(SHAPE, value, np.float32)
    with pytest.raises(CalibrationError, match=says) as caught:
        plan_of(graph, [*samples(2), (bad,)])
    assert "sample 2" in str(caught.value)


def test_the_plan_knows_its_recipe(plan: CompressionPlan) -> None:
    assert plan.recipe == Quantize().to_dict()
    assert replace(plan, recipe={}).to_json() != plan.to_json()
