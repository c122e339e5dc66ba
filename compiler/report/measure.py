"""Measure a compiled model on this machine and put its latency report together."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError
from compiler.stages import KernelInfo, StageRecord

from .assemble import assemble
from .environment import environment, pinned
from .model import Accuracy, Figure
from .profile import Profile, Runner, collector_off, profile
from .report import Report

if TYPE_CHECKING:
    from targets.spec import TargetSpec

#: Runs and seconds of a full and of a quick measurement.
RUNS, BUDGET_S = 50, 5.0
QUICK_RUNS, QUICK_BUDGET_S = 5, 1.0


def measure(
    executor: Runner,
    inputs: Sequence[Any],
    *,
    target: TargetSpec,
    kernels: Sequence[KernelInfo],
    name: str,
    stages: Sequence[StageRecord] = (),
    planned_activation_bytes: int = 0,
    sizes: Mapping[str, int] | None = None,
    numerical_error: Accuracy | None = None,
    threads: int = 1,
    precision: str = "float32",
    runs: int | None = None,
    warmup: int = 3,
    budget_s: float | None = None,
    quick: bool = False,
) -> Report:
    """Profile a compiled model and describe it.

    With one thread the measuring thread is pinned to a core, and set free again after.

    Args:
        executor: The loaded model, a `compiler.runtime.Executor`.
        inputs: Arrays for one inference, numpy or torch, in the model's order.
        target: Whose peaks the roofline is taken from.
        kernels: What the compiler knows of each kernel; a kernel that runs and is not among
            them is shown as ``other``.
        name: Name of the model.
        stages: What the compilation did.
        planned_activation_bytes: Peak of the static memory plan; 0 if there was none.
        sizes: Bytes of the artefacts: ``parameters``, ``library``, ``bundle`` …
        numerical_error: From `compare`, None if nothing was compared.
        threads: Threads that the compiled code runs on. The figure is reported and used for
            the roofline; it does not change the executor.
        precision: That the model was compiled in.
        runs: Whole runs to time, `RUNS` or, if `quick`, `QUICK_RUNS` by default.
        warmup: Runs before the first that counts.
        budget_s: Seconds that it should take: a slow model has fewer runs, but at least
            three. The report says how many there were.
        quick: Fewer runs, for a first look.

    Raises:
        InputError: `runs`, `warmup` or `threads` makes no sense, or the inputs do not fit.
    """
    runs = runs if runs is not None else QUICK_RUNS if quick else RUNS
    budget_s = budget_s if budget_s is not None else QUICK_BUDGET_S if quick else BUDGET_S
    for what, value, least in (("runs", runs, 1), ("warmup", warmup, 0), ("threads", threads, 1)):
        if value < least:
            raise InputError(
                f"{what} is {value}", where="measure", hint=f"give at least {least} for {what}"
            )
    with pinned(threads) as core, collector_off():
        here = environment(threads, core)
        measured = profile(executor, inputs, runs=runs, warmup=warmup, budget_s=budget_s)
        rss = _process_rss()
    return assemble(
        measured,
        name=name,
        target=target,
        environment=here,
        kernels=kernels,
        stages=stages,
        planned_activation_bytes=planned_activation_bytes,
        process_rss=rss,
        sizes=sizes or {},
        accuracy=numerical_error,
        precision=precision,
        inputs=tuple(str(spec) for spec in getattr(executor, "inputs", ())),
        outputs=tuple(str(spec) for spec in getattr(executor, "outputs", ())),
        notes=_notes(measured, kernels, here.load_1min),
    )


def compare(
    outputs: Sequence[Any], expected: Sequence[Any], *, reference: str = "PyTorch"
) -> Accuracy:
    """How far `outputs` are from `expected`, both numpy arrays in the same order.

    Raises:
        InputError: Their numbers or shapes differ.
    """
    import numpy as np

    if len(outputs) != len(expected):
        raise InputError(
            f"{len(outputs)} outputs, but {len(expected)} expected",
            where="compare",
            hint="give the outputs of the same model",
        )
    worst_abs = worst_rel = 0.0
    for i, (got, want) in enumerate(zip(outputs, expected, strict=True)):
        got64, want64 = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if got64.shape != want64.shape:
            raise InputError(
                f"shape {got64.shape}, but {want64.shape} expected",
                where=f"compare: output {i}",
                hint="give the outputs of the same model",
            )
        if not got64.size:
            continue
        # Equal infinities and NaN in the same place agree; their difference would be NaN.
        same = (got64 == want64) | (np.isnan(got64) & np.isnan(want64))
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(same, 0.0, np.abs(got64 - want64))
        largest = float(difference.max())
        finite = np.abs(want64[np.isfinite(want64)])
        scale = float(finite.max()) if finite.size else 0.0
        relative = 0.0 if largest == 0 else largest / scale if scale else float("inf")
        worst_abs, worst_rel = _worse(worst_abs, largest), _worse(worst_rel, relative)
    return Accuracy(Figure.measured(worst_abs, ""), Figure.measured(worst_rel, ""), reference)


def _worse(a: float, b: float) -> float:
    """The larger; NaN, which `max` would drop if it came second, is worse than all."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def _process_rss() -> Figure:
    import psutil

    return Figure.measured(psutil.Process().memory_info().rss, "B")


def _notes(
    measured: Profile, kernels: Sequence[KernelInfo], load: Figure | None
) -> tuple[str, ...]:
    method = (
        "Kernels are timed one by one, in the order and on the buffers of a real run "
        f"({len(measured.replay_ms)} replays); {measured.overhead_us:.2f} µs for an empty call is "
        "taken off each."
    )
    counting = (
        "FLOPs and bytes are counted from shapes; a multiply-add is two. Roofline: the least "
        "time that the target's peak rate and main-memory bandwidth allow, over the time "
        "measured; above 100 % the data came from caches, or the algorithm does with fewer "
        "operations than the operator is counted with (Winograd)."
    )
    notes = [method, counting]
    unknown = set(measured.call_names) - {info.name for info in kernels}
    if unknown:
        notes.append(
            f"The compiler gave no description of {len(unknown)} kernels: their FLOPs, bytes and "
            "whether they met only the fallback are not known."
        )
    if load is not None and load.value > max(1.5, 0.75 * (os.cpu_count() or 1)):
        notes.append(
            f"The machine was busy (load {load.value:g} over the last minute): times may be "
            "too long. Measure again when it is quiet."
        )
    return tuple(notes)


__all__ = ["compare", "measure"]
