"""The lowering pipeline: one readable list of named passes, from Relax to scheduled TIR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from compiler.compress.apply import Applied, apply_plan
from compiler.compress.plan import CompressionPlan
from compiler.errors import ModelError, PlanError
from compiler.lower.channels_last import channels_last
from compiler.lower.choose_kernels import ChosenKernel, choose_kernels
from compiler.lower.describe_kernels import describe_kernels, planned_activation_bytes
from compiler.lower.fold_batch_norm import Fold, fold_batch_norm
from compiler.lower.fold_constants import fold_constants
from compiler.lower.legalize_kernels import legalize_kernels
from compiler.lower.lift_constants import lift_constants
from compiler.lower.parameters import Array, ParameterTable
from compiler.lower.prepare_weights import prepare_weights
from compiler.lower.reduce_precision import LOW, PrecisionSummary, reduce_precision
from compiler.lower.vta.offload import Accelerator, describe_regions, offload
from compiler.stages import Imported, KernelInfo, Lowered, Prepared, StageLog, VtaPart
from schedules.cpu.default import schedule_module
from schedules.cpu.intrinsics.bf16 import native_lanes
from schedules.selection import Selector, defaults_only
from schedules.tvm_adapter import IRModule, relax
from schedules.tvm_adapter import target as tvm_target
from targets.spec import TargetSpec, has_bfloat16, has_float16

#: Floating-point dtypes that import, but that TVM's definitions or ours do not compute in.
UNSUPPORTED_DTYPES = frozenset({"bfloat16", "float64"})

Pass = Callable[[IRModule], IRModule]
#: Called after each pass with its number, its name and the module that it gave.
Observer = Callable[[int, str, IRModule], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of the pipeline and the name that reports and dumps show it by.

    Attributes:
        name: Its name.
        apply: The pass.
        remark: What it did, once it has been applied; empty if there is nothing to say.
    """

    name: str
    apply: Pass
    remark: Callable[[], str] = str


