"""Runs the contenders in turn, on the same CPUs, one at a time."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tools.bench import environments
from tools.bench.contenders import Contender, base_of
from tools.bench.contenders.case import CASE, REFERENCE, Array, read_arrays
from tools.bench.machine import busy_seconds, process_seconds
from tools.bench.order import order_of
from tools.bench.protocol import ContenderError, Worker
from tools.bench.results import ContenderResult, NetResult, Settings
from tools.bench.stats import ratio_spread, round_medians, spread

ROOT = environments.ROOT
BENCHMARKS = "tools.zoo.nets:build"

#: Largest error against PyTorch, relative to the largest magnitude of the output, beyond
#: which a contender computes something else and its time means nothing.
TOLERANCE_F32 = 1e-3
TOLERANCE_LOW = 0.15

#: A turn lasts about this long, so that a short network is timed more often in it.
_TURN_MS = 60.0
_MAX_COUNT = 20
_WARM_MS = 15.0
_MAX_WARM = 5

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a contender before it is given up."""

    export: float = 600.0
    prepare: float = 1200.0
    run: float = 120.0


@dataclass(slots=True)
class Runner:
    """A contender that is ready to run."""

    result: ContenderResult
    worker: Worker
    warm: int = 1
    count: int = 3
    rounds: list[list[float]] = field(default_factory=list)


def worker_environment(threads: int, scratch: Path) -> dict[str, str]:
    """The environment of every worker.

    Args:
        threads: Size of all thread pools.
        scratch: Folder for what a runtime may keep for its next start; it begins empty, so
            that preparation times are those of a first start.
    """
    count = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "TVM_NUM_THREADS": count,
        # Its compile workers would stay about, and run beside the measurement.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }


def turn_size(milliseconds: float) -> tuple[int, int]:
    """How many inferences of a turn are run untimed, to warm the caches, and how many timed."""
    warm = math.ceil(_WARM_MS / milliseconds)
    count = math.ceil(_TURN_MS / milliseconds)
    return min(max(warm, 1), _MAX_WARM), min(max(count, 2), _MAX_COUNT)


def largest_errors(got: Sequence[Array], want: Sequence[Array]) -> tuple[float, float]:
    """Largest absolute error, and the largest relative to its output's largest magnitude.

    Raises:
        ContenderError: The outputs differ in number or shape, or are not finite where
            PyTorch's are.
    """
    if [a.shape for a in got] != [a.shape for a in want]:
        raise ContenderError(
            f"its outputs are {[a.shape for a in got]}, PyTorch's {[a.shape for a in want]}"
        )
    absolute = relative = 0.0
    for a, b in zip(got, want, strict=True):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
        error = float(difference.max(initial=0.0))
        if not math.isfinite(error):
            raise ContenderError("its outputs hold values that are not finite")
        scale = float(np.abs(b.astype(np.float64)).max(initial=0.0)) or 1.0
        absolute, relative = max(absolute, error), max(relative, error / scale)
    return absolute, relative


