"""The integer operators that a quantized Relax graph is made of, beside Relax's own.

Convolutions and matrix products on integers are Relax's, with int32 as their result; so are
pooling by maximum, padding, and what only moves elements. What stands between them is here, as
Relax operators ``tilewright.*`` whose attributes are plain numbers. docs/integer-semantics.md
says what each computes; `compiler.compress.reference` computes it in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from schedules.tvm_adapter import make_attributes, register_relax_operator, relax, tirx

#: Prefix of the operators' names, behind Relax's own ``relax.``.
PREFIX = "tilewright."


def _elementwise(dtype: str) -> Callable[[Any, Any], Any]:
    """Type of the result: the operands' common shape, and a dtype or the attribute ``dtype``."""

    def infer(call: Any, _builder: Any) -> Any:
        shapes = [list(a.ty.shape.values) for a in call.args[: _OPERANDS[_short(call)]]]
        rank = max(len(s) for s in shapes)
        result = [tirx.IntImm("int64", 1)] * rank
        for shape in shapes:
            for i, extent in enumerate(shape, rank - len(shape)):
                if not (isinstance(extent, tirx.IntImm) and int(extent) == 1):
                    result[i] = extent
        return relax.TensorType(result, dtype or str(call.attrs["dtype"]))

    return infer


#: How many of the arguments are activations, whose shapes decide the result's; others are
#: constants that broadcast.
_OPERANDS: Mapping[str, int] = {
    "quantize": 1, "dequantize": 1, "requantize": 1, "sums_to_float": 1, "add": 2,
    "multiply": 2, "rescale": 1, "lookup": 1, "exponentials": 1, "requantize_rows": 1,
    "layer_norm": 1, "quantize_rows": 1, "rows_to_float": 1, "decode": 1,
}  # fmt: skip


def _packed(extent: Any) -> Any:
    """Words of 32 signs for an extent of channels."""
    return tirx.IntImm("int64", -(-int(extent) // 32))


def _sign(call: Any, _builder: Any) -> Any:
    """Type of packed signs: words along the axis of channels."""
    shape = list(call.args[0].ty.shape.values)
    axis = int(call.attrs["axis"])
    shape[axis] = _packed(shape[axis])
    return relax.TensorType(shape, "uint32")


def _binary_conv2d(call: Any, _builder: Any) -> Any:
    """Type of the sums of a convolution of signs."""
    a = attributes_of(call)
    shape = list(call.args[0].ty.shape.values)
    outputs, _, *kernel = call.args[1].ty.shape.values
    first = 1 if a["layout"] == "NHWC" else 2
    for i in range(2):
        size = int(shape[first + i]) + a["padding"][i] + a["padding"][i + 2]
        reach = a["dilation"][i] * (int(kernel[i]) - 1) + 1
        shape[first + i] = tirx.IntImm("int64", (size - reach) // a["strides"][i] + 1)
    shape[3 if first == 1 else 1] = outputs
    return relax.TensorType(shape, "int32")


def _binary_matmul(call: Any, _builder: Any) -> Any:
    """Type of the sums of a product of signs."""
    *lead, _ = call.args[0].ty.shape.values
    return relax.TensorType([*lead, call.args[1].ty.shape.values[1]], "int32")


def _row_factors(call: Any, _builder: Any) -> Any:
    """Type of one float32 number a row."""
    *lead, _ = call.args[0].ty.shape.values
    return relax.TensorType([*lead, tirx.IntImm("int64", 1)], "float32")


def _sum_rows(call: Any, _builder: Any) -> Any:
    """Type of the sums of rows, whose axis is gone."""
    *lead, _ = call.args[0].ty.shape.values
    return relax.TensorType(lead, "float32")


_RESULTS: Mapping[str, str] = {
    "dequantize": "float32", "sums_to_float": "float32", "exponentials": "uint8",
    "quantize_rows": "uint8", "rows_to_float": "float32", "decode": "float32",
}  # fmt: skip
OPERATORS: Mapping[str, Any] = {
    name: register_relax_operator(f"{PREFIX}{name}", _elementwise(_RESULTS.get(name, "")))
    for name in _OPERANDS
} | {
    "row_factors": register_relax_operator(f"{PREFIX}row_factors", _row_factors),
    "row_scales": register_relax_operator(f"{PREFIX}row_scales", _row_factors),
    "sum_rows": register_relax_operator(f"{PREFIX}sum_rows", _sum_rows),
    "sign": register_relax_operator(f"{PREFIX}sign", _sign),
    "binary_conv2d": register_relax_operator(f"{PREFIX}binary_conv2d", _binary_conv2d),
    "binary_matmul": register_relax_operator(f"{PREFIX}binary_matmul", _binary_matmul),
}


def _short(call: Any) -> str:
    return str(call.op.name).rpartition(".")[2]


def call(name: str, *arguments: Any, **attributes: Any) -> Any:
    """A call of one of the integer operators.

    Args:
        name: Its name without the prefix.
        arguments: Activations, then constants.
        attributes: Plain numbers and names.
    """
    return relax.Call(OPERATORS[name], list(arguments), make_attributes(attributes))


def attributes_of(expr: Any) -> dict[str, Any]:
    """The attributes of a call of an integer operator, as Python's own numbers, texts and lists."""
    return {str(key): _plain(value) for key, value in expr.attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return value
    return str(value) if isinstance(value, str) else [_plain(v) for v in value]
