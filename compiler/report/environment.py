"""The machine that the figures come from, and pinning to one of its cores."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata

from compiler._version import __version__
from targets.host import cpu_name

from .model import Environment, Figure

#: Distributions whose version can change a figure.
_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "torch", "numpy")


def system_name() -> str:
    """Operating system, kernel's release and machine."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def versions() -> dict[str, str]:
    """Versions of Tilewright, Python and the packages that can change a figure."""
    found = {"tilewright": __version__, "python": platform.python_version()}
    found.update((p, v) for p in _PACKAGES if (v := _version(p)) is not None)
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment(threads: int, pinned_core: int | None) -> Environment:
    """Describe this machine now."""
    load = Figure.measured(round(os.getloadavg()[0], 2), "") if hasattr(os, "getloadavg") else None
    return Environment(
        cpu=cpu_name(),
        system=system_name(),
        threads=threads,
        pinned_core=pinned_core,
        load_1min=load,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
    )


@contextmanager
def pinned(threads: int) -> Iterator[int | None]:
    """Pin this thread to the least busy core it may use, if it is to run alone on one.

    Yields:
        The core, or None with several threads or where the system cannot pin.
    """
    if threads != 1 or not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    core = _least_busy(allowed)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)


def _least_busy(allowed: set[int]) -> int:
    import psutil

    if len(allowed) == 1:
        return min(allowed)
    busy = psutil.cpu_percent(interval=0.2, percpu=True)
    # Ties go to the last core: interrupts favour the first.
    return min(allowed, key=lambda core: (busy[core] if core < len(busy) else 0.0, -core))
