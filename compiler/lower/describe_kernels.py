"""Facts about a lowered module for the report: its kernels, and its memory plan."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from compiler.lower.choose_kernels import ChosenKernel
from compiler.lower.graph import is_call_tir, is_constant
from compiler.lower.parameters import ParameterTable
from compiler.lower.prepare_weights import is_preparation
from compiler.lower.slower import slower_than_float
from compiler.stages import KernelInfo
from schedules.cpu import templates
from schedules.cpu.default import ScheduledFunction
from schedules.tvm_adapter import IRModule, ir, relax, tirx
from targets.spec import TargetSpec


def describe_kernels(
    module: IRModule,
    decisions: Iterable[ScheduledFunction],
    table: ParameterTable,
    chosen: Mapping[str, ChosenKernel],
    spec: TargetSpec,
) -> tuple[KernelInfo, ...]:
    """One description for each scheduled function of a module with `call_tir` calls.

    Sources are the modules whose parameters a kernel takes. Bytes are those of all operands
    and results of one call, as the calls in `main` show them; where shapes are symbolic,
    each unknown extent counts as one. Of a table that a kernel gathers from it is what it takes.
    """
    slower = {name: slower_than_float(k, spec) for name, k in chosen.items()}
    remarks = {name: templates.remark(k.workload, k.choice, spec) for name, k in chosen.items()}
    reads: dict[str, float] = {}
    gathered: dict[str, float] = {}
    writes: dict[str, float] = {}
    dtypes: dict[str, str] = {}
    sources: dict[str, list[str]] = defaultdict(list)
    calls: dict[str, int] = defaultdict(int)
    compact: dict[Any, Any] = {}  # what packed weights are made of
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not is_call_tir(call):
                continue
            operands = call.args[1].fields if isinstance(call.args[1], relax.Tuple) else []
            if is_preparation(module, call):
                compact[binding.var] = operands[0]
                continue
            name = str(call.args[0].name_hint)
            calls[name] += 1
            results = call.ty_args
            reads[name] = sum(tensor_bytes(a.ty) for a in operands)
            writes[name] = sum(tensor_bytes(ty) for ty in results)
            gathered[name] = sum(min(tensor_bytes(a.ty), writes[name]) for a in operands)
            dtypes[name] = _first_dtype(results)
            origins = [compact.get(a, a) for a in operands]
            owners = [owner_of(table.name_of(a)) for a in origins if is_constant(a)]
            sources[name] += [o for o in owners[:1] if o is not None]
    return tuple(
        KernelInfo(
            name=d.name,
            kind=d.kind,
            operators=d.operators,
            rule=d.rule,
            fallback=d.fallback,
            flops=_flops(d, chosen.get(d.name)),
            bytes_read=(gathered if d.kind == "gather" else reads).get(d.name, 0.0),
            bytes_written=writes.get(d.name, 0.0),
            dtype=_dtype(chosen.get(d.name), dtypes.get(d.name, "float32")),
            sources=tuple(sources.get(d.name, ())),
            why="; ".join(
                filter(None, [d.remark, remarks.get(d.name, ""), slower.get(d.name, "")])
            ),
            slower=slower.get(d.name, ""),
            calls=max(1, calls.get(d.name, 1)),
            **_origin(d, chosen.get(d.name)),
        )
        for d in decisions
    )


def _flops(function: ScheduledFunction, chosen: ChosenKernel | None) -> float:
    """Operations that the operator needs, whatever the algorithm and its padding really do."""
    if function.kind in ("layout", "gather"):
        return 0.0
    return function.flops if chosen is None else chosen.workload.flops


def _dtype(chosen: ChosenKernel | None, result: str) -> str:
    """Dtype of the arithmetic: the operands' for a heavy operator, whose result may be wider."""
    return result if chosen is None else chosen.workload.dtypes[0]


def _origin(function: ScheduledFunction, chosen: ChosenKernel | None) -> dict[str, Any]:
    """Where a kernel's schedule comes from, as fields of `KernelInfo`."""
    if function.fallback:
        return {"source": "fallback"}
    if chosen is None:
        return {"source": "rule"}
    selection = chosen.selection
    return {
        "source": "record" if selection.choice is not None else "default",
        "tier": selection.tier,
        "record": selection.record,
        "choice": chosen.choice,
        "miss": selection.why if selection.choice is None else "",
    }


def owner_of(parameter: str | None) -> str | None:
    """Module path of a parameter: ``layer1.0.conv1`` for ``layer1.0.conv1.weight.packed``."""
    if parameter is None:
        return None
    path = re.sub(r"(\.(packed|bias|weight|scale|shift)|#\d+)+$", "", parameter)
    return path or None


def planned_activation_bytes(module: IRModule) -> int:
    """Bytes of all storage that the static memory plan of `main` allocates; 0 if it is dynamic.

    Call after `LowerAllocTensor`: every storage is alive for the whole call.
    """
    total = 0
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, relax.Call) or not isinstance(call.op, ir.Op):
                continue
            if call.op.name != "relax.vm.alloc_storage":
                continue
            shape = call.args[0]
            if not isinstance(shape, relax.ShapeExpr):
                return 0
            if not all(isinstance(v, tirx.IntImm) for v in shape.values):
                return 0
            total += int(np.prod([int(v) for v in shape.values]))
    return total


def tensor_bytes(ty: Any) -> float:
    """Bytes of a tensor, or of all tensors of a tuple; unknown extents count as one."""
    if isinstance(ty, relax.TupleType):
        return sum(tensor_bytes(f) for f in ty.fields)
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return 0.0
    count = 1
    for value in ty.shape.values:
        count *= int(value) if isinstance(value, tirx.IntImm) else 1
    return float(count * _itemsize(str(ty.dtype)))


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else int(np.dtype(dtype).itemsize)


def _first_dtype(results: Any) -> str:
    for ty in results:
        if isinstance(ty, relax.TensorType):
            return str(ty.dtype)
        if isinstance(ty, relax.TupleType) and len(ty.fields):
            return _first_dtype(ty.fields)
    return "float32"
