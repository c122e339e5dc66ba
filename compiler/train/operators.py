"""Operators of a plain graph in PyTorch, with gradients and for any batch.

Calibration has evaluators too (`compiler.compress.evaluate`); these add what training needs:
operators that are compiled there, and reshapes that follow the batch. The example inputs fix
the sizes of a plain graph; a training batch may be of another size than theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from compiler.compress.apply import average_window, clip_limits
from compiler.compress.evaluate import EVALUATORS, Evaluate, Value
from compiler.compress.sites import Site
from compiler.errors import TrainingError


def _ints(values: Any) -> list[int]:
    return [int(v) for v in values]


def _reshape(call: Any, a: list[Value]) -> Value:
    """To the shape of the graph, with the batch of the data."""
    shape = _ints(call.ty.shape.values)
    if math.prod(shape) != a[0].numel():
        rest = math.prod(shape[1:])
        if rest == 0 or a[0].numel() % rest:
            raise TrainingError(
                f"{list(a[0].shape)} cannot be reshaped to {shape} with another batch",
                hint="train with batches of the size of the example inputs",
            )
        shape[0] = a[0].numel() // rest
    return a[0].reshape(shape)


def _average(call: Any, a: list[Value]) -> Value:
    if str(call.op.name).endswith("adaptive_avg_pool2d"):
        return torch.ops.aten.adaptive_avg_pool2d(a[0], (_ints(call.attrs.output_size) * 2)[:2])
    return F.avg_pool2d(
        _padded(a[0], _ints(call.attrs.padding)), _ints(call.attrs.pool_size),
        _ints(call.attrs.strides), 0,
    )  # fmt: skip


def _padded(x: torch.Tensor, padding: list[int]) -> torch.Tensor:
    sides = padding * (4 // len(padding))
    top, left, bottom, right = sides
    return F.pad(x, (left, right, top, bottom)) if any(sides) else x


def _pad(call: Any, a: list[Value]) -> Value:
    width = _ints(call.attrs.pad_width)
    pairs = [width[i : i + 2] for i in range(0, len(width), 2)][::-1]
    return F.pad(a[0], [v for pair in pairs for v in pair], value=float(call.attrs.pad_value))


def _resize(call: Any, a: list[Value]) -> Value:
    size = _ints(call.ty.shape.values)[2:]
    return F.interpolate(a[0], size=size, mode="nearest")


def _gelu_tanh(_: Any, a: list[Value]) -> Value:
    return F.gelu(a[0], approximate="tanh")


#: By Relax operator: what gives gradients.
DIFFERENTIABLE: Mapping[str, Evaluate] = {
    **EVALUATORS,
    **dict.fromkeys(("reshape", "flatten", "squeeze", "expand_dims"), _reshape),
    "nn.avg_pool2d": _average,
    "nn.adaptive_avg_pool2d": _average,
    "nn.pad": _pad,
    "image.resize2d": _resize,
    "nn.gelu_tanh": _gelu_tanh,
    "erf": lambda _, a: torch.erf(a[0]),
    "exp": lambda _, a: torch.exp(a[0]),
    "sqrt": lambda _, a: torch.sqrt(a[0]),
    "power": lambda _, a: torch.pow(a[0], a[1]),
    "negative": lambda _, a: -a[0],
    "nn.dropout": lambda _, a: a[0],
}


def evaluate(site: Site, arguments: list[Value]) -> Value:
    """The value of a float operator.

    Args:
        site: The operator.
        arguments: Values of its arguments, in order, shapes left out.

    Raises:
        TrainingError: It has no gradient here.
    """
    if site.kind in ("clip", "nn.relu6"):
        return arguments[0].clamp(*clip_limits(site))
    function = DIFFERENTIABLE.get(site.kind)
    if function is None or not trainable(site):
        raise TrainingError(
            f"{site.kind or 'it'} has no gradient here",
            where=site.name,
            hint="train the model without this layer, or in float32, and quantize it afterwards",
        )
    return function(site.value, arguments)


def trainable(site: Site) -> bool:
    """Whether an operator can be computed here, with gradients."""
    if not site.kind or site.kind in ("clip", "nn.relu6"):
        return True
    if site.kind == "nn.avg_pool2d":
        shape = _ints(site.value.args[0].ty.shape.values)
        return average_window(site, [*shape]) is not None
    if site.kind == "image.resize2d":
        return str(site.value.attrs.method) == "nearest_neighbor"
    if site.kind == "nn.pad":
        return str(site.value.attrs.pad_mode) == "constant"
    if site.kind == "nn.max_pool2d":
        return not bool(site.value.attrs.ceil_mode)
    return site.kind in DIFFERENTIABLE


__all__ = ["DIFFERENTIABLE", "evaluate", "trainable"]
