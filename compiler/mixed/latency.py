"""What each layer costs in each precision: times of the kernels of models that are all of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.package import Bundle
    from targets.spec import TargetSpec

#: Runs of a compiled model, and the most seconds of them.
RUNS, BUDGET_S = 30, 2.0


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one compiled model.

    Attributes:
        total: Of one inference: a tenth of the runs were faster, which other programs on the
            machine change less than the median.
        layers: Of each layer's kernels, by the path of its module.
        label: ``measured`` or ``estimated``.
    """

    total: float
    layers: Mapping[str, float]
    label: str


def time_bundle(bundle: Bundle, target: TargetSpec, threads: int, *, measured: bool) -> Times:
    """Time a compiled model, kernel by kernel.

    Args:
        bundle: The model.
        target: Whose peaks an estimate is made from.
        threads: Threads that it runs on.
        measured: Whether to run it; else the figures are the least times that the target's
            peaks allow.
    """
    sources = {k.name: k.sources if len(k.sources) == k.calls else () for k in bundle.kernels}
    if not measured:
        names = [k.name for k in bundle.kernels for _ in range(k.calls)]
        least = {k.name: _least_ms(k, target, threads) for k in bundle.kernels}
        layers = _by_layer(((n, least[n]) for n in names), sources)
        return Times(sum(least[n] for n in names), layers, "estimated")
    from compiler.report.environment import pinned
    from compiler.report.profile import collector_off, profile

    with pinned(threads), collector_off():
        found = profile(
            bundle.executor, bundle.golden.inputs, runs=RUNS, warmup=3, budget_s=BUDGET_S
        )
    ordered = sorted(found.run_ms)
    calls = zip(found.call_names, found.call_ms, strict=True)
    return Times(ordered[len(ordered) // 10], _by_layer(calls, sources), "measured")


def _by_layer(
    calls: Iterable[tuple[str, float]], sources: Mapping[str, tuple[str, ...]]
) -> dict[str, float]:
    """Sums of the calls' times by the layers whose weights they read.

    A kernel that serves several layers has one source a call, in the order of the calls.
    """
    seen: dict[str, int] = defaultdict(int)
    result: dict[str, float] = defaultdict(float)
    for name, milliseconds in calls:
        owners = sources.get(name, ())
        if owners:
            result[owners[seen[name] % len(owners)]] += milliseconds
        seen[name] += 1
    return dict(result)


def _least_ms(kernel: Any, target: TargetSpec, threads: int) -> float:
    """What the target's peaks allow at best."""
    cores = min(threads, max(1, target.cores))
    try:
        compute = kernel.flops / target.peak_ops_per_s(_peak_dtype(kernel.dtype), cores)
    except (KeyError, ValueError):
        compute = kernel.flops / target.peak_ops_per_s("float32", cores)
    memory = (kernel.bytes_read + kernel.bytes_written) / target.memory_bandwidth_bytes_per_s
    return 1e3 * max(compute, memory)


def _peak_dtype(dtype: str) -> str:
    return "int8" if dtype in ("uint8", "int8") else dtype


__all__ = ["Times", "time_bundle"]
