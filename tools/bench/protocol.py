"""A contender in a process of its own, driven by one JSON line a request.

The worker (`tools.bench.worker`) answers each request with one line. One that says nothing
in time, dies or answers nonsense is ended, and the `ContenderError` carries the last lines
of what it wrote to its log.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Lines of a failed worker's log that go into its error.
_TAIL_LINES = 12
#: How long a worker that was asked to leave may take before it is killed.
_QUIT_SECONDS = 5.0


class ContenderError(Exception):
    """A contender failed, hung or could not be set up; the message is for the result table."""


class Worker:
    """A running contender process.

    Args:
        command: The process to start; it reads requests on standard input.
        log: File for its standard error and whatever libraries print.
        env: Its environment.
        cwd: Its working directory.

    Raises:
        ContenderError: It cannot be started.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path
    ) -> None:
        self._log = log
        self._buffer = b""
        self._finished = False
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as sink:
                # A session of its own, so that compilers it starts can be ended with it.
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=sink,
                    env=dict(env),
                    cwd=cwd,
                    start_new_session=True,
                )
        except OSError as error:
            raise ContenderError(f"cannot start {command[0]}: {error.strerror or error}") from error
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._stdin, self._stdout = stdin, stdout
        os.set_blocking(stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            request: What to do, see `tools.bench.worker`.
            timeout: Seconds to wait.

        Raises:
            ContenderError: The worker reports a failure (it can go on), or it hung, died or
                answered something that is no JSON object (it was ended).
        """
        if self._finished:
            raise ContenderError("its process has ended")
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except OSError:
            self._fail("its process ended")
        line = self._read_line(timeout, str(request.get("do", "?")))
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._fail(f"it answered no JSON object: {line[:80]!r}")
        if not answer.get("ok"):
            raise ContenderError(str(answer.get("error", "it failed and gave no reason")))
        return answer

    def _read_line(self, timeout: float, doing: str) -> bytes:
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._fail(f"{doing}: no answer within {timeout:g} s")
                if not selector.select(left):
                    continue
                try:
                    chunk = os.read(self._stdout.fileno(), 1 << 16)
                except BlockingIOError:
                    continue
                if not chunk:
                    self._fail(f"{doing}: its process ended")
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _fail(self, why: str) -> Any:
        """End the process and raise.

        Raises:
            ContenderError: Always.
        """
        self.kill()
        code = self._process.returncode
        if code < 0:
            why += f" (signal {signal.Signals(-code).name})"
        elif code:
            why += f" (exit code {code})"
        tail = self._tail()
        raise ContenderError(f"{why}; its log ends: {tail}" if tail else why)

    def _tail(self) -> str:
        try:
            text = self._log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-_TAIL_LINES:])

    def quit(self) -> None:
        """Ask the process to leave, and end it if it does not."""
        if self._finished:
            return
        with contextlib.suppress(OSError):
            self._stdin.write(b'{"do": "quit"}\n')
            self._stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_QUIT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process and everything that it started."""
        if self._finished:
            return
        self._finished = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A process that died by itself keeps its own exit code.
            self._process.wait(0.2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()
