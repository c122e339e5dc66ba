"""Run a plain graph operator by operator, in float32 and with bounded memory.

Calibration needs every activation once and never all of them together, and it needs them by
the names of the plan. So the graph itself is interpreted: PyTorch computes the operators that
take the time; an operator that it is not told about is compiled, alone, by TVM's default
pipeline, so that whatever imports can be calibrated. A tensor is freed after its last reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from compiler.compress.alone import compile_alone
from compiler.compress.apply import clip_limits
from compiler.compress.sites import PlainGraph, Site
from schedules.tvm_adapter import GenericConst, relax

Value = Any  # a tensor, or a tuple of them
Evaluate = Callable[[Any, list[Value]], Value]


def _ints(values: Any) -> list[int]:
    return [int(v) for v in values]


def _shape(call: Any) -> list[int]:
    return _ints(call.ty.shape.values)


def _conv1d(call: Any, a: list[Value]) -> Value:
    attrs = call.attrs
    before, after = _ints(attrs.padding)
    return F.conv1d(
        F.pad(a[0], (before, after)), a[1], None, tuple(_ints(attrs.strides)), 0,
        tuple(_ints(attrs.dilation)), int(attrs.groups),
    )  # fmt: skip


def _conv2d(call: Any, a: list[Value]) -> Value:
    attrs = call.attrs
    top, left, bottom, right = _ints(attrs.padding)
    data, padding = a[0], (top, left)
    if (top, left) != (bottom, right):
        data, padding = F.pad(data, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        data, a[1], None, tuple(_ints(attrs.strides)), padding,
        tuple(_ints(attrs.dilation)), int(attrs.groups),
    )  # fmt: skip


def _max_pool2d(call: Any, a: list[Value]) -> Value:
    attrs = call.attrs
    top, left, bottom, right = _ints(attrs.padding)
    data = F.pad(a[0], (left, right, top, bottom), value=float("-inf"))
    return F.max_pool2d(
        data, tuple(_ints(attrs.pool_size)), tuple(_ints(attrs.strides)), 0,
        tuple(_ints(attrs.dilation)),
    )  # fmt: skip


def _mean(call: Any, a: list[Value]) -> Value:
    if call.attrs.axis is None:
        return a[0].mean()
    return a[0].mean(dim=_ints(call.attrs.axis), keepdim=bool(call.attrs.keepdims))


def _permute(call: Any, a: list[Value]) -> Value:
    if call.attrs.axes is None:
        return a[0].permute(list(range(a[0].ndim))[::-1])
    return a[0].permute(_ints(call.attrs.axes))


def _layer_norm(call: Any, a: list[Value]) -> Value:
    axes = sorted(axis % a[0].ndim for axis in _ints(call.attrs.axes))
    shape = [a[0].shape[axis] for axis in axes]
    return F.layer_norm(a[0], shape, a[1], a[2], float(call.attrs.epsilon))


def _of_last_axes(call: Any) -> bool:
    rank = len(call.args[0].ty.shape.values)
    axes = sorted(axis % rank for axis in _ints(call.attrs.axes))
    return axes == list(range(rank - len(axes), rank)) and len(call.args) == 3


def _strided_slice(call: Any, a: list[Value]) -> Value:
    axes, begins, ends = (_numbers(v) for v in call.args[1:4])
    steps = _numbers(call.args[4]) if len(call.args) > 4 else [1] * len(axes)
    index = [slice(None)] * a[0].ndim
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        index[axis] = slice(begin, end, step)
    return a[0][tuple(index)]


def _numbers(expr: Any) -> list[int]:
    return [int(v.value) for v in expr.fields]


def _is_plain_slice(call: Any) -> bool:
    """Whether it slices by known positive steps, within bounds or not as Python does."""
    rest = list(call.args[1:])
    if not all(isinstance(v, relax.Tuple) for v in rest):
        return False
    if not all(hasattr(f, "value") for v in rest for f in v.fields):
        return False
    shape = [int(v) for v in call.args[0].ty.shape.values]
    axes, begins, ends = (_numbers(v) for v in rest[:3])
    steps = _numbers(rest[3]) if len(rest) > 3 else [1] * len(axes)
    inside = all(0 <= b <= e <= shape[x] for x, b, e in zip(axes, begins, ends, strict=True))
    return inside and all(s > 0 for s in steps)


def _sum(call: Any, a: list[Value]) -> Value:
    if call.attrs.axis is None:
        return a[0].sum()
    return a[0].sum(dim=_ints(call.attrs.axis), keepdim=bool(call.attrs.keepdims))


EVALUATORS: Mapping[str, Evaluate] = {
    "nn.conv1d": _conv1d,
    "nn.conv2d": _conv2d,
    "matmul": lambda _, a: torch.matmul(a[0], a[1]),
    "add": lambda _, a: a[0] + a[1],
    "subtract": lambda _, a: a[0] - a[1],
    "multiply": lambda _, a: a[0] * a[1],
    "divide": lambda _, a: a[0] / a[1],
    "nn.relu": lambda _, a: F.relu(a[0]),
    "nn.silu": lambda _, a: F.silu(a[0]),
    "nn.gelu": lambda _, a: F.gelu(a[0]),
    "sigmoid": lambda _, a: torch.sigmoid(a[0]),
    "tanh": lambda _, a: torch.tanh(a[0]),
    "nn.softmax": lambda call, a: F.softmax(a[0], int(call.attrs.axis)),
    "nn.layer_norm": _layer_norm,
    "nn.max_pool2d": _max_pool2d,
    "mean": _mean,
    "sum": _sum,
    "strided_slice": _strided_slice,
    "broadcast_to": lambda call, a: a[0].expand(_shape(call)),
    "maximum": lambda _, a: torch.maximum(a[0], a[1]),
    "minimum": lambda _, a: torch.minimum(a[0], a[1]),
    "sqrt": lambda _, a: torch.sqrt(a[0]),
    "concat": lambda call, a: torch.cat(a[0], int(call.attrs.axis)),
    "reshape": lambda call, a: a[0].reshape(_shape(call)),
    "flatten": lambda call, a: a[0].reshape(_shape(call)),
    "squeeze": lambda call, a: a[0].reshape(_shape(call)),
    "expand_dims": lambda call, a: a[0].reshape(_shape(call)),
    "permute_dims": _permute,
}


def _is_float(call: Any) -> bool:
    return all(str(a.ty.dtype.dtype) == "float32" for a in call.args)


#: Forms of operators that the evaluators above are right for; others are compiled.
FORMS: Mapping[str, Callable[[Any], bool]] = {
    "nn.conv1d": lambda call: str(call.attrs.data_layout) == "NCW",
    "nn.conv2d": lambda call: (
        str(call.attrs.data_layout) == "NCHW" and str(call.attrs.kernel_layout) == "OIHW"
    ),
    "nn.max_pool2d": lambda call: (
        str(call.attrs.layout) == "NCHW" and not bool(call.attrs.ceil_mode)
    ),
    "nn.layer_norm": _of_last_axes,
    "strided_slice": _is_plain_slice,
    "sum": _is_float,
    "sqrt": _is_float,
    "matmul": _is_float,
    # Integers divide otherwise in Relax than in PyTorch.
    "divide": _is_float,
}


class Evaluator:
    """Evaluates the operators of one plain graph.

    Args:
        graph: The graph.

    Attributes:
        replaced: Values in place of constant arguments, by operator and position.
        dying: Names of the tensors that nobody reads after an operator, by its number.
    """

    def __init__(self, graph: PlainGraph) -> None:
        self.graph = graph
        self.replaced: dict[str, Mapping[int, torch.Tensor]] = {}
        self._constants: dict[int, torch.Tensor] = {}
        self._compiled: dict[str, Callable[..., Value]] = {}
        last: dict[str, int] = {}
        for number, site in enumerate(graph.sites):
            last[site.name] = number
            for name in site.data:
                last[name] = number
        for name in graph.outputs:
            last[name] = len(graph.sites)
        self.dying: dict[int, list[str]] = {}
        for name, number in last.items():
            self.dying.setdefault(number, []).append(name)

    def run(
        self, inputs: Sequence[torch.Tensor], visit: Callable[[str, torch.Tensor], None]
    ) -> tuple[torch.Tensor, ...]:
        """Run the graph once.

        Args:
            inputs: One tensor an input, in order.
            visit: Called with the name and the value of each float32 tensor as it is made,
                inputs first.

        Returns:
            The outputs.
        """
        environment: dict[str, Value] = {}
        for name, value in zip(self.graph.inputs, inputs, strict=True):
            environment[name] = value
            visit(name, value)
        with torch.inference_mode():
            for number, site in enumerate(self.graph.sites):
                value = self.evaluate(site, environment)
                environment[site.name] = value
                if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                    visit(site.name, value)
                for name in self.dying.get(number, ()):
                    environment.pop(name, None)
        return tuple(environment[name] for name in self.graph.outputs)

    def evaluate(
        self,
        site: Site,
        environment: Mapping[str, Value],
        replaced: Mapping[int, torch.Tensor] | None = None,
    ) -> Value:
        """The value of one operator.

        Args:
            site: The operator.
            environment: Values of the tensors it reads.
            replaced: Values in place of arguments, by position, beside `self.replaced`.
        """
        value = site.value
        if isinstance(value, relax.TupleGetItem):
            return self._argument(value.tuple_value, environment)[int(value.index)]
        if isinstance(value, (relax.Tuple, GenericConst)):
            return self._argument(value, environment)
        evaluate = EVALUATORS.get(site.kind)
        if evaluate is not None and FORMS.get(site.kind, lambda _: True)(value):
            arguments = [
                self._argument(a, environment)
                for a in value.args
                if isinstance(a.ty, relax.TensorType) or site.kind == "concat"
            ]
            for others in (self.replaced.get(site.name), replaced):
                for position, other in (others or {}).items():
                    arguments[position] = other
            return evaluate(value, arguments)
        if site.kind == "clip":
            low, high = clip_limits(site)
            return self._argument(value.args[0], environment).clamp(low, high)
        if replaced or site.name in self.replaced:
            raise NotImplementedError(f"{site.kind} with another weight")
        return self._compile(site)(*[environment[name] for name in site.data])

    def _argument(self, expr: Any, environment: Mapping[str, Value]) -> Value:
        if isinstance(expr, relax.Var):
            return environment[self.graph.names[expr]]
        if isinstance(expr, GenericConst):
            key = int(expr.value.data_ptr())
            if key not in self._constants:
                self._constants[key] = torch.from_numpy(np.array(expr.value.numpy()))
            return self._constants[key]
        if isinstance(expr, relax.Tuple):
            return tuple(self._argument(field, environment) for field in expr.fields)
        raise TypeError(f"{type(expr).__name__} is no argument that can be evaluated")

    def _compile(self, site: Site) -> Callable[..., Value]:
        """One operator as a compiled function of the tensors that it reads."""
        if site.name in self._compiled:
            return self._compiled[site.name]
        function = compile_alone(site.value)

        def run(*values: torch.Tensor) -> Value:
            return _to_torch(function(*(v.numpy() for v in values)))

        self._compiled[site.name] = run
        return run


def _to_torch(value: Any) -> Value:
    if isinstance(value, tuple):
        return tuple(_to_torch(part) for part in value)
    return torch.from_numpy(value)


__all__ = ["EVALUATORS", "Evaluator"]
