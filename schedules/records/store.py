"""A folder of tuning records, one file each, that many processes may read and write at once.

``<folder>/<operator>-<16 digits of the workload's key>/<ID>.json``. Files are never changed: a
record is added under its ID or removed. There is no index: the workload's name leads to the
few files that can serve it. What cannot be trusted is moved to ``quarantine/`` with its reason
beside it, alone; in a store that may not be written it is left out and reported.
"""

from __future__ import annotations

import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from schedules.records.errors import RecordError, RecordWarning, StoreError, store_error
from schedules.records.files import publish, read_bytes, remove_stale
from schedules.records.ranking import by_machine
from schedules.records.record import Record, is_id
from schedules.workload import Workload

QUARANTINE = "quarantine"
_TEMPORARY = ".tmp"
_KEY_DIGITS = 16
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,39}-[0-9a-f]{16}")
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Problem:
    """A file that is left out.

    Attributes:
        path: Where it was found.
        reason: What is wrong with it.
        moved_to: Where it is now; None if it could not or may not be moved.
    """

    path: Path
    reason: str
    moved_to: Path | None = None

    def __str__(self) -> str:
        moved = "" if self.moved_to is None else f"; moved to {self.moved_to}"
        return f"{str(self.path)!r}: {self.reason}{moved}"


@dataclass(frozen=True)
class Verified:
    """What `RecordStore.verify` found.

    Attributes:
        records: How many records are whole.
        problems: What was left out now.
        restored: IDs of records that came back from the quarantine.
        quarantined: How many files are in the quarantine now.
        stale: How many temporary files of killed writers were removed.
    """

    records: int
    problems: tuple[Problem, ...]
    restored: tuple[str, ...]
    quarantined: int
    stale: int


@dataclass(frozen=True)
class Merged:
    """What `RecordStore.merge` did.

    Attributes:
        added: IDs of new records.
        known: How many were there already.
        problems: What was not taken over; it stays where it is.
    """

    added: tuple[str, ...]
    known: int
    problems: tuple[Problem, ...]


