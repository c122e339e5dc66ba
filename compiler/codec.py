"""Frozen dataclasses to plain JSON values and back, driven by their annotations.

The classes are the schema; this module only walks them. Reading is strict: a missing or
unknown field, or a value of another type, is an error that names its path in the document,
so that a damaged manifest or report is never half understood.

JSON has no NaN or infinity. Where a document may hold them, `non_finite` writes and reads them
as the strings "nan", "inf" and "-inf"; elsewhere they are refused.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class DecodeError(ValueError):
    """A value does not fit the schema; the message starts with its path."""


def encode(value: Any, *, non_finite: bool = False) -> Any:
    """Dataclasses, mappings, sets and tuples as values that `json.dumps` takes.

    Raises:
        TypeError: Something in it has no place in JSON.
    """

    def walk(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {f.name: walk(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, Mapping):
            return {str(key): walk(item) for key, item in value.items()}
        if isinstance(value, frozenset | set):
            return sorted(walk(item) for item in value)
        if isinstance(value, tuple | list):
            return [walk(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            if non_finite:
                return str(float(value))
            raise TypeError(f"{value} has no place in this document")
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{type(value).__name__} has no place in a JSON document")

    return walk(value)


def decode(kind: type[_T], data: Any, path: str = "$", *, non_finite: bool = False) -> _T:
    """Build a `kind` from what `encode` gave.

    Args:
        kind: A dataclass. Its fields may be dataclasses, tuples and frozen sets of one kind,
            mappings from texts, optional ones, unions of scalars, scalars and `Any`.
        data: What `json.loads` gave.
        path: Name of the whole in errors.
        non_finite: As it was written.

    Raises:
        DecodeError: `data` does not fit `kind`.
    """
    result: _T = _Decoder(non_finite).value(kind, data, path)
    return result


class _Decoder:
    def __init__(self, non_finite: bool) -> None:
        self._non_finite = non_finite

    def value(self, kind: Any, data: Any, path: str) -> Any:
        if kind is Any:
            return data
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            return self._union(get_args(kind), data, path)
        if origin in (tuple, frozenset):
            of = get_args(kind)[0]
            items = enumerate(_expect(list, data, path))
            return origin(self.value(of, item, f"{path}[{i}]") for i, item in items)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            of = get_args(kind)[1]
            entries = _expect(dict, data, path).items()
            return {key: self.value(of, item, f"{path}.{key}") for key, item in entries}
        if is_dataclass(kind):
            return self._dataclass(kind, data, path)
        if kind is float:
            return self._float(data, path)
        if kind is int and isinstance(data, bool):
            raise DecodeError(f"{path}: expected int, found bool")
        return _expect(kind, data, path)

    def _union(self, kinds: tuple[Any, ...], data: Any, path: str) -> Any:
        if data is None and type(None) in kinds:
            return None
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        if len(kinds) == 1:
            return self.value(kinds[0], data, path)
        if type(data) in kinds:  # exactly: a truth value is no int
            return data
        wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise DecodeError(f"{path}: expected {wanted}, found {type(data).__name__}")

    def _dataclass(self, kind: Any, data: Any, path: str) -> Any:
        _expect(dict, data, path)
        hints = _hints(kind)
        known = {f.name: f for f in fields(kind)}
        if unknown := sorted(set(data) - set(known)):
            raise DecodeError(f"{path}: unknown field {', '.join(map(repr, unknown))}")
        required = {
            n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING
        }
        if missing := sorted(required - set(data)):
            raise DecodeError(f"{path}: missing field {', '.join(map(repr, missing))}")
        values = {n: self.value(hints[n], data[n], f"{path}.{n}") for n in known if n in data}
        try:
            return kind(**values)
        except ValueError as error:
            raise DecodeError(f"{path}: {error}") from error

    def _float(self, data: Any, path: str) -> float:
        if self._non_finite and isinstance(data, str) and data in _NON_FINITE:
            return _NON_FINITE[data]
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise DecodeError(f"{path}: expected a number, found {type(data).__name__}")
        try:
            return float(data)
        except OverflowError as error:
            raise DecodeError(f"{path}: number too large") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The annotations of a class; evaluating them is slow, and a manifest has many records."""
    return get_type_hints(kind)


def _expect(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, kind):
        raise DecodeError(f"{path}: expected {kind.__name__}, found {type(data).__name__}")
    return data


__all__ = ["DecodeError", "decode", "encode"]
