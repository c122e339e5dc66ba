"""The truth: latencies of many candidates in one process, taken in turn, on one CPU."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import resource
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest
from pathlib import Path
from time import perf_counter, perf_counter_ns, sleep

from compiler.lower import tasks as kernels
from compiler.tune.measure.run import Buffer
from compiler.tune.measure.values import random_inputs, terms
from schedules.space import Choice
from targets.spec import TargetSpec

#: Good samples of each candidate that are enough, and those with which they say something.
_ENOUGH, _FEWEST = 40, 10
_SECONDS = 40.0
#: Of the least that the probe ever took, what it takes on a core that nobody else has a share of.
_ALONE = 1.06
#: Pauses until a sample is taken all the same, and how long each is.
_PATIENCE, _PAUSE_S = 50, 0.002


@dataclass(frozen=True, slots=True)
class Truth:
    """What was measured of one task.

    Attributes:
        nanoseconds: Latency of each candidate: the lower fifth of its good samples.
        samples: How many good ones each has.
        disturbed: Share of all samples that were left out.
    """

    nanoseconds: list[float]
    samples: list[int]
    disturbed: float


def make_probe(folder: Path) -> Callable[[], int]:
    """The program of `probe.c`: nanoseconds that a fixed piece of arithmetic takes.

    Args:
        folder: Where it is compiled.

    Raises:
        OSError: There is no C compiler.
        subprocess.CalledProcessError: It fails.
    """
    library, source = folder / "probe.so", Path(__file__).with_name("probe.c")
    compiler = shutil.which("gcc") or shutil.which("cc") or "gcc"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    function = ctypes.CDLL(str(library)).probe_ns
    function.restype = ctypes.c_uint64
    return lambda: int(function())


class Alone:
    """Tells whether nobody else has a share of this core.

    Args:
        probe: As `make_probe` gives it.
    """

    def __init__(self, probe: Callable[[], int]) -> None:
        self._probe = probe
        self._limit = _ALONE * min(probe() for _ in range(20_000))

    def __bool__(self) -> bool:
        return self._probe() <= self._limit

    def wait(self) -> None:
        """Until it is so, or for so long that someone seems to stay."""
        for _ in range(_PATIENCE):
            if self:
                return
            sleep(_PAUSE_S)


def measure(
    task: kernels.Task,
    candidates: Sequence[tuple[Choice, Path]],
    spec: TargetSpec,
    cpu: int,
    seconds: float = _SECONDS,
) -> Truth:
    """Latency of each candidate in nanoseconds, from rounds over all of them.

    Weights come from memory, as in a network. Left out are samples during which the system gave the
    CPU away, and those before or after which a fixed piece of arithmetic took longer than it
    can: then a neighbour on the same core, which this machine cannot see, had a share of its units.
    One that comes and goes in between is not found so; it makes samples longer, never shorter:
    what counts is their lower fifth.

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

    with tempfile.TemporaryDirectory() as folder:
        alone = Alone(make_probe(Path(folder)))

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
            alone.wait()
            function(*tensors)  # the activations as a network leaves them
            if cold:
                flush(buffers[0].tensor, *cold)
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
            good = bool(alone)
            start = perf_counter_ns()
            function(*tensors)
            elapsed = perf_counter_ns() - start
            good = good and bool(alone)
            kept = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == before
            return float(elapsed), good and kept

        return call

    calls = [caller(*candidate) for candidate in candidates]
    gc.disable()
    good: list[list[float]] = [[] for _ in calls]
    every: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    draw = random.Random(0)  # in one order, whatever comes at regular times would hit the same ones
    end = perf_counter() + seconds
    while min(map(len, good)) < _ENOUGH and perf_counter() < end:
        for i in draw.sample(range(len(calls)), len(calls)):
            elapsed, undisturbed = calls[i]()
            every[i].append(elapsed)
            if undisturbed:
                good[i].append(elapsed)
    gc.enable()
    return Truth(
        [low(g if len(g) >= _FEWEST else e) for g, e in zip(good, every, strict=True)],
        [len(g) for g in good],
        1.0 - sum(map(len, good)) / max(1, sum(map(len, every))),
    )


def low(samples: Sequence[float]) -> float:
    """The lower fifth of samples: what disturbs makes them longer."""
    return sorted(samples)[len(samples) // 5]


__all__ = ["Alone", "Truth", "low", "make_probe", "measure"]
