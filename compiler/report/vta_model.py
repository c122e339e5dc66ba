"""What a report says of VTA, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .figure import Figure


@dataclass(frozen=True, slots=True)
class VtaLayerRow:
    """One layer on VTA.

    Attributes:
        name: Its name.
        region: The program that it is part of.
        operator: ``conv2d``, ``depthwise_conv2d``, ``grouped_conv2d``, ``sum`` or
            ``max_pool2d``.
        added: Tensors that are added to its result.
        cycles: From the end of the layer before to its own end.
        share: Of all cycles, %.
        macs: Multiply-accumulates by the operator's definition.
        utilization: `macs` over what the matrix unit could do in these cycles, %.
        gemm: Cycles in which the matrix unit worked for it.
        alu: The same of the vector unit.
        loaded: Bytes that it read from DRAM.
        stored: Bytes that it wrote to DRAM.
        weights: Bytes of its packed weights.
        bound: What keeps it from being faster: ``matrix unit``, ``vector unit``, ``loads``,
            ``stores`` or ``waiting``.
    """

    name: str
    region: str
    operator: str
    added: int
    cycles: Figure
    share: Figure
    macs: Figure
    utilization: Figure
    gemm: Figure
    alu: Figure
    loaded: Figure
    stored: Figure
    weights: Figure
    bound: str


@dataclass(frozen=True, slots=True)
class VtaQueueRow:
    """One of the three queues.

    Attributes:
        queue: ``load``, ``compute`` or ``store``.
        busy: Cycles in which it worked.
        tokens: Cycles in which it waited for another queue.
        instructions: Cycles in which it waited for an instruction.
        share: Of all cycles in which it worked, %.
    """

    queue: str
    busy: Figure
    tokens: Figure
    instructions: Figure
    share: Figure


@dataclass(frozen=True, slots=True)
class VtaProgramRow:
    """One program.

    Attributes:
        name: Of its region.
        layers: How many layers.
        cycles: Of one image.
        instructions: How many.
        relocations: Instructions that name an address in DRAM.
        uops: Micro-ops.
        size: Bytes of the program's file.
        weights: Bytes of its packed weights and constants.
        dram: Bytes of memory that it works in.
    """

    name: str
    layers: int
    cycles: Figure
    instructions: int
    relocations: int
    uops: int
    size: Figure
    weights: Figure
    dram: Figure


@dataclass(frozen=True, slots=True)
class VtaSpan:
    """Instructions of one layer one after another in a queue, for the picture of the queues.

    Attributes:
        queue: Its name.
        layer: Place of the layer among `VtaReport.layers`; -1: none.
        begin: Cycle.
        end: Cycle.
    """

    queue: str
    layer: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class VtaHostRow:
    """An operator that stays on the host.

    Attributes:
        name: Its name.
        kind: The operator.
        why: Why.
    """

    name: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class VtaReport:
    """What runs on VTA, and how long it takes there.

    Attributes:
        device: What the programs ran on.
        board_host: The processor by which layers were placed.
        images: Images of one inference; a program runs once for each.
        clock: Of VTA.
        cycles: Of one inference.
        time: The same at the clock, ms.
        host_time: What the processor that was measured took for the rest, packing and copying
            included, ms.
        total: Both, ms: they take turns.
        macs: Multiply-accumulates of one inference.
        utilization: Of the matrix unit in all cycles, %.
        peak: Of the matrix unit, GOPS.
        bandwidth: Of the memory bus, GB/s.
        energy: Of one inference on VTA, mJ.
        energy_source: How it was estimated.
        layers: Every layer, in order.
        queues: The three queues.
        memories: Bytes moved from or to DRAM for each on-chip memory and for instructions.
        programs: Every program.
        spans: What the queues did when, of one image.
        host: What stays on the host, and why.
    """

    device: str
    board_host: str
    images: int
    clock: Figure
    cycles: Figure
    time: Figure
    host_time: Figure
    total: Figure
    macs: Figure
    utilization: Figure
    peak: Figure
    bandwidth: Figure
    energy: Figure
    energy_source: str
    layers: tuple[VtaLayerRow, ...]
    queues: tuple[VtaQueueRow, ...]
    memories: Mapping[str, Figure]
    programs: tuple[VtaProgramRow, ...]
    spans: tuple[VtaSpan, ...]
    host: tuple[VtaHostRow, ...]


__all__ = [
    "VtaHostRow",
    "VtaLayerRow",
    "VtaProgramRow",
    "VtaQueueRow",
    "VtaReport",
    "VtaSpan",
]
