"""The analytic model: cycles of a layer by its tiling, without making a program.

Loads, computation and stores of each part of each tile are added up by the hardware's timings and
put one after another on three queues that wait for each other's halves, as the program's tokens
make them do.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

from schedules.vta.tiling import Layout, Part, Span, Tile, Tiling
from schedules.vta.work import Copy, Imm, Pool, Product, Vector, Windowed, Work
from targets.vta.config import UOP_BYTES, VtaConfig
from targets.vta.timing import (
    BURST_BEATS,
    PIPELINE_CYCLES,
    READ_LATENCY,
    STORE_BURST_CYCLES,
    STORE_ELEMENT_CYCLES,
)

#: Cycles of a LOAD besides its data.
_LOAD_CYCLES = READ_LATENCY + 3
#: Cycles of a pooling's tap for each accumulator: set to zero, copied, compared.
_POOL_CYCLES = 4


class _Half:
    """What one of two halves holds, and from when on it is free."""

    def __init__(self) -> None:
        self.key: Hashable = None
        self.free = 0.0
        self.used = -1


class _Cost(NamedTuple):
    """Cycles of a part: loading inputs and weights, and the matrix unit."""

    inputs: float
    weights: float
    compute: float


def estimated_cycles(layout: Layout, most: float = math.inf, *, alone: bool = True) -> float:
    """Cycles of a layer, estimated.

    Args:
        layout: The layer with its tiling.
        most: More is as good as infinity; less work is done for what takes longer.
        alone: Whether it is a program of its own. If not, its first loads run while the layer
            before is computed, and its last stores while the next one is.
    """
    model = _Model(layout, alone=alone)
    for tile in layout.tiles():
        model.tile(tile)
        if model.cycles > most:
            return math.inf
    return model.cycles


def rough_cycles(layout: Layout) -> float:
    """The larger of computing and loading alone: a fast first look at many tilings."""
    work, t, config = layout.work, layout.tiling, layout.config
    output, product = work.output, work.product
    places = -(-output.height // t.rows) * -(-output.width // t.cols)
    channels = -(-work.blocks // t.out)
    pixels = work.blocks * output.height * output.width
    compute, instructions, inputs, weights = float(pixels), 1.0, 0.0, 0.0
    bus = config.bus_bits // 8
    for operation in work.operations:
        if isinstance(operation, Imm):
            compute += pixels
        elif isinstance(operation, Vector):
            compute += 2 * pixels
        elif isinstance(operation, Copy):
            compute += pixels * operation.repeats
            inputs += pixels * config.inp_bytes / bus
        elif isinstance(operation, Pool):
            compute += _POOL_CYCLES * pixels * operation.taps
            instructions += 3 * operation.taps
            heights = _extents(layout, operation, 0, output.height, t.rows)
            widths = _extents(layout, operation, 1, output.width, t.cols)
            inputs += work.blocks * heights.loaded * widths.loaded * config.inp_bytes / bus
        instructions += 1
    loads = 0.0
    if product is not None:
        parts = 1 if product.diagonal else -(-product.source[0] // t.inner)
        heights = _extents(layout, product, 0, output.height, t.rows)
        widths = _extents(layout, product, 1, output.width, t.cols)
        pairs = work.blocks * (1 if product.diagonal else product.source[0])
        compute += pairs * heights.steps * widths.steps + pixels * product.bias_products
        instructions += parts * max(heights.classes, 1) * max(widths.classes, 1)
        # What two halves cannot hold is loaded again for every place, or all channels.
        again = 1 if parts <= 2 and (t.order == "channels" or channels * parts <= 2) else places
        weights = again * (pairs * product.taps + work.blocks * product.bias_products)
        if product.diagonal:
            again = 1
        elif t.order == "rows":
            again = 1 if parts <= 2 else channels
        else:
            again = 1 if places * parts <= 2 else channels
        blocks = work.blocks if product.diagonal else product.source[0]
        inputs += again * blocks * heights.loaded * widths.loaded * config.inp_bytes / bus
        loads = places * channels * parts * 2.0
    compute += PIPELINE_CYCLES * instructions * places * channels
    # Bursts of eight elements, more or less.
    stored = pixels * (STORE_ELEMENT_CYCLES + STORE_BURST_CYCLES * config.out_bytes / 128)
    if t.halves == 1:  # nothing is computed while a tile is stored, but for the next one's zeros
        compute += (stored - pixels) * (1 - 1 / (places * channels))
    return max(
        compute, stored, weights * config.wgt_bytes / bus + inputs + _LOAD_CYCLES * loads
    )  # fmt: skip


def least_cycles(work: Work) -> float:
    """Cycles of the compute queue without which the layer cannot be computed by any tiling."""
    output = work.output
    pixels = work.blocks * output.height * output.width
    whole = Layout(work, Tiling(output.height, output.width, work.blocks, 1), VtaConfig())
    cycles = float(pixels)
    for operation in work.operations:
        if isinstance(operation, Imm):
            cycles += pixels
        elif isinstance(operation, Vector):
            cycles += 2 * pixels
        elif isinstance(operation, Copy):
            cycles += pixels * operation.repeats
        elif isinstance(operation, Pool):
            cycles += _POOL_CYCLES * pixels * (operation.taps - 1)
        else:
            rows = _extents(whole, operation, 0, output.height, output.height)
            cols = _extents(whole, operation, 1, output.width, output.width)
            pairs = work.blocks * (1 if operation.diagonal else operation.source[0])
            cycles += pairs * rows.steps * cols.steps + pixels * operation.bias_products
    return cycles


class _Extents(NamedTuple):
    """One axis over all tiles: outputs times weights, rows loaded, and kinds of weights a tile."""

    steps: int
    loaded: int
    classes: float


def _extents(layout: Layout, product: Windowed, axis: int, total: int, size: int) -> _Extents:
    steps = loaded = classes = 0
    begins = range(0, total, size)
    for begin in begins:
        count = min(size, total - begin)
        taps = [t for t in layout.taps(product, axis, begin, count) if t.end > t.begin]
        steps += sum(t.end - t.begin for t in taps)
        loaded += layout.span(product, axis, begin, count).size
        classes += len({(t.begin, t.end) for t in taps})
    return _Extents(steps, loaded, classes / len(begins))


class _Model:
    def __init__(self, layout: Layout, *, alone: bool) -> None:
        self.layout = layout
        self.work = layout.work
        self.config = layout.config
        self._alone = alone
        self._inp = (_Half(), _Half())
        self._wgt = (_Half(), _Half())
        self._acc = [0.0] * layout.tiling.halves
        self._load = self._compute = self._store = 0.0
        self._steps = self._tiles = 0
        self._known: dict[Hashable, _Cost] = {}
        bus = self.config.bus_bits // 8
        self._inp_beats = max(1.0, self.config.inp_bytes / bus)
        self._wgt_beats = self.config.wgt_bytes / bus
        self._acc_beats = self.config.acc_bytes / bus
        self._uops: set[Hashable] = set()
        self._uop_count = 0

    @property
    def cycles(self) -> float:
        """Until everything is stored; in a network, until the next layer can begin."""
        waits = self._alone or self._tiles == 1 or self.layout.tiling.halves == 1
        return max(self._compute, self._store if waits else 0.0)

    def tile(self, tile: Tile) -> None:
        """One more tile."""
        layout, work = self.layout, self.work
        half = self._tiles % layout.tiling.halves
        self._tiles += 1
        count = tile.blocks * tile.pixels
        compute = self._compute
        if len(work.vectors):
            compute += _LOAD_CYCLES + len(work.vectors) * tile.blocks * self._acc_beats
        compute += PIPELINE_CYCLES + count  # reset, which does not wait for the store
        compute = max(compute, self._acc[half])
        parts = list(layout.parts(tile))
        for part in parts:
            cost = self._cost(part, tile)
            if not (self._steps or self._alone):
                self._load = -cost.inputs - cost.weights
            inputs = self._place(self._inp, self._input_key(part, tile), cost.inputs)
            weights = self._place(self._wgt, self._weight_key(part, tile), cost.weights)
            places = (inputs is self._inp[0], weights is self._wgt[0], half)
            compute += self._uop_cycles((*places, *part[::2], *tile[1::2], tile.blocks), part, tile)
            compute = max(compute, self._load) + cost.compute
            inputs.free = weights.free = compute
            self._steps += 1
        for operation in work.operations:
            if isinstance(operation, Imm):
                compute += PIPELINE_CYCLES + count
            elif isinstance(operation, Vector):
                compute += PIPELINE_CYCLES + 2 * count
        self._compute = compute
        bursts = -(
            -tile.pixels * self.config.out_bytes // (BURST_BEATS * self.config.bus_bits // 8)
        )
        if tile.width < work.output.width:
            bursts = tile.height * (tile.width * self.config.out_bytes // 128 + 1)
        stored = tile.blocks * (STORE_ELEMENT_CYCLES * tile.pixels + STORE_BURST_CYCLES * bursts)
        self._store = max(self._store, compute) + stored
        self._acc[half] = self._store

    def _place(self, halves: tuple[_Half, _Half], key: Hashable, cycles: float) -> _Half:
        """Load into the half that was used longer ago, unless the data are there."""
        for half in halves:
            if key is not None and half.key == key:
                half.used = self._steps
                return half
        half = min(halves, key=lambda h: h.used)
        if key is not None:
            half.key, half.used = key, self._steps
            self._load = max(self._load, half.free) + cycles
        return half

    def _input_key(self, part: Part, tile: Tile) -> Hashable:
        operation = self.work.operations[part.operation]
        diagonal = isinstance(operation, Copy | Pool) or (
            isinstance(operation, Product) and operation.diagonal
        )
        return part.operation, part.first, tile.y, tile.x, tile.block if diagonal else 0

    def _weight_key(self, part: Part, tile: Tile) -> Hashable:
        operation = self.work.operations[part.operation]
        return (
            None if isinstance(operation, Copy | Pool) else (part.operation, part.first, tile.block)
        )

    def _cost(self, part: Part, tile: Tile) -> _Cost:
        operation = self.work.operations[part.operation]
        key = (part.operation, part.number, part.leading, *tile[:4], tile.blocks)
        if key not in self._known:
            if isinstance(operation, Copy):
                self._known[key] = self._copy_cost(operation, part, tile)
            elif isinstance(operation, Product):
                self._known[key] = self._product_cost(operation, part, tile)
            elif isinstance(operation, Pool):
                self._known[key] = self._pool_cost(operation, part, tile)
            else:
                raise TypeError("a part of an operation that loads nothing")
        return self._known[key]

    def _copy_cost(self, operation: Copy, part: Part, tile: Tile) -> _Cost:
        rows, cols = self.layout.spans(operation, tile)
        steps = part.number * tile.pixels * operation.repeats
        dense = cols.length == self.work.output.width
        return _Cost(self._input_cycles(rows, cols, part.number, dense), 0.0,
                     PIPELINE_CYCLES + steps)  # fmt: skip

    def _pool_cost(self, operation: Pool, part: Part, tile: Tile) -> _Cost:
        rows, cols = self.layout.spans(operation, tile)
        steps = _POOL_CYCLES * tile.blocks * tile.pixels * operation.taps
        dense = cols.length == operation.source[2]
        return _Cost(self._input_cycles(rows, cols, part.number, dense), 0.0,
                     3 * operation.taps * PIPELINE_CYCLES + steps)  # fmt: skip

    def _product_cost(self, operation: Product, part: Part, tile: Tile) -> _Cost:
        layout = self.layout
        rows, cols = layout.spans(operation, tile)
        ys: dict[tuple[int, int], int] = {}
        xs: dict[tuple[int, int], int] = {}
        for groups, axis, begin, count in (
            (ys, 0, tile.y, tile.height),
            (xs, 1, tile.x, tile.width),
        ):
            for tap in layout.taps(operation, axis, begin, count):
                if tap.end > tap.begin:
                    span = (tap.begin, tap.end)
                    groups[span] = groups.get(span, 0) + 1
        pairs = tile.blocks * (1 if operation.diagonal else part.number)
        compute = 0.0
        for (y0, y1), ny in ys.items():
            for (x0, x1), nx in xs.items():
                compute += PIPELINE_CYCLES + pairs * ny * nx * (y1 - y0) * (x1 - x0)
        weights = pairs * operation.taps
        if part.leading and operation.bias is not None:
            weights += tile.blocks * operation.bias_products
            compute += PIPELINE_CYCLES + tile.blocks * tile.pixels * operation.bias_products
        width = operation.source[2]
        dense = cols.length == cols.size == width and rows.size == rows.length and rows.every == 1
        return _Cost(
            self._input_cycles(rows, cols, part.number, dense),
            _LOAD_CYCLES + weights * self._wgt_beats, compute,
        )  # fmt: skip

    def _input_cycles(self, rows: Span, cols: Span, blocks: int, dense: bool) -> float:
        beats = blocks * rows.length * cols.length * self._inp_beats
        zeros = blocks * (rows.size * cols.size - rows.length * cols.length)
        return (1 if dense else blocks) * _LOAD_CYCLES + beats + zeros

    def _uop_cycles(self, key: Hashable, part: Part, tile: Tile) -> float:
        """Loading a part's micro-ops, by the compute queue, unless they are there."""
        if key in self._uops:
            return 0.0
        operation = self.work.operations[part.operation]
        words = tile.blocks
        if isinstance(operation, Product):
            words *= operation.taps * (1 if operation.diagonal else part.number)
        if self._uop_count + words > self.config.usable_uops:
            self._uops.clear()
            self._uop_count = 0
        self._uops.add(key)
        self._uop_count += words
        return READ_LATENCY + 2 + words * UOP_BYTES * 8 / self.config.bus_bits


__all__ = ["estimated_cycles", "least_cycles", "rough_cycles"]
