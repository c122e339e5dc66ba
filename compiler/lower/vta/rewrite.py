"""Puts calls of VTA programs in the place of the regions that were cut out of a graph."""

from __future__ import annotations

from typing import Any

from compiler.compress.sites import PlainGraph, Site, operands
from compiler.lower.vta.partition import Cut, Partition
from compiler.stages import VTA_FUNCTION
from schedules.tvm_adapter import IRModule, relax


def call_programs(module: IRModule, graph: PlainGraph, parts: Partition) -> IRModule:
    """The module whose `main` calls ``VTA_FUNCTION`` with a number behind it for each region.

    A call takes the region's inputs and gives its outputs, as the graph has them: int8, all
    images of the batch at once.
    """
    builder = relax.BlockBuilder()
    rewriter = _Rewriter(graph, builder)
    function = graph.function
    attributes = dict(function.attrs.items()) if function.attrs is not None else {}
    attributes.pop("global_symbol", None)  # the builder sets it
    with builder.function("main", list(function.params), attrs=attributes):
        with builder.dataflow():
            for part in _in_order(graph, parts):
                if isinstance(part, Cut):
                    rewriter.call(part, parts.cuts.index(part))
                else:
                    rewriter.copy(part)
            result = builder.emit_output(rewriter.substitute(function.body.body))
        builder.emit_func_output(result)
    changed = module.clone()
    changed.update_func(module.get_global_var("main"), builder.get()["main"])
    return relax.transform.DeadCodeElimination(["main"])(changed)


def _in_order(graph: PlainGraph, parts: Partition) -> list[Cut | Site]:
    """Operators of the host and regions, so that each comes after what it reads."""
    steps: list[tuple[int, int, Cut | Site]] = [(cut.level, -1, cut) for cut in parts.cuts]
    held = {site.name for cut in parts.cuts for unit in cut.units for site in unit.sites}
    for index, site in enumerate(graph.sites):
        if site.name not in held:
            steps.append((parts.levels[site.name], index, site))
    return [step for _, _, step in sorted(steps, key=lambda s: s[:2])]


class _Rewriter:
    def __init__(self, graph: PlainGraph, builder: Any) -> None:
        self.graph, self.builder = graph, builder
        self.types = {name: variable.ty for variable, name in graph.names.items()}
        self.new: dict[str, Any] = {
            graph.names[parameter]: parameter for parameter in graph.function.params
        }

    def copy(self, site: Site) -> None:
        """An operator of the host; one that reads the inside of a layer is needed by nobody."""
        if all(self.graph.names[v] in self.new for v in operands(site.value)):
            value = self.substitute(site.value)
            self.new[site.name] = self.builder.emit(value, str(site.variable.name))

    def call(self, cut: Cut, number: int) -> None:
        """The call of a region's program."""
        given = relax.Tuple([self.new[border.name] for border in cut.inputs])
        types = [self.types[border.name] for border in cut.outputs]
        name = f"{VTA_FUNCTION}{number}"
        single = len(types) == 1
        call = relax.call_dps_packed(name, given, types[0] if single else types)
        result = self.builder.emit(call, f"vta{number}")
        for i, border in enumerate(cut.outputs):
            value = result if single else self.builder.emit(relax.TupleGetItem(result, i))
            self.new[border.name] = value

    def substitute(self, expr: Any) -> Any:
        """An expression on the new variables."""
        if isinstance(expr, relax.Var):
            return self.new[self.graph.names[expr]]
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.substitute(v) for v in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.substitute(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            arguments = [self.substitute(v) for v in expr.args]
            return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
        return expr


__all__ = ["call_programs"]
