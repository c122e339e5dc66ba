"""Weights of fewer bits: how they lie packed, and how a kernel reads them.

A panel of a packed weight is ``[(kernel,) steps, columns]`` for floats and ``[(kernel,) steps,
columns, 4]`` for integers (`schedules.cpu.compute.packed`). With an encoding of ``b`` bits each
element of it becomes a byte that holds ``8 / b`` codes, those of as many steps in a row: a
vector of bytes is loaded once, and each shift of it is the next step's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import STEP
from schedules.encodings import PACKINGS, PLAIN, Encoding, Packing
from schedules.tvm_adapter import register_lowering, register_operator, te, tirx
from schedules.weights import encoding_of
from schedules.workload import Workload
from targets.spec import TargetSpec

Array = npt.NDArray[Any]
_LOOKUP = "tirx.tilewright_lookup"


# What the canonical definitions mean


def element(workload: Workload, weights: Sequence[Any]) -> Callable[..., Any]:
    """Gives the weight's number at an index of its plain layout, on its plain operands."""
    encoding = encoding_of(workload)
    codes = weights[0]
    if encoding.name == "codebook":
        table = weights[1]
        blocks = int(table.shape[0])
        axis = 1 if workload.operator == "dense" else 0
        size = int(workload.weight[axis]) // blocks
        return lambda *i: table[i[axis] // size, codes[i].astype("int32")]
    if not encoding.group:
        return lambda *i: codes[i]
    scales = weights[1]
    axis = 0 if workload.operator == "dense" else 1

    def scaled(*index: Any) -> Any:
        place = list(index)
        place[axis] = index[axis] // encoding.group
        return codes[index].astype("float32") * scales[tuple(place)].astype("float32")

    return scaled


# Packed weights


@dataclass(frozen=True)
class Form:
    """How a packed weight is read along the innermost dimension of its reduction.

    Attributes:
        encoding: What the codes mean.
        dot: Products that one lane adds up in one instruction; 1 for floats.
        lanes: Of a vector of columns.
        tables: Vectors that hold a codebook's row where the target looks numbers up in
            registers; 0 where it reads them from memory.
    """

    encoding: Encoding = PLAIN
    dot: int = 1
    lanes: int = 1
    tables: int = 0

    @property
    def packing(self) -> Packing | None:
        """How codes lie in bytes."""
        return self.encoding.packing

    @property
    def step(self) -> int:
        """Elements of the reduction whose weights lie in the bytes of one element."""
        return self.dot * (self.packing.per_byte if self.packing else 1)

    @property
    def inner(self) -> int:
        """Innermost loops of the reduction that make up one step."""
        return int(self.dot > 1) + int(self.packing is not None)

    def attributes(self) -> dict[str, Any]:
        """Annotations of the kernel's heart that its schedule needs."""
        return {STEP: self.inner} if self.inner else {}

    def axes(self, size: int) -> tuple[list[Any], Any, Callable[..., Any]]:
        """Reduction axes over a dimension, a multiple of `step` (and of the scales' groups).

        Returns:
            The axes, the index along the dimension, and a function that gives the weight from
            the packed operands, the indices in front of the dimension, and the column.
        """
        packing, group = self.packing, self.encoding.group
        axes: list[Any] = []
        count = size // self.step
        if group:
            outer = te.reduce_axis((0, size // group), "kg")
            within = te.reduce_axis((0, group // self.step), "k")
            axes += [outer, within]
            place = outer * (group // self.step) + within
        else:
            place = te.reduce_axis((0, count), "k")
            axes.append(place)
        index = place * self.step
        part = lane = None
        if packing is not None:
            part = te.reduce_axis((0, packing.per_byte), "part")
            axes.append(part)
            index = index + part * self.dot
        if self.dot > 1:
            lane = te.reduce_axis((0, self.dot), "group")
            axes.append(lane)
            index = index + lane

        def weight(operands: Sequence[Any], lead: tuple[Any, ...], column: Any, block: Any) -> Any:
            at = (*lead, place, column, *([lane] if lane is not None else []))
            value = operands[0][at]
            if packing is None:
                number = value
            elif self.encoding.name == "codebook":
                return self._look_up(operands[1], block, value, part, column)
            elif self.tables:
                number = self._number(value, part, column, packing)
            else:
                number = decode(value, part, packing, "int32" if self.dot == 1 else "int8")
            if group:
                scale = operands[1][(*lead, outer, column)]
                number = number.astype("float32") * scale.astype("float32")
            return number

        return axes, index, weight

    def _look_up(self, table: Any, block: Any, byte: Any, part: Any, column: Any) -> Any:
        """The entry of a codebook for one code."""
        packing = PACKINGS["codebook"]
        if packing is None:
            raise AssertionError
        if not self.tables:
            return table[block, decode(byte, part, packing, "int32")]
        lane = column % self.lanes
        rows = [table[block, lane + i * self.lanes] for i in range(self.tables)]
        return tirx.call_intrin("float32", _LOOKUP, self._entry(byte, part, packing), *rows)

    def _number(self, byte: Any, part: Any, column: Any, packing: Packing) -> Any:
        """A code as float32, from a vector of all there are: fewer steps than a conversion."""
        lane = (column % self.lanes).astype("float32")
        step, offset = (tirx.const(float(v), "float32") for v in (packing.step, packing.offset))
        return tirx.call_intrin(
            "float32", _LOOKUP, self._entry(byte, part, packing), lane * step - offset
        )

    def _entry(self, byte: Any, part: Any, packing: Packing) -> Any:
        """The index of a code; its instruction looks at as many bits as a vector has lanes."""
        moved = tirx.shift_right(byte.astype("uint32"), (part * packing.bits).astype("uint32"))
        if self.tables != 1 or packing.mask != self.lanes - 1:
            moved = tirx.bitwise_and(moved, tirx.const(packing.mask, "uint32"))
        return moved.astype("int32")


def decode(byte: Any, part: Any, packing: Packing, dtype: str) -> Any:
    """The code in one field of a byte."""
    # Unsigned: TVM makes 64-bit numbers of signed ones that an index takes part in.
    wide = "uint8" if dtype == "int8" else "uint32"
    value = byte if wide == "uint8" else byte.astype(wide)
    moved = tirx.shift_right(value, (part * packing.bits).astype(wide))
    field = tirx.bitwise_and(moved, tirx.const(packing.mask, wide)).astype(dtype)
    if packing.step != 1:
        field = field * tirx.const(packing.step, dtype)
    return field - tirx.const(packing.offset, dtype) if packing.offset else field


def table_vectors(encoding: Encoding, lanes: int, spec: TargetSpec) -> int:
    """Vectors that hold what codes of float arithmetic mean, where they are looked up in registers.

    0 where they are not: numbers are converted, a codebook's entries read from memory.
    """
    packing = encoding.packing
    if packing is None:
        return 0
    if lanes == 16 and spec.has("avx512f"):
        return 1
    if lanes != 8 or not spec.has("avx2"):
        return 0
    return 1 if packing.mask < lanes else 2 if encoding.name == "codebook" else 0


def pack_codes(panels: Array, packing: Packing, axis: int) -> Array:
    """Codes as fields of bytes: each run of `per_byte` along `axis` becomes one byte."""
    moved = np.moveaxis(panels, axis, -1)
    runs = moved.reshape(*moved.shape[:-1], -1, packing.per_byte).astype(np.int32)
    fields = (runs + packing.offset) // packing.step
    low, high = packing.limits
    if runs.size and (runs.min() < low or runs.max() > high):
        raise ValueError(f"codes from {runs.min()} to {runs.max()} have no place in {packing}")
    shifts = np.arange(packing.per_byte) * packing.bits
    packed = (fields << shifts).sum(axis=-1).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis))


# Looking numbers up in registers


def _lower_lookup(call: Any) -> Any:
    """``vpermps``: each lane takes the entry of the vectors that its index names."""
    index, *rows = call.args
    dtype = str(call.ty.dtype)
    if dtype == "float32x16" and len(rows) == 1:
        return tirx.call_llvm_pure_intrin(dtype, "llvm.x86.avx512.permvar.sf.512", rows[0], index)
    if dtype == "float32x8" and len(rows) <= 2:
        found = [
            tirx.call_llvm_pure_intrin(dtype, "llvm.x86.avx2.permps", row, index) for row in rows
        ]
        return (
            tirx.Select(index > tirx.const(7, "int32x8"), found[1], found[0])
            if (len(found) == 2)
            else found[0]
        )
    raise ValueError(f"numbers are not looked up as {dtype} in {len(rows)} vectors")


register_operator(_LOOKUP, pure=True)
register_lowering(_LOOKUP, "llvm", _lower_lookup)
