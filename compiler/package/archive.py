"""The container of a bundle, a zip or a folder, read with suspicion.

Nothing is ever unpacked under a name from the archive: members are read into memory, after
their names and sizes were checked, and compared with the hashes that the manifest declares.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from compiler.errors import BundleError
from compiler.package.atomic import file_error
from compiler.package.manifest import (
    GOLDEN,
    LIBRARY,
    MANIFEST,
    OPTIONAL_MEMBERS,
    PARAMETERS,
    PLAN,
    REPORT,
    REQUIRED_MEMBERS,
    VTA,
    VTA_PROGRAM,
    Manifest,
    Member,
    load_manifest,
)

_MIB, _GIB = 1 << 20, 1 << 30

#: Largest size in bytes that a member may have, unpacked.
LIMITS: Mapping[str, int] = {
    MANIFEST: 16 * _MIB,
    REPORT: 64 * _MIB,
    PLAN: 256 * _MIB,
    VTA: 64 * _MIB,
    LIBRARY: 2 * _GIB,
    GOLDEN: 4 * _GIB,
    PARAMETERS: 256 * _GIB,
}
#: The same of a VTA program.
PROGRAM_LIMIT = 4 * _GIB
#: A compressed member over 1 MiB may not grow by more than this when it is unpacked.
MAX_RATIO = 100

_DAMAGED = "copy the bundle again from where it came from, or compile the model again"
_FOREIGN = "give a bundle that `tilewright compile` or Bundle.save wrote"
_SEAL = b"tilewright sha256:"
_SEAL_BYTES = len(_SEAL) + 64
#: What zipfile and zlib raise on damaged archives.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    LookupError,
    MemoryError,
)


class _Container(Protocol):
    """A zip or a folder: names and sizes first, bytes after they were checked."""

    kind: str

    def names(self) -> tuple[str, ...]: ...
    def size(self, name: str) -> int: ...
    def packed_size(self, name: str) -> int: ...
    def read(self, name: str, limit: int) -> bytes: ...
    def check_seal(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Contents:
    """A container whose members are complete and have the declared hashes.

    Attributes:
        path: Where it lies.
        kind: ``zip`` or ``folder``.
        manifest: What it holds.
        members: Declared size and hash of each member, the manifest itself left out.
        packed_bytes: Bytes that each member takes in the container.
        data: The members' bytes.
    """

    path: Path
    kind: str
    manifest: Manifest
    members: Mapping[str, Member]
    packed_bytes: Mapping[str, int]
    data: Mapping[str, bytes]


def read_contents(path: Path) -> Contents:
    """Open a bundle and check it, short of whether it fits this machine.

    In this order: whether it is a zip or a folder, the schema version, names and completeness
    of the members, their sizes, their hashes. No code of the bundle is loaded.

    Raises:
        BundleError: A check failed.
        FileError: The path cannot be read.
    """
    container = _open(path)
    try:
        names = container.names()
        if MANIFEST not in names:
            raise BundleError(f"there is no {MANIFEST} in it", where=str(path), hint=_FOREIGN)
        _check_size(container, MANIFEST, str(path))
        manifest_bytes = container.read(MANIFEST, LIMITS[MANIFEST])
        manifest, members = load_manifest(manifest_bytes, str(path))
        _check_names(names, members, str(path))
        for name in members:
            _check_size(container, name, str(path))
            if container.size(name) != members[name].size_bytes:
                raise BundleError(
                    f"it has {container.size(name)} bytes, but the manifest says "
                    f"{members[name].size_bytes}",
                    where=f"{path}: {name}",
                    hint=_DAMAGED,
                )
        container.check_seal()
        data = {}
        for name, member in members.items():
            data[name] = container.read(name, member.size_bytes)
            if Member.of(data[name]) != member:
                raise BundleError(
                    "its SHA-256 is not the one in the manifest: it was damaged or changed",
                    where=f"{path}: {name}",
                    hint=_DAMAGED,
                )
        packed = {name: container.packed_size(name) for name in names}
        return Contents(path, container.kind, manifest, members, packed, data)
    finally:
        container.close()


def _open(path: Path) -> _Container:
    try:
        if path.is_dir():
            return _Folder(path)
        file = path.open("rb")
    except OSError as error:
        raise file_error(error, path, "read the bundle") from error
    try:
        return _Zip(path, file)
    except BaseException:
        file.close()
        raise


def _check_names(names: tuple[str, ...], members: Mapping[str, Member], where: str) -> None:
    """Every name is plain, declared and known, none twice, none missing."""
    for name in names:
        _check_path(name, where)
        if names.count(name) > 1:
            raise BundleError(f"member {name!r} stands there twice", where=where, hint=_DAMAGED)
    allowed = {*REQUIRED_MEMBERS, *OPTIONAL_MEMBERS}
    for name in REQUIRED_MEMBERS:
        if name not in members or name not in names:
            raise BundleError(f"member {name!r} is missing", where=where, hint=_DAMAGED)
    for name in members:
        if name not in allowed and not VTA_PROGRAM.fullmatch(name):
            raise BundleError(
                f"the manifest declares an unknown member {name!r}", where=where, hint=_DAMAGED
            )
        if name not in names:
            raise BundleError(f"member {name!r} is missing", where=where, hint=_DAMAGED)
    for name in names:
        if name not in members and name != MANIFEST:
            raise BundleError(
                f"member {name!r} is not declared in the manifest",
                where=where,
                hint="remove it if you put it there; else get the bundle again",
            )


def _check_path(name: str, where: str) -> None:
    """A member is a plain file name, with no way out of the bundle in it."""
    plain = name.replace("\\", "/")
    what = None
    if not name or "\0" in name:
        what = "has an impossible name"
    elif plain.startswith("/") or (len(plain) > 1 and plain[1] == ":"):
        what = "has an absolute path"
    elif ".." in plain.split("/"):
        what = "has a path that leads out of the bundle"
    elif "/" in plain:
        what = "lies in a folder, and a bundle has none"
    if what is not None:
        raise BundleError(
            f"member {name!r} {what}",
            where=where,
            hint="do not use this bundle: Tilewright writes no such names",
        )


def _check_size(container: _Container, name: str, where: str) -> None:
    size, packed = container.size(name), container.packed_size(name)
    hint = "do not use this bundle: it would fill the memory; Tilewright writes none like it"
    limit = PROGRAM_LIMIT if VTA_PROGRAM.fullmatch(name) else LIMITS[name]
    if size > limit:
        raise BundleError(
            f"it claims to have {size} bytes, and {limit} are the most",
            where=f"{where}: {name}",
            hint=hint,
        )
    if size > _MIB and size > MAX_RATIO * packed:
        raise BundleError(
            f"{packed} bytes would unpack to {size}, more than {MAX_RATIO} times as much",
            where=f"{where}: {name}",
            hint=hint,
        )


class _Folder:
    """A bundle as a folder of files."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes: dict[str, int] = {}
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._add(entry)
        except OSError as error:
            raise file_error(error, path, "read the bundle") from error

    def _add(self, entry: os.DirEntry[str]) -> None:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(
                f"member {entry.name!r} is a link",
                where=str(self._path),
                hint="put the file itself there: a bundle holds no links",
            )
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(
                f"member {entry.name!r} is no file",
                where=str(self._path),
                hint="remove it: a bundle holds nothing but files",
            )
        self._sizes[entry.name] = status.st_size

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._sizes))

    def size(self, name: str) -> int:
        return self._sizes[name]

    def packed_size(self, name: str) -> int:
        return self._sizes[name]

    def read(self, name: str, limit: int) -> bytes:
        path = self._path / name
        try:
            # Not through a link, should one have been put there since the folder was listed.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(descriptor, "rb") as file:
                return file.read(limit + 1)
        except OSError as error:
            raise file_error(error, path, "read the member") from error

    def check_seal(self) -> None:
        """A folder needs none: nothing in it is outside the manifest and the members."""

    def close(self) -> None:
        """Nothing is held open."""


