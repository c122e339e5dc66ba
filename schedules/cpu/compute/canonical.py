"""What each tunable operator means, with nothing decided: plain loops on plain weights.

A model holds these definitions until kernels are chosen for it, and what a candidate of the
search computes is compared with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from schedules.cpu.compute import signs
from schedules.cpu.compute.encoded import element
from schedules.cpu.compute.packed import ConvGeometry, multiply, pad_spatial
from schedules.cpu.compute.window import pool2d
from schedules.tvm_adapter import te, tirx
from schedules.weights import weight_operands
from schedules.workload import Extent, Workload


def geometry_of(workload: Workload) -> ConvGeometry:
    """Strides, padding, dilation and groups of a convolution or pooling."""
    a = workload.attributes
    return ConvGeometry(
        tuple(a["strides"]), tuple(a["padding"]), tuple(a["dilation"]), int(a.get("groups", 1))
    )


def placeholders(
    workload: Workload, weight: Sequence[tuple[tuple[Extent, ...], str]] | None = None
) -> list[Any]:
    """Fresh tensors for the data and the operands of the weight.

    Args:
        workload: Shapes and dtypes.
        weight: Shapes and dtypes of the weight's operands where it is packed; otherwise they
            have their plain layouts.
    """
    sizes: dict[str, Any] = {}

    def extent(value: Extent) -> Any:
        if isinstance(value, str):
            return sizes.setdefault(value, tirx.Var(value, "int64"))
        return tirx.IntImm("int64", value)  # as Relax counts

    operands = [(workload.data, workload.dtypes[0])]
    operands += weight_operands(workload) if weight is None else weight
    names = ["data", "weight", "scales"]
    return [
        te.placeholder([extent(v) for v in shape], dtype, name)
        for name, (shape, dtype) in zip(names, operands, strict=False)
    ]


def canonical(workload: Workload, data: Any, *weight: Any) -> Any:
    """The operator on ``te`` tensors; the weight's operands in their plain layouts."""
    if workload.operator in signs.OPERATORS:
        return _signs(workload, data, weight[0])
    if workload.operator == "dense":
        number = element(workload, weight)
        return _product(workload, data, weight[0], number, transpose=False, batched=False)
    if workload.operator == "batch_matmul":
        transpose = bool(workload.attributes["transpose_rhs"])
        number = element(workload, weight)
        return _product(workload, data, weight[0], number, transpose=transpose, batched=True)
    if workload.operator == "pool2d":
        return pooling(workload, data, {})
    return _convolution(workload, data, weight[0], element(workload, weight))


def pooling(workload: Workload, data: Any, attrs: dict[str, Any]) -> Any:
    """The pooling that a workload describes."""
    a = workload.attributes
    return pool2d(
        data, tuple(a["kernel"]), geometry_of(workload), a["kind"], attrs, workload.dtypes[2],
        ceil_mode=a["ceil_mode"], count_include_pad=a["count_include_pad"],
    )  # fmt: skip


def _convolution(
    workload: Workload,
    data: Any,
    weight: Any,
    number: Callable[..., Any],
    combine: Callable[[Any, Any], Any] | None = None,
) -> Any:
    """A convolution; `combine` makes a term of two elements, by default their product."""
    geometry = geometry_of(workload)
    a = workload.attributes
    outputs, inner, kh, kw = (int(v) for v in weight.shape)
    _, out_h, out_w, _ = workload.output
    batch = data.shape[0]
    source = pad_spatial(
        data,
        geometry.padding,
        (
            (int(out_h) - 1) * geometry.strides[0] + (kh - 1) * geometry.dilation[0] + 1,
            (int(out_w) - 1) * geometry.strides[1] + (kw - 1) * geometry.dilation[1] + 1,
        ),
        a.get("pad_value", 0) if combine is None else signs.POSITIVE,
        tuple(a.get("input_dilation", (1, 1))),
    )
    y = te.reduce_axis((0, kh), "kh")
    x = te.reduce_axis((0, kw), "kw")
    c = te.reduce_axis((0, inner), "ic")
    per_group = outputs // geometry.groups
    stride_h, stride_w = geometry.strides
    dilation_h, dilation_w = geometry.dilation

    def product(n: Any, h: Any, w: Any, o: Any) -> Any:
        channel = c if geometry.groups == 1 else o // per_group * inner + c
        value = source[n, h * stride_h + y * dilation_h, w * stride_w + x * dilation_w, channel]
        term = (
            multiply(value, number(o, c, y, x), workload.dtypes[2])
            if combine is None
            else combine(value, number(o, c, y, x))
        )
        return te.sum(term, axis=[y, x, c])

    return te.compute((batch, int(out_h), int(out_w), outputs), product, name=workload.operator)


def _signs(workload: Workload, data: Any, weight: Any) -> Any:
    """Sums of products of signs, by counting."""
    if workload.operator == "binary_dense":
        k = te.reduce_axis((0, int(weight.shape[0])), "k")
        counts = te.compute(
            (*data.shape[:-1], weight.shape[1]),
            lambda *i: te.sum(signs.differing(data[(*i[:-1], k)], weight[k, i[-1]]), axis=k),
            name="binary_dense",
        )
    else:
        counts = _convolution(workload, data, weight, lambda *i: weight[i], signs.differing)
    return signs.finish(workload, counts)


def _product(
    workload: Workload,
    data: Any,
    weight: Any,
    number: Callable[..., Any],
    *,
    transpose: bool,
    batched: bool,
) -> Any:
    accumulator = workload.dtypes[2]
    *lead, m, reduction = data.shape
    n = weight.shape[-2] if transpose else weight.shape[-1]
    k = te.reduce_axis((0, reduction), "k")
    rb = list(weight.shape[:-2]) if batched else []
    batch = [b if not _is_one(b) else a for a, b in zip(lead, rb, strict=True)] if batched else lead

    def product(*index: Any) -> Any:
        *b, i, j = index
        left = [0 if _is_one(e) else v for v, e in zip(b, lead, strict=True)]
        right = [0 if _is_one(e) else v for v, e in zip(b, rb, strict=True)] if batched else []
        place = (*right, j, k) if transpose else (*right, k, j)
        return te.sum(multiply(data[(*left, i, k)], number(*place), accumulator), axis=k)

    return te.compute((*batch, m, n), product, name="batch_matmul" if batched else "dense")


def _is_one(extent: Any) -> bool:
    return isinstance(extent, (int, tirx.IntImm)) and int(extent) == 1
