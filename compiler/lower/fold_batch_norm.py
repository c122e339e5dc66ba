"""FoldBatchNorm: put inference batch normalization into the weights before it.

``batch_norm(conv(x, w) + b)`` becomes ``conv(x, w * s) + (b - mean) * s + beta`` with
``s = gamma / sqrt(variance + epsilon)`` (Jacob et al. 2018, section 3.2), computed in double
precision. Where no convolution or matrix product with constant weights stands before it, it
becomes a multiplication and an addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.lower.graph import FunctionView, is_constant, operator_name, shape_of
from compiler.lower.parameters import Array, ParameterTable, value_of
from schedules.tvm_adapter import IRModule, relax

#: Axis of the weight that holds output channels.
CHANNEL_AXIS = {
    "nn.conv1d": 0,
    "nn.conv2d": 0,
    "nn.conv3d": 0,
    "nn.conv1d_transpose": 1,
    "nn.conv2d_transpose": 1,
    "nn.conv3d_transpose": 1,
    "matmul": -1,
}


@dataclass(frozen=True, slots=True)
class Fold:
    """One normalization that went into a weight and a bias, by the names of the constants.

    Training needs it, to compute folded constants from the model's own parameters.

    Attributes:
        weight: The folded weight.
        bias: The folded bias.
        source: The weight before.
        source_bias: The bias before; empty without one.
        statistics: Factor, offset, mean and variance of the normalization; empty for unnamed
            ones.
        axis: Axis of output channels in the weight.
        epsilon: Added to the variance.
        scale: Whether there is a factor.
        center: Whether there is an offset.
    """

    weight: str
    bias: str
    source: str
    source_bias: str
    statistics: tuple[str, str, str, str]
    axis: int
    epsilon: float
    scale: bool
    center: bool


@relax.expr_functor.mutator
class _Folder(relax.PyExprMutator):
    def __init__(
        self, module: IRModule, table: ParameterTable, view: FunctionView, folds: list[Fold]
    ) -> None:
        super().__init__(module)
        self.table = table
        self.view = view
        self.folds = folds

    def visit_tuple_getitem_(self, op: Any) -> Any:
        call = self.view.definition(op.tuple_value)
        if operator_name(call) != "nn.batch_norm" or int(op.index) != 0:
            return super().visit_tuple_getitem_(op)
        statistics = call.args[1:5]
        if not all(is_constant(v) for v in statistics) or bool(call.attrs.training):
            return super().visit_tuple_getitem_(op)
        gamma, beta, mean, variance = (value_of(v).astype(np.float64) for v in statistics)
        if not call.attrs.scale:
            gamma = np.ones_like(gamma)
        if not call.attrs.center:
            beta = np.zeros_like(beta)
        scale = gamma / np.sqrt(variance + float(call.attrs.epsilon))
        shift = beta - mean * scale
        rank = len(shape_of(call.args[0]) or [])
        axis = int(call.attrs.axis) % rank
        folded = self._fold_into_weights(call, scale, shift, rank, axis)
        if folded is not None:
            return folded
        data = self.visit_expr(call.args[0])
        name = self.table.name_of(statistics[0]) or "batch_norm"
        dtype = str(call.args[0].ty.dtype)
        factor = self._per_channel(scale, rank, axis, f"{name}.scale", dtype)
        offset = self._per_channel(shift, rank, axis, f"{name}.shift", dtype)
        scaled = self.builder_.emit(relax.op.multiply(data, factor))
        return relax.op.add(scaled, offset)

    def _fold_into_weights(
        self, call: Any, scale: Array, shift: Array, rank: int, axis: int
    ) -> Any | None:
        """The folded operation and its bias, or None if nothing before it can take them."""
        data = call.args[0]
        bias = np.zeros_like(scale)
        producer = self.view.definition(data)
        bias_name = None
        if operator_name(producer) == "add":
            operands = [
                (producer.args[i], producer.args[1 - i])
                for i in range(2)
                if self._is_channel_constant(producer.args[1 - i], rank, axis, len(scale))
            ]
            if not operands or not self.view.only_use(data):
                return None
            data, constant = operands[0]
            constant = self._constant(constant)
            bias = np.broadcast_to(value_of(constant).astype(np.float64).reshape(-1), bias.shape)
            bias_name = self.table.name_of(constant)
            producer = self.view.definition(data)
        kind = operator_name(producer)
        if kind not in CHANNEL_AXIS or not self.view.only_use(data):
            return None
        weight = self._constant(producer.args[1])
        if weight is None:
            return None
        value = value_of(weight)
        out_axis = CHANNEL_AXIS[kind] % value.ndim
        grouped = kind.endswith("transpose") and int(producer.attrs.groups) != 1
        if grouped or value.shape[out_axis] != len(scale):
            return None
        if axis != (rank - 1 if kind == "matmul" else 1):
            return None
        shape = [1] * value.ndim
        shape[out_axis] = -1
        name = self.table.name_of(weight) or "weight"
        dtype = str(value.dtype)
        new_weight = self.table.constant(
            (value.astype(np.float64) * scale.reshape(shape)).astype(value.dtype), name
        )
        args = [self.visit_expr(producer.args[0]), new_weight]
        product = self.builder_.emit(
            relax.Call(producer.op, args, producer.attrs, producer.ty_args)
        )
        offset = self._per_channel(
            bias * scale + shift, rank, axis, bias_name or f"{name}.bias", dtype
        )
        names = [self.table.name_of(v) or "" for v in call.args[1:5]]
        self.folds.append(
            Fold(
                weight=self.table.name_of(new_weight) or "",
                bias=self.table.name_of(offset) or "",
                source=name,
                source_bias=bias_name or "",
                statistics=(names[0], names[1], names[2], names[3]),
                axis=out_axis,
                epsilon=float(call.attrs.epsilon),
                scale=bool(call.attrs.scale),
                center=bool(call.attrs.center),
            )
        )
        return relax.op.add(product, offset)

    def _constant(self, expr: Any) -> Any | None:
        """The constant behind an expression, through reshapes and transposes of one."""
        value = self.view.definition(expr)
        return value if is_constant(value) else None

    def _is_channel_constant(self, expr: Any, rank: int, axis: int, channels: int) -> bool:
        constant = self._constant(expr)
        if constant is None:
            return False
        shape = [1] * (rank - value_of(constant).ndim) + list(value_of(constant).shape)
        return len(shape) == rank and all(
            size == 1 or (i == axis and size == channels) for i, size in enumerate(shape)
        )

    def _per_channel(self, value: Array, rank: int, axis: int, name: str, dtype: str) -> Any:
        shape = [1] * rank
        shape[axis] = -1
        return self.table.constant(value.reshape(shape).astype(dtype), name)


def fold_batch_norm(
    module: IRModule, table: ParameterTable, folds: list[Fold] | None = None
) -> IRModule:
    """Apply the pass to `main`; unused producers are left to dead code elimination.

    Args:
        module: The module.
        table: Names of its constants.
        folds: Receives what was folded into weights.
    """
    variable = module.get_global_var("main")
    function = module[variable]
    folder = _Folder(module, table, FunctionView(function), [] if folds is None else folds)
    result = module.clone()
    result.update_func(variable, folder.visit_expr(function))
    return relax.transform.DeadCodeElimination(["main"])(result)
