"""Operators between integer tensors: sums, products, joins, moves, tables and averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from compiler.compress import reference
from compiler.compress.apply.facts import MOVES, TABLES, average_window, clip_limits, known
from compiler.compress.apply.quantizer import Epilogue, Handler, Quantizer
from compiler.compress.operators import call
from compiler.compress.plan import OperatorPlan
from compiler.compress.sites import Site
from schedules.tvm_adapter import relax


def add(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """The sum of two tensors."""
    names = q.two(site, operator)
    a, b = (q.tensor(name) for name in names)
    bounds, result = q.bounds(site, operator), q.result(site, operator)
    (left, right), shift = q.factors(site, (a.scale, b.scale), result.scale)
    value = call(
        "add", *(q.narrow(n) for n in names), zero_a=a.zero_point, factor_a=left,
        zero_b=b.zero_point, factor_b=right, shift=shift, **bounds,
    )  # fmt: skip
    return q.emit(value, site)


def multiply(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """The product of two tensors, element by element."""
    names = q.two(site, operator)
    a, b = (q.tensor(name) for name in names)
    bounds, result = q.bounds(site, operator), q.result(site, operator)
    ratio = float(a.scale) * b.scale / result.scale
    if ratio * 2.0**16 > 2.0**30:
        raise q.error(site, "its results are too large for the scale of its output")
    multiplier, shift = reference.fixed_point([ratio])
    value = call(
        "multiply", *(q.narrow(n) for n in names), zero_a=a.zero_point,
        zero_b=b.zero_point, multiplier=int(multiplier[0]), shift=shift, **bounds,
    )  # fmt: skip
    return q.emit(value, site)


def clip(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """An activation that only clips, by itself."""
    bounds, result = q.bounds(site, operator), q.result(site, operator)
    below, above = clip_limits(site)
    low, high = q.limits(result, Epilogue(None, below, above, ()))
    return q.rescaled(
        site, operator.inputs[0], result, low=max(low, bounds["low"]),
        high=min(high, bounds["high"]),
    )  # fmt: skip


def concat(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """Tensors joined, each brought to the scale of the result."""
    fields = site.value.args[0]
    if not isinstance(fields, relax.Tuple) or len(operator.inputs) != len(fields.fields):
        raise q.error(site, "it does not concatenate the plan's tensors")
    result = q.result(site, operator)
    parts = [q.rescaled(site, name, result) for name in operator.inputs]
    return q.emit(relax.op.concat(parts, site.value.attrs.axis), site)


def pad(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """Padding by a constant."""
    a = site.value.attrs
    result = q.result(site, operator)
    if a.pad_mode != "constant":
        raise q.error(site, f"padding by {a.pad_mode} has no integer form")
    fill = reference.quantized_number(
        float(a.pad_value), result.scale, result.zero_point, *result.limits
    )
    data = q.rescaled(site, operator.inputs[0], result)
    width = [int(v) for v in a.pad_width]
    return q.emit(relax.op.nn.pad(data, width, "constant", fill), site)


def move(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """What moves or chooses elements."""
    if site.kind == "image.resize2d" and str(site.value.attrs.method) != "nearest_neighbor":
        raise q.error(site, "only nearest neighbours are resized on integers")
    first, *rest = site.value.args
    if not isinstance(first, relax.Var):
        raise q.error(site, f"{site.kind} of more than one tensor has no integer form")
    result = q.result(site, operator)
    data = q.rescaled(site, operator.inputs[0], result)
    value = site.value
    moved = relax.Call(value.op, [data, *rest], value.attrs, value.ty_args)
    return q.emit(moved, site)


def table(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """A function of one number, as a table of 256 entries."""
    source, result = q.tensor(operator.inputs[0]), q.result(site, operator)
    table = reference.lookup_table(
        TABLES[site.kind],
        (source.dtype, source.scale, source.zero_point),
        (result.dtype, result.scale, result.zero_point),
    )
    bounds = q.bounds(site, operator)
    table = np.clip(table, bounds["low"], bounds["high"])
    constant = q.constants.constant(table, f"{q.owner(site)}.table")
    value = call("lookup", q.narrow(operator.inputs[0]), constant, dtype=result.dtype)
    return q.emit(value, site)


def average(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """Averages as sums over windows (a depthwise kernel of ones), then requantized."""
    data = q.narrow(operator.inputs[0])
    source = q.tensor(operator.inputs[0])
    shape = [known(v) for v in data.ty.shape.values]
    window = average_window(site, shape)
    if window is None:
        raise q.error(site, "only averages over equal windows of images are on integers")
    kernel, strides, padding = window
    if any(padding):
        width = [0, 0, 0, 0, padding[0], padding[2], padding[1], padding[3]]
        data = q.builder.emit(relax.op.nn.pad(data, width, "constant", source.zero_point))
    channels = shape[1] or 0
    ones = q.constants.constant(np.ones((channels, 1, *kernel), np.int8), f"{q.owner(site)}.ones")
    sums = q.emit(relax.op.nn.conv2d(data, ones, strides, 0, 1, channels, out_dtype="int32"), site)
    count = kernel[0] * kernel[1]
    scales = np.asarray([float(source.scale) / count])
    offset = np.asarray([-source.zero_point * count], np.int64)
    bound = np.asarray([512.0 * count])
    if bound[0] > reference.INT32.max:
        raise q.error(site, f"sums of {count} elements may need more than 32 bits")
    epilogue = q.epilogue(site, operator, 1)
    pooled = q.requantize(site, operator, sums, scales, -1, offset, bound, epilogue)
    wanted = site.value.ty.shape.values
    if len(wanted) == len(pooled.ty.shape.values):
        return pooled
    return q.emit(relax.op.reshape(pooled, list(wanted)), site)


HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("int8", "add"): add,
    ("int8", "multiply"): multiply,
    ("int8", "concat"): concat,
    ("int8", "nn.avg_pool2d"): average,
    ("int8", "nn.adaptive_avg_pool2d"): average,
    ("int8", "mean"): average,
    ("int8", "nn.relu"): clip,
    ("int8", "clip"): clip,
    ("int8", "nn.pad"): pad,
    **{("int8", kind): move for kind in MOVES},
    **{("int8", kind): table for kind in TABLES},
}
