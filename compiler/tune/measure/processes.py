"""The tuner's side of its worker processes: starting, asking and ending them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from compiler.errors import CompileError
from compiler.tune.measure.channel import Message, receive, send
from compiler.tune.measure.folders import last_line, make_folder, remove_folder

#: Where the functions come from: see `compiler.tune.measure.work`.
KERNELS = "compiler.lower.tasks"

_START_S = 120.0
_POLL_S = 0.1
_BOOT = (
    "import json, sys; from pathlib import Path; sys.path[:] = json.loads(sys.argv[1]);"
    "from compiler.tune.measure.server import main;"
    "main(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])"
)


class WorkerLostError(Exception):
    """A worker died or was ended while it worked on something."""

    def __init__(self, kind: Literal["crash", "timeout", "cancelled"], reason: str) -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(reason)


class WorkerServer:
    """Forks workers from one process that has imported TVM; see `compiler.tune.measure.server`.

    Args:
        kernels: Name of the module that makes the functions.

    Raises:
        CompileError: The process does not start.
        FileError: There is no room for its folder.
    """

    def __init__(self, kernels: str = KERNELS) -> None:
        self.kernels = kernels
        self.folder, self._lock_file = make_folder()
        self._asking = threading.Lock()
        self._logs = 0
        self._closed = False
        self._connection, self._process = self._start()

    def _start(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        mine, its = Pipe(duplex=True)
        paths = [str(Path(p).resolve()) if p else str(Path.cwd()) for p in sys.path]
        environment = {
            **os.environ,
            "TMPDIR": str(self.folder),  # TVM and the linker write there, and it is removed
            "TVM_BIND_THREADS": "0",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(paths), str(its.fileno()),
                 str(self.folder), self.kernels],
                pass_fds=(its.fileno(), self._lock_file),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )  # fmt: skip
        its.close()
        return mine, process

    def _await_ready(self) -> None:
        """Wait for the imports of the process, once."""
        if self._closed:
            raise _cannot_start("it was closed")
        if self._logs:
            return
        if not self._connection.poll(_START_S):
            raise _cannot_start(f"nothing was heard of it for {_START_S:g} s")
        answer = receive(self._connection)
        if "ready" not in answer:
            raise _cannot_start(str(answer.get("error")))

    def fork(
        self,
        role: str,
        options: Mapping[str, Any],
        *,
        cpus: Collection[int] = (),
        memory_bytes: int,
    ) -> Worker:
        """Start a worker.

        Args:
            role: Module of this package whose ``serve`` it runs.
            options: For ``serve``; JSON values.
            cpus: CPUs that it is kept on; none: all.
            memory_bytes: What it may allocate beyond what it starts with.

        Raises:
            CompileError: The process that workers are forked from does not run.
        """
        with self._asking:
            try:
                self._await_ready()
                self._logs += 1
                log = self.folder / f"{role}-{self._logs}.log"
                mine, its = Pipe(duplex=True)
                send(
                    self._connection,
                    {"order": "fork", "role": role, "options": dict(options), "log": str(log),
                     "cpus": sorted(cpus), "memory_bytes": memory_bytes},
                )  # fmt: skip
                reduction.send_handle(self._connection, its.fileno(), self._process.pid)
                its.close()
                pid = int(receive(self._connection)["pid"])
            except (EOFError, OSError) as error:
                raise _cannot_start(self._last_words() or "it has ended") from error
        return Worker(self, pid, mine, log)

    def end(self, pid: int) -> str:
        """Kill a worker, if it still lives, and say how it ended."""
        with self._asking:
            try:
                send(self._connection, {"order": "end", "pid": pid})
                return str(receive(self._connection)["status"])
            except (EOFError, OSError):
                return "ended with the process that it was forked from"

    def _last_words(self) -> str:
        return last_line(self.folder / "server.log")

    def close(self) -> None:
        """End all workers and remove their folder."""
        with self._asking:
            if self._closed:
                return
            self._closed = True
            self._connection.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            # It is still importing, and looks at its connection only then.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._lock_file)
        remove_folder(self.folder)


class Worker:
    """One worker process. Used by one thread at a time."""

    def __init__(self, server: WorkerServer, pid: int, connection: Connection, log: Path) -> None:
        self.pid = pid
        self._server = server
        self._connection = connection
        self._log = log

    def request(
        self, message: Message, *, timeout_s: float, cancelled: Callable[[], bool]
    ) -> Message:
        """Ask and wait for the answer.

        Raises:
            WorkerLostError: It died, took too long or was cancelled. The process is gone then.
        """
        deadline = time.monotonic() + timeout_s
        try:
            send(self._connection, message)
            while not self._connection.poll(_POLL_S):
                if cancelled():
                    self.end()
                    raise WorkerLostError("cancelled", "cancelled")
                if time.monotonic() > deadline:
                    self.end()
                    raise WorkerLostError("timeout", f"no answer within {timeout_s:g} s")
            return receive(self._connection)
        except (EOFError, OSError, ValueError) as error:
            status = self.end()
            said = last_line(self._log)
            raise WorkerLostError("crash", f"{status}: {said}" if said else status) from error

    def end(self) -> str:
        """Kill it, and say how it ended."""
        self._connection.close()
        return self._server.end(self.pid)


def _cannot_start(why: str) -> CompileError:
    return CompileError(
        f"the process that builds and measures candidates does not run: {why}",
        stage="tune",
        hint="check that there is memory left, and that `python -c 'import tvm'` works",
    )


__all__ = ["KERNELS", "Worker", "WorkerLostError", "WorkerServer"]
