"""PrepareWeights: weights that `main` packs become packed parameters of `main`.

`choose_kernels` has put a call of a packing function in front of kernels whose packed weight is
much larger than the weight. Here the call leaves `main`: whoever loads the model makes it, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler.lower.graph import is_call_tir, static_shape
from compiler.stages import Prepared
from schedules.cpu.annotations import PREPARES
from schedules.tvm_adapter import IRModule, relax, tirx


def is_preparation(module: IRModule, expr: Any) -> bool:
    """Whether an expression calls a function that packs a weight when a model is loaded."""
    if not is_call_tir(expr):
        return False
    callee = module[expr.args[0]]
    if not isinstance(callee, tirx.PrimFunc) or callee.attrs is None:
        return False
    return bool(callee.attrs.get(PREPARES))


@relax.expr_functor.mutator
class _Remover(relax.PyExprMutator):
    """Puts parameters in the place of variables, and drops what these were bound to."""

    def __init__(self, module: IRModule, replaced: dict[Any, Any]) -> None:
        super().__init__(module)
        self.replaced = replaced

    def visit_var_binding_(self, binding: Any) -> None:
        if binding.var not in self.replaced:
            super().visit_var_binding_(binding)

    def visit_dataflow_var_(self, op: Any) -> Any:
        return self.replaced.get(op, op) if op in self.replaced else super().visit_dataflow_var_(op)

    def visit_var_(self, op: Any) -> Any:
        return self.replaced[op] if op in self.replaced else super().visit_var_(op)


def prepare_weights(
    module: IRModule, names: Sequence[str]
) -> tuple[IRModule, tuple[Prepared, ...]]:
    """Apply the pass, after `lift_constants`.

    Args:
        module: `main` takes the inputs, then the parameters.
        names: Of the parameters, in order.

    Returns:
        The module, whose `main` takes packed weights, and which they are, in their order.
    """
    main = module["main"]
    parameters = list(main.params)
    first = len(parameters) - len(names)
    replaced: dict[Any, Any] = {}
    prepared: dict[int, Prepared] = {}
    for block in main.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not is_preparation(module, call):
                continue
            (compact,) = call.args[1].fields
            place = next(i for i, p in enumerate(main.params) if p.same_as(compact))
            if place not in prepared:
                parameters[place] = relax.Var(str(compact.name), binding.var.ty)
            replaced[binding.var] = parameters[place]
            prepared[place] = Prepared(
                parameter=names[place - first],
                function=str(call.args[0].name_hint),
                shape=tuple(static_shape(binding.var) or ()),
                dtype=str(binding.var.ty.dtype),
            )
    if not replaced:
        return module, ()
    body = _Remover(module, replaced).visit_expr(main.body)
    function = relax.Function(parameters, body, main.ret_ty, is_pure=main.is_pure, attrs=main.attrs)
    result = module.clone()
    result.update_func(module.get_global_var("main"), function)
    return result, tuple(prepared[place] for place in sorted(prepared))


__all__ = ["is_preparation", "prepare_weights"]
