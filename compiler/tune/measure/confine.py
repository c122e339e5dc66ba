"""Keeps a worker process within bounds: memory, cores, and the life of its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def without_torch() -> None:
    """Have later imports of torch fail in this process.

    tvm_ffi imports it where it can: 150 MB and more than a second, for nothing in a worker.
    """
    if "torch" not in sys.modules:
        cast("dict[str, Any]", sys.modules)["torch"] = None


def limit_memory(extra_bytes: int) -> None:
    """Let this process, and each that it starts, map `extra_bytes` more than it does now.

    An allocation beyond that fails: Python raises `MemoryError`, LLVM aborts.
    """
    import resource

    limit = _mapped_bytes() + extra_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    # A system that does not know this limit (macOS) keeps running without it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _mapped_bytes() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 1 << 30
    return int(statm.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


def pin(cpus: Collection[int]) -> None:
    """Keep this process on some CPUs, where the system can do that."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def usable_cpus() -> list[int]:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def siblings(cpus: Collection[int]) -> set[int]:
    """All CPUs that share a core with one of these, these among them."""
    found = set(cpus)
    for cpu in cpus:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        if path.exists():
            found.update(_cpu_list(path.read_text(encoding="ascii")))
    return found


def _cpu_list(text: str) -> set[int]:
    """CPUs as Linux lists them: ``0-3,8``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return found


def redirect_output(log: Path) -> None:
    """Send what this process and its native code print to a file, emptied first."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def describe_status(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


__all__ = [
    "describe_status",
    "die_with_parent",
    "limit_memory",
    "pin",
    "redirect_output",
    "siblings",
    "usable_cpus",
    "without_torch",
]
