"""ChannelsLast: run images, feature maps and 1-D signals with channels innermost.

CPU kernels want the channels of a pixel side by side: vectors run along them, and a row of
pixels is a row of a matrix product. Every convolution and pooling is rewritten to NHWC, and
the layout is carried through whatever does not care: elementwise operators, concatenation,
padding, slices, reductions. A value is turned back to PyTorch's layout only where something
needs it, and once; transposes that the model itself makes cancel against it. 1-D signals are
treated as images of height one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.compress.operators import PREFIX, attributes_of
from compiler.compress.operators import call as integer_call
from compiler.lower.graph import dtype_of, is_constant, operator_name, shape_of
from compiler.lower.parameters import ParameterTable, value_of
from schedules.tvm_adapter import IRModule, relax

Handler = Callable[["_Propagator", Any, Any], bool]

#: Position, in the channels-last form, of each axis of the original, by rank.
TO_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1)}
FROM_LAST = {3: (0, 2, 1), 4: (0, 3, 1, 2)}

UNARY = frozenset(
    {"nn.relu", "nn.relu6", "nn.leakyrelu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.softplus",
     "nn.selu", "sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "erf", "abs", "negative", "clip",
     "astype", "square", "sign", "floor", "ceil", "round", "cos", "sin", "nn.dropout",
     "logical_not", "isnan", "sinh", "cosh", "tan", "atan", "asin", "acos"}
)  # fmt: skip
BINARY = frozenset(
    {"add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "floor_divide",
     "greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "mod", "where",
     "logical_and", "logical_or"}
)  # fmt: skip
REDUCTIONS = frozenset({"mean", "sum", "max", "min", "prod", "variance", "std"})
POOLING = frozenset({"nn.max_pool2d", "nn.avg_pool2d", "nn.adaptive_avg_pool2d"})


@relax.expr_functor.mutator
class _Propagator(relax.PyExprMutator):
    """Rewrites one function; `forms` holds the channels-last form of original variables."""

    def __init__(self, module: IRModule, table: ParameterTable) -> None:
        super().__init__(module)
        self.table = table
        self.forms: dict[Any, Any] = {}
        self.restored: dict[Any, Any] = {}
        self.tuples: dict[Any, Any] = {}

    def visit_var_binding_(self, binding: Any) -> None:
        handler = HANDLERS.get(operator_name(binding.value))
        is_output = not isinstance(binding.var, relax.DataflowVar)
        value = binding.value
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
            part = relax.TupleGetItem(self.tuples[value.tuple_value], int(value.index))
            self.define(binding.var, part)
            return
        if handler is not None and handler(self, binding.var, value):
            if is_output:
                self._emit_output(binding.var)
            return
        super().visit_var_binding_(binding)

    def _emit_output(self, var: Any) -> None:
        """Bind an output of the dataflow block, which leaves it in the original layout."""
        value = self.restored.get(var)
        if value is None:
            order = list(FROM_LAST[len(shape_of(var) or [])])
            value = relax.op.permute_dims(self.forms[var], order)
        self.restored[var] = self.builder_.emit_output(value, var.name)

    def visit_var_(self, op: Any) -> Any:
        if op in self.restored:
            return self.restored[op]
        return super().visit_var_(op)

    def visit_dataflow_var_(self, op: Any) -> Any:
        if op not in self.restored:
            if op not in self.forms:
                return super().visit_dataflow_var_(op)
            form = self.forms[op]
            rank = len(shape_of(op) or [])
            self.restored[op] = self.builder_.emit(
                relax.op.permute_dims(form, list(FROM_LAST[rank])), f"{op.name}_nchw"
            )
        return self.restored[op]

    def form(self, expr: Any) -> Any | None:
        """The channels-last form of an original expression, if there is one already."""
        return self.forms.get(expr) if isinstance(expr, relax.Var) else None

    def to_last(self, expr: Any) -> Any:
        """The channels-last form of an original expression, made if need be."""
        form = self.form(expr)
        if form is not None:
            return form
        rank = len(shape_of(expr) or [])
        if is_constant(expr):
            value = np.transpose(value_of(expr), TO_LAST[rank])
            return self.table.constant(value, self.table.name_of(expr) or "constant")
        visited = self.visit_expr(expr)
        hint = f"{expr.name}_nhwc" if isinstance(expr, relax.Var) else "nhwc"
        return self.builder_.emit(relax.op.permute_dims(visited, list(TO_LAST[rank])), hint)

    def define(self, var: Any, value: Any) -> bool:
        """Bind the channels-last form of an original variable."""
        self.forms[var] = self.builder_.emit(value, var.name)
        return True

    def define_plain(self, var: Any, value: Any) -> bool:
        """Bind an original variable to a value in the original layout."""
        plain = value if isinstance(value, relax.Var) else self.builder_.emit(value, var.name)
        self.restored[var] = plain
        return True


def _convolution(p: _Propagator, var: Any, call: Any) -> bool:
    data = p.to_last(call.args[0])
    a = call.attrs
    if operator_name(call) == "nn.conv2d":
        result = relax.op.nn.conv2d(
            data, p.visit_expr(call.args[1]), strides=a.strides, padding=a.padding,
            dilation=a.dilation, groups=a.groups, data_layout="NHWC",
            kernel_layout=a.kernel_layout, out_layout="NHWC", out_dtype=a.out_dtype,
        )  # fmt: skip
    else:
        result = relax.op.nn.conv2d_transpose(
            data, p.visit_expr(call.args[1]), strides=a.strides, padding=a.padding,
            output_padding=a.output_padding, dilation=a.dilation, groups=a.groups,
            data_layout="NHWC", kernel_layout=a.kernel_layout, out_layout="NHWC",
            out_dtype=a.out_dtype,
        )  # fmt: skip
    return p.define(var, result)


def _convolution_1d(p: _Propagator, var: Any, call: Any) -> bool:
    shape, kernel = shape_of(call.args[0]), shape_of(call.args[1])
    out = shape_of(var)
    if shape is None or kernel is None or out is None:
        return False
    a = call.attrs
    n, c, length = shape
    image = p.builder_.emit(relax.op.reshape(p.to_last(call.args[0]), (n, 1, length, c)))
    weight = p.visit_expr(call.args[1])
    if is_constant(weight):
        value = value_of(weight)[:, :, None, :]
        weight = p.table.constant(value, p.table.name_of(weight) or "weight")
    else:
        weight = p.builder_.emit(relax.op.expand_dims(weight, 2))
    padding = [0, a.padding[0], 0, a.padding[1]]
    common = {
        "strides": [1, a.strides[0]], "padding": padding, "dilation": [1, a.dilation[0]],
        "groups": a.groups, "data_layout": "NHWC", "out_layout": "NHWC", "out_dtype": a.out_dtype,
    }  # fmt: skip
    if operator_name(call) == "nn.conv1d":
        result = relax.op.nn.conv2d(image, weight, kernel_layout="OIHW", **common)
    else:
        result = relax.op.nn.conv2d_transpose(
            image, weight, kernel_layout="IOHW", output_padding=[0, a.output_padding[0]], **common
        )
    emitted = p.builder_.emit(result, var.name)
    return p.define(var, relax.op.reshape(emitted, (out[0], out[2], out[1])))


def _sign(p: _Propagator, var: Any, call: Any) -> bool:
    form, a = p.form(call.args[0]), attributes_of(call)
    if form is None or a["axis"] != 1:
        return False
    return p.define(var, integer_call("sign", form, **{**a, "axis": len(shape_of(var) or []) - 1}))


def _binary_convolution(p: _Propagator, var: Any, call: Any) -> bool:
    a = {**attributes_of(call), "layout": "NHWC"}
    return p.define(
        var,
        integer_call("binary_conv2d", p.to_last(call.args[0]), p.visit_expr(call.args[1]), **a),
    )


def _pooling(p: _Propagator, var: Any, call: Any) -> bool:
    if len(shape_of(call.args[0]) or []) != 4:
        return False
    data, a = p.to_last(call.args[0]), call.attrs
    name = operator_name(call)
    if name == "nn.adaptive_avg_pool2d":
        size = None if a.output_size is None else [int(v) for v in a.output_size]
        return p.define(var, relax.op.nn.adaptive_avg_pool2d(data, size, "NHWC"))
    function = relax.op.nn.max_pool2d if name == "nn.max_pool2d" else relax.op.nn.avg_pool2d
    result = function(
        data, a.pool_size, a.strides, a.padding, a.dilation, a.ceil_mode, a.count_include_pad,
        "NHWC", "NHWC",
    )  # fmt: skip
    return p.define(var, result)


def _resize(p: _Propagator, var: Any, call: Any) -> bool:
    a = call.attrs
    if a.layout != "NCHW":
        return False
    result = relax.op.image.resize2d(
        p.to_last(call.args[0]), call.args[1], [float(v) for v in a.roi], "NHWC", a.method,
        a.coordinate_transformation_mode, a.rounding_method, a.cubic_alpha, a.cubic_exclude,
        a.extrapolation_value, a.out_dtype,
    )  # fmt: skip
    return p.define(var, result)


def _unary(p: _Propagator, var: Any, call: Any) -> bool:
    form = p.form(call.args[0])
    if form is None:
        return False
    args = [form, *(p.visit_expr(a) for a in call.args[1:])]
    return p.define(var, relax.Call(call.op, args, call.attrs, call.ty_args))


def _binary(p: _Propagator, var: Any, call: Any) -> bool:
    forms = [p.form(a) for a in call.args]
    out = shape_of(var)
    if all(f is None for f in forms) or out is None or len(out) not in TO_LAST:
        return False
    shapes = [shape_of(a) for a in call.args]
    if any(s is None for s in shapes) or not any(
        f is not None and len(s or []) == len(out) for f, s in zip(forms, shapes, strict=True)
    ):
        return False
    args = []
    for expr, form, shape in zip(call.args, forms, shapes, strict=True):
        args.append(form if form is not None else _broadcast_operand(p, expr, shape, len(out)))
    return p.define(var, relax.Call(call.op, args, call.attrs, call.ty_args))


def _broadcast_operand(p: _Propagator, expr: Any, shape: Any, rank: int) -> Any:
    """An operand that has no channels-last form yet, ready to broadcast against one."""
    if not shape or all(v == 1 for v in shape):
        if len(shape) in (0, 1):
            return p.visit_expr(expr)
        return p.builder_.emit(relax.op.reshape(p.visit_expr(expr), [1] * rank))
    full = [1] * (rank - len(shape)) + list(shape)
    if is_constant(expr):
        value = np.transpose(value_of(expr).reshape(full), TO_LAST[rank])
        return p.table.constant(value, p.table.name_of(expr) or "constant")
    if len(shape) == rank:
        return p.to_last(expr)
    visited = p.builder_.emit(relax.op.reshape(p.visit_expr(expr), full))
    return p.builder_.emit(relax.op.permute_dims(visited, list(TO_LAST[rank])))


def _softmax(p: _Propagator, var: Any, call: Any) -> bool:
    form = p.form(call.args[0])
    if form is None:
        return False
    rank = len(shape_of(var) or [])
    axis = TO_LAST[rank].index(int(call.attrs.axis) % rank)
    function = getattr(relax.op.nn, operator_name(call).removeprefix("nn."))
    return p.define(var, function(form, axis))


def _concat(p: _Propagator, var: Any, call: Any) -> bool:
    fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else None
    out = shape_of(var)
    if fields is None or out is None or len(out) not in TO_LAST:
        return False
    if all(p.form(f) is None for f in fields):
        return False
    axis = TO_LAST[len(out)].index(int(call.attrs.axis) % len(out))
    return p.define(var, relax.op.concat([p.to_last(f) for f in fields], axis))


def _reduce(p: _Propagator, var: Any, call: Any) -> bool:
    form = p.form(call.args[0])
    if form is None:
        return False
    rank = len(shape_of(call.args[0]) or [])
    order = TO_LAST[rank]
    axes = range(rank) if call.attrs.axis is None else [int(v) % rank for v in call.attrs.axis]
    mapped = sorted(order.index(a) for a in axes)
    keep = bool(call.attrs.keepdims)
    function = getattr(relax.op, operator_name(call))
    result = function(form, mapped, keep)
    if keep:
        return p.define(var, result)
    remaining = [a for a in order if a not in axes]
    if remaining != sorted(remaining):
        return False
    return p.define_plain(var, result)


def _permute(p: _Propagator, var: Any, call: Any) -> bool:
    rank = len(shape_of(var) or [])
    if rank not in TO_LAST:
        return False
    axes = call.attrs.axes
    axes = list(range(rank))[::-1] if axes is None else [int(v) % rank for v in axes]
    form = p.form(call.args[0])
    if form is not None:
        composed = [FROM_LAST[rank][a] for a in axes]
        if composed == list(range(rank)):
            return p.define_plain(var, form)
        return p.define_plain(var, relax.op.permute_dims(form, composed))
    if tuple(axes) == FROM_LAST[rank] and not is_constant(call.args[0]):
        p.forms[var] = p.visit_expr(call.args[0])
        return True
    return False


def _reshape(p: _Propagator, var: Any, call: Any) -> bool:
    form = p.form(call.args[0])
    before, after = shape_of(call.args[0]), shape_of(var)
    if form is None or before is None or after is None:
        return False
    spatial = before[2:]
    if len(after) > 1 and after[:2] == before[:2]:
        if len(before) == 4 and len(after) == 3:  # N, C, H*W
            return p.define(var, relax.op.reshape(form, [after[0], after[2], after[1]]))
        if len(before) == 3 and len(after) == 4 and isinstance(after[2], int):
            return p.define(var, relax.op.reshape(form, [after[0], after[2], after[3], after[1]]))
    if all(v == 1 for v in spatial):  # one pixel: both layouts hold the same bytes
        return p.define_plain(var, relax.op.reshape(form, after))
    return False


def _pad(p: _Propagator, var: Any, call: Any) -> bool:
    form = p.form(call.args[0])
    rank = len(shape_of(var) or [])
    if form is None and rank == 4 and dtype_of(var) in ("uint8", "int8"):
        form = p.to_last(call.args[0])  # the image of a quantized network, before a convolution
    if form is None:
        return False
    width = [int(v) for v in call.attrs.pad_width]
    pairs = [width[2 * a : 2 * a + 2] for a in TO_LAST[rank]]
    attrs = call.attrs
    result = relax.op.nn.pad(form, [v for pair in pairs for v in pair], attrs.pad_mode,
                             float(attrs.pad_value))  # fmt: skip
    return p.define(var, result)


def _strided_slice(p: _Propagator, var: Any, call: Any) -> bool:
    form = p.form(call.args[0])
    axes = call.args[1]
    if form is None or not isinstance(axes, relax.Tuple):
        return False
    rank = len(shape_of(call.args[0]) or [])
    mapped = [TO_LAST[rank].index(int(a.value) % rank) for a in axes.fields]
    rest = [_numbers(a) for a in call.args[2:]]
    if any(r is None for r in rest):
        return False
    begin, end, *steps = rest
    result = relax.op.strided_slice(
        form, mapped, begin, end, steps[0] if steps else None,
        assume_inbound=bool(call.attrs.assume_inbound),
    )  # fmt: skip
    return p.define(var, result)


def _numbers(expr: Any) -> list[int] | None:
    if not isinstance(expr, relax.Tuple):
        return None
    values = [getattr(f, "value", None) for f in expr.fields]
    return None if any(v is None for v in values) else [int(v) for v in values]  # type: ignore[arg-type]


def _split(p: _Propagator, var: Any, call: Any) -> bool:
    form = p.form(call.args[0])
    if form is None:
        return False
    rank = len(shape_of(call.args[0]) or [])
    axis = TO_LAST[rank].index(int(call.attrs.axis) % rank)
    parts = call.attrs.indices_or_sections
    sections = int(parts) if not hasattr(parts, "__len__") else [int(v) for v in parts]
    p.tuples[var] = p.builder_.emit(relax.op.split(form, sections, axis), var.name)
    return True


HANDLERS: dict[str, Handler] = {
    "nn.conv2d": _convolution,
    "nn.conv2d_transpose": _convolution,
    "nn.conv1d": _convolution_1d,
    "nn.conv1d_transpose": _convolution_1d,
    "image.resize2d": _resize,
    "concat": _concat,
    "permute_dims": _permute,
    "reshape": _reshape,
    "flatten": _reshape,
    "squeeze": _reshape,
    "nn.pad": _pad,
    "strided_slice": _strided_slice,
    "split": _split,
    "nn.softmax": _softmax,
    "nn.log_softmax": _softmax,
    **dict.fromkeys(POOLING, _pooling),
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(REDUCTIONS, _reduce),
    f"{PREFIX}sign": _sign,
    f"{PREFIX}binary_conv2d": _binary_convolution,
    # Integer operators: constants of some broadcast against the data, a table does not.
    **{f"{PREFIX}{name}": _unary for name in ("quantize", "dequantize", "rescale", "lookup")},
    **{f"{PREFIX}{name}": _binary for name in ("requantize", "sums_to_float", "add", "multiply")},
}


def channels_last(module: IRModule, table: ParameterTable) -> IRModule:
    """Apply the pass to `main`; inputs and outputs keep PyTorch's layout."""
    variable = module.get_global_var("main")
    result = module.clone()
    result.update_func(variable, _Propagator(module, table).visit_expr(module[variable]))
    return relax.transform.DeadCodeElimination(["main"])(result)
