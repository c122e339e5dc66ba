"""Runs candidates on devices over TVM's RPC, several at once."""

from __future__ import annotations

import queue
import socket
import threading
import zlib
from abc import ABC, abstractmethod
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from compiler.errors import CompileError, DeviceError, TilewrightError
from compiler.tune.measure.base import Failed, Measured, Outcome
from compiler.tune.measure.channel import Message
from compiler.tune.measure.processes import Worker, WorkerLostError, WorkerServer
from compiler.tune.measure.runner import read_answer, run_limit_s
from compiler.tune.measure.settings import Limits, Timing
from compiler.tune.measure.stages import Cancelled
from compiler.tune.measure.work import write_spec
from schedules.records import Cpu
from schedules.records.record import Label
from schedules.space import Choice
from targets.spec import TargetSpec

_CONNECT_S = 5.0
#: A candidate is tried on another device if its first one vanished.
_ATTEMPTS = 2


@dataclass
class Job:
    """A candidate on its way to a device."""

    task: str
    reference: Path
    choice: Choice
    library: Path
    cancelled: Cancelled
    future: Future[Outcome]
    attempts: int = 0


class DeviceRunner(ABC):
    """What runners on devices have in common: a queue of candidates, and a thread a device.

    Those made of it say how the thread of a device gets it for a candidate (`_acquire`), and what
    becomes of both when it cannot be had (`_go_without`).

    Args:
        server: Where workers are forked; the caller closes it after this.
        name: For records.
        where: The devices, for messages.
        options: For the workers (`compiler.tune.measure.remote`), without what all need.
        spec: The target that candidates were built for.
        timing: How candidates are timed.
        limits: What a run may cost.
        acquire_s: Seconds to wait for a device.
        margin_s: Seconds beyond a run's own limit, for uploads and the reference.
    """

    shares_cores = False
    label: Label = "measured"

    def __init__(
        self,
        server: WorkerServer,
        *,
        name: str,
        where: str,
        options: Message,
        spec: TargetSpec,
        timing: Timing | None,
        limits: Limits | None,
        acquire_s: float,
        margin_s: float,
    ) -> None:
        self.name = name
        self._where = where
        self._server = server
        self._limits = limits or Limits()
        self._acquire_s = acquire_s
        self._margin_s = margin_s
        self._options = {
            **options, "spec": write_spec(spec), "timing": asdict(timing or Timing()),
            "session_s": self._limits.run_s + margin_s,
        }  # fmt: skip
        self._best_ns: dict[str, float] = {}
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._alive = 0
        self._over: str | None = None
        self._threads: list[threading.Thread] = []

    def _start(self, devices: int) -> None:
        """Start the threads, once all is there that they need."""
        self._alive = devices
        self._threads = [
            threading.Thread(
                target=self._serve, args=(i,), name=f"tilewright-{self.name}-{i}", daemon=True
            )
            for i in range(devices)
        ]
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def _acquire(self, index: int, worker: Worker, cancelled: Cancelled) -> None:
        """Make a worker hold the device with this number.

        Raises:
            WorkerLostError: It cannot be had.
            DeviceError: It cannot be reached.
        """

    @abstractmethod
    def _go_without(self, index: int, job: Job, reason: str) -> bool:
        """What to do with a candidate whose device is gone; whether to go on with the device."""

    def _serve(self, index: int) -> None:
        """One device's thread: takes candidates until it can have its device no more."""
        worker: Worker | None = None
        while (job := self._jobs.get()) is not None:
            if job.cancelled() or self._closed.is_set():
                job.future.set_result(Failed("cancelled", "cancelled"))
                continue
            try:
                worker = worker or self._fork()
                self._acquire(index, worker, job.cancelled)
            except WorkerLostError as lost:
                worker = None
                if lost.kind == "cancelled":
                    job.future.set_result(Failed("cancelled", "cancelled"))
                elif not self._go_without(index, job, lost.reason):
                    break
            except DeviceError as error:
                if not self._go_without(index, job, error.message):
                    break
            except TilewrightError as error:
                job.future.set_exception(error)
            else:
                if not self._run(worker, job):
                    worker = None
        if worker is not None:
            worker.end()

    @property
    def devices(self) -> int:
        """Devices that still answer."""
        return self._alive

    def run(
        self, task: str, reference: Path, choice: Choice, library: Path, cancelled: Cancelled
    ) -> Future[Outcome]:
        """See `Runner`."""
        future: Future[Outcome] = Future()
        with self._lock:
            if self._over is not None:
                future.set_result(self._lost())
                return future
            self._jobs.put(Job(task, reference, choice, library, cancelled, future))
        return future

    def check(self) -> None:
        """See `Runner`."""
        if self._over is not None:
            raise CompileError(
                f"no device {self._where} answers any more: {self._over}",
                stage="tune",
                hint="what was measured is kept; start the devices again and run the same command",
            )

    @staticmethod
    def _ask(worker: Worker, order: Message, timeout_s: float, cancelled: Cancelled) -> Message:
        answer = worker.request(order, timeout_s=timeout_s, cancelled=cancelled)
        if answer.get("failed") == "lost":
            worker.end()
            raise WorkerLostError("crash", str(answer["reason"]))
        return answer

    def _fork(self) -> Worker:
        return self._server.fork("remote", self._options, memory_bytes=self._limits.memory_bytes)

    def _run(self, worker: Worker, job: Job) -> bool:
        """Run a candidate on the device that the worker holds; False if the worker is gone."""
        best_ns = self._best_ns.get(job.task)
        limit_s = run_limit_s(self._limits.run_s, best_ns) + self._margin_s
        order: Message = {
            "order": "measure", "task": job.task, "seed": zlib.crc32(job.task.encode()),
            "reference": str(job.reference), "choice": job.choice, "library": str(job.library),
            "best_ns": best_ns,
        }  # fmt: skip
        start = perf_counter()
        job.attempts += 1
        try:
            answer = self._ask(worker, order, limit_s, job.cancelled)
        except WorkerLostError as lost:
            if lost.kind == "crash" and job.attempts < _ATTEMPTS:
                self._jobs.put(job)
            else:
                reason = f"on a device: {lost.reason}"
                job.future.set_result(Failed(lost.kind, reason, run_s=perf_counter() - start))
            return False
        outcome = read_answer(answer, perf_counter() - start)
        if isinstance(outcome, Measured):
            best_ns = min(best_ns or float("inf"), median(outcome.samples_ns))
            self._best_ns[job.task] = best_ns
        job.future.set_result(outcome)
        return True

    def _lost(self) -> Failed:
        return Failed("cancelled", f"no device {self._where} answers any more: {self._over}")

    def _end(self, reason: str, *left: Job) -> None:
        """Give up these candidates and all that wait: there is no device any more.

        Called with the lock held.
        """
        self._over = reason
        waiting = list(left)
        while not self._jobs.empty():
            other = self._jobs.get()
            if other is not None:
                waiting.append(other)
        for one in waiting:
            one.future.set_result(self._lost())

    def close(self) -> None:
        """Free the devices; candidates that wait are dropped."""
        self._closed.set()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


