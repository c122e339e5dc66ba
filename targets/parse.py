"""A target's description, from TOML or a dictionary, checked key by key.

Every error is a `TargetError` that names the file, the key and what was expected there.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from targets.errors import TargetError
from targets.families import FAMILY_FACTS
from targets.spec import DTYPE_BYTES, FAMILIES, CacheSpec, TargetSpec
from targets.vta.config import VtaConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_N = TypeVar("_N", int, float)

_NAME = re.compile(r"[a-z0-9]+/[A-Za-z0-9][A-Za-z0-9._-]*")
_QUANTITY = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]+)\s*")

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES = {"B": 1, **_BINARY, **_DECIMAL}
_HERTZ = {"Hz": 1, "kHz": 10**3, "MHz": 10**6, "GHz": 10**9}
_BYTES_PER_S = {f"{unit}/s": factor for unit, factor in _BYTES.items()}

#: The TVM kinds that make sense for each family.
_TVM_KINDS = {"x86": "llvm", "arm": "llvm", "cuda": "cuda", "vta": "ext_dev"}


class _Table:
    """One table of a description: hands out checked values and knows which keys were asked for."""

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._data = data
        self._where = where
        self._prefix = prefix
        self._known: set[str] = set()

    def fail(self, key: str, message: str, hint: str | None = None) -> NoReturn:
        raise TargetError(f"key {self._prefix + key!r} {message}", where=self._where, hint=hint)

    def has(self, key: str) -> bool:
        self._known.add(key)
        return key in self._data

    def get(self, key: str) -> Any:
        if not self.has(key):
            self.fail(key, "is missing", "docs/targets.md lists the keys of a target")
        return self._data[key]

    def string(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            self.fail(key, f"must be a text that is not empty, not {value!r}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.get(key)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            self.fail(key, f"must be a list of texts, not {value!r}")
        return tuple(value)

    def boolean(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, not {value!r}")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(key, f"must be a whole number, not {value!r}")
        return self._in_range(key, value, low, high, "")

    def quantity(self, key: str, units: Mapping[str, int], low: float, high: float) -> float:
        """A number in the base unit, or a text such as ``"1.5 GHz"`` in one of `units`."""
        value = self.get(key)
        base = next(iter(units))
        if isinstance(value, str):
            match = _QUANTITY.fullmatch(value)
            if match is None or match[2] not in units:
                self.fail(key, f"must be a number in {base}, or a text with one of the units "
                          f"{', '.join(units)}; not {value!r}")  # fmt: skip
            value = float(match[1].replace("_", "")) * units[match[2]]
        elif isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, f"must be a number in {base}, not {value!r}")
        return self._in_range(key, float(value), low, high, f" {base}")

    def size(self, key: str, low: int, high: int) -> int:
        value = self.quantity(key, _BYTES, low, high)
        if value != int(value):
            self.fail(key, f"must be a whole number of bytes, not {value!r}")
        return int(value)

    def table(self, key: str) -> _Table:
        value = self.get(key)
        if not isinstance(value, Mapping):
            self.fail(key, f"must be a table, not {value!r}")
        return _Table(value, self._where, f"{self._prefix}{key}.")

    def tables(self, key: str) -> list[_Table]:
        value = self.get(key)
        if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) for v in value):
            self.fail(key, f"must be a list of tables, not {value!r}")
        return [_Table(v, self._where, f"{self._prefix}{key}[{i}].") for i, v in enumerate(value)]

    def free(self) -> Mapping[str, Any]:
        """The table as it is, its keys unchecked but its values data only."""

        def check(value: Any, path: str) -> None:
            if isinstance(value, Mapping):
                for k, v in value.items():
                    check(v, f"{path}.{k}" if path else str(k))
            elif isinstance(value, list | tuple):
                for i, v in enumerate(value):
                    check(v, f"{path}[{i}]")
            elif not isinstance(value, str | bool | int | float):
                self.fail(path, f"must be a text, number, list or table, not {value!r}")

        check(self._data, "")
        return self._data

    def numbers(self, keys: Mapping[str, int], low: float, high: float) -> dict[str, float]:
        """All of the table's entries; each key must be one of `keys`, each value a number."""
        result = {}
        for key in self._data:
            if key not in keys:
                self.fail(key, "is no dtype", f"use one of {', '.join(keys)}")
            result[key] = self.quantity(key, {"operations per cycle": 1}, low, high)
        return result

    def done(self) -> None:
        """Raises for keys that nobody asked for."""
        for key in self._data:
            if key not in self._known:
                near = get_close_matches(str(key), sorted(self._known), n=1)
                self.fail(str(key), "is unknown", f"did you mean {near[0]!r}?" if near else None)

    def _in_range(self, key: str, value: _N, low: float, high: float, unit: str) -> _N:
        if not math.isfinite(value) or not low <= value <= high:
            self.fail(key, f"is {value:g}{unit}, which is impossible: "
                      f"it must be from {low:g} to {high:g}{unit}")  # fmt: skip
        return value


