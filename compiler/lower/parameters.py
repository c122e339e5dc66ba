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

from schedules.tvm_adapter import relax, tvm

Array = npt.NDArray[Any]


class ParameterTable:
    """Names of the constants of a module that is being lowered."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._alive: list[Any] = []
        self._taken: set[str] = set()

    def constant(self, value: Array, name: str) -> Any:
        """A Relax constant that holds `value` and is known by `name` (made unique)."""
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
