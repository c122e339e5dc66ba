"""Which task gets the next batch, and when a task is done.

The rule is Ansor's (Zheng et al., OSDI 2020, section 6), on the sum of calls times latency: what a
task's next batch will gain is estimated from what its last ones brought and, optimistically, from
the gap to what it could reach: the roofline, or the share of it that a similar task reached
already. Batches that brought nothing make the optimism smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from targets.spec import TargetSpec

#: Weight of what the last batches brought against what could be reached.
_HISTORY = 0.2
#: Batches that count as the last ones.
_WINDOW = 3
#: A task this close to the roofline has nothing left to win.
NEAR_ROOFLINE = 1.05
#: Batches without an improvement after which a task is done.
PATIENCE = 5
#: The same where latencies are estimated: a candidate costs more, and its figure is no luck.
PATIENCE_ESTIMATED = 2
#: Failed candidates, and none measured, after which a task is given up.
HOPELESS = 32


@dataclass(frozen=True)
class Standing:
    """What the choice of the next task looks at.

    Attributes:
        calls: How often a run of the model calls it.
        best_ns: Its best latency, or its estimate while nothing was measured.
        floor_ns: The roofline's bound.
        reachable_ns: What a similar task's share of the roofline would give, at least `floor_ns`.
        history_ns: Best latency after each batch of this run, oldest first.
        idle_batches: How many of the last ones brought nothing.
    """

    calls: int
    best_ns: float
    floor_ns: float
    reachable_ns: float
    history_ns: tuple[float, ...]
    idle_batches: int = 0


def expected_gain(task: Standing) -> float:
    """Nanoseconds that one more batch is expected to take off a run of the model."""
    rounds = max(1, len(task.history_ns))
    recent = 0.0
    if len(task.history_ns) > 1:
        before = task.history_ns[max(0, len(task.history_ns) - 1 - _WINDOW)]
        recent = (before - task.history_ns[-1]) / min(_WINDOW, len(task.history_ns) - 1)
    to_floor = max(0.0, task.best_ns - task.floor_ns)
    # A gap that a similar task does not have is likelier to close than one to the roofline.
    gap = max(0.25 * to_floor, task.best_ns - max(task.floor_ns, task.reachable_ns))
    hopeful = min(task.best_ns / rounds, gap) / (1 + task.idle_batches) ** 2
    return task.calls * (_HISTORY * recent + (1 - _HISTORY) * hopeful)


def roofline_ns(
    flops: float, moved_bytes: float, dtype: str, spec: TargetSpec, clock_hz: float
) -> float:
    """Least time of a kernel on one core, by the target's peak rate and bandwidth (estimated).

    Args:
        flops: Operations, a multiply-add is two.
        moved_bytes: Size of all operands and results. What the last cache can hold may be
            there already, so only the rest counts.
        dtype: Of the operands.
        spec: The target.
        clock_hz: The clock to count with; the target's own where it is higher.
    """
    peaks = spec.peak_ops_per_cycle
    rate = peaks.get(dtype) or peaks.get("float32")
    compute = flops / (rate * max(clock_hz, spec.clock_hz)) if rate else 0.0
    cached = max((cache.size_bytes for cache in spec.caches), default=0)
    memory = max(0.0, moved_bytes - cached) / spec.memory_bandwidth_bytes_per_s
    bound = max(compute, memory) * 1e9
    return bound if math.isfinite(bound) else 0.0


__all__ = [
    "HOPELESS",
    "NEAR_ROOFLINE",
    "PATIENCE",
    "Standing",
    "expected_gain",
    "roofline_ns",
]
