"""What can be wrong with a tuning record or with the folder that holds it."""

from __future__ import annotations

import errno
from pathlib import Path

from targets.errors import TilewrightError


class RecordError(TilewrightError):
    """A record is damaged, foreign, newer than this release, or says something impossible."""

    exit_code = 7


class StoreError(TilewrightError):
    """A record store cannot be read or written: permissions, a full disk, a missing folder."""

    exit_code = 7


class RecordWarning(UserWarning):
    """A record was left out; the message says which and why."""


_HINTS = {
    errno.ENOSPC: "the disk is full: free some space; every record written before is whole",
    errno.EDQUOT: "your disk quota is used up: free some space; every record written before "
    "is whole",
    errno.EFBIG: "this process may not write files of that size (ulimit -f)",
    errno.EACCES: "you may not write there: choose another folder, or change its permissions",
    errno.EPERM: "you may not write there: choose another folder, or change its permissions",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOENT: "there is nothing by this name: check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a file is there, not a folder: choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
}


def store_error(error: OSError, path: Path, doing: str) -> StoreError:
    """An operating system's error as ours, with what to do about it.

    Args:
        error: What the system said.
        path: The path that it is about.
        doing: What could not be done, beginning with a verb.
    """
    reason = error.strerror or str(error)
    hint = _HINTS.get(error.errno or 0, "check the path and the disk")
    return StoreError(f"cannot {doing}: {reason}", where=str(path), hint=hint)


__all__ = ["RecordError", "RecordWarning", "StoreError", "store_error"]
