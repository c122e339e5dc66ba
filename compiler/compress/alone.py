"""One operator of a Relax graph, compiled by itself by TVM's default pipeline.

For what is run in small amounts and need not be fast: operators of which calibration and the
reference have no definition of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from compiler.compress.sites import operands
from schedules.tvm_adapter import IRModule, relax, tvm


def compile_alone(expr: Any) -> Callable[..., Any]:
    """An operator as a function of the arrays that it reads.

    Args:
        expr: A call of an operator on variables and constants.

    Returns:
        Takes one array for each variable, in the order in which they are read, and gives an
        array or a tuple of them.
    """
    variables = list(operands(expr))
    parameters = [relax.Var(f"a{i}", v.ty) for i, v in enumerate(variables)]
    builder = relax.BlockBuilder()
    with builder.function("main", params=parameters):
        with builder.dataflow():
            call = _replaced(expr, iter(parameters))
            result = builder.emit_output(builder.normalize(call))
        builder.emit_func_output(result)
    module: IRModule = builder.get()
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())

    def run(*values: Any) -> Any:
        arrays = [tvm.runtime.tensor(np.ascontiguousarray(v)) for v in values]
        return _to_numpy(machine["main"](*arrays))

    return run


def _replaced(expr: Any, parameters: Iterator[Any]) -> Any:
    """A call whose variables, in order of reading, are others."""
    if isinstance(expr, relax.Var):
        return next(parameters)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_replaced(field, parameters) for field in expr.fields])
    if isinstance(expr, relax.Call):
        arguments = [_replaced(a, parameters) for a in expr.args]
        return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
    return expr


def _to_numpy(value: Any) -> Any:
    if hasattr(value, "numpy"):
        return np.array(value.numpy())
    return tuple(_to_numpy(part) for part in value)


__all__ = ["compile_alone"]
