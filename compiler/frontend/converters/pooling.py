"""Pooling: results that are silently made up elsewhere, and adaptive maximum pooling."""

from __future__ import annotations

from typing import Any

from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    arguments,
    static_shape_of,
    value_of,
)
from schedules.tvm_adapter import relax, topi

op = relax.op


def _max_pool(method: str) -> Converter:
    """Values only: a use of the second result (the places) is refused by the translator."""

    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        x, rank = values["self"], len(values["kernel_size"])
        batched = len(value_of(node)[0].shape) == rank + 2
        pooled = getattr(importer, method)(
            x if batched else importer.block_builder.emit(op.expand_dims(x, 0)),
            list(values["kernel_size"]),
            list(values["stride"] or values["kernel_size"]),
            list(values["padding"]),
            list(values["dilation"]),
            bool(values["ceil_mode"]),
        )
        return pooled if batched else importer.block_builder.emit(op.squeeze(pooled, [0]))

    return convert


def _adaptive_max_pool2d(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    x, size = values["self"], [int(extent) for extent in values["output_size"]]
    height, width = static_shape_of(x, "adaptive maximum pooling")[-2:]
    if height % size[0] == 0 and width % size[1] == 0:
        window = [height // size[0], width // size[1]]
        return importer.block_builder.emit(op.nn.max_pool2d(x, window, strides=window))
    return importer.block_builder.emit_te(topi.nn.adaptive_pool, x, size, "max", "NCHW")


CONVERTERS: dict[str, Converter] = {
    "max_pool2d_with_indices.default": _max_pool("_max_pool2d_impl"),
    "max_pool3d_with_indices.default": _max_pool("_max_pool3d_impl"),
    "adaptive_max_pool2d.default": _adaptive_max_pool2d,
}

__all__ = ["CONVERTERS"]
