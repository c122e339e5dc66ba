"""LiftConstants: turn the constants of `main` into named parameters.

The shared object then holds code only, and the bundle keeps the (packed, folded) tensors
in a file of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.lower.parameters import Array, ParameterTable, value_of
from schedules.tvm_adapter import IRModule, relax


@relax.expr_functor.mutator
class _Lifter(relax.PyExprMutator):
    def __init__(self, module: Any, table: ParameterTable) -> None:
        super().__init__(module)
        self.table = table
        self.variables: dict[str, Any] = {}
        self.values: dict[str, Array] = {}

    def visit_generic_const_(self, op: Any) -> Any:
        name = self.table.name_of(op) or f"constant.{len(self.values)}"
        if name not in self.variables:
            self.variables[name] = relax.Var(f"p{len(self.variables)}", op.ty)
            self.values[name] = value_of(op)
        return self.variables[name]


def lift_constants(module: IRModule, table: ParameterTable) -> tuple[IRModule, dict[str, Array]]:
    """Return the module with its constants as parameters of `main`, and their values by name.

    Parameters come after the inputs, in the order of the returned dict.
    """
    lifter = _Lifter(module, table)
    main = module["main"]
    body = lifter.visit_expr(main.body)
    lifted = relax.Function(
        [*main.params, *lifter.variables.values()],
        body,
        main.ret_ty,
        is_pure=main.is_pure,
        attrs=main.attrs,
    ).with_attr("num_input", len(main.params))
    result = module.clone()
    result.update_func(module.get_global_var("main"), lifted)
    return result, {name: np.asarray(value) for name, value in lifter.values.items()}
