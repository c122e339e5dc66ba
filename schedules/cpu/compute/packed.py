"""Convolutions and matrix products on packed weights, as tensor expressions.

Every one of them is a sum over products of broadcast activations and vectors of weights, so
they share one schedule rule. Weights are packed in panels as wide as the register tile:
``[panels, (kernel,) reduction, columns]``, zero-filled at the right edge. Outputs are
computed on extents rounded up to the tile; a ``crop`` stage, which later becomes part of the
epilogue, writes the real ones. Rows that hang over read a clamped or padded place, so the
inner loop has no condition in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, ROLE, TILE
from schedules.cpu.tiling import RegisterTile
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Strides, padding (top, left, bottom, right), dilation and groups of a 2-D convolution."""

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_extent(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Output height and width for an input of `size` and a kernel of `kernel`."""
        top, left, bottom, right = self.padding
        height = size[0] + top + bottom - self.dilation[0] * (kernel[0] - 1) - 1
        width = size[1] + left + right - self.dilation[1] * (kernel[1] - 1) - 1
        return height // self.strides[0] + 1, width // self.strides[1] + 1


def round_up(value: Any, multiple: int) -> Any:
    """`value` rounded up to a multiple; works on ints and on symbolic extents."""
    if isinstance(value, int):
        return ceil(value / multiple) * multiple
    return tirx.floordiv(value + multiple - 1, multiple) * multiple


def pack_matrix(weight: Array, columns: int) -> Array:
    """Pack ``[reduction, n]`` into panels ``[panels, reduction, columns]``."""
    reduction, n = weight.shape
    panels = ceil(n / columns)
    padded = np.zeros((reduction, panels * columns), weight.dtype)
    padded[:, :n] = weight
    return np.ascontiguousarray(padded.reshape(reduction, panels, columns).transpose(1, 0, 2))


def pack_kernel(weight: Array, columns: int, groups: int = 1) -> Array:
    """Pack ``OIHW`` into panels ``[panels, kh, kw, ic, columns]``.

    Raises:
        ValueError: There are several groups, and `columns` does not divide a group's outputs.
    """
    out, inner, kh, kw = weight.shape
    if groups > 1 and out // groups % columns:
        raise ValueError(f"{columns} columns do not divide {out // groups} outputs of a group")
    per_group = ceil(out // groups / columns)
    padded = np.zeros((groups, per_group * columns, inner, kh, kw), weight.dtype)
    padded[:, : out // groups] = weight.reshape(groups, out // groups, inner, kh, kw)
    panels = padded.reshape(groups * per_group, columns, inner, kh, kw)
    return np.ascontiguousarray(panels.transpose(0, 3, 4, 2, 1))


def matmul_packed(data: Any, packed: Any, n: int, tile: RegisterTile) -> Any:
    """``data[..., m, k] @ weight[k, n]`` with the weight packed by `pack_matrix`.

    Returns a tensor ``[..., m, n]``.
    """
    *batch, m, reduction = data.shape
    m = _int(m)
    rows, width = round_up(m, tile.rows), tile.columns
    padded_n = round_up(n, width)
    k = te.reduce_axis((0, reduction), "k")
    clamp = not (isinstance(m, int) and rows == m)

    def product(*index: Any) -> Any:
        *b, i, j = index
        row = tirx.min(i, m - 1) if clamp else i
        return te.sum(data[(*b, row, k)] * packed[j // width, k, j % width], axis=k)

    out = te.compute(
        (*batch, rows, padded_n), product, name="dense",
        attrs={KERNEL: "dense", TILE: tile.as_list()},
    )  # fmt: skip
    return crop(out, (*batch, m, n))


def batch_matmul(
    lhs: Any, rhs: Any, tile: RegisterTile, *, transpose_rhs: bool, scale: float | None = None
) -> Any:
    """``lhs[b..., m, k] @ rhs[b..., k, n]``, the right side packed inside the kernel.

    With `transpose_rhs` the right side is ``[b..., n, k]``. Batch dimensions of extent 1
    broadcast. Returns ``[b..., m, n]``.
    """
    *lb, m, reduction = lhs.shape
    *rb, r0, r1 = rhs.shape
    n = _int(r0 if transpose_rhs else r1)
    m = _int(m)
    batch = [b if not _is_one(b) else a for a, b in zip(lb, rb, strict=True)]
    width = tile.columns
    panels = round_up(n, width) // width

    def packing(*index: Any) -> Any:
        *b, panel, kk, lane = index
        column = panel * width + lane
        place = (*b, column, kk) if transpose_rhs else (*b, kk, column)
        value = rhs[place]
        if isinstance(n, int) and n % width == 0:
            return value
        return tirx.if_then_else(column < n, value, tirx.const(0, rhs.dtype))

    packed = te.compute((*rb, panels, reduction, width), packing, name="pack", attrs={ROLE: "pack"})
    rows = round_up(m, tile.rows)
    k = te.reduce_axis((0, reduction), "k")
    clamp = not (isinstance(m, int) and rows == m)

    def product(*index: Any) -> Any:
        *b, i, j = index
        row = tirx.min(i, m - 1) if clamp else i
        left = [_broadcast(v, extent) for v, extent in zip(b, lb, strict=True)]
        right = [_broadcast(v, extent) for v, extent in zip(b, rb, strict=True)]
        return te.sum(lhs[(*left, row, k)] * packed[(*right, j // width, k, j % width)], axis=k)

    out = te.compute(
        (*batch, rows, panels * width), product, name="batch_matmul",
        attrs={KERNEL: "batch_matmul", TILE: tile.as_list()},
    )  # fmt: skip
    shape = (*batch, m, n)
    if scale is None:
        return crop(out, shape)
    return te.compute(shape, lambda *i: out[i] * tirx.const(scale, out.dtype), name="scale")


def conv2d_packed(
    data: Any,
    packed: Any,
    out_channels: int,
    geometry: ConvGeometry,
    tile: RegisterTile,
    *,
    input_dilation: tuple[int, int] = (1, 1),
    out_size: tuple[int, int] | None = None,
) -> Any:
    """2-D convolution of ``NHWC`` data with a kernel packed by `pack_kernel`; returns ``NHWC``.

    With `input_dilation`, the stride of a transposed convolution, zeros are put between the
    input's elements; `out_size` is then the transposed convolution's output height and width.
    """
    batch, height, width, _ = (_int(v) for v in data.shape)
    panels, kh, kw, inner, lanes = (_int(v) for v in packed.shape)
    groups = geometry.groups
    stride_h, stride_w = geometry.strides
    dilation_h, dilation_w = geometry.dilation
    out_h, out_w = out_size or geometry.output_extent((height, width), (kh, kw))
    rows_h, rows_w = round_up(out_h, tile.row_outer), round_up(out_w, tile.row_inner)
    source = pad_spatial(
        data,
        geometry.padding,
        (
            (rows_h - 1) * stride_h + (kh - 1) * dilation_h + 1,
            (rows_w - 1) * stride_w + (kw - 1) * dilation_w + 1,
        ),
        dilate=input_dilation,
    )
    per_group = panels // groups
    columns = panels * lanes
    y = te.reduce_axis((0, kh), "kh")
    x = te.reduce_axis((0, kw), "kw")
    c = te.reduce_axis((0, inner), "ic")

    def product(n: Any, h: Any, w: Any, o: Any) -> Any:
        channel = c if groups == 1 else o // (per_group * lanes) * inner + c
        return te.sum(
            source[n, h * stride_h + y * dilation_h, w * stride_w + x * dilation_w, channel]
            * packed[o // lanes, y, x, c, o % lanes],
            axis=[y, x, c],
        )

    out = te.compute(
        (batch, rows_h, rows_w, columns), product, name="conv2d",
        attrs={KERNEL: "conv2d", TILE: tile.as_list()},
    )  # fmt: skip
    return crop(out, (batch, out_h, out_w, out_channels))


def pad_spatial(
    data: Any,
    padding: Sequence[int],
    extent: tuple[int, int],
    value: float = 0.0,
    dilate: tuple[int, int] = (1, 1),
) -> Any:
    """Pad ``NHWC`` data at top and left, and at bottom and right up to `extent`.

    With `dilate` greater than one, that many minus one fill values stand between
    neighbouring elements, as a transposed convolution needs.
    """
    batch, height, width, channels = data.shape
    height, width = _int(height), _int(width)
    top, left = padding[0], padding[1]
    step_h, step_w = dilate
    if top == 0 and left == 0 and extent[0] <= height and extent[1] <= width and dilate == (1, 1):
        return data
    fill = tirx.const(value, data.dtype)

    def padded(n: Any, h: Any, w: Any, c: Any) -> Any:
        conditions = []
        if top > 0:
            conditions.append(h >= top)
        if extent[0] > top + (height - 1) * step_h + 1:
            conditions.append(h < top + (height - 1) * step_h + 1)
        if left > 0:
            conditions.append(w >= left)
        if extent[1] > left + (width - 1) * step_w + 1:
            conditions.append(w < left + (width - 1) * step_w + 1)
        y, x = h - top, w - left
        if step_h > 1:
            conditions.append(tirx.floormod(y, step_h) == 0)
            y = tirx.floordiv(y, step_h)
        if step_w > 1:
            conditions.append(tirx.floormod(x, step_w) == 0)
            x = tirx.floordiv(x, step_w)
        value_here = data[n, y, x, c]
        if not conditions:
            return value_here
        return tirx.if_then_else(tirx.all(*conditions), value_here, fill)

    return te.compute(
        (batch, extent[0], extent[1], channels), padded, name="pad", attrs={ROLE: "pad"}
    )


def crop(tensor: Any, shape: tuple[Any, ...]) -> Any:
    """The leading part of `tensor`; the tensor itself if there is nothing to cut off."""
    if all(
        isinstance(_int(a), int) and _int(a) == b for a, b in zip(tensor.shape, shape, strict=True)
    ):
        return tensor
    return te.compute(shape, lambda *i: tensor[i], name="crop")


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, (int, tirx.IntImm)) else value


def _is_one(value: Any) -> bool:
    return bool(_int(value) == 1) if isinstance(_int(value), int) else False


def _broadcast(index: Any, extent: Any) -> Any:
    return 0 if _is_one(extent) else index
