"""What was measured of a task on this machine: one line a candidate, only ever appended to.

``<store>/sessions/<operator>-<16 digits>.jsonl``. The first line says what the lines are of:
workload, machine, target, versions. Any number of runs append at once; each takes in what
the others wrote. A line that a killed process left half written, or that makes no sense, is
skipped and counted. Nothing in a journal is executed or built unchecked: it holds choices,
and a choice that the task's spaces do not offer is ignored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.tune.measure.base import Failed, Measured, Outcome, Rejected
from schedules.records import StoreError
from schedules.records.errors import store_error
from schedules.space import Choice
from schedules.workload import Json, Workload

FOLDER = "sessions"
_MAX_LINE = 64 << 10
_FAILURES = ("build", "verify", "crash", "timeout")


@dataclass(frozen=True)
class Entry:
    """One measured candidate."""

    choice: Choice
    outcome: Outcome
    session: str


@dataclass(frozen=True)
class Machine:
    """What measurements of one workload must share to stand beside each other.

    Attributes:
        facts: The processor, the target compiled for, versions, the runner: JSON.
    """

    facts: Mapping[str, Json]

    def identity(self, workload: Workload) -> dict[str, Json]:
        """The first line of a journal."""
        return {"journal": 1, "workload": workload.to_json(), "machine": dict(self.facts)}


class Journal:
    """The journal of one workload on one machine.

    Args:
        store: Folder of the record store.
        workload: What was measured.
        machine: Where.
        read_old: Whether lines that are there already count.

    Raises:
        StoreError: It cannot be read or written.
    """

    def __init__(
        self, store: Path, workload: Workload, machine: Machine, *, read_old: bool = True
    ) -> None:
        self._identity = machine.identity(workload)
        digest = hashlib.sha256(_line(self._identity)).hexdigest()[:16]
        self.path = store / FOLDER / f"{workload.operator}-{digest}.jsonl"
        self._position = 0
        self.damaged = 0
        if not read_old:
            self._position = self.path.stat().st_size if self.path.exists() else 0

    def read(self) -> list[Entry]:
        """Entries that were appended since the last call, by this process or others.

        Raises:
            StoreError: The system does not let us read it.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(error, self.path, "read the journal of measurements") from error
        whole = data.rfind(b"\n") + 1  # what follows is being written, or was when power went
        self._position += whole
        entries = []
        for line in data[:whole].splitlines():
            entry = _entry(line)
            if entry is not None:
                entries.append(entry)
            elif not _is_header(line):
                self.damaged += 1
        return entries

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries, whole and durable; they are not given by `read` any more.

        Raises:
            StoreError: It cannot be written: a full disk, no permission. What is in it stays
                readable.
        """
        lines = b"".join(_line(_document(entry)) for entry in entries)
        if not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            with os.fdopen(os.open(self.path, flags, 0o644), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    lines = _line(self._identity) + lines
                elif os.pread(file.fileno(), 1, size - 1) != b"\n":
                    lines = b"\n" + lines  # the end of a line that a killed process left
                caught_up = self._position == size
                _write_all(file.fileno(), lines)
                os.fsync(file.fileno())
                if caught_up:
                    self._position = size + len(lines)
        except OSError as error:
            raise store_error(error, self.path, "write the journal of measurements") from error


def journals(store: Path, operator: str, machine: Machine) -> Iterator[tuple[Workload, Path]]:
    """The journals of an operator's workloads on one machine, newest first."""
    try:
        paths = [(p.stat().st_mtime, p) for p in (store / FOLDER).glob(f"{operator}-*.jsonl")]
    except OSError:
        return
    for _, path in sorted(paths, reverse=True):
        workload = _workload_of(path, machine)
        if workload is not None:
            yield workload, path


def _workload_of(path: Path, machine: Machine) -> Workload | None:
    """What a journal is of; None if it is damaged or another machine's."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(_MAX_LINE))
        if header["machine"] == json.loads(_line(dict(machine.facts))):
            return Workload.from_json(header["workload"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def read_entries(path: Path, limit: int) -> list[Entry]:
    """The last entries of a journal; none if it cannot be read."""
    try:
        lines = path.read_bytes().splitlines()[-limit:]
    except OSError:
        return []
    return [entry for entry in map(_entry, lines) if entry is not None]


def _document(entry: Entry) -> dict[str, Json]:
    outcome = entry.outcome
    document: dict[str, Json] = {"choice": entry.choice, "session": entry.session}
    if isinstance(outcome, Measured):
        document |= {
            "outcome": "measured",
            "samples_ns": [round(v, 1) for v in outcome.samples_ns],
            "error": outcome.max_relative_error,
            "tolerance": outcome.tolerance,
        }
    elif isinstance(outcome, Rejected):
        document |= {"outcome": "rejected", "reason": outcome.reason[:500]}
    else:
        document |= {"outcome": outcome.kind, "reason": outcome.reason[:500]}
    return document


def _entry(line: bytes) -> Entry | None:
    try:
        document = json.loads(line)
        choice, session, kind = document["choice"], document["session"], document["outcome"]
        if not isinstance(choice, dict) or not isinstance(session, str):
            return None
        if kind == "measured":
            samples = tuple(_finite(v) for v in document["samples_ns"])
            if not samples or min(samples) <= 0:
                return None
            error, tolerance = _finite(document["error"]), _finite(document["tolerance"])
            return Entry(choice, Measured(samples, error, tolerance), session)
        reason = str(document["reason"])
        if kind == "rejected":
            return Entry(choice, Rejected(reason), session)
        if kind in _FAILURES:
            return Entry(choice, Failed(kind, reason), session)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return None


def _is_header(line: bytes) -> bool:
    return line.startswith(b'{"journal":') and line.endswith(b"}")


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"no number: {value!r}")
    return float(value)


def _line(document: Json) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


__all__ = ["FOLDER", "Entry", "Journal", "Machine", "StoreError", "journals", "read_entries"]
