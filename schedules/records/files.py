"""Files of a record store: read without following links, written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from pathlib import Path

from schedules.records.errors import RecordError
from schedules.records.strict import MAX_BYTES

#: A file is under its temporary name for milliseconds; this old, its writer was killed.
STALE_S = 3600.0
_ATTEMPTS = 8
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def read_bytes(path: Path) -> bytes:
    """The content of a plain file of a record's size.

    Raises:
        RecordError: It is a link, a device, a folder, or too large.
        OSError: The system does not let us read it.
    """
    try:
        descriptor = os.open(path, _FLAGS | _NO_LINKS)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise RecordError("it is no plain file but a link or a socket") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise RecordError("it is no plain file")
        if facts.st_size > MAX_BYTES:
            raise RecordError(f"it has {facts.st_size} bytes, more than {MAX_BYTES}")
        return file.read(MAX_BYTES + 1)


def publish(data: bytes, path: Path, temporary_folder: Path) -> None:
    """Write a file so that it appears under its name whole and durable, or not at all.

    Folders are made. Others may remove empty folders and stale temporary files meanwhile.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    attempts = _ATTEMPTS
    while attempts:
        attempts -= 1
        try:
            return _publish_once(data, path, temporary_folder)
        except FileNotFoundError:
            # Another process tidied up between two of our steps.
            if not attempts:
                raise
    return None


def _publish_once(data: bytes, path: Path, temporary_folder: Path) -> None:
    temporary_folder.mkdir(parents=True, exist_ok=True)
    new_folder = not path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (temporary_folder, path.parent):
        if folder.is_symlink():
            raise OSError(errno.ELOOP, f"{folder.name} is a link to another folder")
    temporary = temporary_folder / f"{path.name[:16]}.{os.getpid()}.{secrets.token_hex(6)}.tmp"
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
        with os.fdopen(os.open(temporary, flags, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the exact call that is atomic
    except BaseException:  # Ctrl-C must leave nothing behind either
        _remove(temporary)
        raise
    sync_folder(path.parent)
    if new_folder:
        sync_folder(path.parent.parent)


def remove_stale(folder: Path, older_than_s: float = STALE_S) -> int:
    """Remove what killed writers left in a folder of temporary files; how many there were."""
    if folder.is_symlink():
        return 0
    limit = time.time() - older_than_s
    return sum(_remove_older(path, limit) for path in sorted(folder.glob("*.tmp")))


def sync_folder(folder: Path) -> None:
    """Make new names durable; some file systems cannot, and that is all right."""
    try:
        descriptor = os.open(folder, _FLAGS)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _remove_older(path: Path, limit: float) -> bool:
    try:
        if path.lstat().st_mtime >= limit:
            return False
        path.unlink()
    except OSError:
        return False  # another process was faster, or it is not ours to remove
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the error that brought us here is what the caller needs to hear of


__all__ = ["STALE_S", "publish", "read_bytes", "remove_stale", "sync_folder"]
