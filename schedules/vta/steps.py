"""From a layer's tiles to steps: what is loaded, computed and stored, with places on the chip.

A step is what one part of a tile takes. Steps are made in the order in which they are computed;
`emitter` puts them into a stream, loads ahead of the step that they are for.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from schedules.vta.tiling import MAX_EXTENT, Layout, Part, Span, Tap, Tile
from schedules.vta.uops import UopMemory
from schedules.vta.work import BIAS_FACTOR, Copy, Imm, Int8, Pool, Product, Vector, reserve
from targets.vta.config import VtaConfig
from targets.vta.isa import Alu, AluOp, Gemm, Load, Memory, Store, Uop

#: Buffers of constants that are no layer's.
CONSTANT_INPUT, IDENTITIES, UOPS = "constants:input", "constants:identity", "uops"


class Fetch(NamedTuple):
    """A LOAD of INP or WGT.

    Attributes:
        load: `dram_base` counts from the begin of `buffer`, or of the activations.
        buffer: The constants that it reads; empty: activations.
        after: The step that has to be computed before: it wrote the data, or uses the place.
    """

    load: Load
    buffer: str
    after: int


class Multiply(NamedTuple):
    """A GEMM and what it touches."""

    gemm: Gemm
    inp: tuple[slice, ...]
    wgt: tuple[slice, ...]
    acc: slice


class Apply(NamedTuple):
    """An ALU instruction and what it writes."""

    alu: Alu
    acc: slice


class Own(NamedTuple):
    """A LOAD of the compute queue from a buffer of constants."""

    load: Load
    buffer: str


Code: TypeAlias = Multiply | Apply | Own


@dataclass(slots=True)
class Step:
    """What happens for one part of a tile."""

    owner: int
    fetches: list[Fetch] = field(default_factory=list)
    code: list[Code] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)


@dataclass(slots=True)
class _Half:
    base: int
    key: Hashable = None
    last: int = -1


class _Turns:
    """Parts of an on-chip memory that take turns, and what is in them."""

    def __init__(self, bases: list[int]) -> None:
        self._halves = [_Half(base) for base in bases]

    def take(self, key: Hashable, step: int) -> tuple[int, int | None]:
        """A place for `key`.

        Returns:
            Its base, and None if `key` is there already, else the step that used it last.
        """
        for half in self._halves:
            if key is not None and half.key == key:
                half.last = step
                return half.base, None
        half = min(self._halves, key=lambda h: h.last)
        before = half.last
        half.key, half.last = key, step
        return half.base, before


class Chip:
    """What lies where on the chip, and the constants in DRAM, while a program is made.

    Args:
        config: The VTA.
        places: First element of each activation in DRAM, in elements of INP.
        size: Elements of all activations.
    """

    def __init__(self, config: VtaConfig, places: dict[str, int], size: int) -> None:
        self.config = config
        self.places = places
        self.uops = UopMemory(config)
        self.constants: dict[str, list[npt.NDArray[Any]]] = {}
        self.steps = 0
        #: For each element of the activations, the step that writes it.
        self.writer = np.full(size, -1, dtype=np.int32)
        kept = reserve(config)
        inp, wgt = 1 << config.inp_index_bits, 1 << config.wgt_index_bits
        self.inp = _Turns([0, (inp - kept.inp) // 2])
        self.wgt = _Turns([0, (wgt - kept.wgt) // 2])
        self._acc_turn = 0
        self._constant_input = inp - 1
        self._identity = wgt - kept.wgt
        self._identity_places: dict[int, int] = {}
        self._has_input = False
        self._offsets: dict[Hashable, int] = {}
        self._sizes: dict[str, int] = {}

    def acc(self, halves: int, size: int) -> int:
        """The next tile's first accumulator."""
        if halves == 1:
            return 0
        self._acc_turn = 1 - self._acc_turn
        return self._acc_turn * size

    def constant_input(self, step: Step) -> int:
        """Where the input is that biases are multiplied with; loaded on its first use."""
        if not self._has_input:
            self._has_input = True
            config = self.config
            row = np.full((config.batch, config.block), BIAS_FACTOR, dtype=np.int8)
            row[:, -1] = 1
            self._fetch_constant(
                step, Memory.INP, self._constant_input, CONSTANT_INPUT, row.reshape(1, -1)
            )
        return self._constant_input

    def identity(self, step: Step, exponent: int) -> int:
        """Where the identity times ``2**exponent`` is; loaded on its first use."""
        if exponent not in self._identity_places:
            at = self._identity + len(self._identity_places)
            self._identity_places[exponent] = at
            block = np.eye(self.config.block, dtype=np.int8) << exponent
            self._fetch_constant(step, Memory.WGT, at, IDENTITIES, block.astype(np.int8)[None])
        return self._identity_places[exponent]

    def constant(self, buffer: str, key: Hashable, make: Any) -> int:
        """First element of a piece of a buffer of constants; `make()` gives it once."""
        if (buffer, key) not in self._offsets:
            piece = make()
            self._offsets[buffer, key] = self._sizes.get(buffer, 0)
            self._sizes[buffer] = self._offsets[buffer, key] + len(piece)
            self.constants.setdefault(buffer, []).append(piece)
        return self._offsets[buffer, key]

    def _fetch_constant(
        self, step: Step, memory: Memory, at: int, buffer: str, piece: npt.NDArray[Any]
    ) -> None:
        source = self.constant(buffer, at, lambda: piece)
        load = Load(memory=memory, sram_base=at, dram_base=source, y_size=1, x_size=1, x_stride=1)
        step.fetches.append(Fetch(load, buffer, -1))


