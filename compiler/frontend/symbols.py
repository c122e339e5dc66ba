"""Symbolic sizes: from the expressions of torch.export to those of TVM."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import sympy
import torch

from schedules.tvm_adapter import tirx

_FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "FloorDiv": tirx.floordiv,
    "CleanDiv": tirx.floordiv,
    "IntTrueDiv": tirx.floordiv,
    "Mod": tirx.floormod,
    "PythonMod": tirx.floormod,
    "Max": tirx.max,
    "Min": tirx.min,
}


class SymbolTable:
    """One TVM variable for each free size of an exported program.

    Args:
        names: Names that the user gave to sizes, by the name of torch.export's symbol.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self._variables: dict[str, Any] = {}

    def variable(self, symbol: str) -> Any:
        """The TVM variable of one of torch.export's symbols."""
        if symbol not in self._variables:
            self._variables[symbol] = tirx.Var(self.name(symbol), "int64")
        return self._variables[symbol]

    def name(self, symbol: str) -> str:
        """The user's name for a symbol, or the symbol's own."""
        return self._names.get(symbol, symbol)

    def names(self) -> list[str]:
        """Names of all symbols that were used until now."""
        return [self.name(symbol) for symbol in self._variables]

    def size(self, value: Any) -> Any:
        """An int for a fixed size, a TVM expression for a symbolic one."""
        if isinstance(value, torch.SymInt):
            return self._expression(value.node.expr)
        return int(value)

    def label(self, value: Any) -> int | str:
        """A size as it stands in a `TensorSpec`: an int, a name or a formula of names."""
        if not isinstance(value, torch.SymInt):
            return int(value)
        expression = value.node.expr
        if expression.is_Integer:
            return int(expression)
        renamed = {s: sympy.Symbol(self.name(str(s))) for s in expression.free_symbols}
        return str(expression.xreplace(renamed))

    def _expression(self, expression: Any) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression.is_Symbol:
            return self.variable(str(expression))
        parts = [self._expression(argument) for argument in expression.args]
        if expression.is_Add:
            return reduce(lambda a, b: a + b, parts)
        if expression.is_Mul:
            return reduce(lambda a, b: a * b, parts)
        if expression.is_Pow and isinstance(parts[1], int) and parts[1] > 0:
            return reduce(lambda a, b: a * b, [parts[0]] * parts[1])
        function = _FUNCTIONS.get(type(expression).__name__)
        if function is None:
            raise NotImplementedError(f"the symbolic size {expression}")
        return reduce(function, (_as_expression(part) for part in parts))


def _as_expression(value: Any) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


__all__ = ["SymbolTable"]
