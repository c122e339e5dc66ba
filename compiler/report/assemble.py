"""From a profile and what the compiler knows to the rows of a report. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Protocol

from compiler.coverage import group
from compiler.package.bundle import PARAMETERS_IN_MEMORY
from compiler.stages import KernelInfo, StageRecord

from .elsewhere_model import Elsewhere
from .model import (
    Accuracy,
    CompileStep,
    CoverageRow,
    Environment,
    Figure,
    KernelRow,
    KindRow,
    Latency,
    Memory,
    MemoryStep,
    Roof,
)
from .profile import Profile
from .report import Report

if TYPE_CHECKING:
    from targets.spec import TargetSpec


class Cost(Protocol):
    """What is counted and estimated of one kernel, all its calls together."""

    @property
    def instructions(self) -> int:
        """Executed."""

    @property
    def memory_cycles(self) -> float:
        """To move its tensors once."""

    @property
    def stall_cycles(self) -> float:
        """That misses of the caches add."""

    @property
    def cycles(self) -> float:
        """In all."""

    @property
    def misses(self) -> tuple[int, ...]:
        """Of each level of cache, nearest first, simulated; empty if they were not."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear interpolation between the closest ranks, as numpy's default.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def assemble(
    profile: Profile,
    *,
    name: str,
    target: TargetSpec,
    environment: Environment,
    kernels: Sequence[KernelInfo],
    stages: Sequence[StageRecord],
    planned_activation_bytes: int,
    process_rss: Figure | None,
    sizes: Mapping[str, int],
    accuracy: Accuracy | None,
    precision: str = "float32",
    inputs: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    label: str = "measured",
    costs: Mapping[str, Cost] | None = None,
    cache_bandwidths: Mapping[str, float] | None = None,
    elsewhere: Elsewhere | None = None,
) -> Report:
    """Put a report together; see `Report` for the meaning of each part.

    `label` says how the profile's times were come by, `costs` what was counted of each kernel,
    by its name, and `cache_bandwidths` gives bytes/s of each level of cache by ``L1``, ...
    """
    whole = median(profile.run_ms)
    shown = _Times(label, whole)
    peaks = _Peaks(target, environment.threads)
    rows = _kernel_rows(profile, kernels, peaks, shown, costs or {})
    kernels_ms = math.fsum(row.time.value for row in rows)
    # A program that runs in between makes a replay longer as it does a whole run, but seldom
    # hits the same call twice: the medians of the calls do not see it.
    replay = max(median(profile.replay_ms), kernels_ms)
    interruptions, gap = replay - kernels_ms, whole - replay
    dtypes = sorted({row.dtype for row in rows if row.flops and row.flops.value > 0})
    return Report(
        model=name,
        target=target.name,
        target_title=target.title,
        precision=precision,
        inputs=inputs,
        outputs=outputs,
        environment=environment,
        latency=Latency(
            p10=shown.spread(profile.run_ms, 10),
            median=shown.ms(whole),
            p90=shown.spread(profile.run_ms, 90),
            runs=0 if label == "estimated" else len(profile.run_ms),
            warmup=profile.warmup,
        ),
        kernels=rows,
        interruptions=shown.ms(interruptions),
        interruptions_share=shown.share(interruptions),
        gap=shown.ms(gap),
        gap_share=shown.share(gap),
        kinds=_kind_rows(rows, shown),
        coverage=_coverage(rows, interruptions + gap, shown),
        fallback_share=shown.share(sum(r.time.value for r in rows if r.fallback)),
        roof=Roof(
            gflops={
                dtype: Figure.estimated(peak / 1e9, "GFLOPS")
                for dtype in dtypes
                if (peak := peaks.rate(dtype)) is not None
            },
            bandwidth=Figure.estimated(target.memory_bandwidth_bytes_per_s / 1e9, "GB/s"),
            caches={
                level: Figure.estimated(rate / 1e9, "GB/s")
                for level, rate in (cache_bandwidths or {}).items()
            },
        ),
        memory=_memory(profile, planned_activation_bytes, process_rss),
        sizes={key: _size(key, value) for key, value in sizes.items()},
        accuracy=accuracy,
        compile_steps=tuple(
            CompileStep(s.stage, s.name, Figure.measured(s.milliseconds, "ms"), s.detail)
            for s in stages
        ),
        notes=notes,
        elsewhere=elsewhere,
    )