class _Draft(NamedTuple):
    """A GEMM or ALU instruction whose micro-ops have no place yet."""

    words: bytes
    code: Multiply | Apply


class LayerSteps:
    """The steps of one layer.

    Args:
        layout: Its work and tiling.
        owner: The layer's number.
        chip: Changed as steps are made.
    """

    def __init__(self, layout: Layout, owner: int, chip: Chip) -> None:
        self.layout = layout
        self.work = layout.work
        self.config = layout.config
        self.owner = owner
        self.chip = chip
        self._drafts: list[_Draft | Own] = []
        self._step = Step(owner)

    def __iter__(self) -> Iterator[Step]:
        for tile in self.layout.tiles():
            yield from self._tile(tile)

    def _tile(self, tile: Tile) -> Iterator[Step]:
        work, layout = self.work, self.layout
        base = self.chip.acc(layout.tiling.halves, layout.acc_half)
        window = slice(base, base + tile.blocks * tile.pixels)
        if len(work.vectors):
            self._load_vectors(tile, window.stop)
        self._reset(tile, base, window)
        parts = list(layout.parts(tile))
        at = 0
        started = False
        for index, operation in enumerate(work.operations):
            if isinstance(operation, Imm | Vector):
                self._apply(operation, tile, base, window)
                continue
            while at < len(parts) and parts[at].operation == index:
                if started:
                    yield self._finish()
                started = True
                self._part(operation, parts[at], tile, base, window)
                at += 1
        self._step.stores = self._stores(tile, base)
        for store in self._step.stores:
            self._rows(store)[...] = self.chip.steps
        yield self._finish()

    def _finish(self) -> Step:
        """The step as it is now, its micro-ops placed; the next one begins."""
        step, chip = self._step, self.chip
        drafts = [d for d in self._drafts if isinstance(d, _Draft)]
        missing = chip.uops.require([d.words for d in drafts])
        if missing is not None:
            step.code.append(Own(chip.uops.load(*missing), UOPS))
        for draft in self._drafts:
            if isinstance(draft, Own):
                step.code.append(draft)
                continue
            begin, end = chip.uops.place(draft.words)
            fields = {"uop_begin": begin, "uop_end": end}
            code = draft.code
            if isinstance(code, Multiply):
                step.code.append(code._replace(gemm=_with(code.gemm, fields)))
            else:
                step.code.append(code._replace(alu=_with(code.alu, fields)))
        self._step, self._drafts = Step(self.owner), []
        chip.steps += 1
        return step

    # Compute.

    def _load_vectors(self, tile: Tile, at: int) -> None:
        vectors, config = self.work.vectors, self.config
        buffer = f"vectors:{self.work.name}"
        wide = np.repeat(vectors[:, :, None, :], config.batch, axis=2)
        flat = wide.reshape(len(vectors) * self.work.blocks, -1)
        source = self.chip.constant(buffer, "all", lambda: flat)
        self._drafts.append(Own(Load(
            memory=Memory.ACC, sram_base=at, dram_base=source + tile.block, y_size=len(vectors),
            x_size=tile.blocks, x_stride=self.work.blocks,
        ), buffer))  # fmt: skip

    def _reset(self, tile: Tile, base: int, window: slice) -> None:
        gemm = Gemm(reset=True, **_over(tile, dst=1))
        self._draft([Uop(base)], Multiply(gemm, (), (), window))

    def _apply(self, operation: Imm | Vector, tile: Tile, base: int, window: slice) -> None:
        if isinstance(operation, Imm):
            alu = Alu(op=operation.op, use_imm=True, imm=operation.imm, **_over(tile, dst=1, src=1))
            self._draft([Uop(base, base)], Apply(alu, window))
            return
        loops = {**_over(tile, dst=1), "src_out": 1 if tile.blocks > 1 else 0}
        source = window.stop + operation.index * tile.blocks
        self._draft([Uop(base, source)], Apply(Alu(op=operation.op, **loops), window))

    def _part(
        self, operation: Product | Pool | Copy, part: Part, tile: Tile, base: int, window: slice
    ) -> None:
        if isinstance(operation, Copy):
            self._copy(operation, part, tile, base)
        elif isinstance(operation, Pool):
            self._pool(operation, part, tile, base)
        else:
            self._product(operation, part, tile, base, window)

    def _copy(self, operation: Copy, part: Part, tile: Tile, base: int) -> None:
        step = self._step
        rows, cols = self.layout.spans(operation, tile)
        first = tile.block + part.first
        source = (self.work.blocks, *self.work.output.shape[1:])
        at = self._fetch_inputs(operation.tensor, source, first, part.number, rows, cols)
        weight = self.chip.identity(step, operation.exponent)
        begin = base + part.first * tile.pixels
        count = part.number * tile.pixels
        some = tile._replace(blocks=part.number)
        gemm = Gemm(**_over(some, dst=1, src=1))
        self._draft(
            [Uop(begin, at, weight)] * operation.repeats,
            Multiply(gemm, (slice(at, at + count),), (slice(weight, weight + 1),),
                     slice(begin, begin + count)),
        )  # fmt: skip

    def _pool(self, operation: Pool, part: Part, tile: Tile, base: int) -> None:
        rows, cols = self.layout.spans(operation, tile)
        ys = self.layout.taps(operation, 0, tile.y, tile.height)
        xs = self.layout.taps(operation, 1, tile.x, tile.width)
        at = self._fetch_inputs(
            operation.tensor, operation.source, tile.block, part.number, rows, cols
        )
        weight = self.chip.identity(self._step, 0)
        size = rows.size * cols.size
        inp, wgt = (slice(at, at + part.number * size),), (slice(weight, weight + 1),)
        count = tile.blocks * tile.pixels
        beside = base + count
        first = operation.replaces
        for y in ys:
            for x in xs:
                if y.end <= y.begin or x.end <= x.begin:
                    continue
                place = y.begin * tile.width + x.begin
                to = place + (base if first else beside)
                window = slice(base, base + count) if first else slice(beside, beside + count)
                shape = (y.end - y.begin, x.end - x.begin)
                spots = [to + b * tile.pixels for b in range(tile.blocks)]
                if not first:
                    clear = Gemm(reset=True, **_loops((shape[0], tile.width, 0), (shape[1], 1, 0)))
                    self._draft([Uop(spot) for spot in spots], Multiply(clear, (), (), window))
                begin = at + y.source * cols.size + x.source
                loops = _loops((shape[0], tile.width, y.step * cols.size), (shape[1], 1, x.step))
                self._draft(
                    [Uop(spot, begin + b * size, weight) for b, spot in enumerate(spots)],
                    Multiply(Gemm(**loops), inp, wgt, window),
                )
                if not first:
                    loops = _loops((shape[0], tile.width, tile.width), (shape[1], 1, 1))
                    self._draft(
                        [Uop(spot - count, spot) for spot in spots],
                        Apply(Alu(op=AluOp.MAX, **loops), slice(base, base + count)),
                    )
                first = False

    def _product(
        self, operation: Product, part: Part, tile: Tile, base: int, window: slice
    ) -> None:
        layout, step = self.layout, self._step
        rows, cols = layout.spans(operation, tile)
        ys = _groups(layout.taps(operation, 0, tile.y, tile.height))
        xs = _groups(layout.taps(operation, 1, tile.x, tile.width))
        biased = part.leading and operation.bias is not None
        if not (ys and xs) and not biased:
            return
        weight, used = self._fetch_weights(operation, part, tile, biased=biased)
        if biased:
            k = operation.bias_products
            source = self.chip.constant_input(step)
            begin = weight + used - tile.blocks * k
            loops = _over(tile, dst=1)
            loops["wgt_out"] = k if tile.blocks > 1 else 0
            self._draft(
                [Uop(base, source, begin + n) for n in range(k)],
                Multiply(Gemm(**loops), (slice(source, source + 1),),
                         (slice(begin, begin + tile.blocks * k),), window),
            )  # fmt: skip
        if not (ys and xs):
            return
        first = part.first + (tile.block if operation.diagonal else 0)
        at = self._fetch_inputs(operation.tensor, operation.source, first, part.number, rows, cols)
        size, kernel_width = rows.size * cols.size, operation.kernel[1]
        places = (slice(at, at + part.number * size),)
        weights = (slice(weight, weight + used),)
        for y_taps in ys:
            for x_taps in xs:
                (_, y), (_, x) = y_taps[0], x_taps[0]
                dst = base + y.begin * tile.width + x.begin
                uops = []
                for ky, y in y_taps:
                    for kx, x in x_taps:
                        tap = ky * kernel_width + kx
                        src = at + y.source * cols.size + x.source
                        uops += self._uops(operation, part, tile, dst, src, size, weight, tap)
                loops = _loops(
                    (y.end - y.begin, tile.width, y.step * cols.size), (x.end - x.begin, 1, x.step)
                )
                self._draft(uops, Multiply(Gemm(**loops), places, weights, window))

    def _uops(
        self, operation: Product, part: Part, tile: Tile, dst: int, src: int, size: int,
        weight: int, tap: int,
    ) -> list[Uop]:  # fmt: skip
        taps, pixels = operation.taps, tile.pixels
        if operation.diagonal:
            return [
                Uop(dst + b * pixels, src + b * size, weight + b * taps + tap)
                for b in range(tile.blocks)
            ]
        return [
            Uop(dst + b * pixels, src + j * size, weight + (b * part.number + j) * taps + tap)
            for b in range(tile.blocks)
            for j in range(part.number)
        ]

    def _draft(self, uops: list[Uop], code: Multiply | Apply) -> None:
        self._drafts.append(_Draft(self.chip.uops.words(uops), code))

    # Transfers.

    def _fetch_weights(
        self, operation: Product, part: Part, tile: Tile, *, biased: bool
    ) -> tuple[int, int]:
        """Where the part's weights are, and how many; a bias's come last."""
        blocks = slice(tile.block, tile.block + tile.blocks)
        inner = slice(0, 1) if operation.diagonal else slice(part.first, part.first + part.number)

        def make() -> Int8:
            block = self.config.block
            pieces = [operation.weights[blocks, inner].reshape(-1, block, block)]
            if biased and operation.bias is not None:
                pieces.append(operation.bias[blocks].reshape(-1, block, block))
            return np.concatenate(pieces)

        buffer = f"weights:{self.work.name}"
        key = (self.owner, tile.block, tile.blocks, part.first, part.number)
        source = self.chip.constant(buffer, key, make)
        count = tile.blocks * (inner.stop - inner.start) * operation.taps
        count += tile.blocks * operation.bias_products if biased else 0
        at, before = self.chip.wgt.take(key, self.chip.steps)
        if before is not None:
            load = Load(memory=Memory.WGT, sram_base=at, dram_base=source, y_size=1, x_size=count,
                        x_stride=count)  # fmt: skip
            self._step.fetches.append(Fetch(load, buffer, before))
        return at, count

    def _fetch_inputs(
        self, tensor: str, source: tuple[int, int, int], first: int, count: int, rows: Span,
        cols: Span,
    ) -> int:  # fmt: skip
        """Where these blocks of an image's window are."""
        chip = self.chip
        at, before = chip.inp.take((tensor, first, count, rows, cols), chip.steps)
        if before is None:
            return at
        _, height, width = source
        begin = chip.places[tensor] + (first * height + rows.first) * width + cols.first
        dense = cols.size == width == cols.length and rows.size == rows.length and rows.every == 1
        loads = []
        if dense and (height * width < MAX_EXTENT or count == 1):
            length = rows.length * width
            shape = (count, length, height * width if count > 1 else length)
            if length == height * width:
                shape = (1, count * length, count * length)
            loads.append(Load(memory=Memory.INP, sram_base=at, dram_base=begin, y_size=shape[0],
                              x_size=shape[1], x_stride=shape[2]))  # fmt: skip
        else:
            loads += [
                Load(
                    memory=Memory.INP, sram_base=at + j * rows.size * cols.size,
                    dram_base=begin + j * height * width, y_size=rows.length, x_size=cols.length,
                    x_stride=width * rows.every, y_pad0=rows.before, y_pad1=rows.after,
                    x_pad0=cols.before, x_pad1=cols.after,
                )
                for j in range(count)
            ]  # fmt: skip
        for load in loads:
            after = max(before, int(self._rows(load).max(initial=-1)))
            self._step.fetches.append(Fetch(load, "", after))
        return at

    def _stores(self, tile: Tile, base: int) -> list[Store]:
        _, height, width = self.work.output.shape
        begin = self.chip.places[self.work.output.name]
        begin += (tile.block * height + tile.y) * width + tile.x
        if tile.width == width and (height * width < MAX_EXTENT or tile.blocks == 1):
            stride = height * width if tile.blocks > 1 else tile.pixels
            shape = (tile.blocks, tile.pixels, stride)
            if tile.height == height:
                shape = (1, tile.blocks * tile.pixels, tile.blocks * tile.pixels)
            return [Store(memory=Memory.OUT, sram_base=base, dram_base=begin, y_size=shape[0],
                          x_size=shape[1], x_stride=shape[2])]  # fmt: skip
        return [
            Store(memory=Memory.OUT, sram_base=base + b * tile.pixels,
                  dram_base=begin + b * height * width, y_size=tile.height, x_size=tile.width,
                  x_stride=width)
            for b in range(tile.blocks)
        ]  # fmt: skip

    def _rows(self, transfer: Load | Store) -> npt.NDArray[np.int32]:
        """The steps that write what a transfer reads or writes, a view."""
        table = self.chip.writer
        return np.lib.stride_tricks.as_strided(
            table[transfer.dram_base :], (transfer.y_size, transfer.x_size),
            (transfer.x_stride * table.itemsize, table.itemsize),
        )  # fmt: skip


