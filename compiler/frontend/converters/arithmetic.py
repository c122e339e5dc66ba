"""Elementwise arithmetic and comparisons with PyTorch's type promotion made explicit.

TVM's importer takes the dtype of the tensor operand for a number (``int_tensor + 0.5`` stays
an integer), drops ``alpha``, and fails on divisions of integers. The exported graph knows
the dtype of every result, so operands are cast to it before the operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    Unsupported,
    arguments,
    cast,
    constant,
    dtype_of,
    expr_dtype,
    is_expr,
    is_float,
    value_of,
)
from compiler.frontend.dtypes import dtype_name
from schedules.tvm_adapter import relax

op = relax.op


def _operands(node: fx.Node, importer: Any) -> tuple[Any, Any, dict[str, Any]]:
    values = arguments(node, importer)
    names = list(values)
    return values[names[0]], values[names[1]], values


def _binary(function: Callable[[Any, Any], Any], boolean: Any = None) -> Converter:
    """Both operands in the result's dtype; `boolean` is the operation on two truth values."""

    def convert(node: fx.Node, importer: Any) -> Any:
        left, right, values = _operands(node, importer)
        dtype = dtype_of(node)
        left, right = cast(left, dtype, importer), cast(right, dtype, importer)
        if values.get("alpha", 1) != 1:
            right = op.multiply(right, constant(values["alpha"], dtype))
        if dtype == "bool":
            if boolean is None:
                raise Unsupported("arithmetic on truth values")
            return importer.block_builder.emit(boolean(left, right))
        return importer.block_builder.emit(function(left, right))

    return convert


def _reversed_subtract(node: fx.Node, importer: Any) -> Any:
    left, right, values = _operands(node, importer)
    dtype = dtype_of(node)
    left, right = cast(left, dtype, importer), cast(right, dtype, importer)
    if values.get("alpha", 1) != 1:
        left = op.multiply(left, constant(values["alpha"], dtype))
    return importer.block_builder.emit(op.subtract(right, left))


def _compare(function: Callable[[Any, Any], Any]) -> Converter:
    """Operands in their common dtype; the result is a truth value."""

    def convert(node: fx.Node, importer: Any) -> Any:
        left, right, _ = _operands(node, importer)
        dtype = dtype_name(torch.result_type(*(_meta(a) for a in node.args[:2])))
        if dtype == "bool":
            dtype = "int8"  # TVM compares numbers
        pair = cast(left, dtype, importer), cast(right, dtype, importer)
        return importer.block_builder.emit(function(*pair))

    return convert


def _meta(argument: Any) -> Any:
    return value_of(argument) if isinstance(argument, fx.Node) else argument


def _divide_rounded(node: fx.Node, importer: Any, rounding: str | None) -> Any:
    left, right, _ = _operands(node, importer)
    dtype = dtype_of(node)
    left, right = cast(left, dtype, importer), cast(right, dtype, importer)
    emit = importer.block_builder.emit
    if rounding is None:
        return emit(op.divide(left, right))
    if is_float(dtype):
        quotient = emit(op.divide(left, right))
        return emit(op.floor(quotient) if rounding == "floor" else op.trunc(quotient))
    # Division of integers truncates in TIR, as it does in C.
    return emit(op.floor_divide(left, right) if rounding == "floor" else op.divide(left, right))


def _divide(node: fx.Node, importer: Any) -> Any:
    return _divide_rounded(node, importer, arguments(node, importer).get("rounding_mode"))


def _floor_divide(node: fx.Node, importer: Any) -> Any:
    return _divide_rounded(node, importer, "floor")


def _modulo(rounding: str) -> Converter:
    """``remainder`` (sign of the divisor, floor) and ``fmod`` (sign of the dividend, trunc)."""

    def convert(node: fx.Node, importer: Any) -> Any:
        left, right, _ = _operands(node, importer)
        dtype = dtype_of(node)
        left, right = cast(left, dtype, importer), cast(right, dtype, importer)
        emit = importer.block_builder.emit
        if not is_float(dtype):
            return emit(op.floor_mod(left, right) if rounding == "floor" else op.mod(left, right))
        quotient = op.divide(left, right)
        whole = op.floor(quotient) if rounding == "floor" else op.trunc(quotient)
        return emit(op.subtract(left, op.multiply(whole, right)))

    return convert


