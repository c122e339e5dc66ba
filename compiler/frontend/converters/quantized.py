"""The marker of `compiler.frontend.quantized` in Relax."""

from __future__ import annotations

from typing import Any

from torch import fx

from compiler.frontend.converters.base import Converter, arguments
from compiler.frontend.quantized import MARKER
from schedules.tvm_adapter import IRModule, make_attributes, register_relax_operator, relax

_OPERATOR = register_relax_operator(f"tilewright.{MARKER}", lambda call, _builder: call.args[0].ty)


def _marker(node: fx.Node, importer: Any) -> Any:
    a = arguments(node, importer)
    attributes = {
        "scale": float(a["scale"]),
        "zero_point": int(a["zero_point"]),
        "dtype": str(a["dtype"]),
        "dynamic": int(a["dynamic"]),
    }
    call = relax.Call(_OPERATOR, [a["x"]], make_attributes(attributes))
    return importer.block_builder.emit(call)


@relax.expr_functor.mutator
class _Remover(relax.PyExprMutator):
    def visit_call_(self, op: Any) -> Any:
        call = self.visit_expr_post_order(op)
        return call.args[0] if call.op == _OPERATOR else call


def remove_markers(module: IRModule) -> IRModule:
    """The same module without markers, each replaced by what it marks."""
    variable = module.get_global_var("main")
    result = module.clone()
    result.update_func(variable, _Remover(module).visit_expr(module[variable]))
    return relax.transform.CanonicalizeBindings()(result)


CONVERTERS: dict[str, Converter] = {f"{MARKER}.default": _marker}