def _groups(taps: list[Tap]) -> list[list[tuple[int, Tap]]]:
    """Weights along an axis that act on the same outputs, with their numbers."""
    result: dict[tuple[int, int], list[tuple[int, Tap]]] = {}
    for k, tap in enumerate(taps):
        if tap.end > tap.begin:
            result.setdefault((tap.begin, tap.end), []).append((k, tap))
    return list(result.values())


def _over(tile: Tile, *, dst: int, src: int = 0) -> dict[str, Any]:
    """Loops over all of a tile's accumulators."""
    return _loops((tile.blocks, dst * tile.pixels, src * tile.pixels), (tile.pixels, dst, src))


def _loops(outer: tuple[int, int, int], inner: tuple[int, int, int]) -> dict[str, Any]:
    """Fields of two loops; each is its runs, and what it adds to dst and src."""
    if outer[0] == 1:
        outer = (1, 0, 0)
    if inner[0] == 1:
        inner = (1, 0, 0)
    return {
        "iter_out": outer[0], "iter_in": inner[0], "dst_out": outer[1], "dst_in": inner[1],
        "src_out": outer[2], "src_in": inner[2],
    }  # fmt: skip


def _with(instruction: Any, fields: dict[str, int]) -> Any:
    return replace(instruction, **fields)


__all__ = ["CONSTANT_INPUT", "IDENTITIES", "UOPS", "Chip", "Code", "Fetch", "LayerSteps", "Step"]
