"""Micro-kernels: blocks of sums in registers, and the instructions that add products to them.

A kernel computes `rows` rows and `vectors` vectors of columns of a product over a whole
reduction. It takes *chunks* of a row, 16 bytes at a time, as they lie in memory, and multiplies
vectors of packed weights with one element of a chunk (or a *group* of elements that an instruction
adds up in one lane). What is not a whole chunk at the end of a row is taken from a chunk that ends
there, whose first elements are left out. So no broadcast of an activation is ever loaded or made.

Weights of a panel lie ``[steps, columns * group]``: a step is a group of the reduction. Where the
reduction is no multiple of a group, the groups of the last chunk are counted from the end, and the
weights of elements that came before are 0 (`groups`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schedules.tvm_adapter import tirx
from targets.spec import TargetSpec

Array = npt.NDArray[Any]
Dtypes = tuple[str, str, str]
#: Gives what the sums of a row and a vector of columns start with.
Starts = Callable[[int, int], Any]
#: What a load costs beside arithmetic that hides it: a place in queues, a miss now and then.
LOAD_CYCLES = 0.05


class Sums:
    """The vectors of sums of a block, in a buffer that LLVM turns into registers."""

    def __init__(self, count: int, lanes: int, dtype: str) -> None:
        self.count, self.lanes, self.dtype = count, lanes, dtype
        self.buffer = tirx.decl_buffer([count * lanes], dtype, "registers")

    @property
    def buffers(self) -> tuple[Any, ...]:
        """The buffers to allocate."""
        return (self.buffer,)

    def get(self, number: int) -> Any:
        """The value of one vector."""
        return tirx.BufferLoad(self.buffer, [ramp(number * self.lanes, self.lanes)])

    def set(self, number: int, value: Any) -> Any:
        """The statement that changes one."""
        return tirx.BufferStore(self.buffer, value, [ramp(number * self.lanes, self.lanes)])


@dataclass(frozen=True)
class Chunk:
    """Activations and weights of neighbouring steps of the reduction.

    Attributes:
        row: Gives a row's vector of activations.
        places: The group in that vector that each step takes.
        weights: Gives a vector of weights: step (from the chunk's first), vector of columns. The
            vector has the kernel's lanes times its group elements.
    """

    row: Callable[[int], Any]
    places: Sequence[int]
    weights: Callable[[int, int], Any]


class MicroKernel(Protocol):
    """A way to multiply and add.

    Attributes:
        name: Tells it from the others; part of a choice.
        instruction: What multiplies, as in assembly.
        lanes: Columns of a vector of sums.
        group: Elements of the reduction that lie side by side for one column.
        chunk: Steps that 16 bytes of a row hold.
        row_step: A block's rows are a multiple of it.
        shifted: Whether activations are read as signed bytes, 128 less than they are; what that
            takes away is given back by a start of the sums.
        fold_chunks: After how many chunks `fold` is called at the latest; 0 for never.
    """

    name: str
    instruction: str
    lanes: int
    group: int
    chunk: int
    row_step: int
    shifted: bool
    fold_chunks: int

    def registers(self, rows: int, vectors: int) -> int:
        """Vector registers that a block needs, sums and all."""

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """Cycles that the pipelines take for a whole chunk of a block, by the analytic model."""

    def sums(self, rows: int, vectors: int) -> Sums:
        """Registers for the sums of a block."""

    def start(self, sums: Sums, rows: int, vectors: int, first: Starts) -> list[Any]:
        """Statements before the reduction; `first` gives what sums start with."""

    def step(self, sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
        """Statements that add the products of a chunk."""

    def fold(self, sums: Sums, rows: int, vectors: int) -> list[Any]:
        """Statements that take sums of few digits into others, and begin anew."""

    def result(self, sums: Sums, rows: int, vectors: int, row: int, vector: int) -> Any:
        """The sums of a row and a vector of columns."""


class Unfolded:
    """Sums that have all their digits from the start."""

    fold_chunks = 0

    def fold(self, sums: Sums, rows: int, vectors: int) -> list[Any]:
        """See `MicroKernel.fold`."""
        return []


class Plain(Unfolded):
    """Sums that lie row by row, each row's vectors of columns side by side."""

    lanes = 4
    accumulator = "float32"

    def sums(self, rows: int, vectors: int) -> Sums:
        """See `MicroKernel.sums`."""
        return Sums(rows * vectors, self.lanes, self.accumulator)

    def start(self, sums: Sums, rows: int, vectors: int, first: Starts) -> list[Any]:
        """See `MicroKernel.start`."""
        return [sums.set(r * vectors + v, first(r, v)) for r in range(rows) for v in range(vectors)]

    def result(self, sums: Sums, rows: int, vectors: int, row: int, vector: int) -> Any:
        """See `MicroKernel.result`."""
        return sums.get(row * vectors + vector)


@dataclass(frozen=True)
class Groups:
    """How a reduction of `size` elements falls into steps of `group` and chunks of `chunk` steps.

    Attributes:
        size: Elements.
        group: Elements of a step.
        chunk: Steps of a chunk.
    """

    size: int
    group: int
    chunk: int

    @property
    def steps(self) -> int:
        """Steps in all."""
        return ceil(self.size / self.group)

    @property
    def chunks(self) -> int:
        """Whole chunks from the start."""
        return self.size // (self.group * self.chunk)

    @property
    def rest(self) -> int:
        """Steps behind the whole chunks, counted from the end of the row."""
        return self.steps - self.chunks * self.chunk

    @property
    def overlap(self) -> int:
        """Elements that two steps have, the later one with weights of 0."""
        return self.steps * self.group - self.size

    def first(self, step: Any) -> Any:
        """The element that a step begins with; takes numbers and expressions."""
        regular = step * self.group
        if not self.overlap:
            return regular
        if not self.chunks:  # the last step alone is moved back
            last = self.size - self.group
            return min(regular, last) if isinstance(step, int) else tirx.min(regular, last)
        begin = self.chunks * self.chunk
        if isinstance(step, int):
            return regular - (self.overlap if step >= begin else 0)
        back, none = tirx.const(self.overlap, "int64"), tirx.const(0, "int64")
        return regular - tirx.if_then_else(step >= begin, back, none)

    def pieces(self) -> list[tuple[int, int, int, list[int]]]:
        """Loads for the rest: first element, elements, first step, and the steps' places."""
        if not self.rest:
            return []
        whole = self.group * self.chunk
        if self.chunks:
            places = list(range(self.chunk - self.rest, self.chunk))
            return [(self.size - whole, whole, self.chunks * self.chunk, places)]
        found, done, regular = [], 0, self.size // self.group
        while done < self.steps:  # 2 steps, then 1, then what is moved back
            count = 1 << (max(1, regular - done).bit_length() - 1)
            found.append((self.first(done), count * self.group, done, list(range(count))))
            done += count
        return found


def pack(weight: Array, columns: int, groups: Groups) -> Array:
    """Pack ``[..., size, outputs]`` into ``[panels, ..., steps, columns * group]``.

    Args:
        weight: Outputs last.
        columns: Of a panel; the last one is filled with zeros.
        groups: How the reduction falls into steps.
    """
    *lead, size, outputs = weight.shape
    panels = ceil(outputs / columns)
    first = np.array([groups.first(s) for s in range(groups.steps)])
    places = first[:, None] + np.arange(groups.group)
    fresh = places >= np.append(0, first[:-1] + groups.group)[:, None]
    padded = np.zeros((*lead, size, panels * columns), weight.dtype)
    padded[..., :outputs] = weight
    steps = padded[..., places.clip(0), :] * fresh[..., None].astype(weight.dtype)
    split = steps.reshape(*lead, groups.steps, groups.group, panels, columns)
    n = len(lead)
    ordered = split.transpose(n + 2, *range(n), n, n + 3, n + 1)
    return np.ascontiguousarray(
        ordered.reshape(panels, *lead, groups.steps, columns * groups.group)
    )


@dataclass(frozen=True)
class Block:
    """A block of a product, and where its operands are.

    Attributes:
        rows: Of the block.
        vectors: Vectors of columns.
        outer: Extents of the reduction's loops around the innermost one.
        groups: The innermost one.
        activation: Gives a vector of activations: row, indices of the outer loops, first element,
            number of elements.
        weight: Gives a vector of a panel: indices of the outer loops, step, first element within
            the step, number of elements.
        first: Gives what the sums of a row and a vector of columns start with.
        store: The statement that writes a vector: row, vector of columns, value.
    """

    rows: int
    vectors: int
    outer: tuple[int, ...]
    groups: Groups
    activation: Callable[[int, tuple[Any, ...], Any, int], Any]
    weight: Callable[[tuple[Any, ...], Any, int, int], Any]
    first: Starts
    store: Callable[[int, int, Any], Any]


def statements(kernel: MicroKernel, block: Block, sums: Sums, unroll: int = 1) -> Any:
    """The whole product of a block; `unroll` chunks make up an iteration where they divide them."""
    rows, vectors, groups = block.rows, block.vectors, block.groups
    size = kernel.lanes * kernel.group

    def add(outer: tuple[Any, ...], at: Any, count: int, step: Any, places: list[int]) -> list[Any]:
        def row(number: int) -> Any:
            return block.activation(number, outer, at, count)

        def weights(index: int, vector: int) -> Any:
            return block.weight(outer, step + index, vector * size, size)

        return kernel.step(sums, rows, vectors, Chunk(row, places, weights))

    def chunk(outer: tuple[Any, ...], number: Any) -> list[Any]:
        step = number * groups.chunk
        whole = groups.chunk * groups.group
        return add(outer, step * groups.group, whole, step, list(range(groups.chunk)))

    def chunks(outer: tuple[Any, ...], begin: Any, count: int) -> Any:
        each = unroll if count % unroll == 0 else 1
        return loop("chunk", count // each, lambda i: sequence(
            [s for j in range(each) for s in chunk(outer, begin + i * each + j)]))  # fmt: skip

    def innermost(outer: tuple[Any, ...]) -> Any:
        fold = kernel.fold(sums, rows, vectors)
        period = kernel.fold_chunks
        body: list[Any] = []
        done = 0
        if period and groups.chunks + bool(groups.rest) > period:
            # What is left is folded behind it.
            times = (groups.chunks - (0 if groups.rest else 1)) // period
            done = times * period
            body.append(
                loop("fold", times, lambda i: sequence([chunks(outer, i * period, period), *fold]))
            )
        if groups.chunks > done:
            body.append(chunks(outer, number(done), groups.chunks - done))
        for at, count, step, places in groups.pieces():
            body += add(outer, number(at), count, number(step), places)
        return sequence([*body, *fold])

    def nest(extents: tuple[int, ...], outer: tuple[Any, ...]) -> Any:
        if not extents:
            return innermost(outer)
        return loop("window", extents[0], lambda i: nest(extents[1:], (*outer, i)))

    body = [*kernel.start(sums, rows, vectors, block.first), nest(block.outer, ())]
    body += [
        block.store(r, v, kernel.result(sums, rows, vectors, r, v))
        for r in range(rows)
        for v in range(vectors)
    ]
    return sequence(body)


