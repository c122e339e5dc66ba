"""Scaled dot-product attention as matmul, softmax, matmul on ``[..., heads, length, width]``.

``relax.op.nn.attention`` wants ``[batch, length, heads, width]``, which would add four
transposes to every layer; in plain operators the two products and the softmax are scheduled
like any other.
"""

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
    shape_of,
    static_shape_of,
)
from compiler.frontend.converters.linear import matmul
from schedules.tvm_adapter import relax

op = relax.op


def _attention(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    query, key, value = values["query"], values["key"], values["value"]
    emit, dtype = importer.block_builder.emit, dtype_of(node)
    if values["dropout_p"]:
        raise Unsupported("attention with dropout (the model was exported in training mode)")
    width = shape_of(query)[-1]
    scale = values["scale"]
    if scale is None:
        if not isinstance(width, int):
            raise Unsupported("attention over a dynamic width")
        scale = width**-0.5
    if values["enable_gqa"]:
        groups = static_shape_of(query, "grouped attention")[-3]
        groups //= static_shape_of(key, "grouped attention")[-3]
        if groups > 1:
            key, value = (emit(op.repeat(x, groups, axis=-3)) for x in (key, value))
    rank = len(shape_of(key))
    axes = [*range(rank - 2), rank - 1, rank - 2]
    scaled = emit(op.multiply(query, constant(float(scale), dtype)))
    scores = matmul(scaled, emit(op.permute_dims(key, axes)), dtype, importer)
    if values["is_causal"]:
        rows, columns = static_shape_of(scores, "causal attention")[-2:]
        hidden = np.triu(np.full((rows, columns), -np.inf, "float32"), 1)
        scores = emit(op.add(scores, cast(array_constant(hidden), dtype, importer)))
    mask = values["attn_mask"]
    if mask is not None and expr_dtype(mask) == "bool":
        # The lowest finite number, not −∞: a row without any visible key stays free of NaN.
        scores = emit(op.where(mask, scores, constant(_lowest(dtype), dtype)))
    elif mask is not None:
        scores = emit(op.add(scores, cast(mask, dtype, importer)))
    return matmul(emit(op.nn.softmax(scores, axis=-1)), value, dtype, importer)


def _lowest(dtype: str) -> float:
    return {"float16": -65504.0, "bfloat16": -3.3895e38}.get(dtype, -3.4028234663852886e38)


CONVERTERS: dict[str, Converter] = {"scaled_dot_product_attention.default": _attention}

__all__ = ["CONVERTERS"]
