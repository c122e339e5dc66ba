"""Reductions, scans and searches that TVM's importer lacks or gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    Unsupported,
    arguments,
    cast,
    constant,
    dtype_of,
    expr_dtype,
    shape_of,
)
from schedules.tvm_adapter import relax, te, tirx

op = relax.op


def _axes(dim: Any) -> Any:
    """None (all axes) for ``None`` and for an empty list, as PyTorch reads them."""
    if dim is None or (isinstance(dim, (list, tuple)) and len(dim) == 0):
        return None
    return list(dim) if isinstance(dim, (list, tuple)) else int(dim)


def _reduce(function: Callable[..., Any]) -> Converter:
    """sum, mean, prod, amax, amin, max, min over all or some axes, in the result's dtype."""

    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        x = cast(values["self"], dtype_of(node), importer)
        axes, keep = _axes(values.get("dim")), bool(values.get("keepdim", False))
        return importer.block_builder.emit(function(x, axes, keepdims=keep))

    return convert


def _any(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    emit = importer.block_builder.emit
    # The maximum of truth values, taken on int8: TVM reduces numbers only.
    truth = cast(cast(values["self"], "bool", importer), "int8", importer)
    axes, keep = _axes(values.get("dim")), bool(values.get("keepdim", False))
    return cast(emit(op.max(truth, axes, keepdims=keep)), "bool", importer)


def _all(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    truth = cast(cast(values["self"], "bool", importer), "int8", importer)
    axes, keep = _axes(values.get("dim")), bool(values.get("keepdim", False))
    least = importer.block_builder.emit(op.min(truth, axes, keepdims=keep))
    return cast(least, "bool", importer)


def _scan(name: str) -> Converter:
    """cumsum and cumprod: the sum of truth values and small integers is an int64.

    Each result is a reduction over the elements before it, masked by its place. That is
    quadratic in the length of the axis, but it is a loop nest like any other reduction, while
    Relax's own scan becomes an opaque loop that no schedule applies to.
    """

    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        dtype = dtype_of(node)
        x, axis = cast(values["self"], dtype, importer), int(values["dim"])
        rank = len(shape_of(x))
        if rank == 0:
            return x
        hint = {"primfunc_name_hint": name}
        return importer.block_builder.emit_te(_scan_compute, x, axis % rank, name, **hint)

    return convert


def _scan_compute(x: Any, axis: int, name: str) -> Any:
    """The tensor expression of a scan of `x` along `axis`."""
    place = te.reduce_axis((0, x.shape[axis]), name="place")
    if name == "cumsum":
        reduce_, neutral = te.sum, tirx.const(0, x.dtype)
    else:
        neutral = tirx.const(1, x.dtype)
        reduce_ = te.comm_reducer(lambda a, b: a * b, lambda t: tirx.const(1, t), name="product")

    def element(*at: Any) -> Any:
        before = [*at[:axis], place, *at[axis + 1 :]]
        return reduce_(tirx.Select(place <= at[axis], x(*before), neutral), axis=place)

    return te.compute(x.shape, element, name=name)


def _extreme(best: Callable[..., Any], search: Callable[..., Any]) -> Converter:
    """``max.dim`` and ``min.dim``: values and their places along one axis."""

    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        x, dim, keep = values["self"], int(values["dim"]), bool(values["keepdim"])
        value = importer.block_builder.emit(best(x, dim, keepdims=keep))
        place = importer.block_builder.emit(search(x, dim, keep))
        return [value, cast(place, "int64", importer)]

    return convert


def _search(function: Callable[..., Any]) -> Converter:
    """argmax and argmin."""

    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        x, dim, keep = values["self"], values["dim"], bool(values["keepdim"])
        place = importer.block_builder.emit(function(x, dim, keep))
        return cast(place, "int64", importer)

    return convert


def _variance(x: Any, dim: Any, keep: bool, correction: Any, importer: Any) -> Any:
    axes = _axes(dim)
    emit, dtype = importer.block_builder.emit, expr_dtype(x)
    variance = emit(op.variance(x, axes, keepdims=keep))
    correction = 1 if correction is None else correction
    if correction == 0:
        return variance
    dims = shape_of(x)
    chosen = range(len(dims)) if axes is None else axes if isinstance(axes, list) else [axes]
    count = 1
    for axis in chosen:
        if not isinstance(dims[axis], int):
            raise Unsupported("a corrected variance over a dynamic axis")
        count *= dims[axis]
    if count <= correction:
        raise Unsupported(f"a variance of {count} values with correction {correction} (it is NaN)")
    return emit(op.multiply(variance, constant(count / (count - correction), dtype)))


def _var(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    x, dim, keep = values["self"], values["dim"], bool(values["keepdim"])
    return _variance(x, dim, keep, values["correction"], importer)


def _std(node: fx.Node, importer: Any) -> Any:
    return importer.block_builder.emit(op.sqrt(_var(node, importer)))


def _var_mean(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    x, axes, keep = values["self"], _axes(values["dim"]), bool(values["keepdim"])
    mean = importer.block_builder.emit(op.mean(x, axes, keepdims=keep))
    return [_var(node, importer), mean]


def _vector_norm(node: fx.Node, importer: Any) -> Any:
    """Norms of order 1, 2, ±∞ and p without a call of ``pow`` where none is needed."""
    values = arguments(node, importer)
    dtype, emit = dtype_of(node), importer.block_builder.emit
    x = cast(values["self"], dtype, importer)
    order, axes, keep = float(values["ord"]), _axes(values["dim"]), bool(values["keepdim"])
    if order == 2:
        return emit(op.sqrt(emit(op.sum(op.multiply(x, x), axes, keepdims=keep))))
    size = op.abs(x)
    if order in (float("inf"), float("-inf")):
        return emit((op.max if order > 0 else op.min)(size, axes, keepdims=keep))
    if order == 1:
        return emit(op.sum(size, axes, keepdims=keep))
    if order == 0:
        nonzero = op.astype(op.not_equal(x, constant(0.0, dtype)), dtype)
        return emit(op.sum(nonzero, axes, keepdims=keep))
    total = emit(op.sum(op.power(size, constant(order, dtype)), axes, keepdims=keep))
    return emit(op.power(total, constant(1.0 / order, dtype)))


def _logsumexp(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    emit, dtype = importer.block_builder.emit, dtype_of(node)
    x = cast(values["self"], dtype, importer)
    axes = _axes(values["dim"])
    top = emit(op.max(x, axes, keepdims=True))
    total = emit(op.sum(op.exp(op.subtract(x, top)), axes, keepdims=True))
    result = emit(op.add(op.log(total), top))
    if values["keepdim"]:
        return result
    return emit(op.squeeze(result, axes))


def _softmax(function: Callable[..., Any]) -> Converter:
    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        x = cast(values["self"], dtype_of(node), importer)
        return importer.block_builder.emit(function(x, int(values["dim"])))

    return convert


def _topk(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    result = op.topk(
        values["self"],
        k=values["k"],
        axis=int(values["dim"]),
        ret_type="both",
        largest=bool(values["largest"]),
        dtype="int64",
    )
    return importer.block_builder.emit(result)


def _sort(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    x, dim, descending = values["self"], int(values["dim"]), bool(values["descending"])
    emit = importer.block_builder.emit
    order = emit(op.argsort(x, dim, descending, dtype="int64"))
    return [emit(op.gather_elements(x, order, axis=dim)), order]


CONVERTERS: dict[str, Converter] = {
    "sum.default": _reduce(op.sum),
    "sum.dim_IntList": _reduce(op.sum),
    "mean.default": _reduce(op.mean),
    "mean.dim": _reduce(op.mean),
    "prod.default": _reduce(op.prod),
    "prod.dim_int": _reduce(op.prod),
    "amax.default": _reduce(op.max),
    "amin.default": _reduce(op.min),
    "max.default": _reduce(op.max),
    "min.default": _reduce(op.min),
    "any.default": _any,
    "any.dim": _any,
    "any.dims": _any,
    "all.default": _all,
    "all.dim": _all,
    "cumsum.default": _scan("cumsum"),
    "cumprod.default": _scan("cumprod"),
    "max.dim": _extreme(op.max, op.argmax),
    "min.dim": _extreme(op.min, op.argmin),
    "argmax.default": _search(op.argmax),
    "argmin.default": _search(op.argmin),
    "var.correction": _var,
    "std.correction": _std,
    "var_mean.correction": _var_mean,
    "linalg_vector_norm.default": _vector_norm,
    "logsumexp.default": _logsumexp,
    "_softmax.default": _softmax(op.nn.softmax),
    "_log_softmax.default": _softmax(op.nn.log_softmax),
    "topk.default": _topk,
    "sort.default": _sort,
    "sort.stable": _sort,
}

__all__ = ["CONVERTERS"]
