"""The process that all workers are forked from.

It imports TVM once (seconds), then only waits: for orders to fork a worker, to end one, and
for the end of the tuner. When the tuner ends, however it ends, this process kills every
worker and removes the folder with everything that they wrote. It runs in a session of its
own, so that Ctrl-C in a terminal reaches the tuner only.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path

from compiler.tune.measure.channel import Message, receive, send
from compiler.tune.measure.confine import (
    describe_status,
    die_with_parent,
    limit_memory,
    pin,
    redirect_output,
    without_torch,
)
from compiler.tune.measure.folders import remove_folder


def main(descriptor: int, folder: Path, kernels: str) -> None:
    """Serve until the other end of the socket pair is closed.

    Args:
        descriptor: File descriptor of this end.
        folder: Removed at the end.
        kernels: Name of the module that makes the functions, see `compiler.tune.measure.work`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    workers: set[int] = set()
    try:
        try:
            _import(kernels)
        except Exception as error:  # noqa: BLE001 whatever is wrong, the tuner says it
            send(connection, {"error": f"{type(error).__name__}: {error}"})
            return
        send(connection, {"ready": os.getpid()})
        while True:
            _serve(connection, receive(connection), workers, kernels)
    except (EOFError, OSError):
        pass  # the tuner has ended
    finally:
        for pid in workers:
            _kill(pid)
        for pid in workers:
            os.waitpid(pid, 0)
        remove_folder(folder)


def _import(kernels: str) -> None:
    without_torch()
    import importlib

    import numpy as np  # noqa: F401 workers find it loaded

    import schedules.tvm_adapter  # noqa: F401 likewise

    importlib.import_module(kernels)
    for role in ("work", "run", "remote", "emulate"):
        importlib.import_module(f"compiler.tune.measure.{role}")
    gc.collect()
    gc.freeze()  # what is shared with the workers must not be touched, or it is copied


def _serve(connection: Connection, request: Message, workers: set[int], kernels: str) -> None:
    if request["order"] == "fork":
        other_end = reduction.recv_handle(connection)
        pid = os.fork()
        if pid == 0:
            _become_worker(connection, other_end, request, kernels)
        os.close(other_end)
        workers.add(pid)
        send(connection, {"pid": pid})
    elif request["order"] == "end":
        pid = int(request["pid"])
        _kill(pid)
        _, status = os.waitpid(pid, 0)
        workers.discard(pid)
        send(connection, {"status": describe_status(status)})


def _kill(pid: int) -> None:
    """End a worker and all that it started; both calls do nothing if they have ended."""
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)


def _become_worker(connection: Connection, descriptor: int, request: Message, kernels: str) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent()
        os.close(connection.fileno())
        redirect_output(Path(request["log"]))
        pin(request["cpus"])
        limit_memory(int(request["memory_bytes"]))
        mine = Connection(descriptor)
        import importlib

        role = importlib.import_module(f"compiler.tune.measure.{request['role']}")
        role.serve(mine, kernels, {**request["options"], "log": request["log"]})
        code = 0
    except (EOFError, OSError):
        code = 0  # nobody wants anything any more
    except BaseException:  # noqa: BLE001 a forked child must never go on as the server
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


__all__ = ["main"]
