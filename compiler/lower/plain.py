"""The plain graph of a model: what plans speak of, and what calibration runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress.apply import apply_plan
from compiler.compress.interpret import interpret
from compiler.compress.plan import CompressionPlan
from compiler.compress.sites import PlainGraph, plain_graph
from compiler.lower.fold_batch_norm import Fold
from compiler.lower.parameters import ParameterTable
from compiler.lower.pipeline import Lowering, graph_passes, run_steps
from compiler.stages import Imported, StageLog
from schedules.tvm_adapter import IRModule
from targets.spec import TargetSpec

#: The last pass before anything is decided for a target.
PLAIN_AFTER = "DecomposeOpsForInference"


def plain_module(imported: Imported, target: TargetSpec) -> tuple[IRModule, ParameterTable]:
    """A model in float32 with batch normalization folded, and the names of its constants.

    Args:
        imported: The model; it is not changed.
        target: Only the scope that TVM's passes run in: the result is the same for all.
    """
    module, table, _ = plain_module_and_folds(imported, target)
    return module, table


def plain_module_and_folds(
    imported: Imported, target: TargetSpec
) -> tuple[IRModule, ParameterTable, tuple[Fold, ...]]:
    """As `plain_module`, and what was folded into which weights."""
    state = Lowering(imported, target)
    steps = graph_passes(state)
    end = next(i for i, step in enumerate(steps) if step.name == PLAIN_AFTER) + 1
    module = run_steps(steps[:end], imported.module, target, StageLog())
    return module, state.table, tuple(state.folds)


def plain_graph_of(imported: Imported, target: TargetSpec) -> PlainGraph:
    """The named operators of a model."""
    module, table = plain_module(imported, target)
    return plain_graph(module, table.name_of)


def reference_outputs(
    imported: Imported,
    target: TargetSpec,
    plan: CompressionPlan,
    inputs: Sequence[npt.NDArray[Any]],
) -> tuple[npt.NDArray[Any], ...]:
    """What a quantized model gives by the NumPy reference, which no target takes part in."""
    module, table = plain_module(imported, target)
    integers, _ = apply_plan(module, table, plan)
    result = interpret(integers, list(inputs))
    return result if isinstance(result, tuple) else (np.asarray(result),)


__all__ = ["plain_graph_of", "plain_module", "plain_module_and_folds", "reference_outputs"]
