"""Activations as polynomials and rationals that vectorize; the library calls they replace do not.

`topi.fast_exp`, `fast_tanh` and `fast_erf` hold the approximations (Cephes for exp, the
rationals that Eigen uses for tanh and erf); their errors are some units in the last place of
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

from schedules.tvm_adapter import te, tirx, topi


def _map(tensor: Any, function: Callable[[Any], Any], name: str) -> Any:
    return te.compute(tensor.shape, lambda *i: function(tensor[i]), name=name)


def relu(x: Any) -> Any:
    """``max(x, 0)``."""
    zero = tirx.const(0.0, x.dtype)
    return _map(x, lambda v: tirx.max(zero, v), "T_relu")  # in this order NaN stays NaN


def clip(x: Any, low: float, high: float) -> Any:
    """``min(max(x, low), high)``; NaN stays NaN."""
    below, above = tirx.const(low, x.dtype), tirx.const(high, x.dtype)
    return _map(x, lambda v: tirx.max(below, tirx.min(above, v)), "T_clip")


def sigmoid(x: Any) -> Any:
    """``1 / (1 + exp(-x))``."""
    exponent = topi.fast_exp(_map(x, lambda v: -v, "T_negative"))
    one = tirx.const(1.0, x.dtype)
    return te.compute(x.shape, lambda *i: one / (one + exponent[i]), name="T_sigmoid")


def silu(x: Any) -> Any:
    """``x * sigmoid(x)``."""
    exponent = topi.fast_exp(_map(x, lambda v: -v, "T_negative"))
    one = tirx.const(1.0, x.dtype)
    return te.compute(x.shape, lambda *i: x[i] / (one + exponent[i]), name="T_silu")


def gelu(x: Any) -> Any:
    """``x / 2 * (1 + erf(x / sqrt(2)))``."""
    inner = topi.fast_erf(_map(x, lambda v: v * tirx.const(1.0 / sqrt(2.0), x.dtype), "T_scaled"))
    half, one = tirx.const(0.5, x.dtype), tirx.const(1.0, x.dtype)
    return te.compute(x.shape, lambda *i: x[i] * half * (one + inner[i]), name="T_gelu")


def gelu_tanh(x: Any) -> Any:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))``."""
    factor = tirx.const(sqrt(2.0 / 3.141592653589793), x.dtype)
    cubic = tirx.const(0.044715, x.dtype)
    inner = topi.fast_tanh(_map(x, lambda v: factor * (v + cubic * v * v * v), "T_gelu_tanh_inner"))
    half, one = tirx.const(0.5, x.dtype), tirx.const(1.0, x.dtype)
    return te.compute(x.shape, lambda *i: x[i] * half * (one + inner[i]), name="T_gelu_tanh")


#: Relax operator -> compute definition, for float32.
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "nn.relu": relu,
    "exp": topi.fast_exp,
    "tanh": topi.fast_tanh,
    "erf": topi.fast_erf,
    "sigmoid": sigmoid,
    "nn.silu": silu,
    "nn.gelu": gelu,
    "nn.gelu_tanh": gelu_tanh,
}
