"""Products of matrices, in the model's own dtype.

TVM's importer asks for float32 results whatever the operands are, which fails for float16,
bfloat16 and integers. Half-precision products are accumulated in float32, as PyTorch does.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    arguments,
    cast,
    constant,
    dtype_of,
    shape_of,
)
from schedules.tvm_adapter import relax

op = relax.op
_HALF = ("float16", "bfloat16")


def matmul(left: Any, right: Any, dtype: str, importer: Any) -> Any:
    """The product of two tensors in `dtype`; both operands must have it already."""
    emit = importer.block_builder.emit
    if dtype not in _HALF:
        return emit(op.matmul(left, right, out_dtype=dtype))
    return emit(op.astype(emit(op.matmul(left, right, out_dtype="float32")), dtype))


def _linear(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    x, weight, bias = values["input"], values["weight"], values["bias"]
    rank = len(shape_of(weight))
    if rank == 2:
        weight = importer.block_builder.emit(op.permute_dims(weight, [1, 0]))
    result = matmul(x, weight, dtype_of(node), importer)
    return result if bias is None else importer.block_builder.emit(op.add(result, bias))


def _product(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    left, right = list(values.values())[:2]
    return matmul(left, right, dtype_of(node), importer)


def _product_and_sum(node: fx.Node, importer: Any) -> Any:
    """``beta·input + alpha·(left @ right)``: addmm, baddbmm."""
    values = arguments(node, importer)
    total, left, right = list(values.values())[:3]
    dtype, emit = dtype_of(node), importer.block_builder.emit
    result = matmul(left, right, dtype, importer)
    if values["alpha"] != 1:
        result = emit(op.multiply(result, constant(values["alpha"], dtype)))
    if values["beta"] == 0:
        return result
    if values["beta"] != 1:
        total = emit(op.multiply(total, constant(values["beta"], dtype)))
    return emit(op.add(result, total))


def _convolution(node: fx.Node, importer: Any) -> Any:
    """TVM's converter, in float32 for half-precision models (which is how PyTorch sums)."""
    dtype = dtype_of(node)
    if dtype not in _HALF:
        return importer._convolution(node)
    names = [a for a in node.args[:3] if isinstance(a, fx.Node)]
    narrow = {a: importer.env[a] for a in names}
    try:
        for a in names:
            importer.env[a] = cast(narrow[a], "float32", importer)
        result = importer._convolution(node)
    finally:
        importer.env.update(narrow)
    return cast(result, dtype, importer)


CONVERTERS: dict[str, Converter] = {
    "linear.default": _linear,
    "matmul.default": _product,
    "mm.default": _product,
    "bmm.default": _product,
    "mv.default": _product,
    "dot.default": _product,
    "_int_mm.default": _product,
    "addmm.default": _product_and_sum,
    "baddbmm.default": _product_and_sum,
    "convolution.default": _convolution,
}

__all__ = ["CONVERTERS", "matmul"]
