"""Frozen dataclasses to plain JSON values and back, driven by their annotations.

The classes of `compiler.report.model` are the schema; this module only walks them. Reading
is strict: a missing or unknown field, or a value of the wrong type, is an error that names
its path in the document, so that a damaged report is never half understood.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class DecodeError(ValueError):
    """A value does not fit the schema; the message starts with its path."""


def encode(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into values that `json.dumps` takes.

    JSON has no NaN or infinity, so these floats become the strings "nan", "inf" and "-inf".
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def decode(kind: type[_T], data: Any, path: str = "$") -> _T:
    """Build a `kind` from what `encode` gave.

    Raises:
        DecodeError: `data` does not fit `kind`.
    """
    return _decode(kind, data, path)


def _decode(kind: Any, data: Any, path: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in get_args(kind):
            return None
        (inner,) = (arg for arg in get_args(kind) if arg is not type(None))
        return _decode(inner, data, path)
    if origin is tuple:
        item_kind = get_args(kind)[0]
        return tuple(
            _decode(item_kind, item, f"{path}[{i}]")
            for i, item in enumerate(_expect(list, data, path))
        )
    if origin is not None and issubclass(origin, Mapping):
        item_kind = get_args(kind)[1]
        return {
            key: _decode(item_kind, item, f"{path}.{key}")
            for key, item in _expect(dict, data, path).items()
        }
    if is_dataclass(kind):
        return _decode_dataclass(kind, data, path)
    if kind is float:
        return _decode_float(data, path)
    if kind is int and isinstance(data, bool):
        raise DecodeError(f"{path}: expected int, found bool")
    return _expect(kind, data, path)


def _decode_dataclass(kind: Any, data: Any, path: str) -> Any:
    _expect(dict, data, path)
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(data) - set(known)):
        raise DecodeError(f"{path}: unknown field {', '.join(unknown)}")
    required = {
        n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING
    }
    if missing := sorted(required - set(data)):
        raise DecodeError(f"{path}: missing field {', '.join(missing)}")
    values = {n: _decode(hints[n], data[n], f"{path}.{n}") for n in known if n in data}
    try:
        return kind(**values)
    except ValueError as error:
        raise DecodeError(f"{path}: {error}") from error


def _decode_float(data: Any, path: str) -> float:
    if isinstance(data, str) and data in _NON_FINITE:
        return _NON_FINITE[data]
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise DecodeError(f"{path}: expected a number, found {type(data).__name__}")
    try:
        return float(data)
    except OverflowError as error:
        raise DecodeError(f"{path}: number too large") from error


def _expect(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, kind):
        raise DecodeError(f"{path}: expected {kind.__name__}, found {type(data).__name__}")
    return data
