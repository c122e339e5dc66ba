"""Where a VTA program's cycles go: simulates it, time only, and sorts what happened by layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from compiler.stages import VtaPart, VtaRegion
from targets.spec import TargetSpec
from targets.vta.config import VtaConfig
from targets.vta.isa import Alu, Gemm, Load, Memory, Stage, Store, decode
from targets.vta.program import program_bytes
from targets.vta.relocate import relocations
from targets.vta.simulator import Simulation, simulate
from targets.vta.timing import element_bytes

from .figure import Figure
from .report import Report
from .vta_model import (
    VtaHostRow,
    VtaLayerRow,
    VtaProgramRow,
    VtaQueueRow,
    VtaReport,
    VtaSpan,
)

#: Energy of an ASIC of 45 nm, joules: an 8-bit product, a 32-bit addition, a byte out of an
#: on-chip memory of some 100 KB, and a byte out of DRAM.
_MULTIPLY_J, _ADD_J, _SRAM_J, _DRAM_J = 0.2e-12, 0.1e-12, 2.5e-12, 250e-12
ENERGY_SOURCE = (
    "operations and bytes times the energies of M. Horowitz, Computing's Energy Problem, "
    "ISSCC 2014 (45 nm ASIC: 0.2 pJ a product of 8 bits, 0.1 pJ an addition of 32, 2.5 pJ a byte "
    "of SRAM, 250 pJ a byte of DRAM); an FPGA takes several times as much, and its idle power "
    "is not in it"
)
#: Pieces that the picture of the queues is drawn in, at most about this many each.
_PIECES = 700


@dataclass(slots=True)
class _Work:
    """What the instructions of one layer did."""

    end: int = 0
    gemm: int = 0
    alu: int = 0
    load: int = 0
    store: int = 0
    loaded: int = 0
    stored: int = 0


@dataclass(frozen=True, slots=True)
class RegionProfile:
    """One region's run on the simulator.

    Attributes:
        region: The region.
        simulation: What the simulator saw.
        layers: What each layer did.
        cycles: Of each layer, from the end of the one before.
        rest: Cycles after the last layer's end.
    """

    region: VtaRegion
    simulation: Simulation
    layers: tuple[_Work, ...]
    cycles: tuple[int, ...]
    rest: int
    work: _Work = field(default_factory=_Work)


@lru_cache(maxsize=65536)
def _decoded(word: bytes, config: VtaConfig) -> object:
    return decode(word, config)


def profile_region(region: VtaRegion) -> RegionProfile:
    """Simulate a region's program, time and order only.

    Raises:
        TargetError: The program breaks a rule.
    """
    program = region.program
    result, _ = simulate(program, functional=False, checks=False)
    line = result.timeline
    layers = [_Work() for _ in region.layers]
    other = _Work()
    data = program.instructions.tobytes()
    for i, owner in enumerate(region.owners):
        instruction = _decoded(data[16 * i : 16 * i + 16], program.config)
        work = layers[owner] if owner >= 0 else other
        spent = int(line.done[i] - line.begun[i])
        if isinstance(instruction, Gemm):
            work.gemm += spent
        elif isinstance(instruction, Alu):
            work.alu += spent
        elif isinstance(instruction, Load) and not instruction.is_noop:
            memory = Memory(instruction.memory)
            size = element_bytes(memory, program.config)
            work.load += spent
            work.loaded += instruction.x_size * instruction.y_size * size
        elif isinstance(instruction, Store) and not instruction.is_noop:
            work.store += spent
            work.stored += instruction.x_size * instruction.y_size * program.config.out_bytes
        if not isinstance(instruction, Load):
            work.end = max(work.end, int(line.done[i]))
    cycles = []
    before = 0
    for work in layers:
        cycles.append(max(0, work.end - before))
        before = max(before, work.end)
    return RegionProfile(
        region, result, tuple(layers), tuple(cycles), result.cycles - before, other
    )


def describe_vta(part: VtaPart, *, device: str, host_ms: float) -> VtaReport:
    """The section of the report.

    Args:
        part: What runs on VTA.
        device: What its programs run on.
        host_ms: What the processor that was measured took for the rest, ms.

    Raises:
        TargetError: A program breaks a rule.
    """
    config = part.config
    profiles = [profile_region(region) for region in part.regions]
    images = max((r.batch for r in part.regions), default=1)
    cycles = sum(p.simulation.cycles * p.region.batch for p in profiles)
    single = sum(p.simulation.cycles for p in profiles)
    macs = sum(layer.macs * r.batch for r in part.regions for layer in r.layers)
    vta_ms = 1e3 * cycles / config.clock_hz
    rows = [row for p in profiles for row in _rows(p, max(single, 1))]
    return VtaReport(
        device=device,
        board_host=part.board_host,
        images=images,
        clock=Figure(config.clock_hz / 1e6, "MHz", "estimated"),
        cycles=_simulated(cycles, "cycles"),
        time=_simulated(vta_ms, "ms"),
        host_time=Figure.measured(host_ms, "ms"),
        total=_simulated(vta_ms + host_ms, "ms"),
        macs=Figure.estimated(macs, "MAC"),
        utilization=_simulated(_percent(macs, cycles * config.macs_per_cycle), "%"),
        peak=Figure.estimated(2 * config.macs_per_cycle * config.clock_hz / 1e9, "GOPS"),
        bandwidth=Figure.estimated(config.bus_bits / 8 * config.clock_hz / 1e9, "GB/s"),
        energy=Figure.estimated(1e3 * sum(_energy(p) for p in profiles), "mJ"),
        energy_source=ENERGY_SOURCE,
        layers=tuple(rows),
        queues=tuple(_queue(stage, profiles, max(single, 1)) for stage in Stage),
        memories={name: _simulated(value, "B") for name, value in _memories(profiles).items()},
        programs=tuple(_program(p) for p in profiles),
        spans=tuple(_spans(profiles)),
        host=tuple(VtaHostRow(h.name, h.kind, h.why) for h in part.host),
    )


def with_vta(report: Report, part: VtaPart, target: TargetSpec) -> Report:
    """A report of the host's part with VTA's beside it.

    Args:
        report: What was measured on the processor, programs left out.
        part: What runs on VTA.
        target: The VTA.
    """
    found = describe_vta(
        part, device=f"the simulator of {target.name}", host_ms=report.latency.median.value
    )
    note = (
        "Latency and kernels are the host's part on this machine's processor, packing and "
        "copying included; VTA's cycles are simulated, and no board was measured."
    )
    return replace(
        report, target=target.name, target_title=target.title, vta=found,
        notes=(note, *report.notes),
    )  # fmt: skip


def _simulated(value: float, unit: str) -> Figure:
    return Figure(float(value), unit, "simulated")


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0


def _rows(profile: RegionProfile, whole: int) -> list[VtaLayerRow]:
    config = profile.region.program.config
    rows = []
    found = zip(profile.region.layers, profile.layers, profile.cycles, strict=True)
    for layer, work, cycles in found:
        rows.append(
            VtaLayerRow(
                name=layer.name,
                region=profile.region.name,
                operator=layer.operator,
                added=layer.added,
                cycles=_simulated(cycles, "cycles"),
                share=_simulated(_percent(cycles, whole), "%"),
                macs=Figure.estimated(layer.macs, "MAC"),
                utilization=_simulated(_percent(layer.macs, cycles * config.macs_per_cycle), "%"),
                gemm=_simulated(work.gemm, "cycles"),
                alu=_simulated(work.alu, "cycles"),
                loaded=_simulated(work.loaded, "B"),
                stored=_simulated(work.stored, "B"),
                weights=Figure.measured(layer.weight_bytes, "B"),
                bound=_bound(work, cycles),
            )
        )
    return rows


def _bound(work: _Work, cycles: int) -> str:
    """The unit that works most of the time, if that is most of the layer's."""
    units = {
        "matrix unit": work.gemm, "vector unit": work.alu, "loads": work.load,
        "stores": work.store,
    }  # fmt: skip
    if 2 * (work.gemm + work.alu) >= cycles:
        return "matrix unit" if work.gemm >= work.alu else "vector unit"
    name = max(units, key=lambda n: units[n])
    return name if 2 * units[name] >= cycles else "waiting"


