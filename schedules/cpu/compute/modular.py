"""int32 arithmetic modulo 2^32.

TVM tells LLVM that neither signed nor unsigned additions of 32 bits overflow, so that results
which do would be undefined. Here they are computed in 64 bits, where they cannot, and cut off: LLVM
makes single instructions of 32 bits of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.tvm_adapter import te, tirx


def plus(a: Any, b: Any) -> Any:
    """``a + b`` of int32 elements or vectors."""
    return _in_64_bits(lambda x, y: x + y, a, b)


def minus(a: Any, b: Any) -> Any:
    """``a - b`` of int32 elements or vectors."""
    return _in_64_bits(lambda x, y: x - y, a, b)


def times(a: Any, b: Any) -> Any:
    """``a * b`` of int32 elements or vectors."""
    return _in_64_bits(lambda x, y: x * y, a, b)


def signed(number: int) -> int:
    """The int32 that is a number modulo 2^32."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


def total(element: Any, axis: Any) -> Any:
    """The sum of int32 elements along reduction axes."""
    reducer = te.comm_reducer(plus, lambda dtype: tirx.const(0, dtype), name="total")
    return reducer(element, axis=axis)


class Modular:
    """A vector of int32 whose operators are those of this module."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __add__(self, other: Modular) -> Modular:
        return Modular(plus(self.value, other.value))

    def __sub__(self, other: Modular) -> Modular:
        return Modular(minus(self.value, other.value))


def _in_64_bits(function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    narrow = str(_dtype(a))
    wide = narrow.replace("int32", "int64")
    return function(a.astype(wide), b.astype(wide)).astype(narrow)


def _dtype(value: Any) -> Any:
    return value.dtype if isinstance(value, te.TensorSlice) else value.ty.dtype


__all__ = ["Modular", "minus", "plus", "signed", "times", "total"]
