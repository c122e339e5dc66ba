"""Operators that stay in float32, with one order of operations for all targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.compress.apply.facts import known
from compiler.compress.operators import call
from compiler.compress.sites import Site
from schedules.tvm_adapter import relax

#: Operators of float32 whose bits depend on nothing: single operations rounded to the nearest,
#: and what moves or chooses elements. `sum` and `mean` become sums in one order.
EXACT = frozenset(
    {"add", "subtract", "multiply", "divide", "sqrt", "maximum", "minimum", "negative", "abs",
     "clip", "nn.relu", "concat", "nn.pad", "reshape", "flatten", "squeeze", "expand_dims",
     "permute_dims", "strided_slice", "broadcast_to", "take", "astype", "split", "nn.max_pool2d",
     "nn.dropout", "where", "equal", "greater", "less", "max", "min", "sum", "mean",
     "floor", "ceil", "round", "full", "zeros", "ones", "arange", "argmax", "argmin"}
)  # fmt: skip


def sum_in_order(value: Any, site: Site) -> Any:
    """A float32 sum or mean along known axes as `sum_rows`; anything else as it is."""
    if site.kind not in ("sum", "mean") or not isinstance(site.value.ty, relax.TensorType):
        return value
    data = value.args[0]
    shape = [known(v) for v in data.ty.shape.values]
    if str(data.ty.dtype.dtype) != "float32" or any(v is None for v in shape) or not shape:
        return value
    extents = [int(v or 0) for v in shape]
    rank = len(extents)
    a = value.attrs
    axes = sorted(range(rank) if a.axis is None else {int(v) % rank for v in a.axis})
    if not axes:
        return value
    rest = [i for i in range(rank) if i not in axes]
    order = [*rest, *axes]
    length = math.prod(extents[i] for i in axes)
    if order != list(range(rank)):
        data = relax.op.permute_dims(data, order)
    lead = [extents[i] for i in rest] or [1]
    data = relax.op.reshape(data, [*lead, length])
    scale = float(np.float32(1.0 / length)) if site.kind == "mean" else 1.0
    total = call("sum_rows", data, scale=scale)
    return relax.op.reshape(total, list(site.value.ty.shape.values))


__all__ = ["EXACT", "sum_in_order"]
