"""What was evaluated, one line a plan, so that a search can be stopped and go on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.codec import encode
from compiler.compress.plan import CompressionPlan
from compiler.errors import FileError, InputError

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one plan.

    Attributes:
        metric: The user's metric on the compiled model; None if it could not be built.
        milliseconds: Of one inference.
        layers: Milliseconds by layer.
        label: ``measured`` or ``estimated``.
        note: Why it could not be built, or empty.
    """

    metric: float | None
    milliseconds: float
    layers: Mapping[str, float]
    label: str
    note: str = ""


def plan_digest(plan: CompressionPlan) -> str:
    """SHA-256 of what a plan does; remarks for people are left out."""
    document = encode(plan)
    document.pop("recipe", None)
    for operator in document["operators"].values():
        operator.pop("why", None)
        operator.pop("sqnr_db", None)
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Journal:
    """The journal of one search.

    Args:
        path: A file, which need not exist; None keeps nothing.
        identity: Of what it is: the model, the options, the machine, the metric.

    Raises:
        InputError: The file is the journal of something else, or none.
        FileError: It cannot be read.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, {"journal": _VERSION, **identity}
        self.entries: dict[str, Entry] = {}
        if path is None or not path.exists():
            return
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(
                f"the journal of the search cannot be read: {error}", where=str(path)
            ) from error
        if lines and _parsed(lines[0]) != json.loads(json.dumps(self.identity)):
            raise InputError(
                "it is the journal of another search: model, calibration, options, target, "
                "machine or metric differ",
                where=str(path),
                hint="name another file, or remove this one",
            )
        for line in lines[1:]:
            document = _parsed(line)
            if document is not None and (entry := _entry(document)) is not None:
                self.entries[document["plan"]] = entry

    def find(self, digest: str) -> Entry | None:
        """What became of a plan."""
        return self.entries.get(digest)

    def add(self, digest: str, entry: Entry) -> None:
        """Keep it, on disk at once.

        Raises:
            FileError: It cannot be written.
        """
        self.entries[digest] = entry
        if self.path is None:
            return
        document = {
            "plan": digest, "metric": entry.metric, "milliseconds": entry.milliseconds,
            "layers": dict(entry.layers), "label": entry.label, "note": entry.note,
        }  # fmt: skip
        try:
            new = not self.path.exists() or not self.path.stat().st_size
            with self.path.open("a", encoding="utf-8") as file:
                if new:
                    file.write(json.dumps(self.identity) + "\n")
                file.write(json.dumps(document) + "\n")
        except OSError as error:
            raise FileError(
                f"the journal of the search cannot be written: {error.strerror or error}",
                where=str(self.path),
                hint="name a file in a folder that exists and can be written to",
            ) from error


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # a line that an interrupted run left half written


def _entry(document: Mapping[str, Any]) -> Entry | None:
    try:
        metric = document["metric"]
        layers = {str(k): float(v) for k, v in document["layers"].items()}
        entry = Entry(
            None if metric is None else float(metric),
            float(document["milliseconds"]), layers, str(document["label"]), str(document["note"]),
        )  # fmt: skip
        str(document["plan"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return entry if entry.metric is None or math.isfinite(entry.metric) else None


__all__ = ["Entry", "Journal", "plan_digest"]
