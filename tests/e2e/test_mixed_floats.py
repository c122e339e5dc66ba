"""Integers beside bfloat16 and float32 in one network, as the plan says of each operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import Bundle, CompressionPlan, Quantize, compile
from compiler.errors import InputError, PlanError

pytestmark = pytest.mark.compile
SHAPE = (1, 3, 8, 8)


class Net(nn.Module):
    """A transposed convolution, which has no integer form, between layers that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.up(torch.relu(self.first(x)))))


def make() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def images(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(16)]


def build(**options: Any) -> Bundle:
    given = {"quantize": "int8", "calibration": images(), "measure": False, **options}
    return compile(make(), example_inputs=(images()[0],), name="net", **given)


def precisions(plan: CompressionPlan | None) -> dict[str, str]:
    assert plan is not None
    return {n: o.precision for n, o in plan.operators.items() if o.kind.startswith("nn.conv")}


def remark(bundle: Bundle) -> str:
    (stage,) = [s for s in bundle.manifest.stages if s.name == "ReducePrecision"]
    return stage.detail


def dtypes(bundle: Bundle) -> set[str]:
    return {str(v.dtype) for v in bundle.parameters.values() if v.size >= 32}


def close(bundle: Bundle) -> float:
    want = make()(torch.from_numpy(images(1)[0])).detach().numpy()
    return float(np.abs(bundle(images(1)[0]) - want).max() / np.abs(want).max())


@pytest.fixture(scope="module")
def mixed() -> Bundle:
    return build(precision="bf16", quantize=Quantize(keep=["last"]))


def test_what_is_not_int8_computes_on_bfloat16_unless_it_is_kept(mixed: Bundle) -> None:
    assert precisions(mixed.plan) == {
        "first:conv2d": "int8", "up:conv2d_transpose": "bfloat16", "last:conv2d": "float32",
    }  # fmt: skip
    assert "1 operators in bfloat16 (1 conv2d_transpose)" in remark(mixed)
    assert dtypes(mixed) == {"int8", "bfloat16", "float32"}
    assert 0 < close(mixed) < 0.05


def test_a_plan_is_followed_operator_by_operator(mixed: Bundle) -> None:
    assert mixed.plan is not None
    plan = mixed.plan.with_operator("up:conv2d_transpose", precision="float32")
    plan = plan.with_operator("last:conv2d", precision="bfloat16")
    other = build(quantize=plan, calibration=None)
    assert "1 operators in bfloat16 (1 conv2d)" in remark(other)
    assert 0 < close(other) < 0.05
    real = replace(
        plan,
        tensors={},
        bias_corrections={},
        operators={
            n: replace(o, precision="float32", weight=None, epilogue=())
            for n, o in plan.operators.items()
        },
    )
    assert close(build(quantize=real, calibration=None)) < 1e-5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_has_no_such_form_is_refused_by_name(mixed: Bundle, precision: str) -> None:
    assert mixed.plan is not None
    name = next(n for n, o in mixed.plan.operators.items() if o.kind == "nn.relu")
    name = name if precision == "bfloat16" else "last:conv2d"
    plan = mixed.plan.with_operator(name, precision=precision)
    says = "no form in bfloat16" if precision == "bfloat16" else "computes in float16, and .* not"
    with pytest.raises(PlanError, match=says):
        build(quantize=plan, calibration=None)


def test_a_plan_excludes_a_precision_for_all(mixed: Bundle) -> None:
    with pytest.raises(InputError, match="a plan says"):
        build(quantize=mixed.plan, calibration=None, precision="bf16")
