"""Tuning tasks: the distinct kernels of a model, each able to stand alone.

A task holds a small module, the canonical operator fused with its epilogue, so that a worker
process, perhaps on another machine, can build any choice for it, and the reference that the
choice's output is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from compiler.compress.plan import CompressionPlan
from compiler.lower.choose_kernels import Group, find_groups, replace_heart
from compiler.lower.describe_kernels import tensor_bytes
from compiler.lower.graph import is_call_tir
from compiler.lower.parameters import Array
from compiler.lower.pipeline import Lowering, check_dtypes, graph_passes, run_steps
from compiler.stages import Imported, StageLog
from schedules.cpu import templates
from schedules.cpu.annotations import IS_SCHEDULED
from schedules.cpu.default import schedule_function
from schedules.space import Choice
from schedules.tvm_adapter import (
    IRModule,
    Schedule,
    load_json,
    relax,
    save_json,
    structural_hash,
    tirx,
)
from schedules.tvm_adapter import target as tvm_target
from schedules.weights import encoding_of, weight_operands
from schedules.workload import LEAST, SUM_BITS, Workload
from targets.spec import TargetSpec

Role = Literal["data", "weight", "extra", "output"]


@dataclass(frozen=True)
class ArgumentSpec:
    """An argument of a task's functions, in the canonical layout.

    Attributes:
        name: Its name in the function.
        shape: Its shape.
        dtype: Its dtype.
        role: ``data`` or ``weight`` of the operator, an ``extra`` operand of the epilogue, or
            an ``output``, which the function writes.
        codes: Of a weight of codes, all that there are; empty for any number of the dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    codes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """One kernel to tune.

    Attributes:
        name: Name of the function, for people.
        workload: What it computes.
        calls: How often one run of the model calls it.
        flops: Arithmetic operations of one call of the operator.
        bytes: Bytes of all operands and results of one call.
        structural_hash: TVM's structural hash of the canonical function, a hint.
        module: The fused function ``group`` and what it calls.
    """

    name: str
    workload: Workload
    calls: int
    flops: float
    bytes: float
    structural_hash: str
    module: IRModule

    def to_json(self) -> str:
        """The task as a JSON text that `from_json` reads, on this or another machine."""
        return json.dumps(
            {
                "name": self.name,
                "workload": self.workload.to_json(),
                "calls": self.calls,
                "flops": self.flops,
                "bytes": self.bytes,
                "structural_hash": self.structural_hash,
                "module": save_json(self.module),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task in a text that `to_json` made."""
        fields = json.loads(text)
        fields["workload"] = Workload.from_json(fields["workload"])
        fields["module"] = load_json(fields["module"])
        return cls(**fields)


def extract_tasks(
    imported: Imported,
    target: TargetSpec,
    log: StageLog,
    *,
    precision: str = "float32",
    plan: CompressionPlan | None = None,
) -> tuple[Task, ...]:
    """The distinct kernels of a model that can be tuned, those with most operations first.

    Kernels of symbolic shapes are left out: there is nothing to measure them on.

    Raises:
        ModelError: The model holds a dtype that there are no kernels for.
    """
    check_dtypes(imported, target)
    state = Lowering(imported, target, precision=precision, plan=plan)
    module = run_steps(graph_passes(state), imported.module, target, log)
    calls: dict[Any, int] = {}
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call):
                callee = call.args[0] if is_call_tir(call) else call.op
                calls[callee] = calls.get(callee, 0) + 1
    tasks: dict[str, Task] = {}
    for group in find_groups(module):
        count = calls.get(group.variable, 0)
        if count == 0 or not group.workload.is_static:
            continue
        key = group.workload.tuned_as.key
        if key in tasks:
            known = tasks[key]
            tasks[key] = Task(**{**_fields(known), "calls": known.calls + count})
        else:
            tasks[key] = _make_task(module, group, count)
    return tuple(sorted(tasks.values(), key=lambda t: (-t.flops * t.calls, t.workload.key)))


def build_candidate(task: Task, choice: Choice, spec: TargetSpec) -> Any:
    """The scheduled function of a choice, called ``main``.

    Its arguments are those of `arguments`, in order, the weight packed (`pack_arguments`).

    Raises:
        ValueError: The choice is none of the task's on this target, or no schedule rule but
            the generic fallback takes it.
    """
    reason = templates.refusal(task.workload, choice, spec)
    if reason is not None:
        raise ValueError(f"{task.workload}: {reason}")
    with tvm_target.Target(spec.tvm_dict()):
        group = _only_group(task)
        module, variable = replace_heart(task.module, group, choice, spec)
        fused = _fuse(module, variable)
        function, decision = schedule_function(fused, "main", spec)
    if decision.fallback:
        raise ValueError(f"{task.workload}: only the fallback fits: {decision.remark}")
    return function.with_attr(IS_SCHEDULED, True)


def reference(task: Task) -> Any:
    """The canonical function, called ``main``, in plain loops with the outermost in parallel.

    Its arguments are those of `arguments`, in order.
    """
    group = _only_group(task)
    sch = Schedule(_fuse(task.module, group.variable))
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        loops = sch.get_loops(block)
        if loops:
            spatial = [
                loop
                for loop, v in zip(loops, sch.get(block).iter_vars, strict=True)
                if v.iter_type == tirx.IterVar.DataPar
            ]
            if spatial:
                sch.parallel(sch.fuse(*spatial) if spatial == loops[: len(spatial)] else spatial[0])
    function = sch.mod["main"].with_attr("global_symbol", "main")
    return function.with_attr(IS_SCHEDULED, True)


def arguments(task: Task) -> tuple[ArgumentSpec, ...]:
    """The arguments of the task's functions, in order, with the weight in its plain layout."""
    group = _only_group(task)
    function = task.module[group.variable]
    if isinstance(function, tirx.PrimFunc):
        function = _call_alone(group.variable, task.workload)
    roles = _roles(task, group, function)
    packing = encoding_of(task.workload).packing
    first = group.weights[:1]
    found = [
        ArgumentSpec(
            str(p.name),
            _shape(p.ty),
            str(p.ty.dtype),
            role,
            (packing.codes if packing else _bytes(task.workload)) if i in first else (),
        )
        for i, (p, role) in enumerate(zip(function.params, roles, strict=True))
    ]
    results = function.ret_ty
    outputs = list(results.fields) if isinstance(results, relax.TupleType) else [results]
    found += [
        ArgumentSpec(f"output{i}", _shape(ty), str(ty.dtype), "output")
        for i, ty in enumerate(outputs)
    ]
    return tuple(found)


def _bytes(workload: Workload) -> tuple[int, ...]:
    """The weights of 8 bits that candidates of a workload are promised; empty for other weights.

    Some kernels take no -128, which the integer recipe never gives, or no weights whose sums
    could be larger than those of the network.
    """
    if not workload.is_integer or workload.dtypes[1] != "int8":
        return ()
    if workload.operator == "batch_matmul":
        return ()
    most = 128
    if SUM_BITS in workload.attributes:
        products = prod(int(v) for v in workload.weight[1:])
        most = min(most, ((1 << (int(workload.attributes[SUM_BITS]) - 1)) - 1) // (255 * products))
    least = -128 if LEAST in workload.attributes else -127
    return tuple(range(max(least, -most), min(most, 127) + 1))


def pack_arguments(
    task: Task, choice: Choice, spec: TargetSpec, arrays: Sequence[Array]
) -> list[Array]:
    """Arguments in the canonical layout as the function of a choice takes them."""
    result = list(arrays)
    places = _only_group(task).weights
    if places and task.workload.operator != "batch_matmul":
        packed = templates.pack(task.workload, choice, spec, *(arrays[i] for i in places))
        for i, array in zip(places, packed, strict=False):
            result[i] = array
        result += packed[len(places) :]  # parts that the plain weight has not
    return result


def _make_task(module: IRModule, group: Group, calls: int) -> Task:
    function = module[group.variable]
    alone = IRModule({group.variable: function})
    if isinstance(function, relax.Function):
        for block in function.body.blocks:
            for binding in block.bindings:
                if is_call_tir(binding.value):
                    callee = binding.value.args[0]
                    alone.update_func(callee, module[callee])
        operands = [p.ty for p in function.params]
        size = sum(tensor_bytes(ty) for ty in [*operands, function.ret_ty])
    else:
        w = group.workload
        size = float(
            sum(
                prod(int(v) for v in shape) * _ITEM_BYTES[dtype]
                for shape, dtype in ((w.data, w.dtypes[0]), *weight_operands(w),
                                     (w.output, w.dtypes[2]))
            )
        )  # fmt: skip
    return Task(
        name=str(group.variable.name_hint),
        workload=group.workload.tuned_as,
        calls=calls,
        flops=group.workload.flops,
        bytes=size,
        structural_hash=structural_hash(_fuse(alone, group.variable)),
        module=alone,
    )


_ITEM_BYTES: Mapping[str, int] = {
    "float32": 4, "int32": 4, "uint32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1,
    "float64": 8, "int64": 8,
}  # fmt: skip


def _fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in Task.__dataclass_fields__}


def _only_group(task: Task) -> Group:
    """The group of a task, its epilogue as the task has it."""
    groups = find_groups(task.module)
    fused = [g for g in groups if not g.variable.same_as(g.heart)]
    return (fused or groups)[0]


def _call_alone(variable: Any, workload: Workload) -> Any:
    """A Relax function that calls an operator with no epilogue."""
    data = relax.Var("data", relax.TensorType([int(v) for v in workload.data], workload.dtypes[0]))
    operands = [data]
    for name, (shape, dtype) in zip(("weight", "scales"), weight_operands(workload), strict=False):
        operands.append(relax.Var(name, relax.TensorType([int(v) for v in shape], dtype)))
    result = relax.TensorType([int(v) for v in workload.output], workload.dtypes[2])
    call = relax.call_tir(variable, operands, result)
    return relax.Function(operands, call, result)


def _roles(task: Task, group: Group, function: Any) -> list[Role]:
    data = 0
    if isinstance(task.module[group.variable], relax.Function):
        for block in function.body.blocks:
            for binding in block.bindings:
                call = binding.value
                if is_call_tir(call) and call.args[0].same_as(group.heart):
                    first = call.args[1].fields[0]
                    places = [i for i, p in enumerate(function.params) if p.same_as(first)]
                    data = places[0] if places else 0
    return [
        "data" if i == data else "weight" if i in group.weights else "extra"
        for i in range(len(function.params))
    ]


def _fuse(module: IRModule, variable: Any) -> Any:
    """The TIR function of a group: its operators in one function."""
    function = module[variable]
    if isinstance(function, tirx.PrimFunc):
        return function
    builder = relax.BlockBuilder(module.clone())
    inputs = [relax.Var(str(p.name), p.ty) for p in function.params]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(relax.Call(variable, inputs))
        builder.emit_func_output(result)
    fused = relax.transform.FuseTIR()(builder.get())
    return fused[str(variable.name_hint)]


def _shape(ty: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in ty.shape.values)
