"""The lowering pipeline: one readable list of named passes, from Relax to scheduled TIR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compiler.lower.channels_last import channels_last
from compiler.lower.describe_kernels import describe_kernels, planned_activation_bytes
from compiler.lower.fold_batch_norm import fold_batch_norm
from compiler.lower.fold_constants import fold_constants
from compiler.lower.legalize_kernels import legalize_kernels
from compiler.lower.lift_constants import lift_constants
from compiler.lower.parameters import ParameterTable
from compiler.stages import Imported, Lowered, StageLog
from schedules.cpu.default import schedule_module
from schedules.tvm_adapter import IRModule, relax
from schedules.tvm_adapter import target as tvm_target
from targets.spec import TargetSpec

Pass = Callable[[IRModule], IRModule]


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of the pipeline and the name that reports and dumps show it by."""

    name: str
    apply: Pass


def graph_passes(table: ParameterTable, target: TargetSpec) -> list[Step]:
    """Passes on Relax operators, then their lowering to fused TIR functions."""
    t = relax.transform
    return [
        Step("FoldConstants", lambda m: fold_constants(m, table)),
        Step("FoldBatchNorm", lambda m: fold_batch_norm(m, table)),
        Step("DecomposeOpsForInference", t.DecomposeOpsForInference()),
        Step("ChannelsLast", lambda m: channels_last(m, table)),
        Step("FoldConstantsAgain", lambda m: fold_constants(m, table)),
        Step("LegalizeKernels", lambda m: legalize_kernels(m, table, target)),
        Step("LegalizeRest", t.LegalizeOps()),
        Step("AnnotateTIROpPattern", t.AnnotateTIROpPattern()),
        Step("FoldConstant", t.FoldConstant()),
        Step("DeadCodeElimination", t.DeadCodeElimination(["main"])),
        Step("FuseOps", t.FuseOps()),
        Step("FuseTIR", t.FuseTIR()),
        Step("DeadFunctionElimination", t.DeadCodeElimination(["main"])),
    ]


def vm_passes() -> list[Step]:
    """Passes that turn the dataflow graph into calls of the Relax virtual machine."""
    t = relax.transform
    return [
        Step("RewriteDataflowReshape", t.RewriteDataflowReshape()),
        Step("ToNonDataflow", t.ToNonDataflow()),
        Step("RemovePurityChecking", t.RemovePurityChecking()),
        Step("CallTIRRewrite", t.CallTIRRewrite()),
        Step("StaticPlanBlockMemory", t.StaticPlanBlockMemory()),
        Step("LowerAllocTensor", t.LowerAllocTensor()),
        Step("KillAfterLastUse", t.KillAfterLastUse()),
        Step("LowerRuntimeBuiltin", t.LowerRuntimeBuiltin()),
        Step("ComputePrimValue", t.ComputePrimValue()),
        Step("VMShapeLower", t.VMShapeLower()),
        Step("AttachGlobalSymbol", t.AttachGlobalSymbol()),
    ]


def run_passes(
    module: IRModule, steps: list[Step], log: StageLog, dump_to: Path | None = None
) -> IRModule:
    """Apply passes in order, log the time of each, dump the module after each if asked."""
    for number, step in enumerate(steps):
        with log.time("lower", step.name):
            module = step.apply(module)
        if dump_to is not None:
            dump_to.mkdir(parents=True, exist_ok=True)
            (dump_to / f"{number:02d}-{step.name}.py").write_text(module.script())
    return module


def lower(
    imported: Imported, target: TargetSpec, log: StageLog, *, dump_to: Path | None = None
) -> Lowered:
    """Lower an imported model to scheduled TIR and virtual-machine calls.

    Args:
        imported: The model in Relax; it is not changed.
        target: What to compile for.
        log: Receives one record a pass.
        dump_to: A folder to write the module to after each pass.
    """
    table = ParameterTable()
    with tvm_target.Target(dict(target.tvm)):
        with log.time("lower", "BindParameters"):
            module = bind_parameters(imported, table)
        module = run_passes(module, graph_passes(table, target), log, dump_to)
        with log.time("lower", "DefaultSchedules"):
            module, decisions = schedule_module(module, target)
            kernels = describe_kernels(module, decisions, table)
        with log.time("lower", "LiftConstants"):
            module, parameters = lift_constants(module, table)
        module = run_passes(module, vm_passes(), log)
    return Lowered(
        module=module,
        inputs=imported.inputs,
        outputs=imported.outputs,
        parameters=parameters,
        kernels=kernels,
        planned_activation_bytes=planned_activation_bytes(module),
        name=imported.name,
    )


def bind_parameters(imported: Imported, table: ParameterTable) -> IRModule:
    """Make constants of the parameters of `main`."""
    main = imported.module["main"]
    names = [p.name for p in main.params[len(imported.inputs) :]]
    constants = table.constants(imported.parameters)
    return relax.transform.BindParams("main", dict(zip(names, constants, strict=True)))(
        imported.module
    )