@dataclass(slots=True)
class Lowering:
    """What passes know and find out beside the module.

    Attributes:
        imported: The model as it came.
        target: What to compile for.
        select: Says which choice serves a kernel.
        precision: ``float32``, or ``bfloat16`` for the operands of heavy operators; a plan
            says so of each operator.
        plan: What becomes integers; None for nothing.
        table: Names of the parameters while they are constants.
        chosen: What was chosen for each tunable function, by name.
        kernels: Descriptions of the scheduled functions, once they are scheduled.
        parameters: Packed and folded parameters, once they are lifted.
        prepared: Which of them are packed when the model is loaded.
        reduced: What runs in which precision, once that is decided.
        quantized: What became integers, once the plan is applied.
        folds: Normalizations that were folded into weights.
        accelerator: A VTA that layers are lowered to; None for none.
        vta: The programs, once they are there.
    """

    imported: Imported
    target: TargetSpec
    select: Selector = defaults_only
    precision: str = "float32"
    plan: CompressionPlan | None = None
    table: ParameterTable = field(default_factory=ParameterTable)
    chosen: dict[str, ChosenKernel] = field(default_factory=dict)
    kernels: tuple[KernelInfo, ...] = ()
    parameters: dict[str, Array] = field(default_factory=dict)
    prepared: tuple[Prepared, ...] = ()
    reduced: PrecisionSummary = field(default_factory=PrecisionSummary)
    quantized: Applied = field(default_factory=Applied)
    folds: list[Fold] = field(default_factory=list)
    accelerator: Accelerator | None = None
    vta: VtaPart | None = None

    def bind_parameters(self, module: IRModule) -> IRModule:
        """Make constants of the parameters of `main`."""
        names = [p.name for p in module["main"].params[len(self.imported.inputs) :]]
        constants = self.table.constants(self.imported.parameters)
        bindings = dict(zip(names, constants, strict=True))
        return relax.transform.BindParams("main", bindings)(module)

    def quantize(self, module: IRModule) -> IRModule:
        """Integer operators where the plan says so."""
        if self.plan is None:
            return module
        module, self.quantized = apply_plan(module, self.table, self.plan)
        return module

    def offload(self, module: IRModule) -> IRModule:
        """VTA programs in the place of the layers that VTA computes."""
        if self.accelerator is None:
            return module
        module, self.vta = offload(module, self.table.name_of, self.accelerator)
        return module

    def describe_offload(self) -> str:
        """What runs on VTA, for the log."""
        if self.vta is None:
            return ""
        layers = sum(len(region.layers) for region in self.vta.regions)
        return (
            f"{layers} layers in {len(self.vta.regions)} programs, {len(self.vta.host)} operators "
            "on the host"
        )

    def reduce_precision(self, module: IRModule) -> IRModule:
        """Convolutions and products on numbers of 16 bits, if that is asked for."""
        low = self._low_precision()
        if low:
            marked = self.plan is not None
            module, self.reduced = reduce_precision(module, self.table, marked_only=marked, low=low)
        return module

    def _low_precision(self) -> str:
        """Numbers of 16 bits that something computes on, if any: a plan says so itself."""
        wanted = {self.precision}
        if self.plan is not None:
            wanted = {o.precision for o in self.plan.operators.values()}
        found = sorted(wanted & LOW.keys())
        if len(found) > 1:
            raise PlanError(
                f"the plan has operators in {' and in '.join(found)}",
                hint="give all operators that are not compressed float32 and one of the two",
            )
        return found[0] if found else ""

    def describe_precision(self) -> str:
        """What runs in which precision, for the log."""
        low = self._low_precision()
        if not low:
            return ""
        native = low == "float16" or bool(native_lanes(self.target)) or has_bfloat16(self.target)
        return self.reduced.describe(native=native)

    def choose_kernels(self, module: IRModule) -> IRModule:
        """Build each tunable kernel as its record or default says."""
        module, self.chosen = choose_kernels(module, self.table, self.target, self.select)
        return module

    def schedule(self, module: IRModule) -> IRModule:
        """Give every function its schedule."""
        module, decisions = schedule_module(module, self.target)
        self.kernels = describe_kernels(module, decisions, self.table, self.chosen, self.target)
        return module

    def lift_constants(self, module: IRModule) -> IRModule:
        """Make parameters of the constants again, by name."""
        module, self.parameters = lift_constants(module, self.table)
        return module

    def prepare_weights(self, module: IRModule) -> IRModule:
        """Take what is made of parameters alone out of `main`."""
        module, self.prepared = prepare_weights(module, tuple(self.parameters))
        return module

    def describe_preparation(self) -> str:
        """What is made when the model is loaded, for the log."""
        if not self.prepared:
            return ""
        size = sum(prod(p.shape) * np.dtype(p.dtype).itemsize for p in self.prepared)
        compact = sum(self.parameters[p.parameter].nbytes for p in self.prepared)
        return (
            f"{len(self.prepared)} weights are packed when the model is loaded: "
            f"{compact / 1e6:.1f} MB become {size / 1e6:.1f} MB"
        )


def graph_passes(state: Lowering) -> list[Step]:
    """Passes up to fused groups of canonical operators: nothing is decided yet."""
    t = relax.transform
    table = state.table
    offloading = [Step("OffloadToVta", state.offload, state.describe_offload)]
    return [
        # The graph: fold what is known, choose layouts.
        Step("BindParameters", state.bind_parameters),
        Step("FoldConstants", lambda m: fold_constants(m, table)),
        Step("FoldBatchNorm", lambda m: fold_batch_norm(m, table, state.folds)),
        Step("DecomposeOpsForInference", t.DecomposeOpsForInference()),
        Step(
            "Quantize",
            state.quantize,
            lambda: "" if state.plan is None else state.quantized.describe(),
        ),
        *(offloading if state.accelerator is not None else ()),
        Step("ChannelsLast", lambda m: channels_last(m, table)),
        Step("FoldConstantsAgain", lambda m: fold_constants(m, table)),
        Step("ReducePrecision", state.reduce_precision, state.describe_precision),
        # Operators become compute definitions, fused into functions.
        Step("LegalizeKernels", lambda m: legalize_kernels(m, table, state.target)),
        Step("DispatchSortScan", relax.backend.DispatchSortScan()),  # argsort, topk
        Step("LegalizeRest", t.LegalizeOps()),
        Step("AnnotateTIROpPattern", t.AnnotateTIROpPattern()),
        Step("FoldRemainingConstants", t.FoldConstant()),
        Step("DeadCodeElimination", t.DeadCodeElimination(["main"])),
        Step("FuseOps", t.FuseOps()),
    ]


