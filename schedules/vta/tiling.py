"""How a layer's accumulators, inputs and weights are cut into tiles, and what each tile takes.

A tile is a rectangle of the output's pixels in some of its blocks; it stays in ACC until it is
stored. A *part* is what is loaded at once for a tile: some input blocks of one operation with
their weights. Halves of INP and WGT take turns from part to part, halves of ACC from tile to
tile; what a half still holds from before is not loaded again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from schedules.space import Choice
from schedules.vta.work import Copy, Imm, Pool, Product, Vector, Windowed, Work, reserve
from targets.vta.config import LOOP_BITS, VtaConfig

#: Most rows or columns of zeros that a LOAD puts on one side.
MAX_PAD = 15
#: Exclusive limit of a transfer's sizes and stride.
MAX_EXTENT = 1 << 16
#: Rows first: all channels of some rows, then the next rows. Channels first: the other way.
ORDERS = ("rows", "channels")
#: Zeros around the image: loaded, or products with them left out.
BORDERS = ("skip", "pad")
ALGORITHM = "tiles"


@dataclass(frozen=True, slots=True)
class Tiling:
    """A choice for one layer.

    Attributes:
        rows: Rows of a tile.
        cols: Columns of a tile.
        out: Output blocks of a tile.
        inner: Input blocks of a part.
        order: One of `ORDERS`.
        borders: One of `BORDERS`.
        halves: 2: ACC holds two tiles that take turns; 1: one tile has all of it.
    """

    rows: int
    cols: int
    out: int
    inner: int
    order: str = "rows"
    borders: str = "skip"
    halves: int = 2

    def choice(self) -> Choice:
        """As records and searches have it."""
        return {
            "algorithm": ALGORITHM, "rows": self.rows, "cols": self.cols, "out": self.out,
            "inner": self.inner, "order": self.order, "borders": self.borders,
            "halves": self.halves,
        }  # fmt: skip

    @classmethod
    def of(cls, choice: Choice) -> Tiling:
        """The tiling of a choice.

        Raises:
            ValueError: It is none.
        """
        names = ("rows", "cols", "out", "inner", "halves")
        if set(choice) != {"algorithm", "order", "borders", *names}:
            raise ValueError(f"a choice with other decisions: {', '.join(sorted(choice))}")
        numbers = {n: choice[n] for n in names}
        if not all(type(v) is int and v > 0 for v in numbers.values()) or (
            choice["algorithm"] != ALGORITHM or choice["order"] not in ORDERS
            or choice["borders"] not in BORDERS or choice["halves"] not in (1, 2)
        ):  # fmt: skip
            raise ValueError(f"no tiling: {choice}")
        return cls(**numbers, order=choice["order"], borders=choice["borders"])


def acc_depth(config: VtaConfig) -> int:
    """Accumulators that an ALU instruction can name; its source has as many bits as INP's index."""
    return 1 << min(config.acc_index_bits, config.inp_index_bits)


class Span(NamedTuple):
    """One axis of what a tile needs of an image.

    Attributes:
        first: First row (or column) of the image that is loaded.
        length: Rows loaded; 0: the tile sees zeros only.
        every: Only each so many is loaded.
        before: Rows of zeros before.
        after: Rows of zeros after.
        origin: Image row that the first row on the chip stands for (negative: a zero).
    """

    first: int
    length: int
    every: int
    before: int
    after: int
    origin: int

    @property
    def size(self) -> int:
        """Rows on the chip."""
        return self.before + self.length + self.after


class Tap(NamedTuple):
    """Along one axis, the outputs of a tile that a weight acts on, and where their inputs are.

    Attributes:
        begin: First output.
        end: The one after the last.
        source: Row on the chip for output `begin`.
        step: Rows on the chip from one output to the next.
    """

    begin: int
    end: int
    source: int
    step: int


class Tile(NamedTuple):
    """A rectangle of outputs in some blocks."""

    y: int
    height: int
    x: int
    width: int
    block: int
    blocks: int

    @property
    def pixels(self) -> int:
        """Of one block."""
        return self.height * self.width