_REPEATED = 8  # above this, an integer power is left to the library function


def _power(node: fx.Node, importer: Any) -> Any:
    base, exponent, _ = _operands(node, importer)
    dtype = dtype_of(node)
    emit = importer.block_builder.emit
    if is_expr(base) and not is_expr(exponent):
        base = cast(base, dtype, importer)
        special = _known_power(base, exponent, dtype, emit)
        if special is not None:
            return special
    if is_float(dtype):
        return emit(op.power(cast(base, dtype, importer), cast(exponent, dtype, importer)))
    # TVM's power works on floats only; integers up to 2**53 survive the way there and back.
    wide = op.power(cast(base, "float64", importer), cast(exponent, "float64", importer))
    return emit(op.astype(op.round(wide), dtype))


def _known_power(base: Any, exponent: float, dtype: str, emit: Callable[[Any], Any]) -> Any:
    if exponent == 0:
        return emit(op.ones_like(base))
    if exponent == 1:
        return base
    if exponent == int(exponent) and 2 <= exponent <= _REPEATED:
        result = base
        for _ in range(int(exponent) - 1):
            result = emit(op.multiply(result, base))
        return result
    if not is_float(dtype):
        return None
    if exponent == 0.5:
        return emit(op.sqrt(base))
    if exponent == -0.5:
        return emit(op.rsqrt(base))
    if exponent == -1:
        return emit(op.divide(constant(1.0, dtype), base))
    return None


