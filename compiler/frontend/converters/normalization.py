"""Normalisations whose scale or shift is absent."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    Unsupported,
    arguments,
    expr_dtype,
    shape_of,
    value_of,
)
from compiler.frontend.dtypes import dtype_name
from schedules.tvm_adapter import relax

op = relax.op


def _group_norm(node: fx.Node, importer: Any) -> Any:
    """Group normalisation; TVM's converter passes an absent scale on as a null pointer."""
    values = arguments(node, importer)
    x = values["input"]
    channels = shape_of(x)[1]
    if not isinstance(channels, int):
        raise Unsupported("group normalisation over a dynamic number of channels")
    dtype = expr_dtype(x)
    if dtype != dtype_name(value_of(node)[0].dtype):
        raise Unsupported("group normalisation that changes the dtype")
    scale, shift = values["weight"], values["bias"]
    result = op.nn.group_norm(
        x,
        _filled(1, channels, dtype) if scale is None else scale,
        _filled(0, channels, dtype) if shift is None else shift,
        num_groups=int(values["group"]),
        channel_axis=1,
        axes=list(range(2, len(shape_of(x)))),
        epsilon=float(values["eps"]),
    )
    return importer.block_builder.emit(result)


def _filled(value: int, channels: int, dtype: str) -> Any:
    return relax.const(np.full(channels, value, "float32"), dtype)


CONVERTERS: dict[str, Converter] = {"native_group_norm.default": _group_norm}

__all__ = ["CONVERTERS"]
