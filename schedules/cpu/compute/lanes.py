"""Convolutions and matrix products for micro-kernels, as tensor expressions.

They say what the sums are, and which operands they read; a schedule rule puts a micro-kernel's
statements in the place of the loops (`schedules.cpu.rules.microkernels`). Weights are packed in
panels ``[panels, (kernel,) steps, columns * group]`` by `microkernels.base.pack`. Unsigned
activations that are read as signed bytes, 128 less than they are, need what that takes away from
each column. It is known when the weights are: then a panel is a run of bytes, first that of its
columns, 4 bytes each, then the weights.

Where few channels are read, a line of the window is one run of memory: its width and its channels
make up one dimension of the reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, ROLE, SIZE
from schedules.cpu.compute.packed import (
    Attributes,
    ConvGeometry,
    choose,
    crop,
    multiply,
    pad_spatial,
    round_up,
)
from schedules.cpu.microkernels.base import Groups, pack
from schedules.cpu.tiling import RegisterTile
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]
#: A shift of unsigned bytes into the range of signed ones.
SHIFT = 128
#: Bytes of what a column's sums start with.
SUM_BYTES = 4


@dataclass(frozen=True)
class Reading:
    """How a product reads its operands.

    Attributes:
        groups: The innermost loop of the reduction.
        flat: Whether it runs over a line of the window, not over one position's channels.
        shifted: Whether unsigned activations are read as signed bytes.
        accumulator: Dtype of the sums.
    """

    groups: Groups
    flat: bool
    shifted: bool
    accumulator: str

    def axes(self) -> tuple[list[Any], Any, Any, Any]:
        """Axes of the innermost loop, the element, the step and the element within the step."""
        step = te.reduce_axis((0, self.groups.steps), "k")
        if self.groups.group == 1:
            return [step], step, step, 0
        within = te.reduce_axis((0, self.groups.group), "group")
        return [step, within], self.groups.first(step) + within, step, within

    def term(self, value: Any, weight: Any) -> Any:
        """The product of an activation and a weight."""
        if self.shifted and str(value.dtype) == "uint8":
            return (value.astype(self.accumulator) - SHIFT) * weight.astype(self.accumulator)
        return multiply(value, weight, self.accumulator)

    def weight(
        self, packed: Any, place: tuple[Any, ...], column: Any, width: int, within: Any,
        extents: tuple[int, ...] = (),
    ) -> Any:  # fmt: skip
        """A weight of a panel of `width` columns.

        Args:
            packed: The panels.
            place: Indices of the loops of the reduction, the step last.
            column: Of the product.
            width: Columns of a panel.
            within: The element within the step.
            extents: Of the loops; not needed for one.
        """
        last = column % width * self.groups.group + within
        if not self.shifted:
            return packed[(column // width, *place, last)]
        at = place[0]
        for index, extent in zip(place[1:], extents[1:], strict=True):
            at = at * extent + index
        size = width * self.groups.group
        return packed[column // width, at * size + (SUM_BYTES * width + last)]

    def starts(self, packed: Any, tile: RegisterTile) -> Any | None:
        """What the sums of a panel's columns start with, once for each row of a block.

        ``[panels, rows * columns]``; None for nothing.
        """
        if not self.shifted:
            return None
        width = tile.columns

        def start(panel: Any, place: Any) -> Any:
            value = None
            for i in range(SUM_BYTES):
                byte = packed[panel, place % width * SUM_BYTES + i].astype("int32")
                part = tirx.floormod(byte, tirx.const(256, "int32")) * tirx.const(256**i, "int32")
                value = part if value is None else value + part
            return value

        shape = (packed.shape[0], tile.rows * width)
        return te.compute(shape, start, name="start", attrs={ROLE: "start"})

    def started(
        self, term: Any, starts: Any | None, row: Any, column: Any, width: int, axes: Sequence[Any]
    ) -> Any:
        """The term, and what the sums start with beside the first one; `row` is a block's."""
        if starts is None:
            return term
        value = starts[column // width, row * width + column % width]
        begin = tirx.all(*(axis == 0 for axis in axes))
        return term + tirx.if_then_else(begin, value, tirx.const(0, "int32"))


def matmul(
    data: Any,
    packed: Any,
    n: int,
    tile: RegisterTile,
    reading: Reading,
    attrs: Attributes,
    *,
    once: bool = True,
) -> Any:
    """``data[..., m, k] @ weight[k, n]`` with the weight packed; ``[..., m, n]``."""
    *batch, m, _ = data.shape
    m = _int(m)
    rows = round_up(m, tile.rows)
    width = tile.columns
    axes, k, step, within = reading.axes()
    clamp = not (isinstance(m, int) and rows == m)
    data = fill_last(data, reading.groups.size)
    if once and reading.shifted:
        data = as_signed(data)
    starts = reading.starts(packed, tile)

    def product(*index: Any) -> Any:
        *b, i, j = index
        row = tirx.min(i, m - 1) if clamp else i
        weight = reading.weight(packed, (step,), j, width, within)
        term = reading.term(data[(*b, row, k)], weight)
        return te.sum(reading.started(term, starts, i % tile.rows, j, width, axes), axis=axes)

    out = te.compute(
        (*batch, rows, round_up(n, width)), product, name="dense",
        attrs={KERNEL: "lanes_dense", SIZE: reading.groups.size, **attrs},
    )  # fmt: skip
    return crop(out, (*batch, m, n))


def conv2d(
    data: Any,
    packed: Any,
    out_channels: int,
    kernel: tuple[int, int],
    geometry: ConvGeometry,
    tile: RegisterTile,
    reading: Reading,
    attrs: Attributes,
    *,
    inner: int,
    input_dilation: tuple[int, int] = (1, 1),
    out_size: tuple[int, int],
    pad_value: float = 0,
    once: bool = True,
) -> Any:
    """2-D convolution of ``NHWC`` data with a kernel packed in panels; returns ``NHWC``."""
    batch, given = _int(data.shape[0]), _int(data.shape[3])
    kh, kw = kernel
    (stride_h, stride_w), (dilation_h, dilation_w) = geometry.strides, geometry.dilation
    out_h, out_w = out_size
    rows_h, rows_w = round_up(out_h, tile.row_outer), round_up(out_w, tile.row_inner)
    pointwise = kh == kw == 1 and not any(geometry.padding) and input_dilation == (1, 1)
    needed = (
        (rows_h - 1) * stride_h + (kh - 1) * dilation_h + 1,
        (rows_w - 1) * stride_w + (kw - 1) * dilation_w + 1,
    )
    groups, panel, steps = geometry.groups, tile.columns, reading.groups.steps
    per_group = ceil(out_channels // groups / panel) * panel
    channels = None if groups > 1 or reading.flat else max(inner, reading.groups.size)
    if pointwise:
        source = fill_last(data, channels or given)
    else:
        source = pad_spatial(
            data, geometry.padding, needed, pad_value, input_dilation, channels=channels
        )
    if reading.flat:
        source = flatten(source, inner)
    if once and reading.shifted:
        source = as_signed(source)
    starts = reading.starts(packed, tile)
    y = te.reduce_axis((0, kh), "kh")
    extents = (kh, 1 if reading.flat else kw, steps)
    x = te.reduce_axis((0, extents[1]), "kw")
    axes, k, step, within = reading.axes()

    def product(n: Any, h: Any, w: Any, o: Any) -> Any:
        h0, w0 = h, w
        if pointwise:
            h = tirx.min(h, out_h - 1) if rows_h > out_h else h
            w = tirx.min(w, out_w - 1) if rows_w > out_w else w
        channel = k if groups == 1 else o // per_group * inner + k
        line, place = h * stride_h + y * dilation_h, w * stride_w + x * dilation_w
        if reading.flat:
            value = source[n, line, w * (stride_w * inner) + k]
        else:
            value = source[n, line, place, channel]
        weight = reading.weight(packed, (y, x, step), o, panel, within, extents)
        everything = [y, x, *axes]
        term = reading.term(value, weight)
        row = h0 % tile.row_outer * tile.row_inner + w0 % tile.row_inner
        return te.sum(reading.started(term, starts, row, o, panel, everything), axis=everything)

    out = te.compute(
        (batch, rows_h, rows_w, groups * per_group), product, name="conv2d",
        attrs={KERNEL: "lanes_conv2d", SIZE: reading.groups.size, **attrs},
    )  # fmt: skip
    return crop(out, (batch, out_h, out_w, out_channels))


def batch_matmul(
    lhs: Any,
    rhs: Any,
    tile: RegisterTile,
    reading: Reading,
    attrs: Attributes,
    *,
    transpose_rhs: bool,
) -> Any:
    """``lhs[b..., m, k] @ rhs[b..., k, n]``, the right side packed inside the kernel.

    With `transpose_rhs` the right side is ``[b..., n, k]``. Batch dimensions of extent 1
    broadcast. Returns ``[b..., m, n]``.
    """
    *lb, m, given = (_int(v) for v in lhs.shape)
    *rb, r0, r1 = (_int(v) for v in rhs.shape)
    n = r0 if transpose_rhs else r1
    batch = [b if b != 1 else a for a, b in zip(lb, rb, strict=True)]
    width, group, groups = tile.columns, reading.groups.group, reading.groups
    columns, rows = round_up(n, width), round_up(m, tile.rows)
    lhs = fill_last(lhs, groups.size)

    def packing(*index: Any) -> Any:
        *b, panel, step, place = index
        column = panel * width + place // group
        k = groups.first(step) + place % group if group > 1 else step
        value = rhs[(*b, column, k) if transpose_rhs else (*b, k, column)]
        inside = [] if columns == n else [column < n]
        if groups.overlap:
            before = tirx.if_then_else(step > 0, groups.first(step - 1) + group, 0)
            inside.append(k >= before)
        inside += [k < given] if groups.size > given else []
        return choose(tirx.all(*inside), value, 0) if inside else value

    packed = te.compute(
        (*rb, columns // width, groups.steps, width * group), packing, name="pack",
        attrs={ROLE: "pack"},
    )  # fmt: skip
    axes, k, step, within = reading.axes()

    def product(*index: Any) -> Any:
        *b, i, j = index
        row = tirx.min(i, m - 1) if rows > m else i
        left = [0 if e == 1 else v for v, e in zip(b, lb, strict=True)]
        right = [0 if e == 1 else v for v, e in zip(b, rb, strict=True)]
        weight = packed[(*right, j // width, step, j % width * group + within)]
        return te.sum(multiply(lhs[(*left, row, k)], weight, reading.accumulator), axis=axes)

    out = te.compute(
        (*batch, rows, columns), product, name="batch_matmul",
        attrs={KERNEL: "lanes_batch_matmul", SIZE: reading.groups.size, **attrs},
    )  # fmt: skip
    return crop(out, (*batch, m, n))


def flatten(source: Any, channels: int) -> Any:
    """``[n, h, w, c]`` as ``[n, h, w * c]``."""
    batch, height, width, given = source.shape
    if int(given) != channels:
        raise ValueError(f"{given} channels, not {channels}")
    return te.compute(
        (batch, height, width * channels),
        lambda n, h, i: source[n, h, i // channels, i % channels],
        name="pad", attrs={ROLE: "pad"},
    )  # fmt: skip


def as_signed(data: Any) -> Any:
    """Unsigned bytes, 128 less: their top bits turned, read as signed ones."""
    if str(data.dtype) != "uint8":
        return data

    def turned(*index: Any) -> Any:
        return tirx.reinterpret("int8", tirx.bitwise_xor(data[index], tirx.const(SHIFT, "uint8")))

    return te.compute(tuple(data.shape), turned, name="pad", attrs={ROLE: "pad"})


def fill_last(data: Any, size: int) -> Any:
    """The tensor with zeros behind the last dimension, if it is shorter than `size`."""
    given = _int(data.shape[-1])
    if given >= size:
        return data

    def filled(*index: Any) -> Any:
        return choose(index[-1] < given, data[index], 0)

    return te.compute((*data.shape[:-1], size), filled, name="pad", attrs={ROLE: "pad"})


def pack_kernel(weight: Array, columns: int, groups: int, steps: Groups, *, flat: bool) -> Array:
    """Pack ``OIHW`` into ``[panels, kh, kw, steps, columns * group]``; `kw` is 1 if `flat`."""
    out, inner, kh, kw = weight.shape
    each = weight.reshape(groups, out // groups, inner, kh, kw).transpose(0, 3, 4, 2, 1)
    if flat:
        each = each.reshape(groups, kh, 1, kw * inner, out // groups)
    each = _fill_steps(each, steps)
    return np.concatenate([pack(part, columns, steps) for part in each])


def pack_matrix(weight: Array, columns: int, steps: Groups) -> Array:
    """Pack ``[k, n]`` into ``[panels, steps, columns * group]``."""
    return pack(_fill_steps(weight, steps), columns, steps)


def with_start(packed: Array, weight: Array, columns: int, groups: int) -> Array:
    """Packed weights behind what their columns' sums start with, ``[panels, bytes]``.

    Args:
        packed: The panels.
        weight: ``OIHW``, or the transposed ``[k, n]``.
        columns: Of a panel.
        groups: Of the convolution.
    """
    totals = weight.reshape(groups, weight.shape[0] // groups, -1).sum(axis=2, dtype=np.int64)
    first = np.zeros((groups, ceil(totals.shape[1] / columns) * columns), np.int32)
    first[:, : totals.shape[1]] = SHIFT * totals
    raw = first.astype("<i4").reshape(len(packed), columns).view(np.int8)
    return np.concatenate([raw, packed.reshape(len(packed), -1)], axis=1)


def _fill_steps(weight: Array, steps: Groups) -> Array:
    """Weights ``[..., k, outputs]`` with zeros where the reduction is shorter than a step."""
    missing = steps.size - weight.shape[-2]
    return np.pad(weight, [*[(0, 0)] * (weight.ndim - 2), (0, missing), (0, 0)])


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, (int, tirx.IntImm)) else value


__all__ = [
    "SHIFT",
    "SUM_BYTES",
    "Reading",
    "batch_matmul",
    "conv2d",
    "matmul",
    "pack_kernel",
    "pack_matrix",
    "with_start",
]
