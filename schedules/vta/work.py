"""A layer as operations on a tile of accumulators: the form that tiling and emission work on.

Every layer but pooling becomes a list of operations that run, in order, on accumulators which
were set to zero: products with weights (`Product`), shifted tensors (`Copy`: products with a
multiple of the identity, for accumulators cannot be loaded from 8-bit memory), operations of the
vector unit with a constant (`Imm`) or with a vector of one number a channel (`Vector`).

What is saved here: the rounding constant of every step goes into a bias or into the limits of the
step before it; a bias goes through the matrix unit (a constant input times weights that make up
the bias: one cycle for 16 numbers, where the vector unit takes two); a limit that no value can
reach is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from schedules.vta.layers import Conv2d, Layer, MaxPool2d, Region, Step, Sum, Tensor
from schedules.vta.packing import blocks
from targets.vta.config import VtaConfig
from targets.vta.isa import AluOp

Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

#: Largest power of two that an 8-bit weight holds.
MAX_EXPONENT = 6
#: Products that a bias may take for each accumulator; a larger one is added by the vector unit.
MAX_BIAS_PRODUCTS = 3
#: Times that a tensor may be added to make up a power of two.
MAX_REPEATS = 64
#: The constant input: this in every lane but the last, which holds 1.
BIAS_FACTOR = 127
#: Exclusive limit of what an ALU instruction's constant holds.
_IMMEDIATE = 1 << 15
_NO_IDENTITY = "the weight memory has no room for an identity beside two tiles"


class Refused(Exception):  # noqa: N818 - caught where the reason is wanted, never shown as an error
    """A layer cannot be lowered; the message says why."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """On-chip places that hold constants for the whole program.

    Attributes:
        inp: Elements of INP: 1 for the constant input of biases, or 0.
        wgt: Elements of WGT: multiples of the identity.
    """

    inp: int
    wgt: int

    @property
    def exponents(self) -> tuple[int, ...]:
        """Powers of two whose multiple of the identity there is room for."""
        if self.wgt > MAX_EXPONENT:
            return tuple(range(MAX_EXPONENT + 1))
        return (0,) if self.wgt else ()


def reserve(config: VtaConfig) -> Reserve:
    """What a configuration's memories have room for beside two halves that take turns."""
    wgt = 1 << config.wgt_index_bits
    return Reserve(
        inp=1 if config.inp_index_bits >= 2 and config.block > 1 else 0,
        wgt=8 if wgt >= 64 else min(1, wgt // 4),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """``acc += weights x window of a tensor``.

    Attributes:
        tensor: The activation.
        source: Its blocks, height and width.
        weights: Dense: int8 (out blocks, in blocks, taps, block, block); diagonal, where output
            blocks depend on the input block of the same number alone: (out blocks, 1, taps,
            block, block). A tap is ``ky * kernel width + kx``.
        kernel: Height and width.
        strides: Of height and width.
        padding: At the top and at the left; the rest follows from the output's size.
        dilation: Of height and width.
        diagonal: Which of both.
        bias: int8 (out blocks, products, block, block) of weights for the constant input.
    """

    tensor: str
    source: tuple[int, int, int]
    weights: Int8
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    diagonal: bool
    bias: Int8 | None

    @property
    def taps(self) -> int:
        """Weights of a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def bias_products(self) -> int:
        """Products of the constant input for each accumulator."""
        return 0 if self.bias is None else self.bias.shape[1]


@dataclass(frozen=True, slots=True)
class Pool:
    """``acc = max(acc, window of a tensor)``.

    Each tap is copied beside the tile by the matrix unit and compared by the vector unit.

    Attributes:
        tensor: The activation.
        source: Its blocks, height and width.
        kernel: Height and width.
        strides: Of height and width.
        padding: At the top and at the left.
        replaces: Whether the first tap, which then acts on every output, is written over the
            accumulators' zeros.
    """

    tensor: str
    source: tuple[int, int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]
    replaces: bool

    @property
    def dilation(self) -> tuple[int, int]:
        """Of height and width: windows of pooling are dense."""
        return 1, 1

    @property
    def taps(self) -> int:
        """Places of a window."""
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True, slots=True)
class Copy:
    """``acc += repeats * 2**exponent * tensor``, a tensor of the output's shape."""

    tensor: str
    exponent: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Imm:
    """``acc = op(acc, imm)``."""

    op: AluOp
    imm: int


@dataclass(frozen=True, slots=True)
class Vector:
    """``acc = op(acc, vectors[index])``, one number a channel."""

    op: AluOp
    index: int


Operation: TypeAlias = Product | Pool | Copy | Imm | Vector
#: Operations that look at windows of an image.
Windowed: TypeAlias = Product | Pool


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A layer's operations.

    Attributes:
        name: The layer's.
        output: Its result.
        blocks: Blocks of the result.
        operations: On zeroed accumulators, in order.
        vectors: int32 (n, out blocks, block).
    """

    name: str
    output: Tensor
    blocks: int
    operations: tuple[Operation, ...]
    vectors: npt.NDArray[np.int32]

    @property
    def product(self) -> Product | None:
        """The convolution; None if there is none."""
        return next((o for o in self.operations if isinstance(o, Product)), None)


def normalize(layer: Layer, region: Region, config: VtaConfig) -> Work:
    """A layer's operations.

    Raises:
        Refused: It cannot be computed on this VTA.
    """
    if isinstance(layer, MaxPool2d):
        return _pooling(layer, region, config)
    return _Normalizer(layer, region, config).run()


def _pooling(layer: MaxPool2d, region: Region, config: VtaConfig) -> Work:
    if not reserve(config).exponents:
        raise Refused(_NO_IDENTITY)
    data, output = region.tensor(layer.data), region.tensor(layer.output)
    count = blocks(data.channels, config)
    padded = any(layer.padding)
    operations: list[Operation] = [Imm(AluOp.MIN, -128)] if padded else []
    operations.append(Pool(
        layer.data, (count, data.height, data.width), layer.kernel, layer.strides,
        (layer.padding[0], layer.padding[1]), replaces=not padded,
    ))  # fmt: skip
    low, high = region.limits(layer.data)
    if layer.low > low:
        operations.append(Imm(AluOp.MAX, layer.low))
    if layer.high < high:
        operations.append(Imm(AluOp.MIN, layer.high))
    vectors = np.zeros((0, count, config.block), dtype=np.int32)
    return Work(layer.name, output, count, tuple(operations), vectors)


@dataclass(slots=True)
class _Normalizer:
    layer: Conv2d | Sum
    region: Region
    config: VtaConfig
    operations: list[Operation] = field(default_factory=list)
    vectors: list[Int64] = field(default_factory=list)
    low: Int64 = field(init=False)
    high: Int64 = field(init=False)

    def run(self) -> Work:
        layer, output = self.layer, self.region.tensor(self.layer.output)
        self.low = np.zeros(output.channels, dtype=np.int64)
        self.high = np.zeros(output.channels, dtype=np.int64)
        halves = [_half(step) for step in layer.steps]
        offset = 0
        for n, step in enumerate(layer.steps):
            is_conv = n == 0 and isinstance(layer, Conv2d)
            self._shift_and_add(step, fresh=n == 0)
            # Half of the last place: into the bias, or already in the step before this one.
            constant = halves[n] - (offset << step.up)
            if is_conv:
                following, offset = self._absorbed(n, halves)
                constant = constant + (following << _array(step.shift))
                self._convolve(constant)
            else:
                following, offset = self._absorbed(n, halves)
                constant = constant + (following << _array(step.shift))
                self._add_constant(constant)
            self._limit(step, offset, last=n == len(layer.steps) - 1)
        vectors = np.zeros((len(self.vectors), blocks(output.channels, self.config),
                            self.config.block), dtype=np.int32)  # fmt: skip
        for at, values in enumerate(self.vectors):
            vectors[at].reshape(-1)[: output.channels] = _wrap(values)
        return Work(layer.name, output, blocks(output.channels, self.config),
                    tuple(self.operations), vectors)  # fmt: skip

    def _absorbed(self, n: int, halves: list[Int64]) -> tuple[int, int]:
        """What this step adds to its result on behalf of the next one's rounding; given twice."""
        steps = self.layer.steps
        if n + 1 == len(steps):
            return 0, 0
        following = steps[n + 1]
        half = int(halves[n + 1].flat[0])
        if (halves[n + 1] != half).any() or half % (1 << following.up):
            return 0, 0
        offset = half >> following.up
        if max(abs(steps[n].low + offset), abs(steps[n].high + offset)) >= _IMMEDIATE:
            return 0, 0
        return offset, offset

    def _shift_and_add(self, step: Step, *, fresh: bool) -> None:
        """``(acc << up) + sum(x << shift)``, the larger shifts first, so that some are shared."""
        available = reserve(self.config).exponents
        if step.adds and not available:
            raise Refused(_NO_IDENTITY)
        most = max(available, default=0)
        # The accumulators are `level` places short of where they shall be.
        level = max((max(0, a.shift - most) for a in step.adds), default=0) if fresh else step.up
        waiting = sorted(step.adds, key=lambda a: -a.shift)
        bounds = self.low << step.up, self.high << step.up
        while waiting:
            addend = waiting.pop(0)
            target = min(level, max(0, addend.shift - most))
            self._left(level - target)
            level = target
            rest = addend.shift - level
            exponent = min(rest, most)
            repeats = 1 << (rest - exponent)
            if repeats > MAX_REPEATS:
                raise Refused(f"{addend.tensor} is shifted by {addend.shift}")
            self.operations.append(Copy(addend.tensor, exponent, repeats))
            low, high = self.region.limits(addend.tensor)
            bounds = bounds[0] + (low << addend.shift), bounds[1] + (high << addend.shift)
        self._left(level)
        self.low, self.high = bounds

    def _left(self, places: int) -> None:
        while places > 0:
            part = min(places, 15)
            self.operations.append(Imm(AluOp.SHR, -part))
            places -= part

    def _convolve(self, constant: Int64) -> None:
        layer = self.layer
        if not isinstance(layer, Conv2d):
            raise TypeError("a sum has no weights")
        data = self.region.tensor(layer.data)
        weight = layer.weight
        outputs, _, kh, kw = weight.shape
        flat = weight.reshape(outputs, -1).astype(np.int64)
        low, high = self.region.limits(layer.data)
        if any(layer.padding):
            low, high = min(low, 0), max(high, 0)
        positive, negative = np.maximum(flat, 0).sum(axis=1), np.minimum(flat, 0).sum(axis=1)
        bias = layer.bias.astype(np.int64) + constant
        self.low = self.low + positive * low + negative * high + bias
        self.high = self.high + positive * high + negative * low + bias
        packed, diagonal = _pack_weights(layer, self.config)
        block = self.config.block
        weights = packed.reshape(*packed.shape[:2], kh * kw, block, block)
        digits = self._digits(bias)
        if digits is None:
            self._add_wide(bias)
        self.operations.append(Product(
            tensor=layer.data, source=(blocks(data.channels, self.config), data.height, data.width),
            weights=weights, kernel=(kh, kw), strides=layer.strides,
            padding=(layer.padding[0], layer.padding[1]), dilation=layer.dilation,
            diagonal=diagonal, bias=digits,
        ))  # fmt: skip

    def _digits(self, bias: Int64) -> Int8 | None:
        """Weights whose product with the constant input is the bias; None if that is no use."""
        block = self.config.block
        if _as_immediate(bias) is not None or not reserve(self.config).inp:
            return None
        quotient = np.rint(bias / BIAS_FACTOR).astype(np.int64)
        lanes = block - 1
        products = max(1, -(-int(np.abs(quotient).max()) // (BIAS_FACTOR * lanes)))
        if products > MAX_BIAS_PRODUCTS:
            return None
        count = blocks(len(bias), self.config)
        digits = np.zeros((count, block, products, block), dtype=np.int64)
        rows = digits.reshape(count * block, products, block)[: len(bias)]
        rows[:, 0, lanes] = bias - quotient * BIAS_FACTOR
        for n in range(products):
            for lane in range(lanes):
                part = np.clip(quotient, -BIAS_FACTOR, BIAS_FACTOR)
                rows[:, n, lane] = part
                quotient = quotient - part
        return np.ascontiguousarray(digits.transpose(0, 2, 1, 3)).astype(np.int8)

    def _add_constant(self, constant: Int64) -> None:
        self.low, self.high = self.low + constant, self.high + constant
        self._add_wide(constant)

    def _add_wide(self, constant: Int64) -> None:
        """Add by the vector unit."""
        constant = np.broadcast_to(constant, self.low.shape)
        immediate = _as_immediate(constant)
        if immediate == 0:
            return
        if immediate is not None:
            self.operations.append(Imm(AluOp.ADD, immediate))
        else:
            self._vector(AluOp.ADD, constant)

    def _vector(self, op: AluOp, values: Int64) -> None:
        for at, known in enumerate(self.vectors):
            if (known == values).all():
                self.operations.append(Vector(op, at))
                return
        self.vectors.append(np.array(values))
        self.operations.append(Vector(op, len(self.vectors) - 1))

    def _limit(self, step: Step, offset: int, *, last: bool) -> None:
        """The shift to the right and the limits; `offset` is on top of the result."""
        shift = np.broadcast_to(_array(step.shift), self.low.shape)
        if (shift == shift[0]).all():
            places = int(shift[0])
            while places > 0:
                part = min(places, 15)
                self.operations.append(Imm(AluOp.SHR, part))
                places -= part
        else:
            self._vector(AluOp.SHR, shift)
        self.low, self.high = self.low >> shift, self.high >> shift
        low, high = step.low + offset, step.high + offset
        written = isinstance(self.operations[-1], Imm | Vector)
        # The chip's output memory is only written by the vector unit and by products.
        if (self.low < low).any() or (last and not written and not (self.high > high).any()):
            self.operations.append(Imm(AluOp.MAX, low))
        if (self.high > high).any():
            self.operations.append(Imm(AluOp.MIN, high))
        self.low, self.high = np.clip(self.low, low, high), np.clip(self.high, low, high)


def _pack_weights(layer: Conv2d, config: VtaConfig) -> tuple[Int8, bool]:
    """Weights in blocks, and whether only blocks of the same number are connected.

    Returns:
        int8 (out blocks, in blocks or 1, kernel height, kernel width, block, block).

    Raises:
        Refused: Groups would become too many zeros.
    """
    outputs, inner, kh, kw = layer.weight.shape
    block, groups = config.block, layer.groups
    inputs, per_group = inner * groups, outputs // groups
    out_blocks, in_blocks = blocks(outputs, config), blocks(inputs, config)
    o = np.arange(outputs)[:, None]
    i = (o // per_group) * inner + np.arange(inner)[None, :]
    diagonal = is_diagonal(outputs, inner, groups, block)
    if groups > 1 and not diagonal and inputs * outputs * kh * kw > 1 << 26:
        raise Refused(f"{groups} groups of {inner} channels would be {inputs * outputs} products")
    full = np.zeros((out_blocks, 1 if diagonal else in_blocks, kh, kw, block, block), np.int8)
    at = np.zeros_like(i) if diagonal else i // block
    full[o // block, at, :, :, o % block, i % block] = layer.weight
    return full, diagonal


def is_diagonal(outputs: int, inner: int, groups: int, block: int) -> bool:
    """Whether each block of outputs depends on the block of inputs of the same number alone.

    Args:
        outputs: Output channels.
        inner: Input channels of a group.
        groups: Groups of channels.
        block: Channels of a block.
    """
    o = np.arange(outputs)[:, None]
    i = (o // (outputs // groups)) * inner + np.arange(inner)[None, :]
    return inner * groups > block and bool((o // block == i // block).all())


def _half(step: Step) -> Int64:
    return np.asarray((np.int64(1) << _array(step.shift)) >> 1, dtype=np.int64)


def _array(shift: int | Sequence[int]) -> Int64:
    return np.atleast_1d(np.asarray(shift, dtype=np.int64))


def _as_immediate(values: Int64) -> int | None:
    """The one constant that all are, if an instruction can hold it."""
    first = int(values[0])
    same = (values == first).all() and -_IMMEDIATE <= first < _IMMEDIATE
    return first if same else None


def _wrap(values: Int64) -> Any:
    return (values & 0xFFFFFFFF).astype(np.uint32).astype(np.int32)


__all__ = [
    "BIAS_FACTOR", "Copy", "Imm", "Int64", "Operation", "Pool", "Product", "Refused", "Reserve",
    "Vector", "Windowed", "Work", "is_diagonal", "normalize", "reserve",
]  # fmt: skip
