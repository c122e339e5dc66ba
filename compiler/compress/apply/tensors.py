"""Operators between integer tensors: sums, products, joins, moves, tables and averages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.compress import reference
from compiler.compress.apply.facts import MOVES, TABLES, average_window, clip_limits, known
from compiler.compress.apply.quantizer import Epilogue, Handler, Quantizer
from compiler.compress.operators import call
from compiler.compress.plan import OperatorPlan, TensorPlan
from compiler.compress.sites import Site
from schedules.tvm_adapter import GenericConst, relax


def _two(q: Quantizer, site: Site, operator: OperatorPlan) -> list[tuple[Any, TensorPlan]]:
    """Both operands of an operator, in the order of its arguments: activations or a constant."""
    names = iter(operator.inputs)
    found = []
    for argument in site.value.args:
        if isinstance(argument, GenericConst):
            found.append(q.fixed(site, argument))
        elif (name := next(names, None)) is not None:
            found.append((q.narrow(name), q.tensor(name)))
    if len(found) != 2 or next(names, None) is not None:
        raise q.error(site, f"{site.kind} on integers needs two activations, or a constant")
    return found


def add(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """The sum of two tensors."""
    (left, a), (right, b) = _two(q, site, operator)
    bounds, result = q.bounds(site, operator), q.result(site, operator)
    factors, shift = q.factors(site, (a, b), result)
    value = call(
        "add", left, right, zero_a=a.zero_point, factor_a=factors[0],
        zero_b=b.zero_point, factor_b=factors[1], shift=shift, **bounds,
    )  # fmt: skip
    return q.emit(value, site)


def multiply(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """The product of two tensors, element by element; by a number it may be the tensor itself."""
    bounds, result = q.bounds(site, operator), q.result(site, operator)
    factor = _number_beside(site)
    if factor is not None and len(operator.inputs) == 1:
        source = q.tensor(operator.inputs[0])
        if not math.isfinite(factor) or factor <= 0:
            raise q.error(site, f"a factor of {factor:g} has no integer form")
        scaled = replace(
            source, scale=float(np.float32(source.scale * factor)), shared_with="",
            power_of_two=False,
        )  # fmt: skip
        limits = {"low": bounds["low"], "high": bounds["high"]}
        return q.rescaled(site, operator.inputs[0], result, source=scaled, **limits)
    (left, a), (right, b) = _two(q, site, operator)
    ratio = float(a.scale) * b.scale / result.scale
    largest = math.prod(2.0 ** (16 if t.dtype == "int16" else 9) for t in (a, b))
    if ratio * largest > 2.0**31:
        raise q.error(site, "its results are too large for the scale of its output")
    multiplier, shift = reference.fixed_point([ratio])
    value = call(
        "multiply", left, right, zero_a=a.zero_point, zero_b=b.zero_point,
        multiplier=int(multiplier[0]), shift=shift, **bounds,
    )  # fmt: skip
    return q.emit(value, site)


def _number_beside(site: Site) -> float | None:
    """The one number that an activation is multiplied with; None for anything else."""
    constant = next((a for a in site.value.args if isinstance(a, GenericConst)), None)
    if constant is None or np.from_dlpack(constant.value).size != 1:
        return None
    return float(np.from_dlpack(constant.value).reshape(()))


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
    """Tensors joined, each brought to the scale of the result; constants are stored at it."""
    fields = site.value.args[0]
    result = q.result(site, operator)
    names = iter(operator.inputs)
    parts = []
    for part in fields.fields if isinstance(fields, relax.Tuple) else ():
        if isinstance(part, GenericConst):
            value = np.from_dlpack(part.value).astype(np.float64)
            stored = np.clip(np.rint(value / result.scale) + result.zero_point, *result.limits)
            constant = stored.astype(result.dtype)
            parts.append(q.constants.constant(constant, f"{q.owner(site)}.constant"))
        elif (name := next(names, None)) is not None:
            parts.append(q.rescaled(site, name, result))
    if not parts or len(parts) != len(fields.fields) or next(names, None) is not None:
        raise q.error(site, "it does not concatenate the plan's tensors")
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
