"""Indexing by tensors with PyTorch's rules: negative places, gaps, broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    Unsupported,
    arguments,
    array_constant,
    cast,
    constant,
    dtype_of,
    expr_dtype,
    same_size,
    shape_of,
    static_shape_of,
)
from schedules.tvm_adapter import ir, relax

op = relax.op


def _from_start(index: Any, extent: Any, importer: Any) -> Any:
    """An index tensor with negative places counted from the end, as PyTorch counts them."""
    dtype = expr_dtype(index)
    if dtype in ("bool", "uint8"):
        raise Unsupported("indexing by a mask, whose result has a size known only at run time")
    if isinstance(index, ir.GenericConst):
        places = index.value.numpy()
        if not isinstance(extent, int) or (places >= 0).all():
            return index
        return array_constant((places + (places < 0) * extent).astype(dtype))
    if not isinstance(extent, int):
        return index
    wrapped = op.add(index, constant(extent, dtype))
    negative = op.less(index, constant(0, dtype))
    return importer.block_builder.emit(op.where(negative, wrapped, index))


def _index(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    data, indices = values["self"], list(values["indices"])
    dims, emit = shape_of(data), importer.block_builder.emit
    places = [
        (axis, _from_start(index, dims[axis], importer))
        for axis, index in enumerate(indices)
        if index is not None
    ]
    if len(places) == 1:
        axis, index = places[0]
        return emit(op.take(data, index, axis=axis, mode="clip"))
    axes = [axis for axis, _ in places]
    rest = [axis for axis in range(len(dims)) if axis not in axes]
    order = axes + rest
    if order != sorted(order):
        data = emit(op.permute_dims(data, order))
    result = emit(op.index_tensor(data, [index for _, index in places]))
    # PyTorch puts the indexed dimensions where they stood if they are neighbours, else in front.
    neighbours = axes == list(range(axes[0], axes[-1] + 1))
    if axes[0] == 0 or not neighbours:
        return result
    new = len(shape_of(result)) - len(rest)
    back = [*range(new, new + axes[0]), *range(new), *range(new + axes[0], new + len(rest))]
    return emit(op.permute_dims(result, back))


def _embedding(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    return importer.block_builder.emit(
        op.take(values["weight"], values["indices"], axis=0, mode="clip")
    )


def _index_select(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    data, axis = values["self"], int(values["dim"])
    index = cast(values["index"], "int64", importer)
    return importer.block_builder.emit(op.take(data, index, axis=axis, mode="clip"))


def _index_put(node: fx.Node, importer: Any) -> Any:
    """Assignment to places; dimensions without an index stand for all of their places."""
    values = arguments(node, importer)
    data, emit = values["self"], importer.block_builder.emit
    dims = static_shape_of(data, "an assignment by index")
    indices = [*values["indices"], *[None] * (len(dims) - len(values["indices"]))]
    given = [axis for axis, index in enumerate(indices) if index is not None]
    if given != list(range(given[0], given[-1] + 1)):
        raise Unsupported("an assignment by indices with a gap between them")
    rank = max(len(shape_of(indices[axis])) for axis in given)
    # The layout of the values: whole dimensions before, those of the indices, whole ones after.
    before, after = given[0], len(dims) - 1 - given[-1]
    total = before + rank + after
    shape: list[Any] = [*dims[:before], *[1] * rank, *dims[len(dims) - after :]]
    spread = []
    for axis, index in enumerate(indices):
        if index is None:
            at = axis if axis < before else total - (len(dims) - axis)
            places = array_constant(np.arange(dims[axis], dtype="int64"))
            spread.append(emit(op.reshape(places, [-1 if d == at else 1 for d in range(total)])))
            continue
        places = cast(_from_start(index, dims[axis], importer), "int64", importer)
        extents = static_shape_of(places, "an assignment by index")
        for d, extent in enumerate(extents, before + rank - len(extents)):
            shape[d] = max(shape[d], extent)
        spread.append(emit(op.reshape(places, [*extents, *[1] * after])))
    spread = [emit(op.broadcast_to(index, shape)) for index in spread]
    new = emit(op.broadcast_to(cast(values["values"], dtype_of(node), importer), shape))
    return emit(op.index_put(data, relax.Tuple(spread), new, bool(values["accumulate"])))


_REDUCTIONS = {None: "update", "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def _reduction(name: str | None) -> str:
    if name not in _REDUCTIONS:
        raise Unsupported(f"a scatter that reduces by {name!r}")
    return _REDUCTIONS[name]


def _scatter(node: fx.Node, importer: Any) -> Any:
    """Scatter a tensor or a number; the index may be smaller than the source, as in PyTorch."""
    values = arguments(node, importer)
    data, index, axis = values["self"], values["index"], int(values["dim"])
    emit, dims = importer.block_builder.emit, shape_of(values["index"])
    if "src" in values:
        source = values["src"]
        extents = shape_of(source)
        cut = [a for a in range(len(dims)) if not same_size(extents[a], dims[a])]
        if cut:
            source = emit(op.strided_slice(source, cut, [0] * len(cut), [dims[a] for a in cut]))
    else:
        source = emit(op.broadcast_to(constant(values["value"], dtype_of(node)), dims))
    reduction = "add" if "scatter_add" in str(node.target) else _reduction(values.get("reduce"))
    if not values.get("include_self", True):
        raise Unsupported("a reducing scatter that leaves the old values out")
    return emit(op.scatter_elements(data, index, source, axis=axis, reduction=reduction))


_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def _grid_sample(node: fx.Node, importer: Any) -> Any:
    """Sampling at points; PyTorch keeps the coordinates last, Relax wants them as channels."""
    values = arguments(node, importer)
    emit = importer.block_builder.emit
    result = op.image.grid_sample(
        values["input"],
        emit(op.permute_dims(values["grid"], [0, 3, 1, 2])),
        method=_MODES[int(values["interpolation_mode"])],
        layout="NCHW",
        padding_mode=_PADDINGS[int(values["padding_mode"])],
        align_corners=bool(values["align_corners"]),
    )
    return emit(result)


CONVERTERS: dict[str, Converter] = {
    "index.Tensor": _index,
    "_unsafe_index.Tensor": _index,
    "embedding.default": _embedding,
    "index_select.default": _index_select,
    "index_put.default": _index_put,
    "scatter.src": _scatter,
    "scatter_add.default": _scatter,
    "scatter_reduce.two": _scatter,
    "scatter.value": _scatter,
    "grid_sampler_2d.default": _grid_sample,
}

__all__ = ["CONVERTERS"]
