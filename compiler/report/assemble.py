"""From a profile and what the compiler knows to the rows of a report. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from compiler.coverage import group
from compiler.stages import KernelInfo, StageRecord

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
    process_rss: Figure,
    sizes: Mapping[str, int],
    accuracy: Accuracy | None,
    precision: str = "float32",
    inputs: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Report:
    """Put a report together; see `Report` for the meaning of each part."""
    whole = median(profile.run_ms)
    rows = _kernel_rows(profile, kernels, target, environment.threads, whole)
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
            p10=Figure.measured(percentile(profile.run_ms, 10), "ms"),
            median=Figure.measured(whole, "ms"),
            p90=Figure.measured(percentile(profile.run_ms, 90), "ms"),
            runs=len(profile.run_ms),
            warmup=profile.warmup,
        ),
        kernels=rows,
        interruptions=Figure.measured(interruptions, "ms"),
        interruptions_share=_share(interruptions, whole),
        gap=Figure.measured(gap, "ms"),
        gap_share=_share(gap, whole),
        kinds=_kind_rows(rows, whole),
        coverage=_coverage(rows, interruptions + gap, whole),
        fallback_share=_share(sum(r.time.value for r in rows if r.fallback), whole),
        roof=Roof(
            gflops={
                dtype: Figure.estimated(peak / 1e9, "GFLOPS")
                for dtype in dtypes
                if (peak := _peak(target, dtype, environment.threads)) is not None
            },
            bandwidth=Figure.estimated(target.memory_bandwidth_bytes_per_s / 1e9, "GB/s"),
        ),
        memory=_memory(profile, planned_activation_bytes, process_rss),
        sizes={key: Figure.measured(value, "B") for key, value in sizes.items()},
        accuracy=accuracy,
        compile_steps=tuple(
            CompileStep(s.stage, s.name, Figure.measured(s.milliseconds, "ms"), s.detail)
            for s in stages
        ),
        notes=notes,
    )


def _share(part: float, whole: float) -> Figure:
    return Figure.measured(100 * part / whole if whole else 0.0, "%")


def _peak(target: TargetSpec, dtype: str, threads: int) -> float | None:
    try:
        return target.peak_ops_per_s(dtype, min(threads, max(1, target.cores)))
    except KeyError:
        return None


def _kernel_rows(
    profile: Profile, kernels: Sequence[KernelInfo], target: TargetSpec, threads: int, whole: float
) -> tuple[KernelRow, ...]:
    known = {info.name: info for info in kernels}
    calls: dict[str, list[float]] = {}
    for name, milliseconds in zip(profile.call_names, profile.call_ms, strict=True):
        calls.setdefault(name, []).append(milliseconds)
    rows = [
        _kernel_row(known[name], times, target, threads, whole)
        if name in known
        else _unknown_row(name, times, whole)
        for name, times in calls.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.time.value))


def _unknown_row(name: str, times: Sequence[float], whole: float) -> KernelRow:
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
        calls=Figure.measured(len(times), "calls"),
        time=Figure.measured(time, "ms"),
        share=_share(time, whole),
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
    info: KernelInfo, times: Sequence[float], target: TargetSpec, threads: int, whole: float
) -> KernelRow:
    time = math.fsum(times)
    flops = info.flops * len(times)
    moved = (info.bytes_read + info.bytes_written) * len(times)
    least_s, bound = _least_time(flops, moved, info.dtype, target, threads)
    return KernelRow(
        name=info.name,
        kind=info.kind,
        operators=info.operators,
        rule=info.rule,
        fallback=info.fallback,
        why=info.why,
        sources=info.sources,
        dtype=info.dtype,
        calls=Figure.measured(len(times), "calls"),
        time=Figure.measured(time, "ms"),
        share=_share(time, whole),
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
    )


def _least_time(
    flops: float, moved: float, dtype: str, target: TargetSpec, threads: int
) -> tuple[float | None, str]:
    """Seconds that the target's peaks allow at best, and which of them is the limit.

    None if there is nothing to do, or arithmetic in a dtype whose peak is not known.
    """
    memory_s = moved / target.memory_bandwidth_bytes_per_s
    if not flops:
        return (memory_s, "memory") if memory_s else (None, "")
    peak = _peak(target, dtype, threads)
    if peak is None:
        return None, ""
    compute_s = flops / peak
    return (compute_s, "compute") if compute_s > memory_s else (memory_s, "memory")


def _kind_rows(rows: Sequence[KernelRow], whole: float) -> tuple[KindRow, ...]:
    by_kind: dict[str, list[KernelRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    kinds = []
    for kind, members in by_kind.items():
        time = math.fsum(row.time.value for row in members)
        calls = sum(row.calls.value for row in members)
        kinds.append(
            KindRow(
                kind,
                Figure.measured(calls, "calls"),
                Figure.measured(time, "ms"),
                _share(time, whole),
            )
        )
    return tuple(sorted(kinds, key=lambda kind: -kind.time.value))


def _coverage(
    rows: Sequence[KernelRow], overhead_ms: float, whole: float
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
            _share(math.fsum(rows[i].time.value for i in part.members), whole),
        )
        for part in group((row.source, row.tier) for row in rows)
    ]
    overhead = CoverageRow(
        "overhead", "", 0, Figure.estimated(0.0, "%"), _share(overhead_ms, whole)
    )
    return (*found, overhead)


def _memory(profile: Profile, planned: int, process_rss: Figure) -> Memory:
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
