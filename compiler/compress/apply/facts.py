"""Facts about operators of a plain graph that integer forms depend on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress.sites import Site
from compiler.errors import PlanError
from schedules.tvm_adapter import relax, tirx

Array = npt.NDArray[Any]

#: Operators that move or choose elements and give the same on integers.
MOVES = frozenset(
    {"reshape", "flatten", "squeeze", "expand_dims", "permute_dims", "strided_slice",
     "broadcast_to", "nn.dropout", "image.resize2d", "nn.max_pool2d"}
)  # fmt: skip


def _erf_gelu(x: float) -> float:
    return x / 2 * (1 + math.erf(x / math.sqrt(2)))


def _tanh_gelu(x: float) -> float:
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


#: Functions of one number that become tables of 256 entries.
TABLES: Mapping[str, Callable[[float], float]] = {
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "nn.silu": lambda x: x * _sigmoid(x),
    "nn.gelu": _erf_gelu,
    "nn.gelu_tanh": _tanh_gelu,
    "erf": math.erf,
}


#: Convolutions and products, which alone compute on numbers of 16 bits.
HEAVY = frozenset({"nn.conv1d", "nn.conv2d", "nn.conv2d_transpose", "matmul"})
_MARK = re.compile(r"@(b?float16)@")


def marked_name(name: str, precision: str) -> str:
    """A variable's name that says in which precision of floats its operator computes.

    Names are what passes keep of a variable, and operators of Relax have no such attribute.
    """
    return name if precision == "float32" else f"{name}@{precision}@"


def precision_mark(name: str) -> str:
    """The precision in a name of `marked_name`'s."""
    found = _MARK.search(name)
    return "float32" if found is None else found[1]


def clip_limits(site: Site) -> tuple[float, float]:
    """Least and greatest real value behind an activation that only clips.

    Raises:
        PlanError: It does something else, or its limits are not numbers.
    """
    if site.kind == "nn.relu":
        return 0.0, math.inf
    if site.kind == "nn.relu6":
        return 0.0, 6.0
    if site.kind == "clip":
        low, high = (number(v) for v in site.value.args[1:3])
        if low is not None and high is not None:
            return low, high
    raise PlanError(
        f"{site.kind} only clips between known numbers if it is a clip or relu",
        where=site.name,
        hint="take it out of the epilogue in the plan",
    )


def clip_real(value: Any, low: float, high: float) -> Any:
    """A float32 expression, clipped; infinite limits do not."""
    if low == 0.0 and high == math.inf:
        return relax.op.nn.relu(value)
    limits = (max(low, -3.4028234663852886e38), min(high, 3.4028234663852886e38))
    return relax.op.clip(value, *limits)


def average_window(
    site: Site, shape: list[int | None]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]] | None:
    """Kernel, strides and padding of an average over windows of an image, all of one size."""
    if len(shape) != 4 or any(v is None for v in shape[1:]):
        return None
    a = site.value.attrs
    height, width = int(shape[2] or 0), int(shape[3] or 0)
    if site.kind == "mean":
        axes = {int(v) % 4 for v in a.axis} if a.axis is not None else set()
        return ((height, width), (1, 1), (0, 0, 0, 0)) if axes == {2, 3} else None
    if site.kind == "nn.adaptive_avg_pool2d":
        if a.layout != "NCHW" or a.output_size is None:
            return None
        out = [int(v) for v in a.output_size] * 2
        if height % out[0] or width % out[1]:
            return None
        kernel = (height // out[0], width // out[1])
        return kernel, kernel, (0, 0, 0, 0)
    top, left, bottom, right = symmetric(a.padding, 2)
    kernel = (int(a.pool_size[0]), int(a.pool_size[-1]))
    if a.layout != "NCHW" or a.ceil_mode or any(int(v) != 1 for v in a.dilation):
        return None
    if any((top, left, bottom, right)) and not a.count_include_pad:
        return None
    return kernel, (int(a.strides[0]), int(a.strides[-1])), (top, left, bottom, right)


def symmetric(padding: Any, spatial: int) -> list[int]:
    """Padding before and after each spatial axis: all before, then all after."""
    values = [int(v) for v in padding]
    if len(values) == 1:
        return values * (2 * spatial)
    return values * 2 if len(values) == spatial else values


def along(values: Array, rank: int, axis: int) -> Array:
    """A vector, shaped to lie along one of `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def scale_inputs(weight: Array, factors: Array, site: Site) -> Array:
    """A weight whose inputs are scaled by factors, one an input channel."""
    if site.kind == "matmul":
        return weight * factors[:, None]
    groups = int(site.value.attrs.groups)
    inner = weight.shape[1]
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    shaped = factors.reshape(groups, 1, inner, *([1] * (weight.ndim - 2)))
    return np.asarray((grouped * shaped).reshape(weight.shape))


def known(extent: Any) -> int | None:
    """An extent as a number, None if it varies."""
    return int(extent) if isinstance(extent, (int, tirx.IntImm)) else None


def number(expr: Any) -> float | None:
    """The number in a scalar expression, None if it is not known."""
    value = expr
    while not isinstance(value, (int, float)):
        value = getattr(value, "value", None)
        if value is None:
            return None
    return float(value)
