"""How many threads compiled code runs on.

TVM keeps one pool of workers for each thread that calls it. Left alone, it takes half of the
machine's logical CPUs and pins the calling thread to the first of them, whatever mask the
process was started with. Here the pool is told the CPUs that the process may really use, and
the caller's own affinity stays as it was.
"""

from __future__ import annotations

import os
import threading

from compiler.errors import InputError, TilewrightError

_configured = threading.local()


def available_threads() -> int:
    """CPUs that this process may run on (its affinity mask, where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int) -> int:
    """`threads`, if it can be had.

    Raises:
        InputError: It is not positive or more than `available_threads`.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(
            f"threads is {threads!r}", where="threads", hint="give a whole number from 1"
        )
    if threads > available_threads():
        raise InputError(
            f"{threads} threads asked for, but this process may use {available_threads()} CPUs",
            where="threads",
            hint=f"give threads={available_threads()} or fewer",
        )
    return threads


def use_threads(threads: int) -> None:
    """Let the calling thread's pool use `threads` workers (itself included).

    Cheap when nothing changes, so that it can stand before every run.

    Raises:
        TilewrightError: The pool was started before with fewer workers and cannot grow.
    """
    if getattr(_configured, "threads", None) == threads:
        return
    from schedules.tvm_adapter import configure_thread_pool

    used = configure_thread_pool(threads)
    if used != threads:
        raise TilewrightError(
            f"{threads} threads asked for, but TVM's pool in this thread has only {used}",
            where="threads",
            hint="unset TVM_NUM_THREADS, or run from a new Python thread",
        )
    _configured.threads = threads


__all__ = ["available_threads", "check_threads", "use_threads"]