def kernel_passes(state: Lowering) -> list[Step]:
    """Passes from fused groups to calls of scheduled functions."""
    t = relax.transform
    return [
        Step("ChooseKernels", state.choose_kernels),
        Step("FuseTIR", t.FuseTIR()),
        Step("DeadFunctionElimination", t.DeadCodeElimination(["main"])),
        # Functions get schedules, constants become parameters.
        Step("DefaultSchedules", state.schedule),
        Step("LiftConstants", state.lift_constants),
        Step("PrepareWeights", state.prepare_weights, state.describe_preparation),
        # The graph becomes calls of the Relax virtual machine on planned memory.
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


def pipeline(state: Lowering) -> list[Step]:
    """All passes, in order."""
    return [*graph_passes(state), *kernel_passes(state)]


def check_dtypes(imported: Imported, target: TargetSpec) -> None:
    """Refuse models in floating-point dtypes that no kernel of this release computes in.

    Raises:
        ModelError: Names the dtype and the first tensor of it.
    """
    tensors = [(spec.name, spec.dtype) for spec in imported.inputs]
    tensors += [(name, str(value.dtype)) for name, value in imported.parameters.items()]
    for name, dtype in tensors:
        if dtype in UNSUPPORTED_DTYPES:
            raise ModelError(
                f"the model computes in {dtype}, which has no kernels in this release",
                stage="lower",
                target=target.name,
                where=name,
                hint="compile it in float32: compile(model.float(), ...)",
            )


def check_plan(plan: CompressionPlan | None, target: TargetSpec) -> None:
    """Refuse a plan in a precision that the target does not compute in.

    Raises:
        PlanError: It has an operator in float16.
    """
    if plan is None or has_float16(target):
        return
    named = [name for name, o in plan.operators.items() if o.precision == "float16"]
    if named:
        raise PlanError(
            f"the plan computes in float16, and {target.name} does not",
            where=named[0],
            hint="give float32 or bfloat16 in the plan, or compile for a processor with fullfp16, "
            "such as arm/neoverse-n1",
        )


def run_steps(
    steps: Sequence[Step],
    module: IRModule,
    target: TargetSpec,
    log: StageLog,
    observe: Observer | None = None,
) -> IRModule:
    """Apply passes in order, in the scope of the target."""
    with tvm_target.Target(target.tvm_dict()):
        for number, step in enumerate(steps):
            with log.time("lower", step.name) as detail:
                module = step.apply(module)
                detail.extend(filter(None, [step.remark()]))
            if observe is not None:
                observe(number, step.name, module)
    return module


def lower(
    imported: Imported,
    target: TargetSpec,
    log: StageLog,
    *,
    select: Selector = defaults_only,
    precision: str = "float32",
    plan: CompressionPlan | None = None,
    observe: Observer | None = None,
    accelerator: Accelerator | None = None,
) -> Lowered:
    """Lower an imported model to scheduled TIR and virtual-machine calls.

    Args:
        imported: The model in Relax; it is not changed.
        target: What to compile for.
        log: Receives one record a pass.
        select: Says which choice serves a kernel that could be tuned; by default none is
            tuned.
        precision: ``float32``, or ``bfloat16`` or ``float16`` for the operands of heavy operators.
        plan: What runs on integers; the same plan gives the same bits on every target.
        observe: Called after each pass, to dump or to check the module.
        accelerator: A VTA beside the target's processor, for layers of int8 plans whose
            scales are powers of two.

    Raises:
        ModelError: The model holds a dtype that there are no kernels for.
        PlanError: The plan does not fit the model, or the target.
    """
    check_dtypes(imported, target)
    check_plan(plan, target)
    state = Lowering(imported, target, select, precision, plan, accelerator=accelerator)
    module = run_steps(pipeline(state), imported.module, target, log, observe)
    return Lowered(
        module=module,
        inputs=imported.inputs,
        outputs=imported.outputs,
        parameters=state.parameters,
        kernels=state.kernels + (() if state.vta is None else describe_regions(state.vta)),
        planned_activation_bytes=planned_activation_bytes(module),
        name=imported.name,
        vta=state.vta,
        prepared=state.prepared,
    )
