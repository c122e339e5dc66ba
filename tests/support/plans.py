"""Plans for tests: everything on integers that has an integer form, ranges as one input shows them.

It shares nothing with calibration, so the two can be tested apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.compress.apply import MOVES, TABLES, clip_limits
from compiler.compress.interpret import interpret
from compiler.compress.plan import (
    CompressionPlan,
    ModelIdentity,
    OperatorPlan,
    TensorPlan,
    WeightPlan,
)
from compiler.compress.sites import PlainGraph, Site, plain_graph
from compiler.errors import PlanError
from compiler.lower.pipeline import Lowering, graph_passes, run_steps
from compiler.stages import Imported, StageLog
from schedules.tvm_adapter import GenericConst, IRModule
from targets import TargetSpec

Array = np.ndarray[Any, Any]
BETWEEN = {"add", "multiply"}
FIRST_PASSES = ("BindParameters", "FoldConstants", "FoldBatchNorm", "DecomposeOpsForInference")


def plain_module(imported: Imported, spec: TargetSpec) -> tuple[IRModule, Lowering]:
    """The module as a plan is applied to it, and the state that knows its constants."""
    state = Lowering(imported, spec)
    steps = [s for s in graph_passes(state) if s.name in FIRST_PASSES]
    return run_steps(steps, imported.module, spec, StageLog()), state


def naive_plan(
    imported: Imported,
    spec: TargetSpec,
    inputs: Sequence[Array],
    *,
    real: Sequence[str] = (),
    power_of_two: bool = False,
    dtype: str = "uint8",
) -> CompressionPlan:
    """A plan for a model.

    Args:
        imported: The model.
        spec: Any target.
        inputs: What the ranges are taken from.
        real: Kinds of operators that stay in float32.
        power_of_two: All scales.
        dtype: Of the activations.
    """
    module, state = plain_module(imported, spec)
    graph = plain_graph(module, state.table.name_of)
    ranges = _ranges(module, graph, inputs)
    tensors: dict[str, TensorPlan] = {}
    operators: dict[str, OperatorPlan] = {}
    absorbed: set[str] = set()
    readers = graph.readers()

    def tensor(name: str, like: str | None = None) -> str:
        if name not in tensors:
            tensors[name] = tensors[like] if like else _tensor(ranges[name], dtype, power_of_two)
        return name

    for site in graph.sites:
        if not site.kind or site.name in absorbed:
            continue
        if site.kind in real or not _fits(site):
            operators[site.name] = OperatorPlan(site.kind, "float32", site.data, site.name)
            continue
        epilogue = _epilogue(site, readers, graph)
        absorbed.update(epilogue)
        output = epilogue[-1] if epilogue else site.name
        for name in site.data:
            tensor(name)
        tensor(output, site.data[0] if site.kind in MOVES and not epilogue else None)
        operators[site.name] = OperatorPlan(
            site.kind, "int8", site.data, output, epilogue, _weight(site, state, power_of_two)
        )
        for name in epilogue:
            step = graph.by_name()[name]
            operators[name] = OperatorPlan(step.kind, "int8", tuple(step.data), output)
            tensors.setdefault(step.data[0], tensors[output])
    return CompressionPlan(ModelIdentity("test", "", ""), {}, tensors, operators)


def _fits(site: Site) -> bool:
    if site.kind in ("nn.conv1d", "nn.conv2d", "matmul"):
        return len(site.data) == 1 and isinstance(site.value.args[1], GenericConst)
    if site.kind in BETWEEN:
        return len(site.data) == 2
    if site.kind == "mean":
        return site.value.attrs.axis is not None and len(site.value.args[0].ty.shape.values) == 4
    if site.kind in ("nn.relu", "clip", "nn.pad", "concat", "nn.adaptive_avg_pool2d",
                     "nn.avg_pool2d"):  # fmt: skip
        return True
    return site.kind in MOVES or site.kind in TABLES


def _epilogue(
    site: Site, readers: Mapping[str, tuple[Site, ...]], graph: PlainGraph
) -> tuple[str, ...]:
    found: list[str] = []
    name = site.name
    while len(readers.get(name, ())) == 1 and name not in graph.outputs:
        (reader,) = readers[name]
        bias = reader.kind == "add" and len(reader.data) == 1 and not found
        if bias and site.kind not in ("nn.conv1d", "nn.conv2d", "matmul"):
            break
        if not bias:
            if reader.kind not in ("nn.relu", "clip") or site.kind in MOVES:
                break
            try:
                clip_limits(reader)
            except PlanError:
                break
        found.append(reader.name)
        name = reader.name
        if not bias:
            break
    return tuple(found)


def _ranges(
    module: IRModule, graph: PlainGraph, inputs: Sequence[Array]
) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for parameter, value in zip(graph.function.params, inputs, strict=True):
        found[graph.names[parameter]] = (float(value.min()), float(value.max()))
    order = iter([b.var for block in graph.function.body.blocks for b in block.bindings])

    def observe(_name: str, value: Any) -> None:
        variable = next(order)
        if not isinstance(value, tuple):
            found[graph.names[variable]] = (float(value.min()), float(value.max()))

    interpret(module, inputs, observe)
    return found


def _tensor(limits: tuple[float, float], dtype: str, power_of_two: bool) -> TensorPlan:
    low, high = min(limits[0], 0.0), max(limits[1], 0.0, 1e-6)
    scale = _scale((high - low) / 255, power_of_two)
    least, greatest = (0, 255) if dtype == "uint8" else (-128, 127)
    zero = int(np.clip(np.rint(least - low / scale), least, greatest))
    return TensorPlan(dtype, scale, zero, "test", power_of_two)


def _weight(site: Site, state: Lowering, power_of_two: bool) -> WeightPlan | None:
    if site.kind not in ("nn.conv1d", "nn.conv2d", "matmul"):
        return None
    constant = site.value.args[1]
    value = np.from_dlpack(constant.value)
    axis = 1 if site.kind == "matmul" else 0
    if power_of_two:  # one for all channels, so that a shift is all that is left
        scales = (_scale(float(np.abs(value).max()) / 127, True),)
    else:
        others = tuple(i for i in range(value.ndim) if i != axis)
        scales = tuple(
            _scale(max(float(v), 1e-8) / 127, False) for v in np.abs(value).max(axis=others)
        )
    name = state.table.name_of(constant) or "weight"
    granularity = "tensor" if power_of_two else "channel"
    return WeightPlan(name, "int8", granularity, axis, scales, "test", power_of_two)


def _scale(value: float, power_of_two: bool) -> float:
    if power_of_two:
        return float(2.0 ** np.ceil(np.log2(value)))
    return float(np.float32(value))
