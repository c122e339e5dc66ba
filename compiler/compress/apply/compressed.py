"""Compressed weights of float arithmetic, and products of rows quantized at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.compress import dynamic, reference, weight_codes
from compiler.compress.apply.quantizer import Handler, Quantizer
from compiler.compress.operators import call
from compiler.compress.plan import OperatorPlan, WeightPlan
from compiler.compress.sites import Site
from schedules.tvm_adapter import GenericConst, relax

#: Place of the weight among the arguments, and its axes of inputs and of outputs. Rows of a
#: table that are looked up are its outputs.
WEIGHTS: Mapping[str, tuple[int, int, int]] = {
    "nn.conv1d": (1, 1, 0),
    "nn.conv2d": (1, 1, 0),
    "nn.conv2d_transpose": (1, 0, 1),
    "matmul": (1, 0, 1),
    "take": (0, 1, 0),
}


def weight(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """The operator in float32, on a weight that its kernel decodes."""
    place, inputs, outputs = WEIGHTS[site.kind]
    plan, constant = operator.weight, site.value.args[place]
    if plan is None or not isinstance(constant, GenericConst):
        raise q.error(site, "it has no constant weight with a plan of its own")
    value = np.asarray(constant.value.numpy())
    if value.ndim < 2 or (site.kind in ("matmul", "take") and value.ndim != 2):
        raise q.error(site, "its weight is no matrix")
    if plan.axis != outputs:
        raise q.error(site, f"its outputs lie along axis {outputs}, not {plan.axis}")
    if site.kind == "take" and int(site.value.attrs.axis or 0) != 0:
        raise q.error(site, "it looks up columns, and rows are compressed")
    if operator.epilogue or operator.output != site.name:
        raise q.error(site, "an operator on compressed weights has no epilogue")
    if is_depthwise(site) and not is_plain(plan):
        raise q.error(
            site, f"a depthwise kernel has no form with {plan.dtype} by {plan.granularity}"
        )
    try:
        codes = weight_codes.encode(value, plan, inputs)
    except ValueError as error:
        raise q.error(site, str(error)) from error
    q.applied.weights[plan.parameter] = weight_codes.stored_bytes(plan, value.shape, inputs)
    encoding = "" if plan.dtype in ("int8", "float16", "codebook") else plan.dtype
    operands = [q.constants.constant(codes.codes, plan.parameter, encoding)]
    names = (f"{plan.parameter}.factors", f"{plan.parameter}.scale")
    operands += map(q.constants.constant, codes.operands, names)
    decoded = q.builder.emit(call("decode", *operands, axis=outputs))
    arguments = [decoded if i == place else q.substitute(a) for i, a in enumerate(site.value.args)]
    result = relax.Call(site.value.op, arguments, site.value.attrs, site.value.ty_args)
    return q.emit(result, site)


def is_depthwise(site: Site) -> bool:
    """Whether each output of a convolution reads one channel."""
    groups = int(getattr(site.value.attrs, "groups", 1) or 1) if site.kind != "take" else 1
    return groups > 1 and int(site.value.args[1].ty.shape.values[1]) == 1


def is_plain(plan: WeightPlan) -> bool:
    """Whether a weight is numbers with at most one scale a channel behind the kernel."""
    return plan.dtype != "codebook" and plan.granularity != "group"


def rows(q: Quantizer, site: Site, operator: OperatorPlan) -> Any:
    """A product with a constant matrix of integers, on rows quantized at run time."""
    plan = operator.weight
    if plan is None or operator.epilogue or operator.output != site.name:
        raise q.error(site, "a product of rows quantized at run time has a weight and no epilogue")
    constant = site.value.args[1]
    if not isinstance(constant, GenericConst) or plan.axis != 1:
        raise q.error(site, "its weight is no constant matrix with output channels last")
    if plan.dtype in ("codebook", "float16") or plan.granularity == "group":
        raise q.error(site, f"weights as {plan.dtype} by {plan.granularity} are no integers of a "
                            "channel")  # fmt: skip
    value = np.asarray(constant.value.numpy())
    if value.ndim != 2:
        raise q.error(site, "its weight is no matrix")
    codes = weight_codes.encode(value, plan, 0)
    stored, scales = codes.codes, np.asarray(codes.factors).reshape(-1)
    scales = np.broadcast_to(scales, (stored.shape[1],))
    offset = -dynamic.ZERO_POINT * stored.astype(np.int64).sum(axis=0)
    if reference.sum_bound(stored, offset, 1, "uint8").max() > reference.INT32.max:
        raise q.error(site, f"its sums of {len(stored)} products may need more than 32 bits")
    owner = q.owner(site)
    q.applied.weights[plan.parameter] = weight_codes.stored_bytes(plan, value.shape, 0)
    matrix = q.constants.constant(
        stored, plan.parameter, "" if plan.dtype == "int8" else plan.dtype
    )
    data = q.substitute(site.value.args[0])
    key = q.graph.names.get(site.value.args[0], "")
    if key not in q.rows:
        found = q.builder.emit(call("row_scales", data))
        q.rows[key] = (found, q.builder.emit(call("quantize_rows", data, found)))
    factors, integers = q.rows[key]
    sums = q.builder.emit(relax.op.matmul(integers, matrix, out_dtype="int32"))
    result = call(
        "rows_to_float", sums, q.constants.constant(offset.astype(np.int32), f"{owner}.offset"),
        factors, q.constants.constant(np.ascontiguousarray(scales), f"{owner}.scale"),
    )  # fmt: skip
    return q.emit(result, site)


def usable(plan: WeightPlan, shape: tuple[int, ...], inputs: int) -> WeightPlan:
    """A plan for a weight whose inputs the group divides, or that has one scale a channel.

    A group becomes the largest even divisor of the inputs that is not larger; where that is
    less than a quarter of it, the weight gets int8 with one scale a channel: scales of so small
    groups would take more than they spare.
    """
    if plan.granularity != "group" or plan.dtype == "codebook":
        return plan
    extent = shape[inputs]
    found = max((d for d in range(2, plan.group + 1, 2) if extent % d == 0), default=0)
    if found * 4 < plan.group:
        return replace(plan, dtype="int8", granularity="channel", group=0)
    return replace(plan, group=found)


HANDLERS: Mapping[tuple[str, str], Handler] = {
    **{("weight", kind): weight for kind in WEIGHTS},
    ("dynamic", "matmul"): rows,
}
