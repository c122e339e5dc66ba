"""Convolutions and matrix products of signs: precision ``binary``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress import low_bits, reference
from compiler.compress.apply.facts import symmetric
from compiler.compress.apply.quantizer import Handler, Quantizer
from compiler.compress.operators import call
from compiler.compress.plan import OperatorPlan, base
from compiler.compress.sites import Site
from schedules.tvm_adapter import relax

Array = npt.NDArray[Any]


def convolution(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """A convolution of signs in one or two dimensions; a line is an image of height one."""
    a = site.value.attrs
    if int(a.groups) != 1:
        raise q.error(site, "a convolution in groups has no form in binary")
    stored, scales = q.weight(site, operator)
    spatial = stored.ndim - 2
    padding = symmetric(a.padding, spatial)
    strides, dilation = ([int(v) for v in values] for values in (a.strides, a.dilation))
    data = q.signs(operator.inputs[0], 1, operator.sign_threshold)
    if spatial == 1:
        n, words, length = data.ty.shape.values
        data = q.builder.emit(relax.op.reshape(data, [n, words, 1, length]))
        stored = stored[:, :, None]
        padding, strides, dilation = [0, padding[0], 0, padding[1]], [1, *strides], [1, *dilation]
    outputs, channels, *kernel = stored.shape
    reduction = channels * int(np.prod(kernel))
    fraction = low_bits.fraction_bits(reduction)
    sums = q.emit(
        call(
            "binary_conv2d", data, _constant(q, operator, stored, 1), channels=channels,
            fraction=fraction, strides=strides, padding=padding, dilation=dilation,
            layout="NCHW",
        ),
        site,
    )  # fmt: skip
    if spatial == 1:
        n, _, _, length = sums.ty.shape.values
        sums = q.builder.emit(relax.op.reshape(sums, [n, outputs, length]))
    return _finish(q, site, operator, sums, scales, -1 - spatial, reduction)


def matmul(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """A product of signs with a constant matrix."""
    stored, scales = q.weight(site, operator)
    if stored.ndim != 2:
        raise q.error(site, "its weight is no matrix with output channels last")
    channels, _ = stored.shape
    rank = len(q.variables[base(operator.inputs[0])].ty.shape.values)
    sums = q.emit(
        call(
            "binary_matmul", q.signs(operator.inputs[0], rank - 1, operator.sign_threshold),
            _constant(q, operator, stored, 0), channels=channels,
            fraction=low_bits.fraction_bits(channels),
        ),
        site,
    )  # fmt: skip
    return _finish(q, site, operator, sums, scales, -1, channels)


def _constant(q: Quantizer, operator: OperatorPlan, stored: Array, axis: int) -> Any:
    if operator.weight is None:
        raise AssertionError
    packed = low_bits.pack_signs(stored > 0, axis)
    q.applied.weights[operator.weight.parameter] = packed.nbytes
    return q.constants.constant(packed, operator.weight.parameter)


def _finish(
    q: Quantizer,
    site: Site,
    operator: OperatorPlan,
    sums: Any,
    scales: Array,
    axis: int,
    reduction: int,
) -> Any:
    """Bias and requantization of sums with their bits behind the point; see `Quantizer.finish`."""
    fraction = low_bits.fraction_bits(reduction)
    units = scales * float(operator.sign_scale or 1.0) * 2.0**-fraction
    epilogue = q.epilogue(site, operator, len(scales))
    offset = np.zeros(len(scales), np.int64)
    if epilogue.bias is not None:
        bias = np.rint(epilogue.bias / units)
        if np.abs(bias).max() > 2.0**40:
            raise q.error(site, "its bias is too large for its scale")
        offset = bias.astype(np.int64)
    bound = np.abs(offset) + (reduction << fraction)
    if bound.max() > reference.INT32.max:
        raise q.error(
            site, f"its sums of {reduction} signs with this bias may need more than 32 bits"
        )
    return q.requantize(site, operator, sums, units, axis, offset, bound, epilogue)


HANDLERS: Mapping[tuple[str, str], Handler] = {
    ("binary", "nn.conv1d"): convolution,
    ("binary", "nn.conv2d"): convolution,
    ("binary", "matmul"): matmul,
}