def _queue(stage: Stage, profiles: list[RegionProfile], whole: int) -> VtaQueueRow:
    busy = sum(p.simulation.busy_cycles(stage) for p in profiles)
    waits = [p.simulation.waiting_cycles(stage) for p in profiles]
    return VtaQueueRow(
        stage.name.lower(),
        _simulated(busy, "cycles"),
        _simulated(sum(w[0] for w in waits), "cycles"),
        _simulated(sum(w[1] for w in waits), "cycles"),
        _simulated(_percent(busy, whole), "%"),
    )


def _memories(profiles: list[RegionProfile]) -> dict[str, int]:
    result: dict[str, int] = {}
    for p in profiles:
        for name, value in p.simulation.loaded_bytes.items():
            result[name] = result.get(name, 0) + value
        result["OUT"] = result.get("OUT", 0) + p.simulation.stored_bytes
        result["instructions"] = result.get("instructions", 0) + p.simulation.fetched_bytes
    return result


def _energy(profile: RegionProfile) -> float:
    """Joules of one inference; see `ENERGY_SOURCE`."""
    s, config = profile.simulation, profile.region.program.config
    products = s.gemm_steps * config.macs_per_cycle
    moved = sum(s.loaded_bytes.values()) + s.stored_bytes + s.fetched_bytes
    tile = config.batch * config.block
    sram = s.gemm_steps * (config.wgt_bytes + config.inp_bytes + 2 * config.acc_bytes)
    sram += s.alu_steps * 3 * config.acc_bytes
    joules = products * (_MULTIPLY_J + _ADD_J) + s.alu_steps * tile * _ADD_J
    return profile.region.batch * (joules + sram * _SRAM_J + moved * _DRAM_J)


