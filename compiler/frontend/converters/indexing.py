"""Indexing by tensors with PyTorch's rules: negative places, gaps, broadcasting."""

from __future__ import annotations

from typing import Any

from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    Unsupported,
    arguments,
    array_constant,
    cast,
    constant,
    expr_dtype,
    shape_of,
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


CONVERTERS: dict[str, Converter] = {
    "index.Tensor": _index,
    "_unsafe_index.Tensor": _index,
    "embedding.default": _embedding,
    "index_select.default": _index_select,
}

__all__ = ["CONVERTERS"]
