"""The pass: the quantizer with the handlers of every precision."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.compress.apply import attention, binary, compressed, tensors, weighted
from compiler.compress.apply.quantizer import Applied, Constants, Handler, Quantizer
from compiler.compress.plan import CompressionPlan
from compiler.compress.sites import plain_graph
from schedules.tvm_adapter import IRModule, relax

#: By precision and Relax operator. A new precision is a file beside this one with a table of
#: its own, joined here.
HANDLERS: Mapping[tuple[str, str], Handler] = {
    **weighted.HANDLERS, **tensors.HANDLERS, **attention.HANDLERS, **binary.HANDLERS,
    **compressed.HANDLERS,
}  # fmt: skip


def apply_plan(
    module: IRModule, constants: Constants, plan: CompressionPlan
) -> tuple[IRModule, Applied]:
    """Apply the pass to `main` of a plain graph, whose parameters are constants.

    Raises:
        PlanError: The plan asks for what the operator cannot do, or its sums would have more
            than 32 bits.
    """
    graph = plain_graph(module, constants.name_of)
    plan.check_operators(site.name for site in graph.sites)
    quantizer = Quantizer(graph, constants, plan, HANDLERS)
    function = quantizer.rewrite()
    result = module.clone()
    result.update_func(module.get_global_var("main"), function)
    return relax.transform.DeadCodeElimination(["main"])(result), quantizer.applied