@contextmanager
def away_from(cpus: tuple[int, ...]) -> Iterator[None]:
    """Keep this process off the measured CPUs, where there are others."""
    before = os.sched_getaffinity(0)
    rest = before - set(cpus)
    if rest:
        os.sched_setaffinity(0, rest)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def write_case(
    net: str,
    folder: Path,
    *,
    onnx: bool,
    builder: str,
    timeout: float,
    say: Say,
    samples: bool = False,
) -> dict[str, Any]:
    """Write inputs, reference outputs, weights and ONNX of a network into an empty folder.

    Raises:
        ContenderError: The network cannot be built or run.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python = Path(sys.executable)
    failed: str | None = None
    if onnx:
        try:
            python = environments.ensure("export")
        except ContenderError as error:
            onnx, failed = False, str(error)
    say("reference outputs" + (" and ONNX export" if onnx else ""))
    command = [str(python), "-m", "tools.bench.export", str(folder), net, "--builder", builder]
    try:
        done = subprocess.run(
            [*command, *(["--onnx"] if onnx else []), *(["--samples"] if samples else [])],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ContenderError(f"{net}: no reference outputs within {timeout:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ContenderError(f"{net} cannot be built: {last}")
    facts: dict[str, Any] = json.loads((folder / CASE).read_text())
    if failed:
        facts["onnx_error"] = f"ONNX export: {failed}"
    return facts


def run_net(
    net: str,
    contenders: Sequence[Contender],
    settings: Settings,
    *,
    workdir: Path,
    say: Say,
    timeouts: Timeouts | None = None,
    builder: str = BENCHMARKS,
) -> NetResult:
    """Measure all contenders on one network.

    Args:
        net: Name for the builder.
        contenders: In the order of the tables.
        settings: CPUs, threads, rounds.
        workdir: Folder for files that the workers share and for their logs.
        say: Told what is going on.
        timeouts: When to give a contender up.
        builder: ``module:function`` that gives a module and its inputs for a name.

    Raises:
        ContenderError: The network itself cannot be built or run by PyTorch.
    """
    limits = timeouts or Timeouts()
    folder = workdir / net
    facts = write_case(
        net,
        folder,
        onnx=any(contender.needs_onnx for contender in contenders),
        samples=any(contender.needs_samples for contender in contenders),
        builder=builder,
        timeout=limits.export,
        say=say,
    )
    result = NetResult(net, facts["inputs"], facts["parameters"], [])
    runners: list[Runner] = []
    try:
        for contender in contenders:
            entry = ContenderResult(contender.key, contender.label)
            result.contenders.append(entry)
            if contender.needs_onnx and facts["onnx_error"]:
                entry.error = facts["onnx_error"]
                continue
            say(f"prepare {contender.label}")
            try:
                runners.append(_start(contender, entry, folder, settings, limits))
            except ContenderError as error:
                entry.error = str(error)
        with away_from(settings.cpus):
            _rounds(runners, result, settings, limits, say)
    finally:
        for runner in runners:
            runner.worker.quit()
    _compare(result, runners)
    return result


def _start(
    contender: Contender,
    entry: ContenderResult,
    case: Path,
    settings: Settings,
    limits: Timeouts,
) -> Runner:
    """Start a worker, prepare it and check its outputs.

    Raises:
        ContenderError: Any of it failed; the worker has ended.
    """
    name = contender.environment
    python = sys.executable if name is None else str(environments.ensure(name))
    cpus = ",".join(map(str, settings.cpus))
    worker = Worker(
        [python, "-m", "tools.bench.worker", contender.entry, "--cpus", cpus],
        log=case / f"{contender.key}.log",
        env=worker_environment(settings.threads, case / contender.key),
        cwd=ROOT,
    )
    try:
        options = {
            "threads": str(settings.threads),
            "target": settings.target,
            **contender.options,
        }
        request = {"do": "prepare", "case": str(case), "options": options}
        answer = worker.ask(request, timeout=limits.prepare)
        entry.facts, entry.prepare_seconds = answer["facts"], answer["seconds"]
        path = case / f"{contender.key}.npz"
        worker.ask({"do": "check", "path": str(path)}, timeout=limits.run)
        _check(entry, read_arrays(path), read_arrays(case / REFERENCE))
        first = worker.ask({"do": "run", "warm": 2, "count": 3}, timeout=limits.run)
    except ContenderError:
        worker.quit()
        raise
    warm, count = turn_size(median(first["ns"]) / 1e6)
    return Runner(entry, worker, warm, count)


def _check(entry: ContenderResult, got: Sequence[Array], want: Sequence[Array]) -> None:
    entry.max_abs_error, entry.max_rel_error = largest_errors(got, want)
    low = entry.facts.get("precision") != "f32"
    tolerance = TOLERANCE_LOW if low else TOLERANCE_F32
    if not entry.max_rel_error <= tolerance:
        raise ContenderError(
            f"its outputs differ from PyTorch's by {entry.max_abs_error:.3g}, "
            f"{entry.max_rel_error:.3g} of the largest magnitude; {tolerance:g} is accepted"
        )


def _rounds(
    runners: list[Runner], result: NetResult, settings: Settings, limits: Timeouts, say: Say
) -> None:
    """All rounds; a contender that fails on the way is recorded and left out of the rest."""
    before = os.getloadavg()[0]
    busy = busy_seconds(settings.cpus)
    own = {runner.worker.pid: process_seconds(runner.worker.pid) for runner in runners}
    running = list(runners)
    used = 0.0
    for index in range(settings.rounds):
        say(f"round {index + 1} of {settings.rounds}")
        for runner in order_of(running, index):
            request = {"do": "run", "warm": runner.warm, "count": runner.count}
            try:
                times = runner.worker.ask(request, timeout=limits.run)["ns"]
            except ContenderError as error:
                runner.result.error = f"round {index + 1}: {error}"
                used += _used(runner, own)
                runner.worker.quit()
                running.remove(runner)
                continue
            runner.rounds.append([time / 1e6 for time in times])
    busy = busy_seconds(settings.cpus) - busy
    used += sum(_used(runner, own) for runner in running)
    result.other_share = max(0.0, 1 - used / busy) if busy else 0.0
    result.load_average = (before, os.getloadavg()[0])
    for runner in running:
        try:
            runner.result.threads = runner.worker.ask({"do": "threads"}, timeout=limits.run)
        except ContenderError as error:
            runner.result.error = str(error)
            continue
        runner.result.threads.pop("ok")
        runner.result.status = "measured"


def _used(runner: Runner, own: dict[int, float]) -> float:
    pid = runner.worker.pid
    return max(0.0, process_seconds(pid) - own[pid])


def _compare(result: NetResult, runners: Sequence[Runner]) -> None:
    for runner in runners:
        entry = runner.result
        if entry.status == "measured":
            entry.latency_ms = spread([time for times in runner.rounds for time in times])
            entry.round_ms = round_medians(runner.rounds)
    ours = result.of(base_of(entry.key for entry in result.contenders))
    if ours is None or ours.status != "measured":
        return
    for entry in result.contenders:
        if entry is not ours and entry.status == "measured":
            entry.ratio = ratio_spread(entry.round_ms, ours.round_ms)