class RpcRunner(DeviceRunner):
    """Runs candidates on every device with a key, one candidate a device at a time.

    A device that vanishes costs nothing but time: its candidate goes to another one. When the
    last is gone, what is left of the batch counts as cancelled, and the next call raises.

    Args:
        server: Where workers are forked; the caller closes it after this.
        spec: The target that candidates were built for.
        tracker: ``host:port`` of the tracker.
        key: Key of the devices.
        timing: How candidates are timed.
        limits: What a run may cost.
        acquire_s: Seconds to wait for a device that was there at the start.
        margin_s: Seconds beyond a run's own limit, for uploads and the reference.

    Raises:
        CompileError: No tracker answers, or it has no such device.
    """

    def __init__(
        self,
        server: WorkerServer,
        spec: TargetSpec,
        *,
        tracker: str,
        key: str,
        timing: Timing | None = None,
        limits: Limits | None = None,
        acquire_s: float = 60.0,
        margin_s: float = 30.0,
    ) -> None:
        host, port = _reachable(tracker)
        super().__init__(
            server, name=f"rpc:{key}", where=f"{key} at {tracker}",
            options={"host": host, "port": port, "key": key}, spec=spec, timing=timing,
            limits=limits, acquire_s=acquire_s, margin_s=margin_s,
        )  # fmt: skip
        devices, self._cpu = self._look(spec)
        self._start(devices)

    @property
    def cpu(self) -> Cpu:
        """The devices' processor, as the first of them tells it.

        Where a device cannot tell, it is what the target promises, and its name says so.
        """
        return self._cpu

    def _look(self, spec: TargetSpec) -> tuple[int, Cpu]:
        """How many devices there are, and what they are."""
        worker = self._fork()
        try:
            answer = self._ask(worker, {"order": "count"}, self._acquire_s, self._closed.is_set)
            devices = int(answer.get("devices", 0))
            if devices == 0:
                raise CompileError(
                    f"the tracker has no device {self._where}",
                    stage="tune",
                    target=spec.name,
                    hint="start one with `python -m compiler.tune.measure.device`, "
                    "or look at the key",
                )
            told = self._ask(worker, {"order": "describe"}, self._acquire_s, self._closed.is_set)
        except WorkerLostError as lost:
            raise CompileError(
                f"the devices {self._where} do not answer: {lost.reason}",
                stage="tune",
                target=spec.name,
                hint="another tuning run may hold them all",
            ) from lost
        worker.end()
        return devices, _read_cpu(told.get("cpu"), spec)

    def _acquire(self, index: int, worker: Worker, cancelled: Cancelled) -> None:
        """Whichever device the tracker gives."""
        self._ask(worker, {"order": "acquire"}, self._acquire_s, cancelled)

    def _go_without(self, index: int, job: Job, reason: str) -> bool:
        """One device fewer; the candidate goes to another, if there is one."""
        with self._lock:
            self._alive -= 1
            if self._alive:
                self._jobs.put(job)
            else:
                self._end(reason, job)
        return False


def _reachable(tracker: str) -> tuple[str, int]:
    """Host and port of a tracker that takes connections.

    Raises:
        CompileError: It is no address, or nothing answers there.
    """
    host, _, port = tracker.rpartition(":")
    host = host.strip("[]")
    hint = "start one with `python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190`"
    if not host or not port.isdigit():
        raise CompileError(f"{tracker!r} is no host:port", stage="tune", hint=hint)
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise CompileError(
            f"no RPC tracker answers at {tracker}: {error}", stage="tune", hint=hint
        ) from error
    return host, int(port)


def _read_cpu(told: Any, spec: TargetSpec) -> Cpu:
    if isinstance(told, dict):
        return Cpu(
            str(told["name"]), str(told["id"]), frozenset(map(str, told["features"])),
            int(told["vector_bits"]), int(told["cores"]),
        )  # fmt: skip
    name = f"a device that does not tell its processor, taken for {spec.name}"
    return Cpu(name, "unknown", spec.features, spec.vector_bits, spec.cores)


__all__ = ["DeviceRunner", "Job", "RpcRunner"]
