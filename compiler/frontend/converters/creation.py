"""Tensors made from nothing, in the dtype that the exported graph says."""

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
    is_expr,
    shape_of,
)
from schedules.tvm_adapter import relax

op = relax.op


def _filled(value: float | None) -> Converter:
    """zeros, ones, full and their ``_like`` and ``new_`` forms; `value` None reads it."""

    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        dtype = dtype_of(node)
        if "size" in values:
            dims = list(values["size"])
        elif is_expr(values.get("self")):
            dims = shape_of(values["self"])
        else:
            raise Unsupported("a tensor of unknown size")
        fill = values["fill_value"] if value is None else value
        filling = cast(fill, dtype, importer) if is_expr(fill) else constant(fill, dtype)
        return importer.block_builder.emit(op.full(relax.ShapeExpr(dims), filling, dtype))

    return convert


def _scalar(node: fx.Node, importer: Any) -> Any:
    value = arguments(node, importer)["s"]
    if not isinstance(value, (int, float)):
        raise Unsupported("a symbolic size turned into a tensor")
    return constant(value, dtype_of(node))


def _range(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    start, end, step = values.get("start", 0), values["end"], values.get("step", 1)
    dtype = dtype_of(node)
    if all(isinstance(bound, (int, float)) for bound in (start, end, step)):
        return array_constant(np.arange(start, end, step).astype(dtype))
    return importer.block_builder.emit(op.arange(start, end, step, dtype))


CONVERTERS: dict[str, Converter] = {
    "full.default": _filled(None),
    "full_like.default": _filled(None),
    "new_full.default": _filled(None),
    **{f"{name}.default": _filled(0) for name in ("zeros", "zeros_like", "new_zeros")},
    **{f"{name}.default": _filled(1) for name in ("ones", "ones_like", "new_ones")},
    # The content of an empty tensor is undefined; zero is a content.
    **{f"empty.{form}": _filled(0) for form in ("memory_format", "default")},
    "empty_like.default": _filled(0),
    "scalar_tensor.default": _scalar,
    **{f"arange.{form}": _range for form in ("default", "start", "start_step")},
}

__all__ = ["CONVERTERS"]
