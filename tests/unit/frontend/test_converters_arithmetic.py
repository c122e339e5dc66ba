from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.compile


def test_numbers_and_integer_tensors_promote_as_in_pytorch(check: Any) -> None:
    """Each of these stays an integer, or fails, in TVM's own importer."""

    def model(i: torch.Tensor, x: torch.Tensor) -> Any:
        return {
            "add": i + 0.5,
            "mul": i * 0.5,
            "sub": i - 1.5,
            "rsub": 1.5 - i,
            "div": i / 2,
            "div_tensor": i / (i.abs() + 1),
            "clamp": torch.clamp(i, 1.5, 3.5),
            "clamp_int": torch.clamp(i, -2, 3),
            "clamp_min": i.clamp(min=-1),
            "mixed": i + x,
            "alpha": torch.add(x, x.abs(), alpha=3),
            "sub_alpha": torch.sub(x, 1.0, alpha=2),
            "where": torch.where(i > 0, i, 0.25),
            "int_float": torch.where(x > 0, 1, 0.5),
            "bool_add": (i > 0) + (i > 2),
            "bool_int": (i > 0) * 3,
            "bool_float": (i > 0) * 0.5,
            "small": i.to(torch.int8) + i.to(torch.int32),
            "half": x.to(torch.float16) + 1,
        }

    i = torch.arange(-6, 6).reshape(3, 4)
    check(model, i, torch.linspace(-2, 2, 12).reshape(3, 4), tolerance=1e-3)


def test_division_and_remainder_round_as_in_pytorch(check: Any) -> None:
    def model(i: torch.Tensor, x: torch.Tensor) -> Any:
        return (
            i // 2,
            i // -3,
            torch.div(i, 3, rounding_mode="trunc"),
            torch.div(i, 3, rounding_mode="floor"),
            x // 0.75,
            torch.div(x, 0.75, rounding_mode="trunc"),
            i % 3,
            i % -3,
            x % 0.75,
            torch.fmod(i, 4),
            torch.fmod(x, -0.75),
        )

    check(model, torch.arange(-7, 8), torch.linspace(-2.9, 2.9, 15))


def test_powers(check: Any) -> None:
    def model(i: torch.Tensor, x: torch.Tensor) -> Any:
        return (
            i**2,
            i**3,
            i**0,
            i**0.5,
            x**2,
            x**0.5,
            x**-0.5,
            x**-1,
            x**1.7,
            x**11,
            2.0**x,
            2**i,
            torch.pow(x, x),
            torch.rsqrt(i + 1),
            torch.square(x),
        )

    check(model, torch.arange(0, 6), torch.linspace(0.2, 2, 6), tolerance=5e-6)


def test_comparisons_and_logic(check: Any) -> None:
    def model(i: torch.Tensor, x: torch.Tensor) -> Any:
        a, b = i > 0, x > 0.5
        return (
            i > 0.5,
            i == x,
            a == b,
            a & b,
            a | b,
            a ^ b,
            ~a,
            ~i,
            i & 3,
            i | 8,
            i ^ 5,
            i << 2,
            i >> 1,
            torch.logical_and(i, x),
            torch.logical_or(i, x),
            torch.logical_not(i),
            torch.maximum(i, x),
            torch.minimum(i, x),
            x.bool(),
            x.to(torch.int32),
            x.masked_fill(a, 7.0),
        )

    check(model, torch.tensor([-2, -1, 0, 1, 2, 3]), torch.tensor([-1.5, 0, 0.0, 1, 0.7, 3]))


def test_activations(check: Any) -> None:
    import torch.nn.functional as f

    def model(x: torch.Tensor) -> Any:
        return {
            "relu6": f.relu6(x),
            "hardtanh": f.hardtanh(x, -0.5, 0.75),
            "leaky": f.leaky_relu(x, 0.2),
            "elu": f.elu(x, 0.7),
            "celu": f.celu(x, 0.7),
            "selu": f.selu(x),
            "gelu": f.gelu(x),
            "gelu_tanh": f.gelu(x, approximate="tanh"),
            "silu": f.silu(x),
            "mish": f.mish(x),
            "softplus": f.softplus(x, 2.0),
            "softplus_large": f.softplus(x * 60),
            "hardswish": f.hardswish(x),
            "hardsigmoid": f.hardsigmoid(x),
            "logsigmoid": f.logsigmoid(x),
            "softsign": f.softsign(x),
            "tanhshrink": f.tanhshrink(x),
            "softshrink": f.softshrink(x, 0.3),
            "hardshrink": f.hardshrink(x, 0.3),
            "threshold": f.threshold(x, 0.1, -3),
            "glu": f.glu(x, -1),
            "prelu": f.prelu(x, torch.tensor([0.1, 0.2, 0.3])),
            "prelu_one": f.prelu(x, torch.tensor([0.25])),
            "log1p": torch.log1p(x.abs()),
            "expm1": torch.expm1(x),
            "atan2": torch.atan2(x, x.abs() + 1),
            "erf": torch.erf(x),
            "log2": torch.log2(x.abs() + 1),
            "round": torch.round(x),
            "sign": torch.sign(x),
            "lerp": torch.lerp(x, x * 2, 0.3),
            "addcmul": torch.addcmul(x, x, x, value=0.5),
            "exp2": torch.exp2(x),
            "erfc": torch.erfc(x),
            "hypot": torch.hypot(x, x + 1),
            "copysign": torch.copysign(x.abs() + 1, x),
            "cdist": torch.cdist(x, x + 1),
            "nan_to_num": torch.nan_to_num(x / (x.abs() > 2)),
        }

    check(model, torch.linspace(-4, 4, 2 * 3 * 8).reshape(2, 3, 8), tolerance=5e-6)
