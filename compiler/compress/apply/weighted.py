"""Convolutions and matrix products on integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress import reference
from compiler.compress.apply.attention import is_weights, product_of_weights
from compiler.compress.apply.facts import known, symmetric
from compiler.compress.apply.quantizer import Handler, Quantizer
from compiler.compress.plan import WEIGHT_BITS, OperatorPlan, WeightPlan
from compiler.compress.sites import Site
from schedules.tvm_adapter import relax

Array = npt.NDArray[Any]


def convolution(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """A convolution in one or two dimensions, padded with the zero point first."""
    stored, scales = q.weight(site, operator)
    if operator.weight is None:
        raise AssertionError
    source = q.tensor(operator.inputs[0])
    data = q.narrow(operator.inputs[0])
    a = site.value.attrs
    spatial = stored.ndim - 2
    padding = symmetric(a.padding, spatial)
    if any(padding):
        width = [0] * 4
        for i in range(spatial):
            width += [padding[i], padding[spatial + i]]
        data = q.builder.emit(relax.op.nn.pad(data, width, "constant", source.zero_point))
    weight = _constant(q, operator.weight, stored)
    function = relax.op.nn.conv2d if spatial == 2 else relax.op.nn.conv1d
    sums = q.emit(
        function(
            data, weight, a.strides, [0] * (2 * spatial), a.dilation, int(a.groups),
            data_layout=a.data_layout, kernel_layout=a.kernel_layout,
            out_layout=a.out_layout, out_dtype="int32",
        ),
        site,
    )  # fmt: skip
    return q.finish(site, operator, sums, source.scale * scales, -1 - spatial, stored, 0)


def matmul(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """A product with a constant matrix, or of two activations."""
    if operator.weight is None:
        return product(q, site, operator)
    stored, scales = q.weight(site, operator)
    if stored.ndim != 2 or operator.weight.axis != 1:
        raise q.error(site, "its weight is no matrix with output channels last")
    weight = _constant(q, operator.weight, stored)
    data = q.narrow(operator.inputs[0])
    sums = q.emit(relax.op.matmul(data, weight, out_dtype="int32"), site)
    source = q.tensor(operator.inputs[0])
    return q.finish(site, operator, sums, source.scale * scales, -1, stored, 1)


def product(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """A product of two activations, the right one symmetric."""
    if is_weights(q, operator.inputs[0]):
        return product_of_weights(q, site, operator)
    left, right = (q.tensor(name) for name in operator.inputs)
    if left.zero_point or right.zero_point or right.dtype != "int8":
        raise q.error(
            site,
            "a product of two activations needs zero points of 0 and int8 on the right side",
        )
    a, b = (q.narrow(name) for name in operator.inputs)
    length = known(a.ty.shape.values[-1]) or 0
    largest = 255 if left.dtype == "uint8" else 128
    bound = np.asarray([float(length) * largest * 128])
    if not length or bound[0] > reference.INT32.max:
        raise q.error(site, f"its sums of {length or 'unknown many'} products may need "
                          "more than 32 bits")  # fmt: skip
    sums = q.emit(relax.op.matmul(a, b, out_dtype="int32"), site)
    scales = np.asarray([float(left.scale) * right.scale])
    epilogue = q.epilogue(site, operator, 1)
    if epilogue.bias is not None:
        raise q.error(site, "a product of two activations takes no bias")
    return q.requantize(site, operator, sums, scales, -1, np.zeros(1, np.int64), bound, epilogue)


def _constant(q: Quantizer, plan: WeightPlan, stored: Array) -> Any:
    """The integers of a weight, which kernels store in as many bits as they need."""
    q.applied.weights[plan.parameter] = stored.size * WEIGHT_BITS[plan.dtype] // 8
    return q.constants.constant(stored, plan.parameter, "" if plan.dtype == "int8" else plan.dtype)


HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("int8", "nn.conv1d"): convolution,
    ("int8", "nn.conv2d"): convolution,
    ("int8", "matmul"): matmul,
}
