"""Builds candidates in worker processes of this machine."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from compiler.tune.measure.base import Failed
from compiler.tune.measure.channel import Message
from compiler.tune.measure.folders import disk_error, is_full
from compiler.tune.measure.processes import Worker, WorkerLostError, WorkerServer
from compiler.tune.measure.settings import Limits
from compiler.tune.measure.stages import Artifact, Cancelled
from compiler.tune.measure.work import write_spec
from schedules.space import Choice
from targets.spec import TargetSpec

#: A worker is replaced after so many builds: what LLVM and TVM keep is given back.
_BUILDS_A_WORKER = 200


class LocalBuilder:
    """Builds with a few long-lived workers, each kept by a thread of its own.

    Args:
        server: Where workers are forked; the caller closes it after this.
        spec: The target that candidates are built for.
        workers: How many.
        limits: What a build may cost.
        cpus: CPUs that the workers are kept on; none: all.
    """

    def __init__(
        self,
        server: WorkerServer,
        spec: TargetSpec,
        *,
        workers: int = 1,
        limits: Limits | None = None,
        cpus: Collection[int] = (),
    ) -> None:
        self._server = server
        self._spec = write_spec(spec)
        self._limits = limits or Limits()
        self._cpus = tuple(cpus)
        self._numbers = itertools.count()
        self._mine = threading.local()
        self._all: list[_Slot] = []
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tilewright-build")

    def build(
        self, task: str, choice: Choice | None, cancelled: Cancelled
    ) -> Future[Artifact | Failed]:
        """See `Builder`."""
        return self._threads.submit(self._build, task, choice, cancelled)

    def check(self) -> None:
        """Workers of this machine are started anew when they end."""

    def _build(self, task: str, choice: Choice | None, cancelled: Cancelled) -> Artifact | Failed:
        if cancelled():
            return Failed("cancelled", "cancelled")
        slot = self._slot()
        library = self._server.folder / f"kernel-{next(self._numbers)}.so"
        job: Message = {
            "task": task, "choice": choice, "spec": self._spec, "library": str(library),
        }  # fmt: skip
        try:
            answer = slot.worker().request(job, timeout_s=self._limits.build_s, cancelled=cancelled)
        except WorkerLostError as lost:
            slot.lost()
            self._check_room(library, lost.reason)
            return Failed(lost.kind, f"while it was built: {lost.reason}")
        if "error" in answer:
            self._check_room(library, str(answer["error"]), full=answer["disk_full"])
            return Failed("build", str(answer["error"]))
        return Artifact(library, float(answer["seconds"]))

    def _slot(self) -> _Slot:
        slot: _Slot | None = getattr(self._mine, "slot", None)
        if slot is None:
            slot = self._mine.slot = _Slot(self)
            self._all.append(slot)
        return slot

    def fork(self) -> Worker:
        """A new worker."""
        return self._server.fork(
            "work", {}, cpus=self._cpus, memory_bytes=self._limits.memory_bytes
        )

    def _check_room(self, library: Path, why: str, *, full: bool = False) -> None:
        """Remove what a failed build left, and raise if it failed for want of room."""
        full = full or is_full(self._server.folder)  # LLVM does not say so, but aborts
        # The linker and TVM name what they write on the way after the result.
        for path in library.parent.glob(f"{library.stem}*"):
            path.unlink(missing_ok=True)
        if full:
            raise disk_error(why)

    def close(self) -> None:
        """End the workers; builds that wait are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for slot in self._all:
            slot.end()
        self._all.clear()


class _Slot:
    """The worker of one thread."""

    def __init__(self, builder: LocalBuilder) -> None:
        self._builder = builder
        self._worker: Worker | None = None
        self._left = 0

    def worker(self) -> Worker:
        if self._worker is not None and self._left == 0:
            self.end()
        if self._worker is None:
            self._worker = self._builder.fork()
            self._left = _BUILDS_A_WORKER
        self._left -= 1
        return self._worker

    def lost(self) -> None:
        self._worker = None

    def end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


__all__ = ["LocalBuilder"]
