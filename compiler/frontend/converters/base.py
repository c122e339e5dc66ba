"""What converters share: arguments by name, dtypes from the exported graph, constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch import fx

from compiler.frontend.dtypes import dtype_name
from schedules.tvm_adapter import Analyzer, relax, tirx

# (node of the exported graph, importer) -> Relax expression
Converter = Callable[[fx.Node, Any], Any]
Number = int | float | bool


class Unsupported(NotImplementedError):  # noqa: N818 - a reason, shown inside the real error
    """An operator is known, but not in the form that this node uses."""


def arguments(node: fx.Node, importer: Any) -> dict[str, Any]:
    """All arguments of a node by the names of the operator's schema, defaults filled in.

    Nodes among them are replaced by their Relax expressions.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    values: dict[str, Any] = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            value: Any = node.args[index]
        elif argument.name in node.kwargs:
            value = node.kwargs[argument.name]
        else:
            value = argument.default_value if argument.has_default_value() else None
        values[argument.name] = importer._retrieve_args(value)
    return values


def value_of(node: fx.Node) -> Any:
    """What torch.export says the node yields: a fake tensor, a tuple of them or a scalar."""
    return node.meta["val"]


def dtype_of(node: fx.Node) -> str:
    """Name of the dtype of a node that yields one tensor."""
    return dtype_name(value_of(node).dtype)


def is_expr(value: Any) -> bool:
    """Whether `value` is a Relax tensor, as against a Python number or symbolic size."""
    return isinstance(value, relax.Expr) and isinstance(
        getattr(value, "ty", None), relax.TensorType
    )


def expr_dtype(value: Any) -> str:
    """Name of the dtype of a Relax tensor."""
    return str(value.ty.dtype.dtype)


def cast(value: Any, dtype: str, importer: Any) -> Any:
    """`value` as a Relax tensor of `dtype`; numbers become constants."""
    if not is_expr(value):
        if not isinstance(value, (int, float)):
            raise Unsupported("a symbolic size as an operand of arithmetic on tensors")
        return constant(value, dtype)
    if expr_dtype(value) == dtype:
        return value
    if dtype == "bool":
        zero = constant(0, expr_dtype(value))
        return importer.block_builder.emit(relax.op.not_equal(value, zero))
    return importer.block_builder.emit(relax.op.astype(value, dtype))


def constant(value: Number, dtype: str) -> Any:
    """A scalar constant; a number that the dtype cannot hold is refused."""
    if dtype == "bool":
        return relax.const(bool(value), "bool")
    if not dtype.startswith(("float", "bfloat")) and isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise Unsupported(f"the number {value} as a value of dtype {dtype}")
        value = int(value)
    return relax.const(value, dtype)


def array_constant(array: npt.NDArray[Any]) -> Any:
    """A constant tensor in the array's own dtype (`relax.const` alone narrows 64 bits to 32)."""
    return relax.const(array, array.dtype.name)


def shape_of(value: Any) -> list[Any]:
    """The dimensions of a Relax tensor: ints where they are known, expressions elsewhere."""
    return [int(d.value) if hasattr(d, "value") else d for d in value.ty.shape.values]


def static_shape_of(value: Any, what: str) -> list[int]:
    """The dimensions of a Relax tensor as ints; `what` names the user for the message."""
    dims = shape_of(value)
    if not all(isinstance(d, int) for d in dims):
        raise Unsupported(f"{what} with a dynamic shape")
    return dims


def same_size(left: Any, right: Any) -> bool:
    """Whether two sizes are provably equal."""
    if isinstance(left, tirx.IntImm):
        left = int(left.value)
    if isinstance(left, int) or isinstance(right, int):
        return left is right or (isinstance(left, int) and left == right)
    return bool(Analyzer().can_prove_equal(left, right))


def is_float(dtype: torch.dtype | str) -> bool:
    """Whether a dtype is a floating-point one."""
    return str(dtype).removeprefix("torch.").startswith(("float", "bfloat"))


__all__ = [
    "Converter",
    "Unsupported",
    "arguments",
    "array_constant",
    "cast",
    "constant",
    "dtype_of",
    "expr_dtype",
    "is_expr",
    "is_float",
    "same_size",
    "shape_of",
    "static_shape_of",
    "value_of",
]
