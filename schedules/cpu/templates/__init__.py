"""How tunable operators can be computed on CPUs: one template an algorithm."""

from __future__ import annotations

from typing import Any

from schedules.cpu.templates.amx import Amx
from schedules.cpu.templates.products import Direct
from schedules.cpu.templates.windows import Windows
from schedules.cpu.templates.winograd import Winograd
from schedules.space import Choice, Space, Template
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

TEMPLATES: tuple[Template, ...] = (Direct(), Amx(), Windows(), Winograd())


def spaces(workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
    """The spaces of all algorithms for a workload, the one that needs no search first."""
    found = [s for t in TEMPLATES if workload.operator in t.operators
             for s in t.spaces(workload, spec)]  # fmt: skip
    return tuple(sorted(found, key=lambda s: estimated_cycles(workload, s.default, spec)))


def default_choice(workload: Workload, spec: TargetSpec) -> Choice:
    """What is built without a record."""
    return dict(spaces(workload, spec)[0].default)


def template_for(workload: Workload, choice: Choice) -> Template:
    """The template of the choice's algorithm.

    Raises:
        ValueError: No template has it for this operator.
    """
    for template in TEMPLATES:
        if workload.operator in template.operators and choice["algorithm"] in template.algorithms:
            return template
    raise ValueError(f"{workload.operator} has no algorithm {choice['algorithm']!r}")


def refusal(workload: Workload, choice: Choice, spec: TargetSpec) -> str | None:
    """Why a choice cannot be built for the workload on the target; None if it can."""
    reasons = [s.refusal(choice) for s in spaces(workload, spec)]
    if not reasons:
        return f"{workload.operator} has no kernel to choose on {spec.name}"
    return None if None in reasons else str(reasons[0])


def estimated_cycles(workload: Workload, choice: Choice, spec: TargetSpec) -> float:
    """Cycles of one core by the analytic model of the choice's template."""
    return template_for(workload, choice).estimated_cycles(workload, choice, spec)


def compute(workload: Workload, choice: Choice, spec: TargetSpec, *tensors: Any) -> Any:
    """The kernel on ``te`` tensors, the weight packed by `pack`."""
    return template_for(workload, choice).compute(workload, choice, spec, *tensors)


def packed_shape(workload: Workload, choice: Choice, spec: TargetSpec) -> tuple[Extent, ...]:
    """Shape of the weight that `compute` takes."""
    return template_for(workload, choice).packed_shape(workload, choice, spec)


def packed_dtype(workload: Workload, choice: Choice) -> str:
    """Dtype of the weight that `compute` takes."""
    return template_for(workload, choice).packed_dtype(workload)


def pack(workload: Workload, choice: Choice, spec: TargetSpec, weight: Any) -> Any:
    """The weight (NumPy, in the layout of `Workload.weight`) as `compute` takes it."""
    return template_for(workload, choice).pack(workload, choice, spec, weight)


__all__ = [
    "TEMPLATES",
    "compute",
    "default_choice",
    "estimated_cycles",
    "pack",
    "packed_dtype",
    "packed_shape",
    "refusal",
    "spaces",
    "template_for",
]
