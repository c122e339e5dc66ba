"""Views, padding, windows: movement of data without arithmetic."""

from __future__ import annotations

from typing import Any

from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    Unsupported,
    arguments,
    array_constant,
    cast,
    dtype_of,
    same_size,
    shape_of,
    static_shape_of,
    value_of,
)
from schedules.tvm_adapter import relax

op = relax.op


def _concatenate(node: fx.Node, importer: Any) -> Any:
    """Tensors in their common dtype; empty one-dimensional ones are skipped, as by PyTorch."""
    values = arguments(node, importer)
    tensors = [x for x in values["tensors"] if shape_of(x) != [0]]
    dtype = dtype_of(node)
    parts = [cast(x, dtype, importer) for x in tensors]
    if len(parts) == 1:
        return parts[0]
    return importer.block_builder.emit(op.concat(parts, axis=int(values["dim"])))


def _pad_by(mode: str) -> Converter:
    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        x, padding = values["self"], [int(p) for p in values["padding"]]
        widths = [0] * (2 * len(shape_of(x)))
        for index in range(len(padding) // 2):
            # PyTorch starts at the last axis.
            position = len(widths) - 2 * (index + 1)
            widths[position : position + 2] = padding[2 * index : 2 * index + 2]
        return importer.block_builder.emit(op.nn.pad(x, widths, mode))

    return convert


def _constant_pad(node: fx.Node, importer: Any) -> Any:
    """Constant padding; negative widths, which PyTorch allows, cut the tensor."""
    values = arguments(node, importer)
    x, padding, value = values["self"], list(values["pad"]), values["value"]
    rank, emit = len(shape_of(x)), importer.block_builder.emit
    widths: list[Any] = [0] * (2 * rank)
    for index in range(len(padding) // 2):
        position = 2 * (rank - 1 - index)
        widths[position : position + 2] = padding[2 * index : 2 * index + 2]
    cuts = [w < 0 if isinstance(w, int) else False for w in widths]
    if any(cuts):
        dims = static_shape_of(x, "cropping by negative padding")
        axes = [axis for axis in range(rank) if any(cuts[2 * axis : 2 * axis + 2])]
        begin = [max(-widths[2 * axis], 0) for axis in axes]
        end = [dims[axis] - max(-widths[2 * axis + 1], 0) for axis in axes]
        x = emit(op.strided_slice(x, axes, begin, end))
        widths = [max(width, 0) for width in widths]
    if not any(isinstance(w, int) and w == 0 for w in widths) or any(widths):
        x = emit(op.nn.pad(x, widths, "constant", 0.0 if value is None else value))
    return x


def _unfold(node: fx.Node, importer: Any) -> Any:
    """``Tensor.unfold``: sliding windows along one axis, put behind the last axis."""
    values = arguments(node, importer)
    x, dims = values["self"], static_shape_of(values["self"], "unfolding")
    axis, size, step = int(values["dimension"]), int(values["size"]), int(values["step"])
    axis %= len(dims)
    emit = importer.block_builder.emit
    count = (dims[axis] - size) // step + 1
    if size == step:
        part = (
            emit(op.strided_slice(x, [axis], [0], [count * size]))
            if (count * size != dims[axis])
            else x
        )
        split = emit(op.reshape(part, [*dims[:axis], count, size, *dims[axis + 1 :]]))
    else:
        import numpy as np

        places = np.arange(count)[:, None] * step + np.arange(size)[None, :]
        split = emit(op.take(x, array_constant(places.astype("int64")), axis=axis, mode="clip"))
    rank = len(dims) + 1
    order = [d for d in range(rank) if d != axis + 1] + [axis + 1]
    return split if order == list(range(rank)) else emit(op.permute_dims(split, order))


def _expand(node: fx.Node, importer: Any) -> Any:
    """Broadcast; nothing is done where the shape stays."""
    values = arguments(node, importer)
    x, size = values["self"], list(values["size"])
    dims = shape_of(x)
    offset = len(size) - len(dims)
    target = [
        dims[index - offset] if isinstance(extent, int) and extent == -1 else extent
        for index, extent in enumerate(size)
    ]
    if offset == 0 and all(same_size(a, b) for a, b in zip(target, dims, strict=True)):
        return x
    return importer.block_builder.emit(op.broadcast_to(x, target))


def _transposed(node: fx.Node, importer: Any) -> Any:
    x = importer.env[node.args[0]]
    rank = len(shape_of(x))
    if node.target.__name__.startswith("t."):  # type: ignore[union-attr]
        order = list(range(rank))[::-1]
    else:
        order = list(range(rank))
        first, second = (int(a) % rank for a in node.args[1:3])  # type: ignore[arg-type]
        order[first], order[second] = order[second], order[first]
    return importer.block_builder.emit(op.permute_dims(x, order))


def _unbind(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    x, axis = values["self"], int(values["dim"])
    dims, emit = shape_of(x), importer.block_builder.emit
    axis %= len(dims)
    if not isinstance(dims[axis], int):
        raise Unsupported("unbind over a dynamic axis")
    if dims[axis] == 1:
        return [emit(op.squeeze(x, [axis]))]
    parts = emit(op.split(x, dims[axis], axis))
    return [emit(op.squeeze(emit(parts[i]), [axis])) for i in range(dims[axis])]


def _select(node: fx.Node, importer: Any) -> Any:
    """One place along an axis: a slice and a reshape, which fuse, and no gather."""
    values = arguments(node, importer)
    x, axis, index = values["self"], int(values["dim"]), values["index"]
    dims, emit = shape_of(x), importer.block_builder.emit
    axis %= len(dims)
    if not isinstance(index, int) or (index < 0 and not isinstance(dims[axis], int)):
        raise Unsupported("a selection at a symbolic place")
    index += dims[axis] if index < 0 else 0
    if dims[axis] != 1:
        x = emit(op.strided_slice(x, [axis], [index], [index + 1]))
    return emit(op.squeeze(x, [axis]))


def _slice(node: fx.Node, importer: Any) -> Any:
    """A slice whose bounds torch.export has proved: its length is the recorded one."""
    values = arguments(node, importer)
    x, axis, step = values["self"], int(values["dim"]), int(values["step"])
    dims, emit = shape_of(x), importer.block_builder.emit
    axis %= len(dims)
    extent, start = dims[axis], values["start"]
    start = 0 if start is None else start
    if isinstance(start, int) and start < 0:
        start = extent + start
    if isinstance(start, int) and isinstance(extent, int):
        start = min(max(start, 0), extent)
    length = importer.symbols.size(value_of(node).shape[axis])
    if same_size(length, extent):
        return x
    last = start + length if step == 1 else start + (length - 1) * step + 1
    known = all(isinstance(bound, int) for bound in (start, last, extent))
    return emit(op.strided_slice(x, [axis], [start], [last], [step], assume_inbound=not known))


CONVERTERS: dict[str, Converter] = {
    "cat.default": _concatenate,
    "constant_pad_nd.default": _constant_pad,
    "reflection_pad1d.default": _pad_by("reflect"),
    "reflection_pad2d.default": _pad_by("reflect"),
    "replication_pad1d.default": _pad_by("replicate"),
    "replication_pad2d.default": _pad_by("replicate"),
    "unfold.default": _unfold,
    "expand.default": _expand,
    "transpose.int": _transposed,
    "t.default": _transposed,
    "select.int": _select,
    "slice.Tensor": _slice,
    "unbind.int": _unbind,
}

__all__ = ["CONVERTERS"]