@dataclass(frozen=True, slots=True)
class _Times:
    """Figures of time: how they were come by, and what their shares are of, ms."""

    label: str
    whole: float

    def ms(self, value: float) -> Figure:
        return Figure(float(value), "ms", self.label)

    def share(self, part: float) -> Figure:
        return Figure(100.0 * part / self.whole if self.whole else 0.0, "%", self.label)

    def calls(self, count: float) -> Figure:
        # Where nothing ran, the compiler's graph says how often.
        return Figure(float(count), "calls", self.label)

    def spread(self, values: Sequence[float], percent: float) -> Figure | None:
        return None if self.label == "estimated" else self.ms(percentile(values, percent))


@dataclass(frozen=True, slots=True)
class _Peaks:
    """A target's ceilings for a number of threads."""

    target: TargetSpec
    threads: int

    def rate(self, dtype: str) -> float | None:
        """Operations per second, None for a dtype without a peak."""
        try:
            return self.target.peak_ops_per_s(dtype, min(self.threads, max(1, self.target.cores)))
        except KeyError:
            return None

    def least_s(self, flops: float, moved: float, dtype: str) -> tuple[float | None, str]:
        """Seconds that the peaks allow at best, and which of them is the limit.

        None if there is nothing to do, or arithmetic in a dtype whose peak is not known.
        """
        memory_s = moved / self.target.memory_bandwidth_bytes_per_s
        if not flops:
            return (memory_s, "memory") if memory_s else (None, "")
        peak = self.rate(dtype)
        if peak is None:
            return None, ""
        compute_s = flops / peak
        return (compute_s, "compute") if compute_s > memory_s else (memory_s, "memory")

    def of_cost(self, cost: Cost, flops: float, dtype: str) -> tuple[float, str]:
        """The same of a kernel whose cycles are estimated, for the level its tensors come from.

        Where caches were simulated, the estimate has what moving tensors takes in its misses.
        """
        rate = self.target.peak_ops_per_cycle.get(dtype, 0.0)
        compute = flops / rate if rate else 0.0
        memory = 0.0 if cost.misses else cost.memory_cycles
        least = max(compute, memory) / self.target.clock_hz
        if (memory and memory >= cost.cycles) or 2 * cost.stall_cycles >= cost.cycles:
            return least, "memory"
        return least, "compute" if 2 * compute >= cost.cycles else "instructions"


def _size(name: str, size: float) -> Figure:
    """Files are as long as they are; what is in memory is computed from shapes."""
    if name == PARAMETERS_IN_MEMORY:
        return Figure.estimated(size, "B")
    return Figure.measured(size, "B")


def _kernel_rows(
    profile: Profile,
    kernels: Sequence[KernelInfo],
    peaks: _Peaks,
    shown: _Times,
    costs: Mapping[str, Cost],
) -> tuple[KernelRow, ...]:
    known = {info.name: info for info in kernels}
    calls: dict[str, list[float]] = {}
    for name, milliseconds in zip(profile.call_names, profile.call_ms, strict=True):
        calls.setdefault(name, []).append(milliseconds)
    rows = [
        _kernel_row(known[name], times, peaks, shown, costs.get(name))
        if name in known
        else _unknown_row(name, times, shown)
        for name, times in calls.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.time.value))


