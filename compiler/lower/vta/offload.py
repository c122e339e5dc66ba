"""From an integer graph to VTA programs and a graph that calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compiler.compress.plan import CompressionPlan
from compiler.compress.sites import NameOf, plain_graph
from compiler.errors import CompileError, PlanError
from compiler.lower.vta.partition import Border, Cut, partition
from compiler.lower.vta.rewrite import call_programs
from compiler.stages import (
    VTA_FUNCTION,
    KernelInfo,
    VtaHostOperator,
    VtaLayer,
    VtaPart,
    VtaRegion,
    VtaTensor,
)
from schedules.space import Choice
from schedules.tvm_adapter import IRModule
from schedules.vta.layers import Region, Sum
from schedules.vta.program import Built, build_program
from targets.errors import TargetError
from targets.spec import TargetSpec
from targets.vta.config import VtaConfig
from targets.vta.simulator import simulate


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A VTA to lower for.

    Attributes:
        name: The target's.
        config: Its widths and sizes.
        board_host: The processor beside it, by which layers are placed.
        tilings: Gives the tilings that records have for a region's layers, by name; None: every
            layer takes its default.
    """

    name: str
    config: VtaConfig
    board_host: TargetSpec
    tilings: Callable[[Region], Mapping[str, Choice]] | None = None


def require_shifts(plan: CompressionPlan, target: str) -> None:
    """Refuse a plan that VTA, which only shifts, cannot execute.

    Raises:
        PlanError: Scales around its layers with weights are no powers of two, or their
            activations are not signed without zero points; the first one is named. Others,
            such as a softmax's results, and activations of 16 bits are the host's anyway.
    """
    layers = [o for o in plan.operators.values() if o.precision == "int8" and o.weight is not None]
    around = dict.fromkeys(name for o in layers for name in (*o.inputs, o.output))
    for name in (n for n in around if n in plan.tensors):
        tensor = plan.tensors[name]
        signed = tensor.dtype in ("int8", "int16") and tensor.zero_point == 0
        if not (tensor.power_of_two and signed):
            raise PlanError(
                f"it is {tensor.dtype} with scale {tensor.scale:g} and zero point "
                f"{tensor.zero_point}, and {target} computes on int8 without zero points, whose "
                "scales are powers of two",
                where=f"plan: {name}",
                hint="make the plan with Quantize(power_of_two=True) (--power-of-two), or leave "
                f"quantize out: {target} then takes it",
            )
    for name, operator in plan.operators.items():
        weight = operator.weight
        if operator.precision == "int8" and weight is not None and not weight.power_of_two:
            raise PlanError(
                f"the scales of its weight are no powers of two, and {target} only shifts",
                where=f"plan: {name}",
                hint="make the plan with Quantize(power_of_two=True) (--power-of-two)",
            )


def offload(
    module: IRModule, name_of: NameOf, accelerator: Accelerator
) -> tuple[IRModule, VtaPart]:
    """Cut regions out of the integer graph `main` and make programs of them.

    Args:
        module: After the plan was applied; its parameters are constants.
        name_of: Gives the parameter's name of a constant.
        accelerator: What to lower for.

    Returns:
        The module that calls the programs, and the programs.

    Raises:
        CompileError: A program breaks VTA's rules, which is a bug.
    """
    graph = plain_graph(module, name_of)
    parts = partition(graph, accelerator.config, accelerator.board_host)
    regions = tuple(_region(cut, parts.batch, accelerator) for cut in parts.cuts)
    remarks = tuple(VtaHostOperator(r.name, r.kind, r.why) for r in parts.host)
    part = VtaPart(accelerator.config, accelerator.board_host.name, regions, remarks)
    return call_programs(module, graph, parts), part


def _region(cut: Cut, batch: int, accelerator: Accelerator) -> VtaRegion:
    try:
        choices = {} if accelerator.tilings is None else accelerator.tilings(cut.region)
        built = build_program(cut.region, accelerator.config, choices)
        simulate(built.program, functional=False)[0].check()
    except TargetError as error:
        raise CompileError(
            f"the program of {cut.region.name} is wrong: {error}",
            stage="lower",
            target=accelerator.name,
            hint="this is a bug of Tilewright: please report it",
        ) from error
    return VtaRegion(
        name=cut.region.name,
        program=built.program,
        batch=batch,
        inputs=tuple(map(_tensor, cut.inputs)),
        outputs=tuple(map(_tensor, cut.outputs)),
        layers=_layers(cut, built),
        owners=tuple(int(owner) for owner in built.owners),
    )


def _tensor(border: Border) -> VtaTensor:
    form = border.form
    return VtaTensor(border.title, form.channels, form.height, form.width, form.rows)


def _layers(cut: Cut, built: Built) -> tuple[VtaLayer, ...]:
    return tuple(
        VtaLayer(
            name=layer.name,
            operator=found.operator,
            operators=tuple(site.name for site in unit.sites),
            choice=dict(found.choice),
            macs=found.macs,
            weight_bytes=found.weight_bytes,
            added=sum(len(step.adds) for step in getattr(layer, "steps", ()))
            - (isinstance(layer, Sum)),
        )
        for layer, found, unit in zip(cut.region.layers, built.layers, cut.units, strict=True)
    )


def describe_regions(part: VtaPart) -> tuple[KernelInfo, ...]:
    """The calls of programs, as kernels of the host: what it does is copy and pack."""
    return tuple(
        KernelInfo(
            name=f"{VTA_FUNCTION}{number}",
            kind="vta",
            operators=(f"copies of {region.name}",),
            rule="vta",
            fallback=False,
            flops=0.0,
            bytes_read=float(region.batch * sum(t.size for t in region.inputs)),
            bytes_written=float(region.batch * sum(t.size for t in region.outputs)),
            dtype="int8",
            why="packing and copying; the program's own time is simulated",
        )
        for number, region in enumerate(part.regions)
    )


__all__ = ["Accelerator", "describe_regions", "offload", "require_shifts"]
