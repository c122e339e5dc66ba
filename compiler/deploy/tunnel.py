"""TVM's RPC on a board, reached through SSH: the runner put there, its server, and the tunnel."""

from __future__ import annotations

import random
import select
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from compiler.deploy.board import Board, Facts, archive
from compiler.deploy.libraries import runtime_libraries
from compiler.deploy.runner import PROGRAM, Tell, build_runner
from compiler.errors import DeployError, DeviceError

_START_S = 30.0
_END_S = 5.0
_TRIES = 4
#: The board's own side of the tunnel; which of them is free, only the board knows.
_PORTS = range(20_000, 60_000)


def install_runner(
    board: Board, facts: Facts, wheels: Path | None = None, tell: Tell | None = None
) -> str:
    """Put the runner and TVM's runtime on a board, unless these very ones are there.

    Args:
        board: The board.
        facts: What it said of itself.
        wheels: As in `runtime_libraries`.
        tell: Called before long work.

    Returns:
        The folder there.

    Raises:
        DeviceError: It cannot be reached, has no room, or cannot run the runner.
        DeployError: There is no runtime or compiler for its machine.
    """
    libraries = runtime_libraries(facts.machine, wheels)
    runner = build_runner(facts.machine, libraries, tell)
    files = {PROGRAM: runner / PROGRAM, **{f"lib/{path.name}": path for path in libraries}}
    folder = f"{board.folder}/.{runner.name}"
    there, new = shlex.quote(folder), shlex.quote(f"{folder}.new")
    if board.run(f"[ -x {there}/{PROGRAM} ] && echo yes || echo no").strip() == "yes":
        return folder
    size = sum(path.stat().st_size for path in files.values())
    if facts.free_bytes < 2 * size:
        raise DeviceError(
            f"it has {facts.free_bytes / 1e6:.0f} MB of space, and the runner takes "
            f"{size / 1e6:.0f} MB",
            where=f"{board.host}:{board.folder}",
            hint="free some, or name another folder: user@host:FOLDER",
        )
    if tell is not None:
        tell(f"copying the runner to {board.host}, {size / 1e6:.1f} MB, once")
    unpack = f"rm -rf {new} && mkdir -p {new} && tar -xf - -C {new}"
    board.run(f"{unpack} && cd {new} && ./{PROGRAM} --help >/dev/null", archive(files))
    board.run(f"rm -rf {there} && mv {new} {there}")
    return folder


class Tunnel:
    """A runner's RPC server on a board, and the SSH connection that leads to it and keeps it.

    Both are one program here: where it ends, for whatever reason, the server over there ends.

    Args:
        board: The board.
        folder: Where the runner is there (`install_runner`).
    """

    def __init__(self, board: Board, folder: str) -> None:
        self.board = board
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._port = 0

    def open(self) -> int:
        """The port of this machine that leads to the server, which is started if need be.

        Raises:
            DeviceError: The board cannot be reached, or the server does not start there.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return self._port
            self._end()
            reason = self._start()
            for _ in range(_TRIES - 1):
                reason = reason and self._start()
            if reason is not None:
                raise reason
            return self._port

    def _start(self) -> DeviceError | None:
        """Try one pair of ports; an error that other ports could cure is returned.

        Raises:
            DeviceError: Other ports would not help.
        """
        there = random.choice(_PORTS)  # noqa: S311 - no secret
        command = f"cd {shlex.quote(self._folder)} && exec ./{PROGRAM} --rpc {there} --tied"
        self._forget()
        try:
            here = _free_port()
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the tunnel
            self._process = subprocess.Popen(
                self.board.words(command, forward=(here, there)),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                bufsize=0,
                start_new_session=True,  # Ctrl-C ends the search, which then closes this
            )  # fmt: skip
        except OSError as error:
            raise DeployError(f"ssh failed: {error}", where=self.board.host) from error
        try:
            line = self._first_line()
        except BaseException:
            self._end()
            raise
        if line.startswith(b"listening"):
            self._port = here
            return None
        status = self._end()
        if status is None:
            raise DeviceError(
                f"its RPC server did not start within {_START_S:.0f} s",
                where=self.board.host,
                hint="check the board and its network, then try again",
            )
        self._said.seek(0)
        said = self._said.read()
        failure = self.board.failure(status, said, command)
        if b"cannot listen" in said or b"forward" in said:
            return failure
        raise failure

    def _first_line(self) -> bytes:
        """What the server says first; nothing if it ends or says nothing for too long."""
        process = self._process
        if process is None or process.stdout is None:
            return b""
        end, line = time.monotonic() + _START_S, b""
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return b""
            byte = process.stdout.read(1)
            if not byte:
                return line
            line += byte
        return line

    def why_lost(self) -> str:
        """The last that was heard of a connection that has ended; empty if it has not."""
        with self._lock:
            if self._process is None or self._process.poll() is None or self._said is None:
                return ""
            self._said.seek(0)
            lines = [line for line in self._said.read().splitlines() if line.strip()]
            return lines[-1].decode("utf-8", "replace").strip()[:300] if lines else "it has ended"

    def _end(self) -> int | None:
        """End the program; its status, None if it had to be killed."""
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    def close(self) -> None:
        """End the server and the connection."""
        with self._lock:
            self._end()
            self._forget()

    def _forget(self) -> None:
        if self._said is not None:
            self._said.close()
            self._said = None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


__all__ = ["Tunnel", "install_runner"]
