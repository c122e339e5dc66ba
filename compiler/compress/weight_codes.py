"""What compressed weights of float arithmetic mean, in NumPy, and how they are chosen.

A weight is *codes*, small integers of its own shape, and *factors* that say what they mean:

- scales: the weight is code times scale, rounded once to float32. The scales have the weight's
  shape, but for extents that they are repeated along: ``[1, n]`` for one scale a column,
  ``[k / group, n]`` for groups of inputs;
- a codebook ``[blocks, entries]``: the weight is the entry that the code names, in the row of its
  output channel's block, times the channel's scale, rounded once;
- none: the codes are float16 numbers, and mean themselves.

`decode` is the definition that every kernel's weights have to equal, bit for bit. Scales of groups
are float16 numbers, others float32. Choosing them uses only operations that are the same on
every machine: a plan without scales gives the same codes everywhere. Nothing here imports TVM
or torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.compress import low_bits
from compiler.compress.plan import WEIGHT_LIMITS, WeightPlan

Array = npt.NDArray[Any]

#: Entries that a codebook has room for.
ENTRIES = 16
#: Shares of the largest weight that are tried as the end of the range, from the largest one.
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
#: How weights of a model that was quantized elsewhere are stored again: to the same steps.
IMPORTED = "imported"
#: Rounds of k-means.
ROUNDS = 30
#: Largest number of float16, and its least positive one.
HALF_MAX, HALF_LEAST = 65504.0, 2.0**-24
#: Elements that are worked on at a time.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Codes:
    """A compressed weight.

    Attributes:
        codes: int8; uint8 for indices into a codebook; float16 numbers.
        factors: Scales or codebook; None where the codes mean themselves.
        axis: Axis of output channels.
        scales: Beside a codebook, one float32 number an output channel.
    """

    codes: Array
    factors: Array | None
    axis: int
    scales: Array | None = None

    @property
    def codebook(self) -> bool:
        """Whether codes are indices."""
        return self.codes.dtype == np.uint8

    def decoded(self) -> Array:
        """The float32 weight that it means."""
        return decode(self.codes, *self.operands, axis=self.axis)

    @property
    def operands(self) -> tuple[Array, ...]:
        """What `decode` takes beside the codes."""
        return tuple(v for v in (self.factors, self.scales) if v is not None)


def decode(
    codes: Array, factors: Array | None = None, scales: Array | None = None, *, axis: int
) -> Array:
    """The float32 weight that codes mean.

    Args:
        codes: int8 with scales, uint8 with a codebook, or float16.
        factors: Scales, each extent a divisor of the codes'; or ``[blocks, entries]``.
        scales: Of a codebook, one an output channel.
        axis: Axis of output channels, which says what block an index belongs to.
    """
    if factors is None:
        return codes.astype(np.float32)
    if codes.dtype == np.uint8:
        size = codes.shape[axis] // len(factors)
        shape = [1] * codes.ndim
        shape[axis] = -1
        block = (np.arange(codes.shape[axis]) // size).reshape(shape)
        entries = np.asarray(factors[block, codes], np.float32)
        return entries if scales is None else entries * scales.reshape(shape)
    steps = factors.astype(np.float32)
    for place, (extent, have) in enumerate(zip(codes.shape, steps.shape, strict=True)):
        if have not in (1, extent):
            steps = steps.repeat(extent // have, place)
    return codes.astype(np.float32) * steps


def encode(weight: Array, plan: WeightPlan, inputs: int) -> Codes:
    """A weight as a plan stores it.

    Args:
        weight: Real numbers.
        plan: How; scales that it does not have are derived from the weight.
        inputs: Axis of input channels, along which groups lie.

    Raises:
        ValueError: The weight cannot be stored so; the message says why.
    """
    real = weight.astype(np.float32)
    if plan.dtype == "float16":
        if np.abs(real).max(initial=0.0) > HALF_MAX:
            raise ValueError("it has weights that float16 cannot hold")
        return Codes(real.astype(np.float16), None, plan.axis)
    if plan.dtype == "codebook":
        return _with_codebook(real, plan)
    if plan.dtype in ("ternary", "binary"):
        stored, scales = low_bits.stored_weight(
            real, plan.dtype, plan.scales, plan.axis, tensor=plan.granularity == "tensor",
            method=plan.method,
        )  # fmt: skip
        factors = _along(np.asarray(scales, np.float32), real.ndim, plan.axis)
        return Codes(stored, factors, plan.axis)
    limit = WEIGHT_LIMITS[plan.dtype]
    if plan.granularity == "group":
        return _in_groups(real, plan, inputs, limit)
    if plan.scales:
        steps = np.asarray(plan.scales, np.float32)
    else:
        rows = np.moveaxis(real, plan.axis, 0).reshape(real.shape[plan.axis], -1)
        rows = rows.reshape(1, -1) if plan.granularity == "tensor" else rows
        steps = best_scales(rows, limit, plan.method)
    factors = _along(steps, real.ndim, plan.axis)
    return Codes(_rounded(real, factors, limit), factors, plan.axis)


def best_scales(rows: Array, limit: int, method: str, *, half: bool = False) -> Array:
    """A scale for each row of float32 numbers.

    Args:
        rows: ``[rows, numbers]``.
        limit: Greatest magnitude of a code.
        method: ``mse`` for the least squared error among `SHARES`, ``minmax`` for the whole
            range, ``imported`` for numbers that were rounded before.
        half: Scales are float16 numbers.

    Returns:
        float32, or float16 with `half`; positive.
    """
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    parts = [_scales_of(rows[i : i + step], limit, method, half) for i in range(0, len(rows), step)]
    return np.concatenate(parts)


def _scales_of(rows: Array, limit: int, method: str, half: bool) -> Array:
    largest = np.abs(rows).max(axis=1)
    full = largest / np.float32(limit)

    def storable(scales: Array) -> Array:
        if half:
            return np.clip(scales, HALF_LEAST, HALF_MAX).astype(np.float16).astype(np.float32)
        # What is not there or too small for one over it to be a number becomes some scale.
        return np.where(scales > 1e-30, scales, np.float32(1))

    best = storable(full)
    shares: Sequence[float] = ()
    if method == "mse":
        shares = SHARES[1:]
    elif method == IMPORTED:
        shares = _whole_steps(limit).tolist()
    if len(shares):
        least = _error(rows, best, limit)
        for share in shares:
            scales = storable(full * np.float32(share))
            error = _error(rows, scales, limit)
            better = error < least
            best, least = np.where(better, scales, best), np.where(better, error, least)
    return best.astype(np.float16 if half else np.float32)


def _whole_steps(limit: int) -> Array:
    """Shares of the whole range with which the largest number is some whole number of steps.

    Numbers that were rounded before, to steps of their own, are met exactly by one of them.
    """
    return np.asarray([limit / steps for steps in range(limit + 1, 0, -1)], np.float32)


def _error(rows: Array, scales: Array, limit: int) -> Array:
    stored = np.clip(np.rint(rows / scales[:, None]), -limit, limit)
    distance = stored * scales[:, None] - rows
    with np.errstate(over="ignore"):
        return _fold(distance * distance)


def _fold(rows: Array) -> Array:
    """Sums of rows, in one order on every machine: in halves."""
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        folded = rows[:, :half] + rows[:, half : 2 * half]
        rows = np.concatenate([folded, rows[:, 2 * half :]], 1) if rows.shape[1] % 2 else folded
    return np.asarray(rows[:, 0])


def _in_groups(real: Array, plan: WeightPlan, inputs: int, limit: int) -> Codes:
    extent = real.shape[inputs]
    if extent % plan.group:
        raise ValueError(f"groups of {plan.group} do not divide its {extent} inputs")
    moved = np.moveaxis(real, inputs, -1)
    rows = moved.reshape(-1, plan.group)
    scales = best_scales(rows, limit, plan.method, half=True)
    factors = np.moveaxis(scales.reshape(*moved.shape[:-1], -1), -1, inputs)
    steps = np.moveaxis(np.repeat(factors, plan.group, axis=inputs), inputs, inputs)
    return Codes(_rounded(real, steps, limit), np.ascontiguousarray(factors), plan.axis)


def _rounded(real: Array, scales: Array, limit: int) -> Array:
    """Codes, to the nearest, ties to the even one."""
    steps = np.rint(real / scales.astype(np.float32))
    return np.clip(steps, -limit, limit).astype(np.int8)


def _along(values: Array, rank: int, axis: int) -> Array:
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


# Codebooks


def _with_codebook(real: Array, plan: WeightPlan) -> Codes:
    outputs = real.shape[plan.axis]
    size = plan.group or outputs
    if outputs % size:
        raise ValueError(f"blocks of {size} do not divide its {outputs} outputs")
    if 1 << plan.bits > ENTRIES:
        raise ValueError(f"a codebook has {ENTRIES} entries, indices of {plan.bits} bits name more")
    moved = np.moveaxis(real, plan.axis, 0)
    largest = np.abs(moved.reshape(outputs, -1)).max(axis=1)
    scales = np.where(largest > 1e-30, largest, np.float32(1)).astype(np.float32)
    blocks = (moved.reshape(outputs, -1) / scales[:, None]).reshape(outputs // size, -1)
    books = [k_means(block, 1 << plan.bits) for block in blocks]
    codes = np.stack([nearest(b, book) for b, book in zip(blocks, books, strict=True)])
    table = np.zeros((len(books), ENTRIES), np.float32)
    for row, book in zip(table, books, strict=True):
        row[: len(book)] = book
    stored = np.moveaxis(codes.reshape(moved.shape), 0, plan.axis)
    return Codes(np.ascontiguousarray(stored), table, plan.axis, scales)


def k_means(values: Array, count: int) -> Array:
    """At most `count` numbers that stand for many, with little squared error, in order.

    Lloyd's rounds from evenly spaced ranks. Sums are taken one after another over the sorted
    numbers in double precision, so the result depends on the numbers alone.
    """
    ordered = np.sort(values.astype(np.float64), axis=None)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    ranks = ((np.arange(count) + 0.5) / count * len(ordered)).astype(np.int64)
    # Half by rank, half by value: the few large weights get entries of their own.
    even = ordered[0] + (np.arange(count) + 0.5) / count * (ordered[-1] - ordered[0])
    book = np.unique((ordered[ranks] + even) / 2)
    for _ in range(ROUNDS):
        edges = np.searchsorted(ordered, (book[1:] + book[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(ordered)]])
        counts = np.diff(bounds)
        totals = sums[bounds[1:]] - sums[bounds[:-1]]
        means = np.divide(totals, counts, out=book.copy(), where=counts > 0)
        moved = np.unique(means)
        if np.array_equal(moved, book):
            break
        book = moved
    return np.unique(book.astype(np.float32))


def nearest(values: Array, book: Array) -> Array:
    """The index of the nearest entry of an ordered codebook, ties to the lower one."""
    middle = (book[1:].astype(np.float64) + book[:-1]) / 2
    return np.searchsorted(middle, values.astype(np.float64)).astype(np.uint8)


def stored_bytes(plan: WeightPlan, shape: tuple[int, ...], inputs: int) -> int:
    """Bytes that a weight's codes and factors take, padding of kernels aside."""
    size = int(np.prod(shape))
    outputs = shape[plan.axis]
    bits = {"int8": 8, "int4": 4, "ternary": 2, "binary": 1, "codebook": 4, "float16": 16}
    total = size * bits[plan.dtype] // 8
    if plan.dtype == "float16":
        return total
    if plan.dtype == "codebook":
        return total + 4 * ENTRIES * (outputs // plan.group if plan.group else 1) + 4 * outputs
    if plan.granularity == "group":
        return total + 2 * (size // shape[inputs]) * (shape[inputs] // plan.group)
    return total + 4 * (outputs if plan.granularity == "channel" else 1)


__all__ = [
    "ENTRIES",
    "Codes",
    "best_scales",
    "decode",
    "encode",
    "k_means",
    "nearest",
    "stored_bytes",
]
