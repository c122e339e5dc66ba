"""Runs candidates on this machine."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter

from compiler.tune.measure.base import Failed, Measured, Outcome, Rejected
from compiler.tune.measure.channel import Message
from compiler.tune.measure.processes import Worker, WorkerLostError, WorkerServer
from compiler.tune.measure.settings import Limits, Timing
from compiler.tune.measure.stages import Cancelled
from compiler.tune.measure.work import write_spec
from schedules.records import Cpu
from schedules.records.record import Label
from schedules.space import Choice
from targets.spec import TargetSpec

#: Tasks whose inputs and reference outputs are kept at hand.
_TASKS_KEPT = 6
#: Beyond the candidate's own limit: forking, packing weights, comparing.
_MARGIN_S = 30.0
#: The reference kernel is simple and slow.
_REFERENCE_S = 120.0


class LocalRunner:
    """Runs one candidate at a time, on CPUs of its own.

    Args:
        server: Where workers are forked; the caller closes it after this.
        spec: The target that candidates were built for.
        timing: How they are timed.
        limits: What a run may cost.
        cpus: CPUs that they run on; none: all.
        shares_cores: Whether builders use these CPUs too.
    """

    name = "local"
    label: Label = "measured"

    def __init__(
        self,
        server: WorkerServer,
        spec: TargetSpec,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        cpus: Collection[int] = (),
        shares_cores: bool = False,
    ) -> None:
        self.shares_cores = shares_cores
        self._server = server
        self._spec = write_spec(spec)
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._cpus = tuple(cpus)
        self._workers: OrderedDict[str, Worker] = OrderedDict()
        self._best_ns: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tilewright-run")

    @property
    def cpu(self) -> Cpu:
        """This machine's."""
        return Cpu.here()

    def run(
        self, task: str, reference: Path, choice: Choice, library: Path, cancelled: Cancelled
    ) -> Future[Outcome]:
        """See `Runner`."""
        return self._thread.submit(self._run, task, reference, choice, library, cancelled)

    def check(self) -> None:
        """Workers of this machine are started anew when they end."""

    def _run(
        self, task: str, reference: Path, choice: Choice, library: Path, cancelled: Cancelled
    ) -> Outcome:
        if cancelled():
            return Failed("cancelled", "cancelled")
        try:
            worker = self._worker(task, reference, cancelled)
            start = perf_counter()
            best_ns = self._best_ns.get(task)
            limit_s = run_limit_s(self._limits.run_s, best_ns)
            job: Message = {
                "order": "measure", "library": str(library), "choice": choice,
                "best_ns": best_ns, "run_s": limit_s,
            }  # fmt: skip
            answer = worker.request(job, timeout_s=limit_s + _MARGIN_S, cancelled=cancelled)
        except WorkerLostError as lost:
            self._workers.pop(task, None)
            return Failed(lost.kind, lost.reason)
        except ReferenceFailedError as error:
            return Failed("verify", f"the reference kernel: {error}")
        outcome = read_answer(answer, perf_counter() - start)
        if isinstance(outcome, Measured):
            self._best_ns[task] = min(best_ns or float("inf"), median(outcome.samples_ns))
        return outcome

    def _worker(self, task: str, reference: Path, cancelled: Cancelled) -> Worker:
        worker = self._workers.get(task)
        if worker is not None:
            self._workers.move_to_end(task)
            return worker
        while len(self._workers) >= _TASKS_KEPT:
            self._workers.popitem(last=False)[1].end()
        worker = self._server.fork(
            "run",
            {"task": task, "spec": self._spec, "reference": str(reference),
             "seed": zlib.crc32(task.encode()), "timing": asdict(self._timing)},
            cpus=self._cpus,
            memory_bytes=self._limits.memory_bytes,
        )  # fmt: skip
        order: Message = {"order": "prepare", "run_s": _REFERENCE_S}
        answer = worker.request(order, timeout_s=_REFERENCE_S + _MARGIN_S, cancelled=cancelled)
        if "done" not in answer:
            worker.end()
            raise ReferenceFailedError(str(answer.get("reason", answer)))
        self._workers[task] = worker
        return worker

    def close(self) -> None:
        """End the workers; runs that wait are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()


class ReferenceFailedError(Exception):
    """The reference kernel did not run."""


def run_limit_s(most_s: float, best_ns: float | None) -> float:
    """Seconds that a candidate may run: far fewer if the task is known to take microseconds.

    Checking takes two runs, timing another few, and a candidate that is a hundred times
    slower than the best is as good as one that never ends.
    """
    return most_s if best_ns is None else min(most_s, 3.0 + 500 * best_ns * 1e-9)


def read_answer(answer: Message, run_s: float) -> Outcome:
    """What a worker says of a candidate, as an outcome."""
    if "rejected" in answer:
        return Rejected(str(answer["rejected"]), run_s=run_s)
    if "samples_ns" in answer:
        samples = tuple(float(v) for v in answer["samples_ns"])
        return Measured(samples, float(answer["error"]), float(answer["tolerance"]), run_s=run_s)
    kind = answer.get("failed")
    reason = str(answer.get("reason", "no reason given"))
    return Failed("timeout" if kind == "timeout" else "crash", reason, run_s=run_s)


__all__ = ["LocalRunner", "ReferenceFailedError", "read_answer", "run_limit_s"]
