"""Small Relax functions for tests of passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.lower.parameters import ParameterTable
from schedules.tvm_adapter import IRModule, relax


def module_of(build: Callable[[Any, ParameterTable, Any], Any], *shapes: tuple[int, ...]) -> Any:
    """A module whose `main` is what `build(block_builder, table, inputs)` emits."""
    table = ParameterTable()
    bb = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    with bb.function("main", inputs):
        with bb.dataflow():
            result = bb.emit_output(build(bb, table, inputs))
        bb.emit_func_output(result)
    return bb.get(), table


def operators(module: IRModule) -> list[str]:
    """Names of the operators that `main` calls, in order."""
    values = [b.value for block in module["main"].body.blocks for b in block.bindings]
    return [str(v.op.name).removeprefix("relax.") for v in values if isinstance(v, relax.Call)]


def constants_of(module: IRModule) -> list[np.ndarray[Any, Any]]:
    """Values of the constants in `main`, in the order of their first use."""
    from compiler.lower.parameters import value_of
    from schedules.tvm_adapter import GenericConst

    found: list[np.ndarray[Any, Any]] = []

    def visit(expr: Any) -> None:
        if isinstance(expr, GenericConst):
            found.append(value_of(expr))

    relax.analysis.post_order_visit(module["main"], visit)
    return found


def evaluate(module: IRModule, *inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Run `main` with TVM's own default pipeline, as an oracle that shares nothing with ours."""
    from schedules.tvm_adapter import target, tvm

    llvm = target.Target("llvm")
    built = tvm.compile(module, llvm, relax_pipeline=relax.get_default_pipeline(llvm))
    machine = relax.VirtualMachine(built, tvm.cpu())
    return np.asarray(machine["main"](*(tvm.runtime.tensor(a) for a in inputs)).numpy())
