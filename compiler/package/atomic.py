"""Files and folders that appear whole or not at all, and private temporary folders."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from compiler.errors import FileError

_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or choose a path on another disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another path",
    errno.EACCES: "you may not write there: choose another path, or change its permissions",
    errno.EPERM: "you may not write there: choose another path, or change its permissions",
    errno.EROFS: "the file system is read-only: choose another path",
    errno.ENOENT: "create the folder first, or choose another path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EISDIR: "the path is a folder: give the name of a file in it",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "the path runs through links in a circle: choose another one",
}


_READ_HINTS = {
    errno.ENOENT: "check the path: there is nothing by this name",
    errno.EACCES: "you may not read it: change its permissions",
    errno.EPERM: "you may not read it: change its permissions",
    errno.EISDIR: "the path is a folder: give the name of a file in it",
}


def file_error(error: OSError, path: Path, doing: str) -> FileError:
    """An operating system's error as ours, with what to do about it.

    Args:
        error: What the system said.
        path: The path that it is about.
        doing: What could not be done, beginning with a verb: ``read …`` or anything else.
    """
    reason = error.strerror or str(error)
    hints = {**_HINTS, **_READ_HINTS} if doing.startswith("read") else _HINTS
    hint = hints.get(error.errno or 0, "check the path and the disk")
    return FileError(f"cannot {doing}: {reason}", where=str(path), hint=hint)


def write_file(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    """Write a file so that `path` holds either all of it or what it held before.

    Args:
        path: Where to; its folder must exist.
        fill: Writes the content to the open file (readable, too).

    Raises:
        FileError: It cannot be written; nothing is left behind.
    """
    _refuse_folder(path)
    with _sibling(path) as temporary:
        try:
            _write_new(temporary, fill)
            os.replace(temporary, path)  # noqa: PTH105 - the exact call that is atomic
            _sync_folder(path.parent)
        except OSError as error:
            raise file_error(error, path, "write the file") from error


def check_destination(path: Path, *, folder_if: str | None = None) -> None:
    """Whether something could be written to `path` now, without touching what is there.

    For use before long work; `write_file` and `write_folder` check for themselves.

    Args:
        path: Where to.
        folder_if: `replace_if` of `write_folder`, None for a file.

    Raises:
        FileError: It could not.
    """
    if folder_if is None:
        _refuse_folder(path)
    else:
        _refuse_other(path, folder_if)
    with _sibling(path) as temporary:
        try:
            _write_new(temporary, lambda _: None)
        except OSError as error:
            raise file_error(error, path, "write there") from error


def write_folder(
    path: Path,
    members: Mapping[str, bytes],
    *,
    replace_if: str,
    executable: Collection[str] = (),
) -> None:
    """Write a folder of files so that it appears whole or not at all.

    Args:
        path: The folder.
        members: Content of each file.
        replace_if: A folder that is there already is replaced only if it holds a file of
            this name. It stays until the new one is complete, and comes back if the exchange
            fails.
        executable: Names of the files that may be executed.

    Raises:
        FileError: It cannot be written; nothing is left behind.
    """
    there = _refuse_other(path, replace_if)
    with _sibling(path) as temporary:
        try:
            temporary.mkdir()
            for name, data in members.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                _write_new(temporary / name, partial(_write_all, data))
                if name in executable:
                    (temporary / name).chmod(0o755)
            _sync_folder(temporary)
            if there:
                _exchange(temporary, path)
            else:
                temporary.rename(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise file_error(error, path, "write the folder") from error


def _exchange(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of the folder `path`, which goes.

    Raises:
        OSError: It failed; the folder that was there is there again.
        FileError: Even that failed; the old folder is whole, under the name in the hint.
    """
    old = path.with_name(f"{new.name}.old")
    try:
        path.rename(old)
        new.rename(path)
    except BaseException as error:  # Ctrl-C must not lose the old folder either
        if old.exists():
            try:
                old.rename(path)
            except OSError:
                raise FileError(
                    f"cannot write the folder, nor put the old one back: {error}",
                    where=str(path),
                    hint=f"the old one is whole; rename it yourself: {old}",
                ) from error
        raise
    _remove(old)


def _refuse_other(path: Path, replace_if: str) -> bool:
    """Whether a folder is there; anything that must not be replaced by one raises.

    Raises:
        FileError: A file is there, or a folder without a file called `replace_if`.
    """
    there = _probe(path, path.exists)
    if path.is_symlink() or (there and not path.is_dir()):
        raise FileError(
            "cannot write the folder: a file is there", where=str(path), hint="choose another path"
        )
    if there and not (path / replace_if).is_file():
        raise FileError(
            "cannot write the folder: another folder is there, and it is no bundle",
            where=str(path),
            hint="choose another path, or remove the folder yourself",
        )
    return there


def _probe(path: Path, question: Callable[[], bool]) -> bool:
    """Ask about a path; one that the system cannot even look at raises.

    Raises:
        FileError: Its name is too long, or a folder on the way is closed to us.
    """
    try:
        return question()
    except OSError as error:
        raise file_error(error, path, "write there") from error


def _write_all(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def _refuse_folder(path: Path) -> None:
    if _probe(path, path.is_dir):
        raise FileError(
            "cannot write the file: the path is a folder",
            where=str(path),
            hint="give the name of a file in it",
        )


@contextmanager
def _sibling(path: Path) -> Iterator[Path]:
    """A new name beside `path`; whatever is there at the end, also after Ctrl-C, is removed."""
    temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(6)}.tmp"
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        # The folder itself may be unwritable or gone: the error that brought us here, or
        # none, is what the caller needs to hear of.
        return


def _write_new(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
    with os.fdopen(os.open(path, flags, 0o666), "w+b") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; some file systems cannot, and that is all right."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


class PrivateFolder:
    """A temporary folder that only this user can enter, removed with the object or at exit.

    Raises:
        FileError: It cannot be made.
    """

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="tilewright-"))
        except OSError as error:
            raise file_error(
                error, Path(tempfile.gettempdir()), "make a temporary folder"
            ) from error
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def remove(self) -> None:
        """Remove it now; nothing happens if it is gone already."""
        self._finalizer()

    def put(self, name: str, data: bytes) -> Path:
        """Write a file into it and return its path.

        Raises:
            FileError: It cannot be written.
        """
        path = self.path / name
        try:
            path.write_bytes(data)
        except OSError as error:
            raise file_error(error, path, "write a temporary file") from error
        return path


__all__ = ["PrivateFolder", "check_destination", "file_error", "write_file", "write_folder"]
