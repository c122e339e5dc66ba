"""Runs a Relax graph in NumPy, operator by operator: the reference of whole integer networks.

Integer operators compute exactly what `compiler.compress.reference` says. Operators of
float32 are computed in double precision and rounded, or compiled by themselves, which another
implementation need not equal bit for bit; a graph is comparable bit by bit where float32 stands
at its borders only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress import dynamic, low_bits, reference, rows, weight_codes
from compiler.compress.alone import compile_alone
from compiler.compress.apply import TABLES
from compiler.compress.operators import PREFIX, attributes_of
from compiler.compress.sites import operands as variables_of
from compiler.compress.sites import operator_name
from schedules.tvm_adapter import GenericConst, IRModule, relax, tirx

Array = npt.NDArray[Any]
#: Where the integer operators are defined, each in one of them.
REFERENCES = (reference, low_bits, rows, dynamic, weight_codes)
#: Computes a call of its operands; NotImplemented for a form that it does not know.
Evaluate = Callable[[Any, list[Any]], Any]
#: Called with the name of each variable and its value.
Observer = Callable[[str, Any], None]


def interpret(
    module: IRModule, inputs: Sequence[Array], observe: Observer | None = None
) -> Array | tuple[Array, ...]:
    """What `main` returns for these inputs.

    Args:
        module: A module whose parameters are constants, in PyTorch's layout: what
            `compiler.compress.apply.apply_plan` returns.
        inputs: One array for each of its parameters.
        observe: Sees each intermediate value.
    """
    main = module["main"]
    values: dict[Any, Any] = dict(zip(main.params, inputs, strict=True))
    for block in main.body.blocks:
        for binding in block.bindings:
            values[binding.var] = _evaluate(binding.value, values)
            if observe is not None:
                observe(str(binding.var.name), values[binding.var])
    result = _evaluate(main.body.body, values)
    return result if isinstance(result, tuple) else np.asarray(result)


def _evaluate(expr: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(expr, relax.Var):
        return values[expr]
    if isinstance(expr, GenericConst):
        return np.from_dlpack(expr.value)
    if isinstance(expr, relax.Tuple):
        return tuple(_evaluate(v, values) for v in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return _evaluate(expr.tuple_value, values)[int(expr.index)]
    if isinstance(expr, relax.ShapeExpr):
        return [int(v) for v in expr.values]
    if isinstance(expr, relax.Call):
        name = operator_name(expr)
        operands = [_evaluate(v, values) for v in expr.args]
        if name.startswith(PREFIX):
            short = name.removeprefix(PREFIX)
            function = next(f for m in REFERENCES if (f := getattr(m, short, None)) is not None)
            return function(*operands, **attributes_of(expr))
        value = EVALUATORS[name](expr, operands) if name in EVALUATORS else NotImplemented
        if value is not NotImplemented:
            return value
        # Relax's own operators on float32 are no part of the recipe.
        return compile_alone(expr)(*(values[v] for v in variables_of(expr)))
    return _number(expr)


def _number(expr: Any) -> Any:
    while not isinstance(expr, (int, float, str)):
        expr = expr.value
    return expr


def _shape(call: Any) -> list[int]:
    """The shape of a result; one unknown extent follows from the number of elements."""
    return [int(v) if isinstance(v, tirx.IntImm) else -1 for v in call.ty.shape.values]


def _conv(call: Any, operands: list[Any]) -> Array:
    data, weight = operands
    a = call.attrs
    spatial = data.ndim - 2
    padding = [int(v) for v in a.padding]
    padding = padding * 2 if len(padding) == spatial else padding
    strides, dilation = ([int(v) for v in values] for values in (a.strides, a.dilation))
    if spatial == 1:  # an image of height one
        data, weight = data[:, :, None], weight[:, :, None]
        padding, strides, dilation = [0, padding[0], 0, padding[1]], [1, *strides], [1, *dilation]
    function = reference.conv2d if data.dtype.kind in "iu" else _real_conv
    result = function(
        data, weight, strides=strides, padding=padding, dilation=dilation, groups=int(a.groups)
    )
    return result[:, :, 0] if spatial == 1 else result


def _real_conv(data: Array, weight: Array, **geometry: Any) -> Array:
    return reference.convolve(data, weight, **geometry).astype(np.float32)


def _matmul(_call: Any, operands: list[Any]) -> Array:
    a, b = operands
    if a.dtype.kind in "iu":
        return reference.matmul(a, b)
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)


def _pad(call: Any, operands: list[Any]) -> Array:
    width = [int(v) for v in call.attrs.pad_width]
    pairs = list(zip(width[::2], width[1::2], strict=True))
    return np.pad(operands[0], pairs, constant_values=call.attrs.pad_value)


def _max_pool(call: Any, operands: list[Any]) -> Array:
    a = call.attrs
    padding = [int(v) for v in a.padding]
    padding = padding * 4 if len(padding) == 1 else padding * 2 if len(padding) == 2 else padding
    pair = [[int(v) for v in values] for values in (a.pool_size, a.strides, a.dilation)]
    kernel, strides, dilation = (v * 2 if len(v) == 1 else v for v in pair)
    return reference.max_pool2d(
        operands[0], kernel, strides=strides, padding=padding, dilation=dilation,
        ceil_mode=bool(a.ceil_mode),
    )  # fmt: skip


def _mean(call: Any, operands: list[Any]) -> Array:
    axes = None if call.attrs.axis is None else tuple(int(v) for v in call.attrs.axis)
    result = operands[0].astype(np.float64).mean(axes, keepdims=bool(call.attrs.keepdims))
    return np.asarray(result).astype(np.float32)


def _adaptive(call: Any, operands: list[Any]) -> Array:
    (data,) = operands
    out = [int(v) for v in call.attrs.output_size] * 2
    n, c, h, w = data.shape
    windows = data.astype(np.float64).reshape(n, c, out[0], h // out[0], out[1], w // out[1])
    return np.asarray(windows.mean((3, 5))).astype(np.float32)


def _avg_pool(call: Any, operands: list[Any]) -> Array:
    """Averages over windows of one size; other forms have no integer form either."""
    (data,) = operands
    a = call.attrs
    padding = [int(v) for v in a.padding]
    padding = padding * 4 if len(padding) == 1 else padding * 2 if len(padding) == 2 else padding
    if a.ceil_mode or (any(padding) and not a.count_include_pad):
        return NotImplemented
    pair = [[int(v) for v in values] for values in (a.pool_size, a.strides, a.dilation)]
    kernel, strides, dilation = (v * 2 if len(v) == 1 else v for v in pair)
    channels = data.shape[1]
    sums = reference.convolve(
        data, np.ones((channels, 1, *kernel)), strides=strides, padding=padding,
        dilation=dilation, groups=channels,
    )  # fmt: skip
    return np.asarray(sums / (kernel[0] * kernel[1])).astype(np.float32)


def _reshape(call: Any, operands: list[Any]) -> Array:
    return np.asarray(operands[0].reshape(_shape(call)))


def _strided_slice(_call: Any, operands: list[Any]) -> Array:
    data, axes, begins, ends, *steps = operands
    index = [slice(None)] * data.ndim
    for i, axis in enumerate(axes):
        begin, end, step = int(begins[i]), int(ends[i]), int(steps[0][i]) if steps else 1
        if step < 1:
            return NotImplemented
        index[int(axis)] = slice(begin, end, step)
    return np.asarray(data[tuple(index)])


def _take(call: Any, operands: list[Any]) -> Array:
    data, indices = operands
    axis = None if call.attrs.axis is None else int(call.attrs.axis)
    return np.take(data, indices, axis)


def _resize(call: Any, operands: list[Any]) -> Array:
    """Nearest neighbours at whole factors, which is all that is exact in every mode."""
    data, size = operands
    factors = [int(s) // have for s, have in zip(size, data.shape[2:], strict=True)]
    exact = all(
        f * have == int(s) for f, have, s in zip(factors, data.shape[2:], size, strict=True)
    )
    if str(call.attrs.method) != "nearest_neighbor" or not exact:
        return NotImplemented
    return np.asarray(data.repeat(factors[0], 2).repeat(factors[1], 3))


def _unary(function: Callable[[float], float]) -> Evaluate:
    vectorized = np.vectorize(function, otypes=[np.float64])
    return lambda _, a: vectorized(a[0].astype(np.float64)).astype(np.float32)


EVALUATORS: Mapping[str, Evaluate] = {
    "nn.conv1d": _conv,
    "nn.conv2d": _conv,
    "matmul": _matmul,
    "nn.pad": _pad,
    "nn.max_pool2d": _max_pool,
    "nn.avg_pool2d": _avg_pool,
    "nn.adaptive_avg_pool2d": _adaptive,
    "mean": _mean,
    "reshape": _reshape,
    "flatten": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "image.resize2d": _resize,
    "permute_dims": lambda call, a: np.transpose(
        a[0], None if call.attrs.axes is None else [int(v) for v in call.attrs.axes]
    ),
    "broadcast_to": lambda call, a: np.broadcast_to(a[0], _shape(call)),
    "concat": lambda call, a: np.concatenate(a[0], int(call.attrs.axis)),
    "add": lambda _, a: np.asarray(a[0] + a[1]),
    "subtract": lambda _, a: np.asarray(a[0] - a[1]),
    "multiply": lambda _, a: np.asarray(a[0] * a[1]),
    "divide": lambda _, a: np.asarray(a[0] / a[1]),
    "maximum": lambda _, a: np.maximum(a[0], a[1]),
    "minimum": lambda _, a: np.minimum(a[0], a[1]),
    "sqrt": lambda _, a: np.sqrt(a[0]),
    "take": _take,
    "strided_slice": _strided_slice,
    "astype": lambda call, a: a[0].astype(str(call.ty.dtype)),
    "nn.relu": lambda _, a: np.maximum(a[0], np.float32(0)),
    "clip": lambda _, a: np.clip(a[0], np.float32(a[1]), np.float32(a[2])),
    **{name: _unary(function) for name, function in TABLES.items()},
}


__all__ = ["EVALUATORS", "interpret"]
