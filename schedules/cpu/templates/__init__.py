"""How tunable operators can be computed on CPUs: one template an algorithm."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from schedules.cpu.preparation import KernelTransform, Preparing
from schedules.cpu.templates.amx import Amx
from schedules.cpu.templates.dots import Dots
from schedules.cpu.templates.lanes import Lanes
from schedules.cpu.templates.products import Direct
from schedules.cpu.templates.signs import Signs
from schedules.cpu.templates.window_bytes import WindowBytes
from schedules.cpu.templates.windows import Windows
from schedules.cpu.templates.winograd import (
    L2_BYTES_PER_CYCLE,
    L3_BYTES_PER_CYCLE,
    Winograd,
)
from schedules.cpu.templates.winograd_tiles import WinogradTiles
from schedules.space import Choice, Space, Template
from schedules.weights import encoding_of
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

TEMPLATES: tuple[Template, ...] = (
    Direct(), Lanes(), Amx(), Windows(), Dots(), WindowBytes(), Winograd(), WinogradTiles(),
    Signs(),
)  # fmt: skip


def spaces(workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
    """The spaces of all algorithms for a workload, the one that needs no search first."""
    encoding = encoding_of(workload).name
    fitting = [t for t in TEMPLATES if workload.operator in t.operators and encoding in t.encodings]
    found = [s for t in fitting for s in t.spaces(workload, spec)]
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


def packed(
    workload: Workload, choice: Choice, spec: TargetSpec
) -> tuple[tuple[tuple[Extent, ...], str], ...]:
    """Shape and dtype of each operand of the weight that `compute` takes."""
    return template_for(workload, choice).packed(workload, choice, spec) if workload.weight else ()


def pack(workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any) -> tuple[Any, ...]:
    """The weight as `compute` takes it.

    Args:
        workload: What is computed.
        choice: How.
        spec: The target.
        weight: Its operands (NumPy) in the plain layout, see `encodings.weight_operands`.
    """
    return template_for(workload, choice).pack(workload, choice, spec, *weight)


def preparation(workload: Workload, choice: Choice, spec: TargetSpec) -> KernelTransform | None:
    """How the packed weight is made of a compact one when a model is loaded.

    None if it is packed when the model is compiled, since it is no larger or hardly so.
    """
    template = template_for(workload, choice)
    if not isinstance(template, Preparing):
        return None
    transform = template.transform(workload, choice, spec)
    return transform if transform.pays else None


def remark(workload: Workload, choice: Choice, spec: TargetSpec) -> str:
    """What compressed weights bring, by the analytic model.

    Those of float arithmetic beside float32, those of integers of fewer than 8 bits beside 8.
    Empty for other kernels. Decoding takes time, and only weights that come from memory make
    up for it.
    """
    packing = encoding_of(workload).packing
    integers = workload.dtypes[0] in ("uint8", "int8")
    if workload.dtypes[0] == "float32" and workload.is_static:
        return _float_remark(workload, choice, spec)
    if packing is None or not integers or not workload.is_static:
        return ""
    plain = replace(workload, weight_encoding="")
    size = prod(int(v) for v in workload.weight)
    share = packing.bits / 8
    cycles, other = (
        max(estimated_cycles(w, c, spec), _memory_cycles(b, spec))
        for w, c, b in (
            (workload, choice, size * share),
            (plain, default_choice(plain, spec), float(size)),
        )
    )
    ratio = cycles / other
    verdict = "pays in bytes, not in time" if ratio > 1 else "pays"
    return (
        f"weights of {packing.bits} bits: {share:.3g} of the bytes and {ratio:.2f} of the time of "
        f"int8 (estimated), {verdict}"
    )


#: Bits of a weight that is stored by itself, by dtype.
_BITS = {"float16": 16, "int8": 8, "uint8": 8}


def _float_remark(workload: Workload, choice: Choice, spec: TargetSpec) -> str:
    """What compressed weights of float arithmetic bring beside float32 ones."""
    dtype, encoding = workload.dtypes[1], encoding_of(workload)
    if not workload.weight or workload.operator == "batch_matmul" or dtype == "float32":
        return ""
    bits = encoding.packing.bits if encoding.packing else _BITS.get(dtype, 32)
    attributes = {k: v for k, v in workload.attributes.items() if k != "codebooks"}
    plain = replace(
        workload, weight_encoding="", dtypes=("float32", "float32", "float32"),
        attributes=attributes,
    )  # fmt: skip
    size = prod(int(v) for v in workload.weight)
    compressed = max(estimated_cycles(workload, choice, spec), _reading(size * bits / 8, spec))
    other = max(
        estimated_cycles(plain, default_choice(plain, spec), spec), _reading(size * 4.0, spec)
    )
    ratio = compressed / other
    verdict = "pays in bytes, not in time" if ratio > 1 else "pays"
    return (
        f"weights of {bits} bits: {bits / 32:.3g} of the bytes and {ratio:.2f} of the time of "
        f"float32 (estimated), {verdict}"
    )


def _reading(size: float, spec: TargetSpec) -> float:
    """Cycles to read weights once, from the cache that holds them or from memory."""
    memory = spec.clock_hz * size / spec.memory_bandwidth_bytes_per_s
    for level, rate in ((2, L2_BYTES_PER_CYCLE), (3, L3_BYTES_PER_CYCLE)):
        if size <= spec.cache_bytes(level):
            return min(memory, size / rate)
    return memory


def _memory_cycles(size: float, spec: TargetSpec) -> float:
    """Cycles to read so many bytes that no cache holds; 0 for what one holds."""
    if size <= max((c.size_bytes for c in spec.caches), default=0):
        return 0.0
    return size * spec.clock_hz / spec.memory_bandwidth_bytes_per_s


__all__ = [
    "TEMPLATES",
    "compute",
    "default_choice",
    "estimated_cycles",
    "pack",
    "packed",
    "preparation",
    "refusal",
    "remark",
    "spaces",
    "template_for",
]