def _unknown_row(name: str, times: Sequence[float], shown: _Times) -> KernelRow:
    """A function that the compiler did not describe, for example a library's."""
    time = math.fsum(times)
    return KernelRow(
        name=name,
        kind="other",
        operators=(),
        rule="unknown",
        fallback=False,
        why="the compiler gave no description of it",
        sources=(),
        dtype="",
        calls=shown.calls(len(times)),
        time=shown.ms(time),
        share=shown.share(time),
        flops=None,
        bytes_moved=None,
        gflops=None,
        roofline=None,
        bound="",
        source="unknown",
        tier="",
        record="",
        choice=None,
        miss="",
    )


def _kernel_row(
    info: KernelInfo, times: Sequence[float], peaks: _Peaks, shown: _Times, cost: Cost | None
) -> KernelRow:
    time = math.fsum(times)
    flops = info.flops * len(times)
    moved = (info.bytes_read + info.bytes_written) * len(times)
    least_s, bound = (
        peaks.least_s(flops, moved, info.dtype)
        if cost is None
        else peaks.of_cost(cost, flops, info.dtype)
    )
    return KernelRow(
        name=info.name,
        kind=info.kind,
        operators=info.operators,
        rule=info.rule,
        fallback=info.fallback,
        why=info.why,
        sources=info.sources,
        dtype=info.dtype,
        calls=shown.calls(len(times)),
        time=shown.ms(time),
        share=shown.share(time),
        flops=Figure.estimated(flops, "FLOP"),
        bytes_moved=Figure.estimated(moved, "B"),
        gflops=Figure.estimated(flops / time / 1e6, "GFLOPS") if flops and time > 0 else None,
        roofline=Figure.estimated(1e5 * least_s / time, "%") if least_s and time > 0 else None,
        bound=bound,
        source="fallback" if info.fallback else info.source,
        tier=info.tier,
        record=info.record,
        choice=info.choice,
        miss=info.miss,
        instructions=None if cost is None else Figure.counted(cost.instructions, "instructions"),
        cycles=None if cost is None else Figure.estimated(cost.cycles, "cycles"),
        misses={
            f"L{level}": Figure(float(count), "misses", "simulated")
            for level, count in enumerate(() if cost is None else cost.misses, start=1)
        },
    )


def _kind_rows(rows: Sequence[KernelRow], shown: _Times) -> tuple[KindRow, ...]:
    by_kind: dict[str, list[KernelRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    kinds = []
    for kind, members in by_kind.items():
        time = math.fsum(row.time.value for row in members)
        calls = sum(row.calls.value for row in members)
        kinds.append(KindRow(kind, shown.calls(calls), shown.ms(time), shown.share(time)))
    return tuple(sorted(kinds, key=lambda kind: -kind.time.value))


def _coverage(
    rows: Sequence[KernelRow], overhead_ms: float, shown: _Times
) -> tuple[CoverageRow, ...]:
    """Shares by the source of the schedules; what no kernel takes is a row, too."""
    flops = [row.flops.value if row.flops is not None else 0.0 for row in rows]
    total = math.fsum(flops)
    found = [
        CoverageRow(
            part.source,
            part.tier,
            len(part.members),
            Figure.estimated(
                100 * math.fsum(flops[i] for i in part.members) / total if total else 0.0, "%"
            ),
            shown.share(math.fsum(rows[i].time.value for i in part.members)),
        )
        for part in group((row.source, row.tier) for row in rows)
    ]
    overhead = CoverageRow("overhead", "", 0, Figure.estimated(0.0, "%"), shown.share(overhead_ms))
    return (*found, overhead)


def _memory(profile: Profile, planned: int, process_rss: Figure | None) -> Memory:
    followed = any(profile.live_bytes)
    return Memory(
        planned_peak=Figure.estimated(planned, "B") if planned else None,
        allocated=Figure.measured(profile.allocated_bytes, "B")
        if profile.allocated_bytes
        else None,
        live_peak=Figure.estimated(max(profile.live_bytes), "B") if followed else None,
        process_rss=process_rss,
        schedule=tuple(
            MemoryStep(name, Figure.estimated(live, "B"))
            for name, live in zip(profile.call_names, profile.live_bytes, strict=True)
        )
        if followed
        else (),
    )
