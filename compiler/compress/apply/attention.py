"""Softmax, layer normalization and the product that divides by the sums of a softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from compiler.compress import reference, rows
from compiler.compress.apply.quantizer import Handler, Quantizer
from compiler.compress.operators import call
from compiler.compress.plan import OperatorPlan
from compiler.compress.sites import Site
from schedules.tvm_adapter import GenericConst, relax


def softmax(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """Exponentials of rows: 255 for the largest. The product that reads them divides."""
    shape = site.value.ty.shape.values
    if int(site.value.attrs.axis) % len(shape) != len(shape) - 1:
        raise q.error(site, "only softmax along the last axis is on integers")
    result = q.result(site, operator)
    if (result.dtype, result.zero_point) != ("uint8", 0):
        raise q.error(site, "a softmax on integers gives uint8 with a zero point of 0")
    for other in q.graph.sites:
        if operator.output in other.data and not _divides(q, other, operator.output):
            raise q.error(site, f"{other.name!r} reads it, which is no product of integers")
    source = q.tensor(operator.inputs[0])
    factor, shift, limit = rows.exponent_numbers(source.scale)
    data = q.narrow(operator.inputs[0])
    return q.emit(call("exponentials", data, factor=factor, shift=shift, limit=limit), site)


def _divides(q: Quantizer, site: Site, weights: str) -> bool:
    """Whether an operator is an integer product that takes a softmax on its left."""
    operator = q.plan.operators.get(site.name)
    return (
        operator is not None
        and (site.kind, operator.precision) == ("matmul", "int8")
        and len(site.data) == 2
        and site.data[0] == weights != site.data[1]
    )


def is_weights(q: Quantizer, name: str) -> bool:
    """Whether a tensor is the result of a softmax on integers."""
    site, operator = q.sites.get(name), q.plan.operators.get(name)
    return (
        site is not None
        and operator is not None
        and (site.kind, operator.precision) == ("nn.softmax", "int8")
    )


def product_of_weights(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """The product of a softmax and a symmetric tensor: exponentials first, then the division."""
    weights, values = operator.inputs
    right, result = q.tensor(values), q.result(site, operator)
    if right.zero_point or right.dtype != "int8":
        raise q.error(site, "what it multiplies a softmax with is not int8 with a zero point of 0")
    a, b = q.narrow(weights), q.narrow(values)
    length = int(a.ty.shape.values[-1])
    if 255 * 128 * length > reference.INT32.max:
        raise q.error(site, f"its sums of {length} products may need more than 32 bits")
    epilogue = q.epilogue(site, operator, 1)
    if epilogue.bias is not None:
        raise q.error(site, "a product of two activations takes no bias")
    low, high = q.limits(result, epilogue)
    # The sum of the stored exponentials stands for 1, whatever their own scale.
    ratio = float(np.float32(right.scale / result.scale))
    factors = q.builder.emit(call("row_factors", a, ratio=ratio))
    sums = q.emit(relax.op.matmul(a, b, out_dtype="int32"), site)
    value = call(
        "requantize_rows", sums, factors, zero_point=result.zero_point, low=low, high=high,
        dtype=result.dtype,
    )  # fmt: skip
    return q.emit(value, site)


def layer_norm(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """Layer normalization along the last axis, its affine part in units of the result."""
    data, *affine = site.value.args
    a = site.value.attrs
    length = int(data.ty.shape.values[-1])
    if [int(v) % len(data.ty.shape.values) for v in a.axes] != [len(data.ty.shape.values) - 1]:
        raise q.error(site, "only layer normalization along the last axis is on integers")
    if not all(isinstance(v, GenericConst) for v in affine):
        raise q.error(site, "its factors are no constants")
    gamma, beta = (np.from_dlpack(v.value).astype(np.float64) for v in affine)
    if not a.scale:
        gamma = np.ones(length)
    if not a.center:
        beta = np.zeros(length)
    if (factors := q.smoothed(operator.output)) is not None:
        if len(factors) != length:
            raise q.error(site, f"{len(factors)} factors for rows of {length}")
        gamma, beta = gamma / factors, beta / factors
    source, result = q.tensor(operator.inputs[0]), q.result(site, operator)
    unit = 2.0**rows.GUARD / result.scale
    gain, bias = gamma * unit, np.rint(beta * unit)
    largest = np.sqrt(length) * np.abs(gain).max() + np.abs(bias).max()
    if largest > 2.0**30:
        raise q.error(site, "its results are too large for the scale of its output")
    low, high = q.limits(result, q.epilogue(site, operator, 1))
    owner = q.owner(site)
    value = call(
        "layer_norm",
        q.narrow(operator.inputs[0]),
        q.constants.constant(gain.astype(np.float32), f"{owner}.gain"),
        q.constants.constant(bias.astype(np.int32), f"{owner}.bias"),
        epsilon=rows.norm_epsilon(float(a.epsilon), length, source.scale),
        zero_point=result.zero_point, low=low, high=high, dtype=result.dtype,
    )  # fmt: skip
    return q.emit(value, site)


HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("int8", "nn.softmax"): softmax,
    ("int8", "nn.layer_norm"): layer_norm,
}

__all__ = ["HANDLERS", "is_weights", "product_of_weights"]