class RecordStore:
    """A folder of records.

    Problems with single files never raise: they are warned of (`RecordWarning`), kept in
    `problems`, and the rest stays readable. A folder that is not there is empty, and made by
    the first `add`.

    Args:
        folder: Where it is.
        read_only: Never to write, not even to put something into the quarantine.

    Raises:
        StoreError: The path is no folder.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False) -> None:
        self.folder = Path(folder)
        self.read_only = read_only
        self.problems: list[Problem] = []
        self._cache: dict[tuple[str, str], Record] = {}
        self._refused: set[tuple[str, str]] = set()
        self._tidied = False
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise StoreError(
                    "a record store is a folder, and this is a file",
                    where=str(self.folder),
                    hint="name the folder that holds the records",
                )
        except OSError as error:
            raise store_error(error, self.folder, "read the record store") from error

    def __repr__(self) -> str:
        return f"RecordStore({str(self.folder)!r}, read_only={self.read_only})"

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def records(self, operator: str | None = None) -> Iterator[Record]:
        """All records, or those of one operator, in a fixed order.

        Raises:
            StoreError: The folder cannot be read.
        """
        for group in self._groups():
            if operator is None or group.rpartition("-")[0] == operator:
                for name in self._names(group):
                    record = self._load(group, name)
                    if record is not None:
                        yield record

    def of(self, workload: Workload) -> tuple[Record, ...]:
        """The records of one workload; no other file is opened.

        Raises:
            StoreError: The folder cannot be read.
        """
        group = group_of(workload)
        found = (self._load(group, name) for name in self._names(group))
        return tuple(r for r in found if r is not None and r.workload == workload)

    def starting_with(self, prefix: str) -> list[Record]:
        """The records whose IDs begin with `prefix`, which has at least 4 digits.

        Raises:
            StoreError: The folder cannot be read.
        """
        if not re.fullmatch(r"[0-9a-f]{4,64}", prefix):
            return []
        found = (
            self._load(group, name)
            for group in self._groups()
            for name in self._names(group)
            if name.startswith(prefix)
        )
        return [record for record in found if record is not None]

    def get(self, prefix: str) -> Record:
        """The record whose ID begins with `prefix`.

        Raises:
            RecordError: There is none, or more than one.
            StoreError: The folder cannot be read.
        """
        return the_one(self.starting_with(prefix), prefix)

    def path_of(self, record: Record) -> Path:
        """Where the file of a record is, or would be."""
        return self.folder / group_of(record.workload) / f"{record.id}.json"

    def add(self, record: Record) -> str:
        """Write a record, whole and durable; adding it again changes nothing.

        Returns:
            Its ID.

        Raises:
            RecordError: No reader would take it.
            StoreError: It cannot be written: a full disk, no permission. Nothing is left
                behind, and all other records stay readable.
        """
        self._writable()
        data = record.to_bytes()
        Record.from_bytes(data)
        if self._has(record):
            return record.id
        path = self.path_of(record)
        group, name = path.parent.name, path.name
        temporary = self.folder / _TEMPORARY
        try:
            if not self._tidied:
                remove_stale(temporary)
                self._tidied = True
            publish(data, path, temporary)
        except OSError as error:
            raise store_error(error, path, "write the record") from error
        self._cache[group, name] = record
        self._refused.discard((group, name))
        return record.id

    def best(self, workload: Workload, *, threads: int = 1) -> Record | None:
        """The best measured record of a workload on the machine that was measured last.

        `schedules.records.find` chooses by target.
        """
        groups = by_machine(r for r in self.of(workload) if r.provenance.threads == threads)
        newest = max(
            groups.values(), key=lambda group: max(r.provenance.date for r in group), default=None
        )
        return None if newest is None else newest[0]

    def verify(self) -> Verified:
        """Read every file anew, and tidy up: a full check of the store.

        What is in the quarantine and reads well now comes back: a record of a newer release
        after an update, or one that lay in a wrong folder. A file whose content is not what
        its name says never does.

        Raises:
            StoreError: The folder cannot be read or written.
        """
        self._cache.clear()
        self._refused.clear()
        before = len(self.problems)
        restored = () if self.read_only else tuple(self._restore())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecordWarning)
            records = sum(1 for _ in self.records())
            self._foreign()
        stale = 0 if self.read_only else remove_stale(self.folder / _TEMPORARY)
        return Verified(
            records=records,
            problems=tuple(self.problems[before:]),
            restored=restored,
            quarantined=len(self._quarantined()),
            stale=stale,
        )

    def merge(self, source: str | Path | RecordStore) -> Merged:
        """Take over the records of another store; the other one is not touched.

        Raises:
            StoreError: One of the two cannot be read or written.
        """
        other = source if isinstance(source, RecordStore) else RecordStore(source, read_only=True)
        if not other.folder.is_dir():
            raise StoreError(
                "there is no such folder", where=str(other.folder), hint="check the path"
            )
        other = RecordStore(other.folder, read_only=True)
        added, known = [], 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecordWarning)
            for record in other.records():
                if self._has(record):
                    known += 1
                else:
                    added.append(self.add(record))
            other._foreign()
        return Merged(tuple(added), known, tuple(other.problems))

    def prune(
        self, keep: int = 1, *, keep_parents: bool = True, dry_run: bool = False
    ) -> tuple[str, ...]:
        """Remove all but the best records of each workload and machine.

        Args:
            keep: How many stay.
            keep_parents: Whether the record that a staying one beat stays, too.
            dry_run: Only say which would go.

        Returns:
            IDs of the removed records. Estimates of kernels that never ran go as well.

        Raises:
            StoreError: The folder cannot be read or written.
        """
        if not dry_run:
            self._writable()
        by_workload: dict[str, list[Record]] = {}
        for record in self.records():
            by_workload.setdefault(record.workload.key, []).append(record)
        staying: set[Record] = set()
        for records in by_workload.values():
            for group in by_machine(records).values():
                staying.update(group[:keep])
        everything = [record for records in by_workload.values() for record in records]
        if keep_parents:
            parents = {record.provenance.parent for record in staying}
            staying.update(record for record in everything if record.id in parents)
        going = [record for record in everything if record not in staying]
        if not dry_run:
            self._delete(going)
        return tuple(record.id for record in going)

    # Reading

    def _groups(self) -> list[str]:
        return [e.name for e in self._scan(self.folder) if _GROUP.fullmatch(e.name)]

    def _names(self, group: str) -> list[str]:
        folder = self.folder / group
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            self._leave_out(folder, "it is a link or a file, not a folder of records")
            return []
        return [e.name for e in self._scan(folder) if e.name.endswith(".json")]

    def _scan(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(error, folder, "read the record store") from error

    def _load(self, group: str, name: str) -> Record | None:
        key = group, name
        path = self.folder / group / name
        if key in self._cache:
            return self._cache[key]
        if key in self._refused:
            return None
        try:
            record = _read(path, group=group)
        except RecordError as error:
            hint = f" ({error.hint})" if error.hint else ""
            if not self._leave_out(path, f"{error.message}{hint}"):
                self._refused.add(key)
            return None
        except FileNotFoundError:
            return None  # removed by another process since it was listed
        except OSError as error:
            # Nothing says that the record itself is bad: it stays.
            self._report(Problem(path, f"it cannot be read: {error.strerror or error}"))
            self._refused.add(key)
            return None
        self._cache[key] = record
        return record

    def _has(self, record: Record) -> bool:
        path = self.path_of(record)
        return path.exists() and self._load(path.parent.name, path.name) is not None

    def _foreign(self) -> None:
        """Leave out records that lie where none belongs: no reader would ever find them."""
        for entry in self._scan(self.folder):
            if entry.name.endswith(".json"):
                self._leave_out(Path(entry.path), "it lies outside of the folders of records")

    # The quarantine

    def _leave_out(self, path: Path, reason: str) -> bool:
        """Report a file, in the quarantine if possible; whether it is gone from its place."""
        moved = None if self.read_only else self._quarantine(path, reason)
        if moved is None and not os.path.lexists(path):
            return True  # another process was faster
        self._report(Problem(path, reason, moved))
        return moved is not None

    def _report(self, problem: Problem) -> None:
        self.problems.append(problem)
        warnings.warn(f"a tuning record was left out: {problem}", RecordWarning, stacklevel=2)

    def _quarantine(self, path: Path, reason: str) -> Path | None:
        folder = self.folder / QUARANTINE
        stem = path.name.removesuffix(".json")
        stem = stem if _SAFE_NAME.fullmatch(stem) else "file"
        moved = folder / f"{stem}.{secrets.token_hex(4)}.json"
        if folder.is_symlink():
            return None
        try:
            folder.mkdir(exist_ok=True)
            path.rename(moved)
        except OSError:
            return None
        found = os.path.relpath(path, self.folder)
        try:
            moved.with_suffix(".reason").write_text(
                f"{reason}\nfound as {found!r}\n", encoding="utf-8"
            )
        except OSError:
            return moved  # a full disk: the report says the reason
        return moved

    def _quarantined(self) -> list[Path]:
        entries = self._scan(self.folder / QUARANTINE)
        return [Path(entry.path) for entry in entries if entry.name.endswith(".json")]

    def _restore(self) -> Iterator[str]:
        for path in self._quarantined():
            try:
                record = _read(path, name=path.name.partition(".")[0])
            except (RecordError, OSError):
                continue
            self.add(record)
            try:
                path.unlink(missing_ok=True)
                path.with_suffix(".reason").unlink(missing_ok=True)
            except OSError as error:
                raise store_error(error, path, "remove it from the quarantine") from error
            yield record.id

    # Writing

    def _writable(self) -> None:
        if self.read_only:
            raise StoreError(
                "this record store is only read",
                where=str(self.folder),
                hint="name a folder of your own",
            )

    def _delete(self, records: Iterable[Record]) -> None:
        for record in records:
            path = self.path_of(record)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise store_error(error, path, "remove the record") from error
            self._cache.pop((path.parent.name, path.name), None)
            try:
                path.parent.rmdir()
            except OSError:
                continue  # other records are in it


def group_of(workload: Workload) -> str:
    """Name of the folder that holds a workload's records."""
    return f"{workload.operator}-{workload.key[:_KEY_DIGITS]}"