def _program(profile: RegionProfile) -> VtaProgramRow:
    program = profile.region.program
    constants = [b for b in program.buffers if b.role in ("weight", "uop")]
    return VtaProgramRow(
        name=profile.region.name,
        layers=len(profile.region.layers),
        cycles=_simulated(profile.simulation.cycles, "cycles"),
        instructions=len(program.instructions),
        relocations=len(relocations(program.instructions)),
        uops=sum(b.size // 4 for b in constants if b.role == "uop"),
        size=Figure.measured(len(program_bytes(program)), "B"),
        weights=Figure.measured(sum(b.size for b in constants if b.role == "weight"), "B"),
        dram=Figure.measured(program.dram_bytes, "B"),
    )


def _spans(profiles: list[RegionProfile]) -> list[VtaSpan]:
    """Instructions in a row of one layer as one piece; gaps too small to be seen are closed."""
    whole = sum(p.simulation.cycles for p in profiles)
    least = max(1, whole // _PIECES)
    result: list[VtaSpan] = []
    start, first = 0, 0
    for p in profiles:
        line = p.simulation.timeline
        owners = np.asarray(p.region.owners)
        for stage in Stage:
            ran = np.nonzero((line.stage == stage) & (line.done > line.begun))[0]
            current: VtaSpan | None = None
            for i in ran[np.argsort(line.begun[ran], kind="stable")]:
                owner = int(owners[i])
                layer = first + owner if owner >= 0 else -1
                begin, end = start + int(line.begun[i]), start + int(line.done[i])
                joins = current is not None and begin - current.end < least
                if current is not None and joins and current.layer in (layer, -1):
                    current = VtaSpan(current.queue, layer, current.begin, max(end, current.end))
                    continue
                if current is not None:
                    result.append(current)
                current = VtaSpan(stage.name.lower(), layer, begin, end)
            if current is not None:
                result.append(current)
        start += p.simulation.cycles
        first += len(p.region.layers)
    return result


__all__ = ["ENERGY_SOURCE", "RegionProfile", "describe_vta", "profile_region", "with_vta"]