def _clamp(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    names = list(values)
    x, low, high = values[names[0]], values.get("min"), values.get("max")
    dtype = dtype_of(node)
    x = cast(x, dtype, importer)
    numbers = all(bound is None or isinstance(bound, (int, float)) for bound in (low, high))
    if numbers and low is not None and high is not None:
        if not is_float(dtype):
            low, high = constant(low, dtype), constant(high, dtype)
        else:
            return importer.block_builder.emit(op.clip(x, low, high))
    if low is not None:
        x = op.maximum(x, cast(low, dtype, importer))
    if high is not None:
        x = op.minimum(x, cast(high, dtype, importer))
    return importer.block_builder.emit(x)


def _hardtanh(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    low, high = values["min_val"], values["max_val"]
    return importer.block_builder.emit(op.clip(values["self"], low, high))


def _where(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    dtype = dtype_of(node)
    condition = cast(values["condition"], "bool", importer)
    chosen = cast(values["self"], dtype, importer)
    other = cast(values["other"], dtype, importer)
    return importer.block_builder.emit(op.where(condition, chosen, other))


def _masked_fill(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    dtype = dtype_of(node)
    fill = cast(values["value"], dtype, importer)
    x = cast(values["self"], dtype, importer)
    return importer.block_builder.emit(op.where(values["mask"], fill, x))


def _bitwise(integer: Callable[[Any, Any], Any], boolean: Callable[[Any, Any], Any]) -> Converter:
    return _binary(integer, boolean)


def _bitwise_not(node: fx.Node, importer: Any) -> Any:
    x = arguments(node, importer)["self"]
    function = op.logical_not if dtype_of(node) == "bool" else op.bitwise_not
    return importer.block_builder.emit(function(x))


def _unary_in_float(function: Callable[[Any], Any]) -> Converter:
    """Functions whose result is a float for integer operands too."""

    def convert(node: fx.Node, importer: Any) -> Any:
        x = cast(arguments(node, importer)["self"], dtype_of(node), importer)
        return importer.block_builder.emit(function(x))

    return convert


def _log1p(node: fx.Node, importer: Any) -> Any:
    dtype = dtype_of(node)
    x = cast(arguments(node, importer)["self"], dtype, importer)
    return importer.block_builder.emit(op.log(op.add(x, constant(1.0, dtype))))


def _elu(node: fx.Node, importer: Any) -> Any:
    """``scale·(x if x > 0 else alpha·(exp(x·input_scale) − 1))``: the form of ELU, CELU, SELU."""
    values = arguments(node, importer)
    x, dtype = values["self"], dtype_of(node)
    alpha, scale, input_scale = values["alpha"], values["scale"], values["input_scale"]
    inner = x if input_scale == 1 else op.multiply(x, constant(input_scale, dtype))
    negative = op.subtract(op.exp(inner), constant(1.0, dtype))
    negative = op.multiply(negative, constant(float(alpha * scale), dtype))
    positive = x if scale == 1 else op.multiply(x, constant(float(scale), dtype))
    chosen = op.where(op.greater(x, constant(0.0, dtype)), positive, negative)
    return importer.block_builder.emit(chosen)


def _softplus(node: fx.Node, importer: Any) -> Any:
    """``log(1 + exp(beta·x))/beta``, computed so that large x does not overflow."""
    values = arguments(node, importer)
    x, beta, dtype = values["self"], float(values["beta"]), dtype_of(node)
    scaled = x if beta == 1 else op.multiply(x, constant(beta, dtype))
    soft = op.log(op.add(op.exp(op.negative(op.abs(scaled))), constant(1.0, dtype)))
    result = op.add(op.maximum(scaled, constant(0.0, dtype)), soft)
    result = result if beta == 1 else op.divide(result, constant(beta, dtype))
    return importer.block_builder.emit(result)


def _hardsigmoid(node: fx.Node, importer: Any) -> Any:
    x, dtype = arguments(node, importer)["self"], dtype_of(node)
    return importer.block_builder.emit(_hard_gate(x, dtype))


def _hardswish(node: fx.Node, importer: Any) -> Any:
    x, dtype = arguments(node, importer)["self"], dtype_of(node)
    return importer.block_builder.emit(op.multiply(x, _hard_gate(x, dtype)))


def _hard_gate(x: Any, dtype: str) -> Any:
    clipped = op.clip(op.add(x, constant(3.0, dtype)), 0, 6)
    return op.multiply(clipped, constant(1.0 / 6.0, dtype))


def _prelu(node: fx.Node, importer: Any) -> Any:
    """``x if x > 0 else weight·x`` with one weight a channel (axis 1) or one for all."""
    values = arguments(node, importer)
    x, weight = values["self"], values["weight"]
    rank = len(value_of(node).shape)
    if len(weight.ty.shape.values) == 1 and rank > 1:
        # The form before the export's own broadcasting: a vector along the channels.
        dims = [1, int(weight.ty.shape.values[0].value)] + [1] * (rank - 2)
        weight = op.reshape(weight, dims)
    zero = constant(0.0, dtype_of(node))
    return importer.block_builder.emit(op.where(op.greater(x, zero), x, op.multiply(x, weight)))


def _truth(function: Callable[..., Any]) -> Converter:
    """Logical operations: every operand is turned into a truth value first."""

    def convert(node: fx.Node, importer: Any) -> Any:
        operands = [importer.env[a] for a in node.args if isinstance(a, fx.Node)]
        cast_operands = [cast(operand, "bool", importer) for operand in operands]
        return importer.block_builder.emit(function(*cast_operands))

    return convert


def _to_copy(node: fx.Node, importer: Any) -> Any:
    return cast(importer.env[node.args[0]], dtype_of(node), importer)


def _gelu(node: fx.Node, importer: Any) -> Any:
    values = arguments(node, importer)
    exact = values["approximate"] == "none"
    function = op.nn.gelu if exact else op.nn.gelu_tanh
    return importer.block_builder.emit(function(values["self"]))


def _shift(function: Callable[[Any, Any], Any]) -> Converter:
    return _binary(function)


def _reciprocal(node: fx.Node, importer: Any) -> Any:
    dtype = dtype_of(node)
    x = cast(arguments(node, importer)["self"], dtype, importer)
    return importer.block_builder.emit(op.divide(constant(1.0, dtype), x))


def _passes_on(node: fx.Node, importer: Any) -> Any:
    """Operators that change nothing in inference: clone, contiguous, alias, dropout."""
    value = importer.env[node.args[0]]
    if is_expr(value) and expr_dtype(value) != dtype_of(node):
        raise Unsupported("a copy that changes the dtype")
    return value


def _overloads(names: tuple[str, ...], converter: Converter) -> dict[str, Converter]:
    return dict.fromkeys(names, converter)


def _pair(name: str, converter: Converter) -> dict[str, Converter]:
    return _overloads((f"{name}.Tensor", f"{name}.Scalar"), converter)


CONVERTERS: dict[str, Converter] = {
    **_pair("add", _binary(op.add, op.logical_or)),
    **_pair("sub", _binary(op.subtract)),
    **_pair("mul", _binary(op.multiply, op.logical_and)),
    **_pair("rsub", _reversed_subtract),
    **_overloads(
        ("div.Tensor", "div.Scalar", "div.Tensor_mode", "div.Scalar_mode"),
        _divide,
    ),
    **_overloads(("floor_divide.default", "floor_divide.Scalar"), _floor_divide),
    **_pair("remainder", _modulo("floor")),
    **_pair("fmod", _modulo("trunc")),
    **_overloads(("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"), _power),
    **_pair("eq", _compare(op.equal)),
    **_pair("ne", _compare(op.not_equal)),
    **_pair("lt", _compare(op.less)),
    **_pair("le", _compare(op.less_equal)),
    **_pair("gt", _compare(op.greater)),
    **_pair("ge", _compare(op.greater_equal)),
    **_overloads(
        ("maximum.default", "max.other"),
        _binary(op.maximum, op.logical_or),
    ),
    **_overloads(
        ("minimum.default", "min.other"),
        _binary(op.minimum, op.logical_and),
    ),
    "atan2.default": _binary(op.atan2),
    **_overloads(
        (
            "clamp.default",
            "clamp.Tensor",
            "clamp_min.default",
            "clamp_min.Tensor",
            "clamp_max.default",
            "clamp_max.Tensor",
        ),
        _clamp,
    ),
    "hardtanh.default": _hardtanh,
    "where.self": _where,
    **_overloads(("masked_fill.Scalar", "masked_fill.Tensor"), _masked_fill),
    **_pair("bitwise_and", _bitwise(op.bitwise_and, op.logical_and)),
    **_pair("bitwise_or", _bitwise(op.bitwise_or, op.logical_or)),
    **_pair("bitwise_xor", _bitwise(op.bitwise_xor, op.logical_xor)),
    "bitwise_not.default": _bitwise_not,
    **_overloads(
        (
            "__lshift__.Scalar",
            "__lshift__.Tensor",
            "bitwise_left_shift.Tensor",
            "bitwise_left_shift.Tensor_Scalar",
        ),
        _shift(op.left_shift),
    ),
    **_overloads(
        (
            "__rshift__.Scalar",
            "__rshift__.Tensor",
            "bitwise_right_shift.Tensor",
            "bitwise_right_shift.Tensor_Scalar",
        ),
        _shift(op.right_shift),
    ),
    "logical_and.default": _truth(op.logical_and),
    "logical_or.default": _truth(op.logical_or),
    "logical_xor.default": _truth(op.logical_xor),
    "logical_not.default": _truth(op.logical_not),
    **{
        f"{name}.default": _unary_in_float(getattr(op, name))
        for name in [
            "acos",
            "acosh",
            "asin",
            "asinh",
            "atan",
            "atanh",
            "cos",
            "cosh",
            "erf",
            "exp",
            "log",
            "rsqrt",
            "sigmoid",
            "sin",
            "sinh",
            "sqrt",
            "tan",
            "tanh",
        ]
    },
    "log1p.default": _log1p,
    "reciprocal.default": _reciprocal,
    "elu.default": _elu,
    "softplus.default": _softplus,
    "hardsigmoid.default": _hardsigmoid,
    "hardswish.default": _hardswish,
    "_prelu_kernel.default": _prelu,
    "prelu.default": _prelu,
    "gelu.default": _gelu,
    "_to_copy.default": _to_copy,
    **_overloads(
        (
            "clone.default",
            "contiguous.default",
            "alias.default",
            "detach.default",
            "lift_fresh_copy.default",
            "dropout.default",
        ),
        _passes_on,
    ),
}

__all__ = ["CONVERTERS"]
