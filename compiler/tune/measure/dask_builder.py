"""Builds candidates on the workers of a Dask cluster (the extra ``distributed``).

Each Dask worker keeps build processes of its own, forked and limited as on one machine, so
that a candidate that crashes LLVM takes no Dask worker with it.
"""

from __future__ import annotations

import atexit
import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from compiler._version import __version__
from compiler.errors import CompileError
from compiler.tune.measure.base import Failed
from compiler.tune.measure.builder import LocalBuilder
from compiler.tune.measure.folders import disk_error
from compiler.tune.measure.processes import KERNELS, WorkerServer
from compiler.tune.measure.settings import Limits
from compiler.tune.measure.stages import Artifact, Cancelled
from compiler.tune.measure.work import read_spec, write_spec
from schedules.space import Choice
from targets.spec import TargetSpec

if TYPE_CHECKING:
    import distributed

_CONNECT_S = 10.0
_POLL_S = 0.1
#: Beyond the build's own limit: waiting for a free worker, its first import of TVM.
_MARGIN_S = 60.0


class DaskBuilder:
    """Builds on all threads of all workers that the cluster has at the start.

    Args:
        address: Of the scheduler, such as ``tcp://127.0.0.1:8786``.
        spec: The target that candidates are built for.
        folder: Where the shared objects are put; the caller removes it.
        limits: What a build may cost.
        kernels: Name of the module that makes the functions.

    Raises:
        CompileError: Dask is not installed, no scheduler answers, it has no workers, or a
            worker has another version of Tilewright or TVM.
    """

    def __init__(
        self,
        address: str,
        spec: TargetSpec,
        folder: Path,
        *,
        limits: Limits | None = None,
        kernels: str = KERNELS,
    ) -> None:
        self._address = address
        self._client = _connect(address)
        self._folder = folder
        self._limits = limits or Limits()
        self._settings = (kernels, write_spec(spec), tuple(asdict(self._limits).items()))
        self._numbers = itertools.count()
        self._lost = threading.Event()
        try:
            threads = self._check_workers()
        except BaseException:
            self._client.close()
            raise
        # As many again wait at the scheduler, so that no worker waits for us.
        self._threads = ThreadPoolExecutor(2 * threads, thread_name_prefix="tilewright-dask")

    def _check_workers(self) -> int:
        """Threads of all workers; they must have what we have."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise _error(
                f"the Dask scheduler at {self._address} has no workers",
                "start some with `dask worker`",
            )
        try:
            versions = self._client.run(worker_versions)
        except Exception as error:  # whatever the import of this module raises over there
            raise _error(
                f"a Dask worker cannot import Tilewright: {type(error).__name__}: {error}",
                "install the same Tilewright in the environment of every worker",
            ) from error
        mine = worker_versions()
        for worker, theirs in versions.items():
            if theirs != mine:
                raise _error(
                    f"the Dask worker at {worker} has {_text(theirs)}, not {_text(mine)}",
                    "install the same versions in the environment of every worker",
                )
        return sum(int(worker["nthreads"]) for worker in workers.values())

    def check(self) -> None:
        """See `Builder`."""
        if self._lost.is_set():
            raise _error(
                f"the Dask cluster at {self._address} has gone",
                "what was measured is kept; start it again and run the same command",
            )

    def build(
        self, task: str, choice: Choice | None, cancelled: Cancelled
    ) -> Future[Artifact | Failed]:
        """See `Builder`."""
        return self._threads.submit(self._build, task, choice, cancelled)

    def _build(self, task: str, choice: Choice | None, cancelled: Cancelled) -> Artifact | Failed:
        if cancelled() or self._lost.is_set():
            return Failed("cancelled", "cancelled")
        future = self._client.submit(
            build_on_worker, *self._settings, task, choice, pure=False, retries=0
        )
        try:
            if not self._wait(future, cancelled):
                return Failed("cancelled", "cancelled")
            return self._collect(future)
        finally:
            future.cancel()

    def _wait(self, future: distributed.Future, cancelled: Cancelled) -> bool:
        """Whether the future ended in time; it did not if it is no use any more."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        deadline = monotonic() + self._limits.build_s + _MARGIN_S
        while not done.wait(_POLL_S):
            if cancelled():
                return False
            if monotonic() > deadline:
                self._lost.set()  # no worker has taken it, or the scheduler is gone
                return False
        return True

    def _collect(self, future: distributed.Future) -> Artifact | Failed:
        if future.status == "error":
            error = future.exception()
            if type(error).__name__ == "KilledWorker":
                return Failed("crash", f"while it was built: {error}")
            raise _error(
                f"a Dask worker cannot build: {type(error).__name__}: {error}",
                "look at the log of the worker",
            ) from error
        if future.status != "finished":
            self._lost.set()
            return Failed("cancelled", f"the Dask cluster lost it ({future.status})")
        answer: dict[str, Any] = future.result()
        if "library" not in answer:
            return Failed(answer["kind"], str(answer["reason"]))
        library = self._folder / f"dask-{next(self._numbers)}.so"
        try:
            library.write_bytes(answer["library"])
        except OSError as error:
            library.unlink(missing_ok=True)
            raise disk_error(error.strerror or str(error)) from error
        return Artifact(library, float(answer["seconds"]))

    def close(self) -> None:
        """Leave the cluster as it is, without our work."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._client.close()


def worker_versions() -> dict[str, str]:
    """What must be the same here and on a worker, for its code to be what ours would be."""
    from importlib import metadata

    return {"tilewright": __version__, "apache-tvm": metadata.version("apache-tvm")}


def build_on_worker(
    kernels: str,
    spec: str,
    limits: tuple[tuple[str, float], ...],
    task: str,
    choice: Choice | None,
) -> dict[str, Any]:
    """Build one candidate in a Dask worker.

    Returns:
        ``library``, the bytes of the shared object, and ``seconds``; or ``kind`` and
        ``reason`` of a failure.
    """
    from distributed import get_worker

    builder = _builder(kernels, spec, limits, int(get_worker().state.nthreads))
    built = builder.build(task, choice, lambda: False).result()
    if isinstance(built, Failed):
        return {"kind": built.kind, "reason": built.reason}
    try:
        return {"library": built.library.read_bytes(), "seconds": built.seconds}
    finally:
        built.library.unlink(missing_ok=True)


_making = threading.Lock()


def _builder(
    kernels: str, spec: str, limits: tuple[tuple[str, float], ...], threads: int
) -> LocalBuilder:
    with _making:  # several threads of a worker may come at once
        return _make_builder(kernels, spec, limits, threads)


@lru_cache(maxsize=4)
def _make_builder(
    kernels: str, spec: str, limits: tuple[tuple[str, float], ...], threads: int
) -> LocalBuilder:
    names: dict[str, Any] = dict(limits)
    server = WorkerServer(kernels)
    builder = LocalBuilder(server, read_spec(spec), workers=threads, limits=Limits(**names))
    atexit.register(server.close)
    atexit.register(builder.close)  # first: the last registered runs first
    return builder


def _connect(address: str) -> distributed.Client:
    try:
        import distributed
    except ImportError as error:
        raise _error(
            "building over Dask needs the package distributed",
            'pip install "tilewright[distributed]"',
        ) from error
    try:
        return distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise _error(
            f"no Dask scheduler answers at {address}: {error}",
            "start one with `dask scheduler --host 127.0.0.1`",
        ) from error


def _error(message: str, hint: str) -> CompileError:
    return CompileError(message, stage="tune", hint=hint)


def _text(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


__all__ = ["DaskBuilder", "build_on_worker", "worker_versions"]
