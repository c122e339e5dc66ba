"""Models that are trained for a plan: what they compute, and what becomes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler.compress.recipe import Quantize
from compiler.errors import CalibrationError, InputError, PlanError, TrainingError
from compiler.frontend import import_model
from compiler.lower.plain import reference_outputs
from compiler.stages import StageLog
from compiler.train import FakeQuantized, finish, prepare
from targets import get_target


class Net(nn.Module):
    """Normalization behind convolutions with and without bias, a residual, an average, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.mid = nn.Conv2d(8, 8, 3, padding=1, bias=True)
        self.bn2 = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(self.bn2(self.mid(x)) + x)
        x = nn.functional.relu6(self.bn3(self.deep(x)))
        return self.head(x.mean((2, 3)))


def _trained() -> nn.Module:
    torch.manual_seed(3)
    model = Net()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(20):
            model(torch.randn(16, 2, 6, 6))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return _trained()


def _data(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


SAMPLES = [_data(4, seed) for seed in range(5)]


def _prepare(model: nn.Module, recipe: str | Quantize, **options: Any) -> FakeQuantized:
    return prepare(model, recipe, example_inputs=(_data(4, 9),), calibration=SAMPLES, **options)


def _reference(qat: FakeQuantized, x: torch.Tensor) -> np.ndarray:
    """What the NumPy interpreter gives for the finished model and its plan."""
    trained, plan = finish(qat)
    imported = import_model(trained, (x,), log=StageLog())
    return reference_outputs(imported, get_target("x86"), plan, [x.numpy()])[0]


RECIPES = [
    "int8",
    "ternary",
    "binary",
    "w4a8",
    Quantize(weights="int8/tensor", power_of_two=True),
    Quantize(equalize=True),
]


def _fast(count: int) -> list[Any]:
    """The recipes, of which only the first few are fast tests."""
    return [*RECIPES[:count], *(pytest.param(r, marks=pytest.mark.slow) for r in RECIPES[count:])]


@pytest.mark.parametrize("recipe", _fast(3), ids=str)
def test_inference_is_the_reference_bit_for_bit(model: nn.Module, recipe: Any) -> None:
    qat = _prepare(model, recipe)
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(qat.parameters(), lr=0.02)
    for step in range(3):  # so that all that is trained differs from the plan
        optimizer.zero_grad()
        loss(qat(_data(6, 50 + step)), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
        optimizer.step()
    x = _data(4, 77)
    qat.eval()
    assert np.array_equal(qat(x).numpy(), _reference(qat, x))


@pytest.mark.parametrize("recipe", _fast(1), ids=str)
def test_training_computes_what_inference_does(model: nn.Module, recipe: Any) -> None:
    qat = _prepare(model, recipe)
    qat.freeze_norms()
    x = _data(4, 78)
    simulated = qat(x).detach()
    exact = qat.eval()(x)
    # Rare ties and flips of one step apart, the same; one step of the average moves the head
    # by less than this.
    step = qat.step(qat.plan.operators["head:matmul"].inputs[0]).number()
    largest = float(qat.model.head.weight.detach().abs().sum(1).max())
    assert float((simulated - exact).abs().max()) <= 1.5 * step * largest


@pytest.mark.parametrize(
    "recipe",
    [
        "int8-dynamic",
        "codebook-weights",
        *(pytest.param(r, marks=pytest.mark.slow) for r in ("int4-weights", "float16-weights")),
    ],
)
def test_compressed_weights_of_float_arithmetic(recipe: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)).eval()
    x = torch.randn(4, 32)
    qat = prepare(model, recipe, example_inputs=(x,))
    qat(x).square().mean().backward()
    assert all(p.grad is not None for p in qat.model.parameters())
    simulated, exact = qat(x).detach(), qat.eval()(x)
    np.testing.assert_allclose(simulated, exact, atol=1e-5)
    trained, plan = finish(qat)
    imported = import_model(trained, (x,), log=StageLog())
    wanted = reference_outputs(imported, get_target("x86"), plan, [x.numpy()])[0]
    np.testing.assert_allclose(exact, wanted, atol=1e-5)


def test_every_parameter_is_trained_under_its_own_name(model: nn.Module) -> None:
    qat = _prepare(model, "int8")
    assert [n for n, _ in qat.model.named_parameters()] == [n for n, _ in model.named_parameters()]
    qat(_data(6, 1)).square().mean().backward()
    # A bias in front of a normalization by the batch has no effect.
    without = {n for n, p in qat.model.named_parameters() if not p.grad.abs().max() > 1e-7}
    assert without <= {"mid.bias"}
    assert all(p.grad is not None for p in qat.activations.parameters())
    assert all(p.grad is not None for p in qat.weights.parameters())


def test_folding_is_normalization_by_the_running_statistics(model: nn.Module) -> None:
    """With scales so fine that nothing is rounded, both are the float32 model."""
    plan = _prepare(model, Quantize(calibrate="minmax", correct_bias=False)).plan
    floats = {
        name: replace(op, precision="float32", weight=None) for name, op in plan.operators.items()
    }
    qat = prepare(model, replace(plan, operators=floats, tensors={}), example_inputs=(_data(4, 9),))
    x = _data(4, 5)
    qat.freeze_norms()
    np.testing.assert_allclose(qat(x).detach(), model(x).detach(), atol=1e-5)


def test_live_normalization_goes_by_the_batch(model: nn.Module) -> None:
    plan = _prepare(model, "int8").plan
    floats = {
        name: replace(op, precision="float32", weight=None) for name, op in plan.operators.items()
    }
    empty = replace(plan, operators=floats, tensors={}, bias_corrections={})
    qat = prepare(model, empty, example_inputs=(_data(4, 9),))
    mirror = copy.deepcopy(model).train()
    x = _data(8, 6)
    np.testing.assert_allclose(qat(x).detach(), mirror(x).detach(), atol=2e-5)
    for name, value in mirror.named_buffers():
        if "running" in name:
            np.testing.assert_allclose(dict(qat.model.named_buffers())[name], value, atol=1e-5)


def test_live_normalization_of_rounded_weights(model: nn.Module) -> None:
    """The rounded weight is that of the folded convolution, the statistics those of its sums."""
    qat = _prepare(model, "int8", learn_steps=False)
    x = _data(8, 6)
    seen: dict[str, torch.Tensor] = {}
    weights = qat.weight_step("stem:conv2d")
    handle = weights.register_forward_hook(lambda _m, _a, out: seen.update(w=out.detach()))
    before = {k: v.clone() for k, v in qat.model.bn1.state_dict().items()}
    qat(x)
    handle.remove()
    factor = before["weight"] / torch.sqrt(before["running_var"] + qat.model.bn1.eps)
    data = qat.step("input:x").round(x)
    sums = nn.functional.conv2d(data, seen["w"] / factor[:, None, None, None], padding=1)
    wanted = 0.9 * before["running_mean"] + 0.1 * sums.mean((0, 2, 3))
    np.testing.assert_allclose(qat.model.bn1.running_mean, wanted.detach(), atol=1e-5)


def test_another_batch_than_the_example(model: nn.Module) -> None:
    qat = _prepare(model, "int8")
    assert qat(_data(7, 1)).shape == (7, 3)
    with qat.integers():
        assert qat(_data(1, 1)).shape == (1, 3)
    assert qat.training


def test_the_first_and_last_layer_and_depthwise_kernels_keep_8_bits(model: nn.Module) -> None:
    def stored(**options: Any) -> dict[str, str]:
        operators = _prepare(model, "ternary", **options).plan.operators
        return {n: o.weight.dtype for n, o in operators.items() if o.weight is not None}

    usual = {"stem:conv2d": "int8", "mid:conv2d": "ternary", "deep:conv2d": "int8"}
    assert stored() == {**usual, "head:matmul": "int8"}
    assert stored(int8_layers=()) == {
        "stem:conv2d": "ternary", "mid:conv2d": "ternary", "deep:conv2d": "int8",
        "head:matmul": "ternary",
    }  # fmt: skip
    assert set(stored(int8_layers=["ends", "mid"]).values()) == {"int8"}
    with pytest.raises(InputError, match=r"int8_layers names 'midd'.*\n.*'mid:conv2d'"):
        stored(int8_layers=["midd"])


def test_what_was_learned_is_in_the_plan(model: nn.Module) -> None:
    qat = _prepare(model, "ternary")
    with torch.no_grad():
        qat.step("input:x").scale.mul_(1.25)
        qat.weight_step("mid:conv2d").scales.mul_(0.5)
    _, plan = finish(qat)
    before = qat.plan.tensors["input:x"].scale
    assert plan.tensors["input:x"].scale == float(np.float32(before) * np.float32(1.25))
    weight = plan.operators["mid:conv2d"].weight
    assert weight is not None
    assert (weight.method, len(weight.scales)) == ("lsq", 8)
    assert plan.from_json(plan.to_json()) == plan
    # Another plan of the trained model goes on where this one ended.
    trained, _ = finish(qat)
    again = prepare(trained, plan, example_inputs=(_data(4, 9),))
    x = _data(4, 8)
    assert torch.equal(again.eval()(x), qat.eval()(x))


def test_the_user_s_module_stays_as_it_was(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    qat = _prepare(model, "int8")
    qat(_data(4, 1)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_progressive_precision(model: nn.Module) -> None:
    qat = _prepare(model, "ternary")
    step = qat.weight_step("mid:conv2d")

    def values() -> int:
        weight = step(qat.real_weight("mid:conv2d"))
        return int(max(len(torch.unique(row)) for row in weight.detach()))

    qat.raise_weights("float32")
    assert values() == 72
    with qat.integers(), pytest.raises(TrainingError, match="not rounded in this stage"):
        qat(_data(4, 1))
    qat.raise_weights("int4")
    assert 3 < values() <= 15
    with pytest.raises(TrainingError, match="still int4"):
        finish(qat)
    qat.raise_weights("binary")
    assert values() <= 3
    assert qat.weight_step("stem:conv2d").dtype == "int8"
    finish(qat)
    with pytest.raises(TrainingError, match="no weights of 'int3'"):
        qat.raise_weights("int3")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: (m, "int8", None), CalibrationError, "no calibration samples"),
        (lambda m: (m, "int8", []), CalibrationError, "no sample"),
        (lambda m: (m, "int9", SAMPLES), InputError, "int9"),
        (lambda m: ("net.pt2", "int8", SAMPLES), InputError, "cannot be trained"),
        (lambda m: (m, None, SAMPLES), InputError, "nothing to train for"),
    ],
)
def test_options_that_have_no_meaning(
    model: nn.Module, change: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    given, recipe, samples = change(model)
    with pytest.raises(error, match=message):
        prepare(given, recipe, example_inputs=(_data(4, 9),), calibration=samples)


def test_a_plan_for_another_model(model: nn.Module) -> None:
    plan = _prepare(model, "int8").plan
    other = nn.Sequential(nn.Conv2d(2, 4, 3)).eval()
    with pytest.raises(PlanError, match="made for another model"):
        prepare(other, plan, example_inputs=(_data(4, 9),))


def test_operators_without_gradients_are_named() -> None:
    class Sorts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.topk(x, 2).values

    model = nn.Sequential(nn.Linear(8, 8), Sorts()).eval()
    samples = [torch.randn(4, 8) for _ in range(3)]
    with pytest.raises(TrainingError, match="topk"):
        prepare(model, "int8", example_inputs=(samples[0],), calibration=samples)


def test_parameters_that_are_no_numbers_cannot_be_finished(model: nn.Module) -> None:
    qat = _prepare(model, "int8")
    with torch.no_grad():
        qat.model.mid.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"NaN or infinities"):
        finish(qat)


def test_inputs_by_name(model: nn.Module) -> None:
    qat = _prepare(model, "int8").eval()
    x = _data(4, 3)
    assert torch.equal(qat(x), qat(x=x))
    with pytest.raises(TrainingError, match="takes x"):
        qat(x, x)
    with pytest.raises(TrainingError, match="takes x"):
        qat(y=x)
