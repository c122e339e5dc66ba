"""Frozen dataclasses to JSON values and back, strictly, driven by their annotations.

A missing or unknown field, or a value of another type, is an error that names its path in
the document: a damaged manifest is never half understood.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


class DecodeError(ValueError):
    """A value does not fit; the message starts with its path."""


def encode(value: Any) -> Any:
    """Dataclasses, mappings, sets and tuples as values that `json.dumps` takes.

    Raises:
        TypeError: Something in it has no place in JSON.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(encode(item) for item in value)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} has no place in a manifest")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


def decode(kind: type[_T], data: Any, path: str = "$") -> _T:
    """Build a `kind` from what `encode` gave.

    Raises:
        DecodeError: `data` does not fit `kind`.
    """
    result: _T = _decode(kind, data, path)
    return result


def _decode(kind: Any, data: Any, path: str) -> Any:
    if kind is Any:
        return data
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), data, path)
    if origin in (tuple, frozenset):
        items = _expect(list, data, path)
        return origin(_decode(get_args(kind)[0], v, f"{path}[{i}]") for i, v in enumerate(items))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        table = _expect(dict, data, path)
        return types.MappingProxyType(
            {key: _decode(get_args(kind)[1], item, f"{path}.{key}") for key, item in table.items()}
        )
    if is_dataclass(kind):
        return _decode_dataclass(kind, data, path)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in (int, float) and isinstance(data, bool):
        raise DecodeError(f"{path}: expected {kind.__name__}, found a truth value")
    return _expect(kind, data, path)


def _decode_union(kinds: tuple[Any, ...], data: Any, path: str) -> Any:
    for kind in kinds:
        if isinstance(data, kind) and not (isinstance(data, bool) and kind is not bool):
            return data
    wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise DecodeError(f"{path}: expected {wanted}, found {type(data).__name__}")


def _decode_dataclass(kind: Any, data: Any, path: str) -> Any:
    _expect(dict, data, path)
    hints = _hints(kind)
    known = {f.name: f for f in fields(kind)}
    for name in data:
        if name not in known:
            raise DecodeError(f"{path}: unknown field {name!r}")
    values = {}
    for name, field in known.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{path}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DecodeError(f"{path}: field {name!r} is missing")
    return kind(**values)


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The annotations of a class; evaluating them is slow, and a manifest has many records."""
    return get_type_hints(kind)


def _expect(kind: type, data: Any, path: str) -> Any:
    if not isinstance(data, kind):
        raise DecodeError(f"{path}: expected {kind.__name__}, found {type(data).__name__}")
    return data


__all__ = ["DecodeError", "decode", "encode"]