def element_cycles(products: float, chunk: int, rows: int, vectors: int, rate: float) -> float:
    """Cycles of a chunk by instructions that take elements: arithmetic, waiting or loads.

    Args:
        products: Instructions that multiply or go with them.
        chunk: Steps; each sum waits for itself in each.
        rows: Of the block.
        vectors: Of columns.
        rate: Vector instructions, and loads, of a cycle.
    """
    loads = rows + chunk * vectors
    return max(products / rate, chunk * 4.0, loads / rate) + LOAD_CYCLES * loads


def number(value: int) -> Any:
    """An index."""
    return tirx.const(value, "int64")


def ramp(start: Any, count: int) -> Any:
    """Neighbouring indices."""
    start = number(start) if isinstance(start, int) else start
    return tirx.Ramp(start, number(1), count) if count > 1 else start


def every(dtype: str, value: float, lanes: int) -> Any:
    """A vector that holds one number in all lanes."""
    return tirx.Broadcast(tirx.const(value, dtype), lanes)


def splat(vector: Any, place: int, lanes: int) -> Any:
    """One lane of a vector in all lanes of another: LLVM makes operands *by element* of it."""
    have = int(vector.ty.dtype.lanes)  # a shuffle gives no more lanes than it takes
    return tirx.Shuffle([vector] * ceil(lanes / have), [place] * lanes)


def sequence(parts: list[Any]) -> Any:
    """The statements one after the other."""
    return parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)


def loop(name: str, extent: int, body: Callable[[Any], Any]) -> Any:
    """A loop, or its only iteration."""
    if extent == 1:
        return body(number(0))
    variable = tirx.Var(name, "int64")
    return tirx.For(variable, number(0), number(extent), tirx.ForKind.SERIAL, body(variable))


__all__ = [
    "LOAD_CYCLES",
    "Block",
    "Chunk",
    "Dtypes",
    "Groups",
    "MicroKernel",
    "Plain",
    "Starts",
    "Sums",
    "Unfolded",
    "element_cycles",
    "every",
    "loop",
    "number",
    "pack",
    "ramp",
    "sequence",
    "splat",
    "statements",
]
