"""What the Relax passes share: looking through a function, and names of operators."""

from __future__ import annotations

from collections import Counter
from typing import Any

from schedules.tvm_adapter import GenericConst, ir, relax, tirx


def operator_name(expr: Any) -> str:
    """Name of the operator of a call without ``relax.``; empty for anything else."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return ""


def is_call_tir(expr: Any) -> bool:
    """Whether an expression calls a TIR function."""
    return operator_name(expr).startswith("call_tir")


def shape_of(expr: Any) -> list[Any] | None:
    """Shape of a tensor, known extents as ints and symbolic ones as TIR expressions."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or ty.shape is None:
        return None
    if not isinstance(ty.shape, relax.ShapeExpr):
        return None
    return [int(v) if isinstance(v, tirx.IntImm) else v for v in ty.shape.values]


def static_shape(expr: Any) -> list[int] | None:
    """Shape of a tensor, or None if an extent of it is not known."""
    shape = shape_of(expr)
    if shape is None or not all(isinstance(v, int) for v in shape):
        return None
    return shape


def dtype_of(expr: Any) -> str:
    """Dtype of a tensor's elements."""
    return str(expr.ty.dtype)


def is_constant(expr: Any) -> bool:
    """Whether an expression is a tensor constant."""
    return isinstance(expr, GenericConst)


class FunctionView:
    """Definitions and uses of the variables of a function, before a pass changes it."""

    def __init__(self, function: Any) -> None:
        self.definitions: dict[Any, Any] = {}
        self.uses: Counter[Any] = Counter()
        self._readers: dict[Any, list[Any]] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                value = binding.value
                self.definitions[binding.var] = value
                for variable in _operands(value):
                    self.uses[variable] += 1
                    self._readers.setdefault(variable, []).append(value)
        for variable in _operands(function.body.body):
            self.uses[variable] += 1

    def definition(self, expr: Any) -> Any:
        """What a variable is bound to; other expressions stand for themselves."""
        return self.definitions.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def only_cast_to(self, call: Any, dtype: str) -> bool:
        """Whether the result of a call is read by conversions to `dtype` alone."""
        results = [v for v, value in self.definitions.items() if value.same_as(call)]
        readers = [r for v in results for r in self._readers.get(v, [])]
        return (
            bool(readers)
            and len(readers) == sum(self.uses[v] for v in results)
            and all(operator_name(r) == "astype" and dtype_of(r) == dtype for r in readers)
        )

    def only_use(self, variable: Any) -> bool:
        """Whether the variable is used exactly once."""
        return self.uses[variable] == 1


def _operands(value: Any) -> list[Any]:
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Call):
        return [v for a in value.args for v in _operands(a)]
    if isinstance(value, relax.Tuple):
        return [v for f in value.fields for v in _operands(f)]
    if isinstance(value, relax.TupleGetItem):
        return _operands(value.tuple_value)
    return []
