"""The truth: latencies of many candidates in one process, taken in turn, on one CPU."""

from __future__ import annotations

import gc
import os
import resource
import zlib
from collections.abc import Callable, Sequence
from itertools import chain, repeat, zip_longest
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns

from compiler.lower import tasks as kernels
from compiler.tune.measure.run import Buffer
from compiler.tune.measure.values import random_inputs, terms
from schedules.space import Choice
from targets.spec import TargetSpec

#: Rounds over all candidates, and seconds that one task may take.
_ROUNDS, _SECONDS = 40, 40.0


def measure(
    task: kernels.Task,
    candidates: Sequence[tuple[Choice, Path]],
    spec: TargetSpec,
    cpu: int,
    seconds: float = _SECONDS,
) -> list[float]:
    """Median latency of each candidate in nanoseconds, from rounds over all of them.

    Weights come from memory, as in a network. Samples during which the system gave the CPU away
    are left out.

    Args:
        task: What they compute.
        candidates: Choices and their shared objects.
        spec: What they were built for.
        cpu: To run on.
        seconds: To take, about.
    """
    import tvm_ffi

    from schedules.tvm_adapter import configure_thread_pool, tvm

    os.sched_setaffinity(0, {cpu})
    configure_thread_pool(1)
    arguments = kernels.arguments(task)
    inputs = [a for a in arguments if a.role != "output"]
    outputs = [a for a in arguments if a.role == "output"]
    seed = zlib.crc32(task.to_json().encode())
    arrays = random_inputs(inputs, seed, terms(task.workload))
    buffers = [Buffer.holding(array) for array in arrays]
    results = [Buffer(a.shape, a.dtype) for a in outputs]
    flush = tvm_ffi.get_global_func("cache_flush_cpu_non_first_arg")

    def caller(choice: Choice, library: Path) -> Callable[[], tuple[float, bool]]:
        function = tvm.runtime.load_module(str(library))["main"]
        packed = kernels.pack_arguments(task, choice, spec, list(arrays))
        mine = [
            buffer if array is given else Buffer.holding(array)
            for array, given, buffer in zip_longest(packed, arrays, buffers)
        ]
        tensors = [buffer.tensor for buffer in (*mine, *results)]
        roles = chain((a.role for a in inputs), repeat("weight"))
        weights = [b.tensor for b, role in zip(mine, roles, strict=False) if role == "weight"]
        cold = weights if task.workload.operator != "batch_matmul" else []

        def call(_kept: object = (mine, tensors)) -> tuple[float, bool]:
            function(*tensors)  # the activations as a network leaves them
            if cold:
                flush(buffers[0].tensor, *cold)
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
            start = perf_counter_ns()
            function(*tensors)
            elapsed = perf_counter_ns() - start
            alone = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == before
            return float(elapsed), alone

        return call

    calls = [caller(*candidate) for candidate in candidates]
    gc.disable()
    quiet: list[list[float]] = [[] for _ in calls]
    every: list[list[float]] = [[] for _ in calls]
    end = perf_counter() + seconds
    for round_ in range(_ROUNDS):
        for i, call in enumerate(calls):
            elapsed, alone = call()
            if round_ == 0:
                continue
            every[i].append(elapsed)
            if alone:
                quiet[i].append(elapsed)
        if perf_counter() > end and round_ > 4:
            break
    gc.enable()
    return [median(q if len(q) >= 3 else e) for q, e in zip(quiet, every, strict=True)]


__all__ = ["measure"]
