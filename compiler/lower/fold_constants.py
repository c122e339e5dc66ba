"""FoldConstants: evaluate cheap operators on constants with NumPy, keeping parameters' names.

TVM's own FoldConstant compiles a kernel for every expression it folds, and what it makes has
no name. Layout changes and arithmetic on parameters, which is nearly all there is, need
neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.lower.graph import is_constant, operator_name, static_shape
from compiler.lower.parameters import Array, ParameterTable, value_of
from schedules.tvm_adapter import IRModule, relax

Evaluate = Callable[[Any, list[Array]], Array]

#: Larger results than this many elements are not made from smaller constants.
MAX_GROWTH_ELEMENTS = 1 << 16


def _axes(call: Any) -> Any:
    return None if call.attrs.axes is None else [int(v) for v in call.attrs.axes]


def _cast(call: Any, a: list[Array]) -> Array:
    return a[0].astype(str(call.attrs.dtype))


EVALUATORS: dict[str, Evaluate] = {
    "permute_dims": lambda call, a: np.transpose(a[0], _axes(call)),
    "reshape": lambda call, a: a[0].reshape(static_shape(call) or []),
    "expand_dims": lambda call, a: a[0].reshape(static_shape(call) or []),
    "squeeze": lambda call, a: a[0].reshape(static_shape(call) or []),
    "flatten": lambda call, a: a[0].reshape(static_shape(call) or []),
    "broadcast_to": lambda call, a: np.broadcast_to(a[0], static_shape(call) or []),
    "astype": _cast,
    "add": lambda _, a: a[0] + a[1],
    "subtract": lambda _, a: a[0] - a[1],
    "multiply": lambda _, a: a[0] * a[1],
    "divide": lambda _, a: a[0] / a[1],
    "sqrt": lambda _, a: np.sqrt(a[0]),
    "rsqrt": lambda _, a: 1.0 / np.sqrt(a[0]),
    "negative": lambda _, a: -a[0],
    "exp": lambda _, a: np.exp(a[0]),
}


@relax.expr_functor.mutator
class _Folder(relax.PyExprMutator):
    def __init__(self, module: IRModule, table: ParameterTable) -> None:
        super().__init__(module)
        self.table = table

    def visit_call_(self, op: Any) -> Any:
        call = self.visit_expr_post_order(op)
        evaluate = EVALUATORS.get(operator_name(call))
        if evaluate is None:
            return call
        operands = [a for a in call.args if isinstance(a.ty, relax.TensorType)]
        constants = [self._constant(a) for a in operands]
        shape = static_shape(call)
        if shape is None or not constants or any(c is None for c in constants):
            return call
        values = [value_of(c) for c in constants]
        if int(np.prod(shape)) > max(MAX_GROWTH_ELEMENTS, *(v.size for v in values)):
            return call
        result = np.asarray(evaluate(call, values)).astype(str(call.ty.dtype))
        if list(result.shape) != shape:
            return call
        largest = max(constants, key=lambda c: value_of(c).size)
        return self.table.constant(result, self.table.name_of(largest) or "constant")

    def _constant(self, expr: Any) -> Any | None:
        value = self.lookup_binding(expr) if isinstance(expr, relax.Var) else expr
        return value if value is not None and is_constant(value) else None


def fold_constants(module: IRModule, table: ParameterTable) -> IRModule:
    """Apply the pass to `main`."""
    variable = module.get_global_var("main")
    result = module.clone()
    result.update_func(variable, _Folder(module, table).visit_expr(module[variable]))
    result = relax.transform.CanonicalizeBindings()(result)
    return relax.transform.DeadCodeElimination(["main"])(result)
