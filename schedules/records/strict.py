"""JSON that is read with suspicion: bounded, finite, printable, and in one form only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from schedules.records.errors import RecordError
from schedules.workload import Json

#: A record is about 3 kB; nothing near this size is one.
MAX_BYTES = 256 << 10
#: Opening brackets in one document. Bounds the parser's recursion before it starts.
_MAX_BRACKETS = 256
_MAX_DEPTH = 10
_MAX_TEXT = 1000
#: Whole numbers that every reader of JSON keeps exact.
_MAX_INTEGER = 2**53


def canonical(document: Json) -> bytes:
    """The one form of a document: sorted keys, no spaces, ASCII, one newline at the end.

    Raises:
        RecordError: It holds NaN, an infinity, or something that is not JSON.
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"it is not JSON: {error}") from error
    return text.encode("ascii") + b"\n"


def parse(data: bytes) -> dict[str, Json]:
    """The object in a document.

    Raises:
        RecordError: It is too large, no JSON object, nested too deep, or holds numbers or
            texts that have no place in a record.
    """
    if len(data) > MAX_BYTES:
        raise RecordError(f"it has more than {MAX_BYTES} bytes")
    if data.count(b"{") + data.count(b"[") > _MAX_BRACKETS:
        raise RecordError(f"it has more than {_MAX_BRACKETS} lists and objects")
    try:
        document = json.loads(data.decode("ascii"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RecordError("it is no text of ASCII characters") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise RecordError(f"it is no JSON object but {_kind(document)}")
    _check_values(document)
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise RecordError(f"it holds the number {name}, which is not finite")


def _check_values(document: Json) -> None:
    """Check the numbers and texts of a document, and how deep it is.

    Raises:
        RecordError: One of them has no place in a record.
    """
    level = [document]
    for _ in range(_MAX_DEPTH):
        scalars: list[Json] = []
        below: list[Json] = []
        for container in level:
            if isinstance(container, dict):
                scalars.extend(container)
                items: Iterable[Json] = container.values()
            else:
                items = container
            for item in items:
                (below if isinstance(item, list | dict) else scalars).append(item)
        for value in scalars:
            _check_scalar(value)
        level = below
    if level:
        raise RecordError(f"it is nested deeper than {_MAX_DEPTH} levels")


def _check_scalar(value: Json) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError("it holds a number that is not finite")
    elif isinstance(value, str):
        # Control characters could steer the terminal of whoever looks at the record.
        if len(value) > _MAX_TEXT or not value.isprintable():
            raise RecordError(f"it holds a text with control characters or too long: {value!r:.80}")
    elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise RecordError("it holds a whole number beyond 2**53")


class Fields:
    """One object of a document: hands out checked values, then refuses what nobody asked for."""

    def __init__(self, data: Json, path: str) -> None:
        if not isinstance(data, dict):
            raise RecordError(f"{path} must be an object, not {_kind(data)}")
        self._data: dict[str, Json] = data
        self._path = path
        self._known: set[str] = set()

    def get(self, key: str) -> Json:
        """Any value."""
        self._known.add(key)
        if key not in self._data:
            raise RecordError(f"{self._path}.{key} is missing")
        return self._data[key]

    def text(self, key: str) -> str:
        """A text."""
        return str(self._expect(key, str))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self._expect(key, list)
        if not all(isinstance(item, str) for item in value):
            raise RecordError(f"{self._path}.{key} must be a list of texts")
        return tuple(value)

    def integer(self, key: str) -> int:
        """A whole number."""
        return int(self._expect(key, int))

    def number(self, key: str) -> float:
        """A number."""
        return _float(self.get(key), f"{self._path}.{key}")

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        items = self._expect(key, list)
        return tuple(_float(item, f"{self._path}.{key}") for item in items)

    def object(self, key: str) -> dict[str, Json]:
        """An object, unchecked inside."""
        return dict(self._expect(key, dict))

    def fields(self, key: str) -> Fields:
        """An object."""
        return Fields(self.get(key), f"{self._path}.{key}")

    def done(self) -> None:
        """Refuses fields that nobody asked for."""
        if unknown := sorted(set(self._data) - self._known):
            raise RecordError(f"{self._path} has the unknown field {', '.join(map(repr, unknown))}")

    def _expect(self, key: str, kind: type) -> Any:
        value = self.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise RecordError(
                f"{self._path}.{key} must be {_KINDS.get(kind, kind.__name__)}, not {_kind(value)}"
            )
        return value


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def _kind(value: Json) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _float(value: Json, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError(f"{path} must be a number, not {_kind(value)}")
    return float(value)


def frozen(document: Mapping[str, Json]) -> Mapping[str, Json]:
    """A read-only copy of a JSON object, of plain values inside.

    Raises:
        RecordError: It is not JSON.
    """
    return MappingProxyType(json.loads(canonical(dict(document))))


def plain(document: Mapping[str, Json]) -> dict[str, Json]:
    """A copy of a JSON object that belongs to the caller."""
    result: dict[str, Json] = json.loads(canonical(dict(document)))
    return result


__all__ = ["MAX_BYTES", "Fields", "canonical", "frozen", "parse", "plain"]