class Part(NamedTuple):
    """What is loaded and multiplied at once.

    Attributes:
        operation: Index in the work's operations.
        first: First input block (for `Copy` and diagonal products: relative to the tile's).
        number: Input blocks.
        leading: Whether it is its operation's first for the tile.
    """

    operation: int
    first: int
    number: int
    leading: bool


@dataclass(frozen=True)
class Layout:
    """A layer's work cut by a tiling, on one VTA."""

    work: Work
    tiling: Tiling
    config: VtaConfig

    @cached_property
    def inp_half(self) -> int:
        """Elements of INP that a part may take."""
        return ((1 << self.config.inp_index_bits) - reserve(self.config).inp) // 2

    @cached_property
    def wgt_half(self) -> int:
        """Elements of WGT that a part may take."""
        return ((1 << self.config.wgt_index_bits) - reserve(self.config).wgt) // 2

    @cached_property
    def acc_half(self) -> int:
        """Elements of ACC that a tile may take."""
        return acc_depth(self.config) // self.tiling.halves

    def tiles(self) -> Iterator[Tile]:
        """All tiles, in their order."""
        output, t = self.work.output, self.tiling
        channels = [
            (b, min(t.out, self.work.blocks - b)) for b in range(0, self.work.blocks, t.out)
        ]
        places = [
            (y, min(t.rows, output.height - y), x, min(t.cols, output.width - x))
            for y in range(0, output.height, t.rows)
            for x in range(0, output.width, t.cols)
        ]
        if t.order == "rows":
            yield from (Tile(*place, *c) for place in places for c in channels)
        else:
            yield from (Tile(*place, *c) for c in channels for place in places)

    def parts(self, tile: Tile) -> Iterator[Part]:
        """A tile's parts, in their order."""
        for index, operation in enumerate(self.work.operations):
            if isinstance(operation, Imm | Vector):
                continue
            if isinstance(operation, Copy):
                total, step = tile.blocks, max(1, self.inp_half // tile.pixels)
            elif isinstance(operation, Pool) or operation.diagonal:
                total, step = tile.blocks, tile.blocks
            else:
                total, step = operation.source[0], self.tiling.inner
            for first in range(0, total, step):
                yield Part(index, first, min(step, total - first), first == 0)

    def spans(self, operation: Windowed | Copy, tile: Tile) -> tuple[Span, Span]:
        """Rows and columns of the source that a tile needs."""
        if isinstance(operation, Copy):
            rows = Span(tile.y, tile.height, 1, 0, 0, tile.y)
            return rows, Span(tile.x, tile.width, 1, 0, 0, tile.x)
        return self.span(operation, 0, tile.y, tile.height), self.span(
            operation, 1, tile.x, tile.width
        )

    def taps(self, operation: Windowed, axis: int, begin: int, count: int) -> list[Tap]:
        """For each weight along an axis, what it acts on; `begin == end`: on nothing."""
        span = self.span(operation, axis, begin, count)
        stride, dilation = operation.strides[axis], operation.dilation[axis]
        pad, size = operation.padding[axis], operation.source[1 + axis]
        result = []
        for k in range(operation.kernel[axis]):
            low, high = 0, count
            offset = k * dilation - pad
            if self._skips(operation):
                # The image's rows are 0 to size - 1: begin + o times stride, plus offset.
                low = max(0, -(offset // stride) - begin)
                high = min(count, (size - 1 - offset) // stride + 1 - begin)
            if high <= low or span.size == 0:
                result.append(Tap(0, 0, 0, 1))
                continue
            source = ((begin + low) * stride + offset - span.origin) // span.every
            result.append(Tap(low, high, source, stride // span.every))
        return result

    def span(self, operation: Windowed, axis: int, begin: int, count: int) -> Span:
        """What `count` outputs along an axis, from `begin` on, need of the source."""
        stride, dilation = operation.strides[axis], operation.dilation[axis]
        kernel, pad = operation.kernel[axis], operation.padding[axis]
        size = operation.source[1 + axis]
        first = begin * stride - pad
        last = (begin + count - 1) * stride - pad + (kernel - 1) * dilation
        low, high = max(first, 0), min(last, size - 1)
        # Rows that no weight looks at are not loaded; columns are, for rows are dense in DRAM.
        every = stride if axis == 0 and kernel == 1 and pad == 0 else 1
        if high < low:
            return Span(0, 0, 1, 0, 0, 0)
        if self._skips(operation):
            return Span(low, (high - low) // every + 1, every, 0, 0, low)
        count_there = (high - low) // every + 1
        after = (last - low) // every + 1 - count_there
        return Span(low, count_there, every, low - first, after, first)

    def _skips(self, operation: Windowed) -> bool:
        """Whether what lies beyond the image is left out; zeros would win over negative maxima."""
        return self.tiling.borders == "skip" or isinstance(operation, Pool)

    @cached_property
    def accumulators(self) -> int:
        """Accumulators that a whole tile takes."""
        t = self.tiling
        pools = any(isinstance(o, Pool) for o in self.work.operations)
        return t.out * (t.rows * t.cols * (2 if pools else 1) + len(self.work.vectors))

    def refusal(self) -> str:
        """Why the tiling is impossible here; empty if it is not."""
        t, config = self.tiling, self.config
        output = self.work.output
        if t.rows > output.height or t.cols > output.width or t.out > self.work.blocks:
            return "a tile is larger than the output"
        if self.accumulators > self.acc_half:
            return (
                f"a tile takes {self.accumulators} accumulators; there is room for {self.acc_half}"
            )
        if t.rows * t.cols >= 1 << LOOP_BITS:
            return f"a tile has more than {1 << LOOP_BITS} pixels"
        widths = [o.source[2] for o in self.work.operations if isinstance(o, Windowed)]
        if max(output.width, *widths, 0) >= MAX_EXTENT:
            return f"a row has more than {MAX_EXTENT - 1} pixels"
        for operation in self.work.operations:
            if isinstance(operation, Product):
                why = self._product_refusal(operation) or self._window_refusal(
                    operation, t.out if operation.diagonal else t.inner
                )
            elif isinstance(operation, Pool):
                why = self._window_refusal(operation, t.out)
                if t.out > config.usable_uops:
                    why = f"{t.out} micro-ops"
            elif isinstance(operation, Copy):
                why = ""
                if t.rows * t.cols > self.inp_half:
                    why = f"a block of a tile takes {t.rows * t.cols} inputs"
                if operation.repeats > config.usable_uops:
                    why = f"{operation.repeats} micro-ops"
            else:
                continue
            if why:
                return why
        return ""

    def _product_refusal(self, operation: Product) -> str:
        t = self.tiling
        if not operation.diagonal and t.inner > operation.source[0]:
            return "a part is larger than the input"
        inner = t.out if operation.diagonal else t.inner
        weights = operation.taps * (t.out if operation.diagonal else t.out * inner)
        if weights > self.config.usable_uops:
            return f"a part takes {weights} micro-ops; there is room for {self.config.usable_uops}"
        weights += t.out * operation.bias_products
        if weights > self.wgt_half:
            return f"a part takes {weights} weights; there is room for {self.wgt_half}"
        return ""

    def _window_refusal(self, operation: Windowed, inner: int) -> str:
        t, output = self.tiling, self.work.output
        rows = [self.span(operation, 0, y, min(t.rows, output.height - y))
                for y in range(0, output.height, t.rows)]  # fmt: skip
        cols = [self.span(operation, 1, x, min(t.cols, output.width - x))
                for x in range(0, output.width, t.cols)]  # fmt: skip
        taken = inner * max(s.size for s in rows) * max(s.size for s in cols)
        if taken > self.inp_half:
            return f"a part takes {taken} inputs; there is room for {self.inp_half}"
        if not self._skips(operation):
            pads = [max(s.before, s.after) for s in (*rows, *cols)]
            if max(pads) > MAX_PAD:
                return f"{max(pads)} rows or columns of zeros; a LOAD puts at most {MAX_PAD}"
            if any(s.length == 0 for s in (*rows, *cols)):
                return "a tile that sees nothing but zeros"
        return ""


__all__ = [
    "ALGORITHM", "BORDERS", "MAX_EXTENT", "MAX_PAD", "ORDERS", "Layout", "Part", "Span", "Tap",
    "Tile", "Tiling", "acc_depth",
]  # fmt: skip
