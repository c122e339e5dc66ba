"""Code that makes a kernel's packed weight of a compact one, once, when a model is loaded.

Winograd's algorithm multiplies with kernels of ``(m + 2)^2`` numbers instead of 9. A bundle holds
the 9, in the kernel's panels, and the module a function that transforms them: every target runs the
same statements. Whole numbers come out exactly. Floats are transformed in float64 and rounded once,
so that they differ from the reference in NumPy by a last digit at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import IS_SCHEDULED
from schedules.cpu.microkernels.base import loop, number, ramp, sequence
from schedules.space import Choice
from schedules.tvm_adapter import tirx
from schedules.workload import Workload
from targets.spec import TargetSpec

Array = npt.NDArray[Any]
#: Weights are packed at load only if a bundle is so many bytes smaller by that (fewer are taken by
#: the code) and packed weights are so many times as large as compact ones.
LEAST_SAVED, LEAST_GROWTH = 16 << 10, 1.5
#: Dtype of the arithmetic by that of the compact weight; 16 bits hold what 8 become.
ARITHMETIC = {"int8": "int16", "float32": "float64", "float16": "float64"}

#: Where a number of the transformed kernel lies: panel, line, column, input and output channel.
Place = Callable[[Any, int, int, Any, Any], list[Any]]


@runtime_checkable
class Preparing(Protocol):
    """A template whose packed weights can be made of compact ones when a model is loaded."""

    def transform(self, workload: Workload, choice: Choice, spec: TargetSpec) -> KernelTransform:
        """How they are made."""


@dataclass(frozen=True)
class KernelTransform:
    """``G g G^T`` of 3x3 kernels, panel by panel.

    Attributes:
        matrix: ``G``, three columns.
        divisor: What the transformed kernel is divided by; 1 for whole numbers.
        inner: Input channels.
        outputs: Output channels.
        columns: Output channels of a panel.
        dtype: Of the compact weight; bfloat16 is kept as float32.
        packed: Shape and dtype of what the kernel takes.
        place: Where it has each number.
    """

    matrix: Sequence[Sequence[float]]
    divisor: int
    inner: int
    outputs: int
    columns: int
    dtype: str
    packed: tuple[tuple[int, ...], str]
    place: Place

    @property
    def compact(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of the compact weight: ``[panels, ic, 3, 3, columns]``."""
        panels = ceil(self.outputs / self.columns)
        return (panels, self.inner, 3, 3, self.columns), self.dtype

    @property
    def pays(self) -> bool:
        """Whether a bundle becomes so much smaller that it is worth some code."""
        large, small = (
            int(np.prod(shape)) * np.dtype(dtype).itemsize
            for shape, dtype in (self.packed, self.compact)
        )
        return large >= LEAST_GROWTH * small and large - small >= LEAST_SAVED

    def pack(self, weight: Array) -> Array:
        """The compact form of ``OI33``."""
        (panels, *_), _ = self.compact
        padded = np.zeros((panels * self.columns, self.inner, 3, 3), self.dtype)
        padded[: self.outputs] = weight
        split = padded.reshape(panels, self.columns, self.inner, 3, 3)
        return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1))

    def function(self, spec: TargetSpec) -> Any:
        """The TIR function, scheduled: compact weight, packed weight."""
        (shape, dtype), (packed_shape, packed_dtype) = self.compact, self.packed
        arithmetic = ARITHMETIC[dtype]
        lanes = gcd(self.columns, max(4, spec.vector_lanes(arithmetic)))
        source = tirx.decl_buffer(shape, dtype, "compact")
        target = tirx.decl_buffer(packed_shape, packed_dtype, "packed")

        def one(panel: Any, channel: Any, vector: Any) -> Any:
            column = ramp(vector * lanes, lanes)

            def load(i: int, j: int) -> Any:
                value = tirx.BufferLoad(source, [panel, channel, number(i), number(j), column])
                return value.astype(_vector(arithmetic, lanes))

            def store(i: int, j: int, value: Any) -> Any:
                narrow = value.astype(_vector(packed_dtype, lanes))
                return tirx.BufferStore(
                    target, narrow, self.place(panel, number(i), number(j), channel, column)
                )

            return sequence(_statements(self, load, store, arithmetic, lanes))

        panel = tirx.Var("panel", "int64")
        body = loop(
            "channel", self.inner,
            lambda c: loop("vector", self.columns // lanes, lambda v: one(panel, c, v)),
        )  # fmt: skip
        panels = tirx.For(panel, number(0), number(shape[0]), tirx.ForKind.PARALLEL, body)
        function = tirx.PrimFunc([source, target], panels)
        return function.with_attrs({"tirx.noalias": True, IS_SCHEDULED: True})


def _vector(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def _statements(
    transform: KernelTransform,
    load: Callable[[int, int], Any],
    store: Callable[[int, int, Any], Any],
    dtype: str,
    lanes: int,
) -> list[Any]:
    """Down each column of the kernel, then along each line of what that gives."""
    body: list[Any] = []

    def constant(value: float) -> Any:
        one = tirx.const(value, dtype)
        return tirx.Broadcast(one, lanes) if lanes > 1 else one

    def keep(value: Any) -> Any:
        variable = tirx.Var("v", _vector(dtype, lanes))
        body.append(tirx.Bind(variable, value))
        return variable

    def product(row: Sequence[float], values: Sequence[Any]) -> Any:
        total: Any = None
        for factor, value in zip(row, values, strict=True):
            if factor == 0:
                continue
            term = value if factor == 1 else value * constant(factor)
            total = term if total is None else total + term
        return total

    columns = []
    for j in range(3):
        kernel = [keep(load(i, j)) for i in range(3)]
        columns.append([keep(product(row, kernel)) for row in transform.matrix])
    for i in range(len(transform.matrix)):
        line = [column[i] for column in columns]
        for j, row in enumerate(transform.matrix):
            value = product(row, line)
            if transform.divisor != 1:
                value = value * constant(1 / transform.divisor)
            body.append(store(i, j, value))
    return body


__all__ = ["KernelTransform", "Preparing"]
