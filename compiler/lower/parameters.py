"""Parameters as constants of the module, and their names.

While a module is lowered its parameters are Relax constants, so that passes can fold and
pack them. A constant has no name in Relax; this table remembers it by the address of its
data, which passes keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.encodings import Encoding
from schedules.tvm_adapter import relax, tvm

Array = npt.NDArray[Any]


class ParameterTable:
    """Names of the constants of a module that is being lowered."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._alive: list[Any] = []
        self._taken: set[str] = set()
        self._encodings: dict[str, str] = {}

    def constant(self, value: Array, name: str, encoding: str = "") -> Any:
        """A Relax constant that holds `value` and is known by `name` (made unique).

        Args:
            value: The data.
            name: What it is known by.
            encoding: How a kernel that multiplies by it shall store it, see
                `schedules.encodings`: its values are codes. It goes with the name, so that
                passes that give the constant another layout keep it.
        """
        if encoding:
            self._encodings[name.partition("#")[0]] = encoding
        unique, number = name, 1
        while unique in self._taken:
            number += 1
            unique = f"{name}#{number}"
        self._taken.add(unique)
        tensor = tvm.runtime.tensor(np.ascontiguousarray(value))
        self._alive.append(tensor)
        self._names[_address(tensor)] = unique
        return relax.const(tensor)

    def name_of(self, constant: Any) -> str | None:
        """The name of a constant, or None for one that a pass of TVM's made."""
        return self._names.get(_address(constant.value))

    def encoding_of(self, constant: Any) -> str:
        """How a weight shall be stored; empty for one that is what it seems.

        Another weight of the same name that the encoding has no codes for is one, too: a
        parameter that two operators read may be stored in two ways.
        """
        encoding = self._encodings.get((self.name_of(constant) or "").partition("#")[0], "")
        packing = Encoding.parse(encoding).packing
        if packing is None or str(constant.ty.dtype.dtype) != "int8":
            return ""
        value = value_of(constant)
        low, high = packing.limits
        codes = (value >= low) & (value <= high) & ((value + packing.offset) % packing.step == 0)
        return encoding if codes.all() else ""

    def constants(self, parameters: Mapping[str, Array]) -> list[Any]:
        """One constant for each parameter, in order."""
        return [self.constant(value, name) for name, value in parameters.items()]


def value_of(constant: Any) -> Array:
    """The data of a Relax constant, without a copy; bfloat16 as a copy in ml_dtypes' dtype."""
    if str(constant.value.dtype) == "bfloat16":  # DLPack as numpy speaks it has none
        return np.asarray(constant.value.numpy())
    return np.from_dlpack(constant.value)


def _address(tensor: Any) -> int:
    return int(tensor.data_ptr())