def parse_target(data: Mapping[str, Any], *, where: str) -> TargetSpec:
    """A `TargetSpec` from a dictionary in the form of a target's TOML file.

    Args:
        data: The keys that docs/targets.md lists. Quantities are numbers in the unit of the
            key's name, or texts with a unit (``"32 KiB"``, ``"1.5 GHz"``, ``"12.8 GB/s"``).
        where: Named in error messages: the file it came from.

    Raises:
        TargetError: A key is missing or unknown, a value is of a wrong type or impossible.
    """
    top = _Table(data, where)
    name = top.string("name")
    if not _NAME.fullmatch(name):
        top.fail("name", f"must look like 'family/device', not {name!r}")
    family = name.split("/")[0]
    if family not in FAMILIES:
        top.fail("name", f"is of the unknown family {family!r}", f"one of {', '.join(FAMILIES)}")
    if top.has("family") and top.string("family") != family:
        top.fail("family", f"is {data['family']!r}, but the name says {family!r}")
    facts = FAMILY_FACTS[family]

    tvm = top.table("tvm")
    kind = tvm.string("kind")
    if kind != _TVM_KINDS[family]:
        tvm.fail("kind", f"is {kind!r}, but family {family!r} needs {_TVM_KINDS[family]!r}")

    cores = top.integer("cores", 1, 10_000)
    caches = tuple(_parse_cache(t) for t in top.tables("caches")) if top.has("caches") else ()
    if [c.level for c in caches] != sorted({c.level for c in caches}):
        top.fail("caches", "must list each level once, nearest first")

    vector_bits = top.integer("vector_bits", 0, 16_384)
    if vector_bits % 64:
        top.fail("vector_bits", f"is {vector_bits}, which is no multiple of 64")
    datapath = _optional(top, "vector_datapath_bits", 0, lambda k: top.integer(k, 0, vector_bits))

    # A device cannot promise more than its family's back end does.
    available = _optional(top, "available", True, top.boolean) and facts.available
    spec = TargetSpec(
        name=name,
        family=family,
        title=top.string("title"),
        tvm=tvm.free(),
        features=frozenset(top.strings("features")),
        cores=cores,
        clock_hz=float(top.quantity("clock_hz", _HERTZ, 1e6, 2e10)),
        caches=caches,
        memory_bytes=top.size("memory_bytes", 2**16, 2**50),
        memory_bandwidth_bytes_per_s=float(
            top.quantity("memory_bandwidth_bytes_per_s", _BYTES_PER_S, 1e6, 1e14)
        ),
        peak_ops_per_cycle=top.table("peak_ops_per_cycle").numbers(DTYPE_BYTES, 0.01, 1e6),
        vector_bits=vector_bits,
        vector_registers=top.integer("vector_registers", 0, 4096),
        available=available,
        status=_optional(top, "status", facts.status, top.string),
        sources=_optional(top, "sources", (), top.strings),
        extra=top.table("extra").free() if top.has("extra") else {},
        vector_datapath_bits=datapath,
    )
    top.done()
    if not spec.peak_ops_per_cycle:
        top.fail("peak_ops_per_cycle", "must give the rate of at least one dtype")
    if family == "vta":
        VtaConfig.from_dict(
            {"name": name, "clock_hz": spec.clock_hz, **spec.extra}, where=f"{where}: extra"
        )
    return spec


def read_target(path: Path) -> TargetSpec:
    """The target that a TOML file describes.

    Raises:
        TargetError: The file cannot be read, is no TOML, or describes no possible target.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TargetError("there is no such target file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"the target file cannot be read: {error}", where=str(path)) from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"the target file is no valid TOML: {error}", where=str(path)) from error
    return parse_target(data, where=str(path))


def _parse_cache(table: _Table) -> CacheSpec:
    cache = CacheSpec(
        level=table.integer("level", 1, 4),
        size_bytes=table.size("size_bytes", 256, 2**40),
        line_bytes=table.integer("line_bytes", 8, 4096),
        ways=table.integer("ways", 0, 1024),
        shared_by_cores=table.integer("shared_by_cores", 1, 10_000),
    )
    table.done()
    if cache.line_bytes & (cache.line_bytes - 1):
        table.fail("line_bytes", f"is {cache.line_bytes}, which is no power of two")
    return cache


def _optional(table: _Table, key: str, default: Any, read: Callable[[str], Any]) -> Any:
    return read(key) if table.has(key) else default
