"""Winograd's transforms of one tile and a vector of channels, as statements on vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.cpu.compute.modular import Modular
from schedules.cpu.compute.winograd_tiles import TRANSFORMS, Times, Transforms
from schedules.tvm_adapter import tirx

#: Gives a vector: line, column.
Load = Callable[[int, int], Any]
#: The statement that writes one: line, column, value.
Store = Callable[[int, int, Any], Any]


class Values:
    """Statements that name vectors, so that none is computed twice."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.type = f"{dtype}x{lanes}"
        self.dtype, self.lanes = dtype, lanes
        self.statements: list[Any] = []

    def keep(self, value: Any) -> Any:
        """The value under a name; int32 is from there on modulo 2^32."""
        variable = tirx.Var("v", self.type)
        self.statements.append(tirx.Bind(variable, plain(value)))
        return Modular(variable) if self.dtype == "int32" else variable

    def times(self, value: Any, factor: int) -> Any:
        """A value times a constant, a power of two."""
        if isinstance(value, Modular):
            by = tirx.const(factor.bit_length() - 1, self.dtype)
            return Modular(tirx.shift_left(value.value, tirx.Broadcast(by, self.lanes)))
        return value * tirx.Broadcast(tirx.const(factor, self.dtype), self.lanes)


def plain(value: Any) -> Any:
    """The expression itself."""
    return value.value if isinstance(value, Modular) else value


def _both_axes(
    function: Callable[[list[Any], Times], list[Any]], size: int, load: Load, store: Store,
    values: Values,
) -> Any:  # fmt: skip
    """A transform down each column, then along each line; returns all statements."""
    columns = []
    for x in range(size):
        loaded = [values.keep(load(y, x)) for y in range(size)]
        columns.append([values.keep(v) for v in function(loaded, values.times)])
    for i in range(len(columns[0])):
        line = [column[i] for column in columns]
        for j, value in enumerate(function(line, values.times)):
            values.statements.append(store(i, j, plain(value)))
    return tirx.SeqStmt(values.statements)


def transform_data(m: int, load: Load, store: Store, dtype: str, lanes: int) -> Any:
    """Statements that turn a tile of data into factors, both of `dtype`."""
    transforms: Transforms = TRANSFORMS[m]
    return _both_axes(transforms.input, transforms.places, load, store, Values(dtype, lanes))


def transform_back(m: int, load: Load, store: Store, dtype: str, lanes: int) -> Any:
    """Statements that turn products into outputs, both of `dtype`."""
    transforms: Transforms = TRANSFORMS[m]
    return _both_axes(transforms.output, transforms.places, load, store, Values(dtype, lanes))


__all__ = ["transform_back", "transform_data"]
