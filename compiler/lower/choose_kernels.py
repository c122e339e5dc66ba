"""ChooseKernels: canonical definitions become the kernels that are built.

Fusion has put a canonical operator and its epilogue into one group. For each group a selector
says which choice serves it (a tuning record's, or the default); the operator's definition is
replaced by that choice's, and its constant weight is packed for it. A weight that packing would
make much larger is kept compact: `main` calls a function that packs it, until `prepare_weights`
takes the call out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compiler.lower.graph import is_call_tir, is_constant, shape_of
from compiler.lower.parameters import ParameterTable, value_of
from schedules.cpu import templates
from schedules.cpu.annotations import PREPARES, WORKLOAD
from schedules.cpu.compute.canonical import placeholders
from schedules.cpu.preparation import KernelTransform
from schedules.selection import Selection, Selector
from schedules.space import Choice
from schedules.tvm_adapter import IRModule, relax, structural_hash, te, tirx
from schedules.weights import weight_operands
from schedules.workload import Workload
from targets.spec import TargetSpec

OUT_ELEMENTWISE_FUSABLE = 4
#: Position of the weight's first operand among a canonical function's arguments.
WEIGHT = 1


@dataclass(frozen=True)
class ChosenKernel:
    """What was decided for one function.

    Attributes:
        workload: What it computes, its epilogue included.
        choice: What it was built with.
        selection: What the selector said.
    """

    workload: Workload
    choice: Choice
    selection: Selection


@dataclass(frozen=True)
class Group:
    """A fused function with a tunable operator in it.

    Attributes:
        variable: The global variable of the fused function.
        heart: The global variable of the canonical operator.
        workload: The operator with its epilogue.
        weights: Which parameters of the fused function are the operands of the operator's
            weight; empty if there is none.
    """

    variable: Any
    heart: Any
    workload: Workload
    weights: tuple[int, ...]


def find_groups(module: IRModule) -> list[Group]:
    """The groups of a module after `FuseOps`, canonical functions that stand alone included."""
    groups = []
    for variable, function in sorted(
        module.functions_items(), key=lambda item: str(item[0].name_hint)
    ):
        if isinstance(function, relax.Function) and _is_primitive(function):
            group = _describe_group(module, variable, function)
            if group is not None:
                groups.append(group)
        else:
            workload = _workload(function)
            if workload is not None:
                count = len(weight_operands(workload))
                groups.append(
                    Group(variable, variable, workload, tuple(range(WEIGHT, WEIGHT + count)))
                )
    return groups


def choose_kernels(
    module: IRModule, table: ParameterTable, spec: TargetSpec, select: Selector
) -> tuple[IRModule, dict[str, ChosenKernel]]:
    """Apply the pass; returns the module and what was chosen for each function, by name."""
    groups = {g.variable: g for g in find_groups(module)}
    called = {v for call in _calls(module["main"]) for v in _callees(call)}
    chosen: dict[str, ChosenKernel] = {}
    replaced: dict[Any, tuple[Any, Group, Choice]] = {}
    for variable, group in groups.items():
        if variable not in called:
            continue
        selection = select(group.workload.tuned_as, spec)
        choice = selection.choice or templates.default_choice(group.workload, spec)
        module, new = replace_heart(module, group, choice, spec)
        name = str(new.name_hint)
        chosen[name] = ChosenKernel(group.workload, choice, selection)
        replaced[variable] = (new, group, choice)
    rewriter = _MainRewriter(module, table, spec, replaced)
    main = module.get_global_var("main")
    function = rewriter.visit_expr(module[main])
    result = rewriter.builder_.get()
    result.update_func(main, function)
    return relax.transform.DeadCodeElimination(["main"])(result), chosen


def replace_heart(
    module: IRModule, group: Group, choice: Choice, spec: TargetSpec
) -> tuple[IRModule, Any]:
    """The module with one more fused function, which computes as `choice` says.

    Returns it and the new function's variable; the old function stays.
    """
    kernel = kernel_function(group.workload, choice, spec)
    builder = relax.BlockBuilder(module.clone())
    if group.variable.same_as(group.heart):
        new = builder.add_func(kernel, str(group.variable.name_hint))
        return builder.get(), new
    heart = builder.add_func(kernel, str(group.heart.name_hint))
    old = module[group.variable]
    parameters = list(old.params)
    mapping: dict[Any, Any] = {}
    more: list[Any] = []
    if _is_packed(group.workload):
        types = templates.packed(group.workload, choice, spec)
        for i, (shape, dtype) in enumerate(types):
            plain = old.params[group.weights[min(i, len(group.weights) - 1)]]
            packed = relax.Var(str(plain.name), relax.TensorType(shape, dtype))
            if i < len(group.weights):
                parameters[group.weights[i]] = mapping[plain] = packed
            else:  # a packed weight may have parts that the plain one has not
                more.append(packed)
    parameters += more
    rewriter = _GroupRewriter(group.heart, heart, mapping, WEIGHT + len(group.weights), more)
    body = rewriter.visit_expr(old.body)
    function = relax.Function(parameters, body, old.ret_ty, is_pure=old.is_pure, attrs=old.attrs)
    new = builder.add_func(function, str(group.variable.name_hint))
    return builder.get(), new


def kernel_function(workload: Workload, choice: Choice, spec: TargetSpec) -> Any:
    """The TIR function of a choice, not scheduled yet: data, packed weight, output."""
    tensors = placeholders(workload, templates.packed(workload, choice, spec))
    output = templates.compute(workload, choice, spec, *tensors)
    function = te.create_prim_func([*tensors, output], index_dtype_override="int64")
    return function.without_attr("global_symbol").with_attrs(
        {"op_pattern": OUT_ELEMENTWISE_FUSABLE, "tirx.noalias": True}
    )


def _is_packed(workload: Workload) -> bool:
    """Whether the weight is a constant that is packed; else packing happens inside the kernel."""
    return bool(workload.weight) and workload.operator != "batch_matmul"


@relax.expr_functor.mutator
class _GroupRewriter(relax.PyExprMutator):
    """Calls another definition of the heart, on other parameters, in a fused function.

    Args:
        heart: The old definition's variable.
        new_heart: The new one's.
        mapping: New parameters by the old ones.
        place: Where `more` goes among the heart's operands.
        more: Further operands of the heart.
    """

    def __init__(
        self, heart: Any, new_heart: Any, mapping: dict[Any, Any], place: int, more: list[Any]
    ) -> None:
        super().__init__()
        self.heart, self.new_heart, self.mapping = heart, new_heart, mapping
        self.place, self.more = place, more

    def visit_call_(self, op: Any) -> Any:
        is_heart = is_call_tir(op) and op.args[0].same_as(self.heart)
        call = super().visit_call_(op)
        if not is_heart or not self.more:
            return call
        operands = list(call.args[1].fields)
        operands[self.place : self.place] = self.more
        return relax.Call(call.op, [call.args[0], relax.Tuple(operands)], call.attrs, call.ty_args)

    def visit_global_var_(self, op: Any) -> Any:
        return self.new_heart if op.same_as(self.heart) else op

    def visit_var_(self, op: Any) -> Any:
        return self.mapping.get(op, op)


@relax.expr_functor.mutator
class _MainRewriter(relax.PyExprMutator):
    """Calls the chosen functions from `main`, on packed weights."""

    def __init__(
        self,
        module: IRModule,
        table: ParameterTable,
        spec: TargetSpec,
        replaced: dict[Any, tuple[Any, Group, Choice]],
    ) -> None:
        super().__init__(module)
        self.table, self.spec, self.replaced = table, spec, replaced
        self.packed: dict[tuple[str, ...], list[Any]] = {}
        self.preparations: dict[str, Any] = {}
        self.compact: dict[tuple[str, ...], tuple[Any, KernelTransform]] = {}

    def visit_dataflow_block_(self, block: Any) -> Any:
        for key in self.compact:  # another block's variables are not seen from here
            self.packed.pop(key, None)
        return super().visit_dataflow_block_(block)

    def visit_call_(self, op: Any) -> Any:
        direct = is_call_tir(op)
        found = self.replaced.get(op.args[0] if direct else op.op)
        if found is None:
            return super().visit_call_(op)
        new, group, choice = found
        arguments = [self.visit_expr(a) for a in (op.args[1].fields if direct else op.args)]
        if _is_packed(group.workload):
            plain = [arguments[i] for i in group.weights]
            packed = self._pack(plain, group.workload, choice)
            for i, value in zip(group.weights, packed, strict=False):
                arguments[i] = value
            more = packed[len(group.weights) :]
            place = WEIGHT + len(group.weights) if direct else len(arguments)
            arguments[place:place] = more
        if direct:
            return relax.Call(op.op, [new, relax.Tuple(arguments)], op.attrs, op.ty_args)
        return relax.Call(new, arguments, op.attrs, op.ty_args)

    def _pack(self, weight: list[Any], workload: Workload, choice: Choice) -> list[Any]:
        if not all(is_constant(v) for v in weight):
            raise TypeError(f"the weight of {workload} is no constant")
        known = [self.table.name_of(v) for v in weight]
        # Constants without a name are told apart by where they are.
        identity = [n or f"@{v.value.data_ptr()}" for n, v in zip(known, weight, strict=True)]
        key = (*identity, json.dumps(choice, sort_keys=True), workload.weight_encoding)
        if key in self.packed:
            return self.packed[key]
        transform = templates.preparation(workload, choice, self.spec)
        if transform is not None:
            if key not in self.compact:
                compact = transform.pack(value_of(weight[0]))
                constant = self.table.constant(compact, f"{known[0] or 'weight'}.packed")
                self.compact[key] = constant, transform
            self.packed[key] = [self._prepare(*self.compact[key])]
        else:
            values = templates.pack(workload, choice, self.spec, *map(value_of, weight))
            names = [*known, *(f"{known[0] or 'weight'}.more" for _ in values[len(known) :])]
            self.packed[key] = [
                self.table.constant(value, f"{name or 'weight'}.packed")
                for value, name in zip(values, names, strict=True)
            ]
        return self.packed[key]

    def _prepare(self, compact: Any, transform: KernelTransform) -> Any:
        """The call that packs a weight, of one function for all equal transforms."""
        shape, dtype = transform.packed
        function = transform.function(self.spec).with_attr(PREPARES, True)
        same = structural_hash(function)
        if same not in self.preparations:
            self.preparations[same] = self.builder_.add_func(function, "prepare_weight")
        ty = relax.TensorType(shape, dtype)
        call = relax.call_tir(self.preparations[same], relax.Tuple([compact]), ty)
        return self.builder_.emit(call)


def _describe_group(module: IRModule, variable: Any, function: Any) -> Group | None:
    """The group of a fused function, None if no tunable operator is in it."""
    heart: Any = None
    workload: Workload | None = None
    weights: tuple[int, ...] = ()
    epilogue: list[str] = []
    for call in _calls(function):
        if not is_call_tir(call):
            continue
        callee = call.args[0]
        described = _workload(module[callee])
        if heart is not None:
            epilogue.append(_epilogue_name(callee, call))
        elif described is not None:
            heart, workload = callee, described
            operands = list(call.args[1].fields)
            weights = tuple(
                i
                for operand in operands[WEIGHT : WEIGHT + len(weight_operands(workload))]
                for i, p in enumerate(function.params)
                if p.same_as(operand)
            )
    if workload is None:
        return None
    return Group(variable, heart, workload.with_epilogue(tuple(epilogue)), weights)


def _epilogue_name(callee: Any, call: Any) -> str:
    """An operator's name without TVM's number, and what other tensor it reads if it reads one."""
    name = re.sub(r"_?\d+$", "", str(callee.name_hint))
    operands = list(call.args[1].fields)
    shape = shape_of(call)
    others = [v for v in operands[1:] if not is_constant(v) and shape_of(v) == shape]
    return f"{name}:tensor" if others else name


def _workload(function: Any) -> Workload | None:
    if not isinstance(function, tirx.PrimFunc) or function.attrs is None:
        return None
    text = function.attrs.get(WORKLOAD)
    return None if text is None else Workload.from_json(json.loads(str(text)))


def _is_primitive(function: Any) -> bool:
    return function.attrs is not None and bool(function.attrs.get("Primitive"))


def _calls(function: Any) -> Iterator[Any]:
    for block in function.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                yield binding.value


def _callees(call: Any) -> list[Any]:
    return [call.args[0]] if is_call_tir(call) else [call.op]
