"""Files that are made once for a machine and kept in the user's cache folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from compiler.errors import FileError


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/tilewright``, by default ``~/.cache/tilewright``."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "tilewright"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made if it is not there yet, whole or not at all.

    Args:
        name: Its name, which says all that its content depends on.
        make: Called with an empty folder to fill.

    Raises:
        FileError: It cannot be written.
    """
    target = cache_folder() / name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _error(error, target) from error
    try:
        make(work)
        work.chmod(0o755)
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    except OSError as error:
        raise _error(error, target) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _error(error: OSError, target: Path) -> FileError:
    return FileError(
        f"the cache cannot be written: {error.strerror or error}",
        where=str(target),
        hint="free some space, or name another folder in XDG_CACHE_HOME",
    )


__all__ = ["cache_folder", "cached"]
