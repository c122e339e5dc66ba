"""Temporary folders of a run: removed at its end, and after a kill by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from compiler.errors import FileError

_PREFIX = "tilewright-measure-"
_STALE_S = 60.0
_LEAST_BYTES = 128 << 10


def make_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor of the lock that says that it is in use.

    Raises:
        FileError: There is no room, or no permission.
    """
    _remove_stale()
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise disk_error(error.strerror or str(error)) from error
    _try_lock(lock)
    return folder, lock


def disk_error(why: str) -> FileError:
    """The error for a folder that candidates cannot be built in."""
    return FileError(
        f"candidates cannot be built in the temporary folder: {why}",
        where=tempfile.gettempdir(),
        hint="free some space, or set TMPDIR to a folder that has it",
    )


def is_full(folder: Path) -> bool:
    """Whether a folder has no room left for even the smallest kernel."""
    return shutil.disk_usage(folder).free < _LEAST_BYTES


def remove_folder(folder: Path) -> None:
    """Remove a folder that a dying process may still be writing to."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def last_line(log: Path, limit: int = 300) -> str:
    """The last line of a log that says something; empty if none does."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:limit] if lines else ""


def _try_lock(descriptor: int) -> bool:
    """Whether no living process holds the lock; it is held from now on, if so."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_stale() -> None:
    """Remove folders of runs that were killed together with the process that cleans up."""
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        try:
            if time.time() - folder.stat().st_mtime < _STALE_S:
                continue
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            continue  # somebody else's, or gone in this moment
        try:
            if _try_lock(lock):
                remove_folder(folder)
        finally:
            os.close(lock)


__all__ = ["disk_error", "is_full", "last_line", "make_folder", "remove_folder"]
