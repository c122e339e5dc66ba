"""Names of the operators and tensors of a plain graph, by which a plan speaks of them.

A name is the path of the module that an operator came from, a colon, and the operator:
``layer1.0.conv1:conv2d``. Convolutions and matrix products are named by the parameter that
they read, so that folding batch normalization into them changes nothing. A name that is
taken already is made unique by ``#2``, ``#3`` … in the order of the graph. A tensor has the
name of the operator that gives it; an input of the model is ``input:`` and its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compiler.frontend.provenance import module_of
from schedules.tvm_adapter import GenericConst, IRModule, ir, relax, tirx

#: Operators that compute with a weight: their second argument.
WEIGHTED = frozenset({"nn.conv1d", "nn.conv2d", "nn.conv2d_transpose", "matmul"})

#: Gives the name of a constant of the module, None for one without.
NameOf = Callable[[Any], "str | None"]


@dataclass(frozen=True, slots=True)
class Site:
    """One operator of the plain graph.

    Attributes:
        name: Its name in a plan, and that of the tensor it gives.
        kind: Relax operator without ``relax.``; empty for what is no call of one.
        variable: The variable that it is bound to.
        value: The bound expression.
        data: Names of the activations that it reads, in the order of its arguments.
    """

    name: str
    kind: str
    variable: Any
    value: Any
    data: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlainGraph:
    """The operators of a plain graph, by name and in order.

    Attributes:
        function: The Relax function.
        sites: Its operators.
        names: Names of the variables, inputs included.
        inputs: Names of the input tensors.
        outputs: Names of the tensors that the model returns.
        constants: Names of the constants' parameters.
    """

    function: Any
    sites: tuple[Site, ...]
    names: dict[Any, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: NameOf

    def by_name(self) -> dict[str, Site]:
        """The operators by name."""
        return {site.name: site for site in self.sites}

    def readers(self) -> dict[str, tuple[Site, ...]]:
        """The operators that read a tensor, by its name, in order."""
        found: dict[str, list[Site]] = {}
        for site in self.sites:
            for name in dict.fromkeys(site.data):
                found.setdefault(name, []).append(site)
        return {name: tuple(sites) for name, sites in found.items()}


def plain_graph(module: Any, name_of: NameOf) -> PlainGraph:
    """Name the operators of ``main`` of a plain graph.

    Args:
        module: The module after `DecomposeOpsForInference`, before any layout is chosen.
        name_of: Gives the parameter's name of a constant, as `ParameterTable.name_of`.
    """
    function = _without_splits(module)
    taken: set[str] = set()
    names: dict[Any, str] = {}

    def unique(name: str) -> str:
        result, number = name, 1
        while result in taken:
            number += 1
            result = f"{name}#{number}"
        taken.add(result)
        return result

    for parameter in function.params:
        names[parameter] = unique(f"input:{variable_name(parameter)}")
    inputs = tuple(names.values())
    sites: list[Site] = []
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            kind = operator_name(value)
            data = tuple(names[v] for v in operands(value))
            if not kind and isinstance(value, relax.Var):
                names[binding.var] = names[value]  # another name of the same tensor
                continue
            operator = kind.rpartition(".")[2] or type(value).__name__.lower()
            name = unique(f"{_path(binding.var, value, kind, name_of)}:{operator}")
            names[binding.var] = name
            sites.append(Site(name, kind, binding.var, value, data))
    outputs = tuple(names[v] for v in operands(function.body.body))
    return PlainGraph(function, tuple(sites), names, inputs, outputs, name_of)


@relax.expr_functor.mutator
class _Slices(relax.PyExprMutator):
    """Takes the parts of splits apart."""

    def __init__(self, module: IRModule, splits: Mapping[Any, Any]) -> None:
        super().__init__(module)
        self.splits = splits

    def visit_tuple_getitem_(self, op: Any) -> Any:
        """A slice in place of a part of a split."""
        split = self.splits.get(op.tuple_value)
        if split is None:
            return super().visit_tuple_getitem_(op)
        return self.builder_.normalize(_slice(self.visit_expr(split.args[0]), split, int(op.index)))


def _without_splits(module: IRModule) -> Any:
    """``main`` with a slice of its own for each part of a split that is read.

    A plan speaks of tensors, not of tuples of them.
    """
    function = module["main"]
    splits = {
        binding.var: binding.value
        for block in function.body.blocks
        for binding in block.bindings
        if operator_name(binding.value) == "split" and _known_parts(binding.value)
    }
    if not splits:
        return function
    return relax.analysis.remove_all_unused(_Slices(module, splits).visit_expr(function))


def _known_parts(split: Any) -> bool:
    shape = split.args[0].ty.shape.values
    return isinstance(shape[int(split.attrs.axis) % len(shape)], tirx.IntImm)


def _slice(data: Any, split: Any, index: int) -> Any:
    shape, parts = data.ty.shape.values, split.attrs.indices_or_sections
    axis = int(split.attrs.axis) % len(shape)
    extent = int(shape[axis])
    if hasattr(parts, "__len__"):
        edges = [0, *(int(v) for v in parts), extent]
    else:
        step = -(-extent // int(parts))
        edges = [min(i * step, extent) for i in range(int(parts) + 1)]
    return relax.op.strided_slice(data, [axis], [edges[index]], [edges[index + 1]])


def operator_name(expr: Any) -> str:
    """Name of the operator of a call without ``relax.``; empty for anything else."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
        return str(expr.op.name).removeprefix("relax.")
    return ""


def variable_name(variable: Any) -> str:
    """A variable's own name, which need not be unique."""
    return str(getattr(variable, "name_hint", None) or variable.name)


def operands(value: Any) -> Iterator[Any]:
    """The variables that an expression reads, in order, each as often as it is read."""
    if isinstance(value, relax.Var):
        yield value
    elif isinstance(value, relax.Call):
        for argument in value.args:
            yield from operands(argument)
    elif isinstance(value, relax.Tuple):
        for element in value.fields:
            yield from operands(element)
    elif isinstance(value, relax.TupleGetItem):
        yield from operands(value.tuple_value)


def _path(variable: Any, value: Any, kind: str, name_of: NameOf) -> str:
    """The module path of an operator, as far as it is known."""
    constants = [
        name.partition("#")[0].rpartition(".")[0]
        for argument in getattr(value, "args", [])
        if isinstance(argument, GenericConst) and (name := name_of(argument))
    ]
    if kind in WEIGHTED and constants:
        return constants[0]
    path = module_of(variable_name(variable))
    if path is None:
        return constants[0] if constants else ""
    return path


__all__ = ["WEIGHTED", "PlainGraph", "Site", "operands", "operator_name", "plain_graph"]