class _Zip:
    """A bundle as a zip file, the comment of which holds the SHA-256 of all before it."""

    kind = "zip"

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        try:
            start = file.read(4)
            self._size = file.seek(0, io.SEEK_END)
        except OSError as error:
            raise file_error(error, path, "read the bundle") from error
        if start != b"PK\x03\x04":
            what = "it is empty" if not self._size else "it is neither a zip file nor a folder"
            raise BundleError(what, where=str(path), hint=_FOREIGN)
        try:
            self._zip = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise BundleError(
                "it begins as a zip file, but its end is missing or damaged: it was truncated",
                where=str(path),
                hint=_DAMAGED,
            ) from error
        except OSError as error:
            raise file_error(error, path, "read the bundle") from error
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            self._check_entry(info)
            self._infos.setdefault(info.orig_filename, info)
        self._check_layout()

    def _check_entry(self, info: zipfile.ZipInfo) -> None:
        what = None
        if stat.S_ISLNK(info.external_attr >> 16):
            what = "is a link"
        elif info.flag_bits & 0x1:
            what = "is encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            what = f"is compressed in a way ({info.compress_type}) that bundles do not use"
        if what is not None:
            raise BundleError(
                f"member {info.orig_filename!r} {what}",
                where=str(self._path),
                hint="do not use this bundle: Tilewright writes none like it",
            )

    def _check_layout(self) -> None:
        """No two members share bytes of the file, a trick that makes small files unpack huge."""
        end = 0
        for info in sorted(self._zip.infolist(), key=lambda info: info.header_offset):
            if info.header_offset < end or info.compress_size > self._size:
                raise BundleError(
                    f"member {info.orig_filename!r} overlaps another or the file's end",
                    where=str(self._path),
                    hint=_DAMAGED,
                )
            end = info.header_offset + info.compress_size

    def names(self) -> tuple[str, ...]:
        return tuple(info.orig_filename for info in self._zip.infolist())

    def size(self, name: str) -> int:
        return self._infos[name].file_size

    def packed_size(self, name: str) -> int:
        return self._infos[name].compress_size

    def read(self, name: str, limit: int) -> bytes:
        try:
            with self._zip.open(self._infos[name]) as member:
                return member.read(limit + 1)
        except _ZIP_ERRORS as error:
            raise BundleError(
                f"it cannot be unpacked: {error}", where=f"{self._path}: {name}", hint=_DAMAGED
            ) from error
        except OSError as error:
            raise file_error(error, self._path, "read the bundle") from error

    def check_seal(self) -> None:
        """Compare the file with the hash at its end.

        Raises:
            BundleError: It differs, or the file was packed by another program.
        """
        comment = self._zip.comment
        if len(comment) != _SEAL_BYTES or not comment.startswith(_SEAL):
            raise BundleError(
                "the zip file carries no seal: another program packed it",
                where=str(self._path),
                hint="unpack it and load the folder, or save the bundle with Tilewright",
            )
        try:
            found = _hash_file(self._file, self._size - 64)
        except OSError as error:
            raise file_error(error, self._path, "read the bundle") from error
        if comment[len(_SEAL) :] != found:
            raise BundleError(
                "the file is not as it was written: a part of it was damaged or changed",
                where=str(self._path),
                hint=_DAMAGED,
            )

    def close(self) -> None:
        self._zip.close()
        self._file.close()


def write_zip(file: BinaryIO, members: Mapping[str, bytes]) -> None:
    """Write members into an open, empty, readable file, sealed; the same input, the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, whatever this system is
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            # Trained numbers hardly shrink, and stored they can be read at the disk's speed.
            stored = name in (PARAMETERS, GOLDEN) or VTA_PROGRAM.fullmatch(name)
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
        archive.comment = _SEAL + b"0" * 64
    size = file.seek(0, io.SEEK_END)
    seal = _hash_file(file, size - 64)
    file.seek(size - 64)
    file.write(seal)


def _hash_file(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the first `size` bytes, hexadecimal."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, _MIB))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode("ascii")


__all__ = ["LIMITS", "MAX_RATIO", "Contents", "read_contents", "write_zip"]
