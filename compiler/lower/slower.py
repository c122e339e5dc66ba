"""Integer kernels that take longer than float32 would: found, and said."""

from __future__ import annotations

from compiler.lower.choose_kernels import ChosenKernel
from schedules.cpu import templates
from targets.spec import TargetSpec

#: How every remark of this kind begins.
REMARK = "int8 is slower here"


def slower_than_float(chosen: ChosenKernel, spec: TargetSpec) -> str:
    """A remark on a kernel of integers that float32 would beat; empty where it would not.

    Latencies that tuning records measured on this CPU are compared where there are some of
    both, else the analytic models' estimates.
    """
    workload, selection = chosen.workload, chosen.selection
    if not workload.is_integer or not workload.is_static:
        return ""
    mine, other, label = selection.median_ns, selection.float_ns, "measured, from records"
    if mine is None or other is None:
        twin = workload.in_float
        if not templates.spaces(twin, spec):
            return ""
        per_ns = spec.clock_hz / 1e9
        mine = templates.estimated_cycles(workload, chosen.choice, spec) / per_ns
        float_choice = templates.default_choice(twin, spec)
        other = templates.estimated_cycles(twin, float_choice, spec) / per_ns
        label = "estimated"
    if mine <= other:
        return ""
    return f"{REMARK}: {mine / 1e3:.1f} µs, {other / 1e3:.1f} µs in float32 ({label})"


__all__ = ["REMARK", "slower_than_float"]