def the_one(found: Sequence[Record], prefix: str) -> Record:
    """The only one of the records whose IDs begin with `prefix`.

    Raises:
        RecordError: There is none, or more than one.
    """
    if not found:
        raise RecordError(
            f"no record has an ID that begins with {prefix!r:.80}",
            hint="give at least 4 digits of an ID from `tilewright records list`",
        )
    if len(found) > 1:
        raise RecordError(
            f"{len(found)} records have IDs that begin with {prefix!r}", hint="give more digits"
        )
    return found[0]


def _read(path: Path, *, name: str | None = None, group: str | None = None) -> Record:
    """The record in a file, whose name must be its ID.

    Args:
        path: The file.
        name: In place of the file's name.
        group: Name of the folder that it must belong into.

    Raises:
        RecordError: It is none.
        OSError: The file cannot be read.
    """
    name = path.name.removesuffix(".json") if name is None else name
    if not is_id(name):
        raise RecordError("its name is no record's ID")
    record = Record.from_bytes(read_bytes(path))
    if record.id != name:
        raise RecordError(f"its content is not what its name says but {record.id[:16]}…")
    if group is not None and group != group_of(record.workload):
        raise RecordError(f"it belongs into {group_of(record.workload)}")
    return record


__all__ = ["QUARANTINE", "Merged", "Problem", "RecordStore", "Verified", "group_of", "the_one"]
