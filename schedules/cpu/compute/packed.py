"""Convolutions and matrix products on packed weights, as tensor expressions.

Every one of them is a sum over products of broadcast activations and vectors of weights, so
they share one schedule rule. Weights are packed in panels as wide as the register tile:
``[panels, (kernel,) reduction, columns]``, zero-filled at the right edge. Dtypes narrower
than the accumulator multiply in groups of 2 or 4 along the reduction, as dot-product
instructions do: ``[panels, (kernel,) reduction / group, columns, group]``. Outputs are
computed on extents rounded up to the tile; a ``crop`` stage, which later becomes part of the
epilogue, writes the real ones. Rows that hang over read a clamped or padded place, so the
inner loop has no condition in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, ROLE, STEP
from schedules.cpu.compute.encoded import Form
from schedules.cpu.tiling import RegisterTile
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]
#: Annotations of a kernel's heart beside its kind.
Attributes: TypeAlias = Mapping[str, Any]


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


def pack_matrix(weight: Array, columns: int, group: int = 1) -> Array:
    """Pack ``[reduction, n]`` into panels ``[panels, reduction, columns]``.

    With `group`, ``[panels, reduction / group, columns, group]``, zero-filled at the end.
    """
    reduction, n = weight.shape
    panels, steps = ceil(n / columns), ceil(reduction / group)
    padded = np.zeros((steps * group, panels * columns), weight.dtype)
    padded[:reduction, :n] = weight
    grouped = padded.reshape(steps, group, panels, columns).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(grouped if group > 1 else grouped[..., 0])


def pack_kernel(weight: Array, columns: int, groups: int = 1, group: int = 1) -> Array:
    """Pack ``OIHW`` into panels ``[panels, kh, kw, ic, columns]``.

    With `group`, ``[panels, kh, kw, ic / group, columns, group]``, zero-filled at the end.

    Raises:
        ValueError: There are several groups, and `columns` does not divide a group's outputs.
    """
    out, inner, kh, kw = weight.shape
    if groups > 1 and out // groups % columns:
        raise ValueError(f"{columns} columns do not divide {out // groups} outputs of a group")
    per_group, steps = ceil(out // groups / columns), ceil(inner / group)
    padded = np.zeros((groups, per_group * columns, steps * group, kh, kw), weight.dtype)
    padded[:, : out // groups, :inner] = weight.reshape(groups, out // groups, inner, kh, kw)
    panels = padded.reshape(groups * per_group, columns, steps, group, kh, kw)
    ordered = panels.transpose(0, 4, 5, 2, 1, 3)
    return np.ascontiguousarray(ordered if group > 1 else ordered[..., 0])


def matmul_packed(
    data: Any,
    packed: Sequence[Any],
    n: int,
    tile: RegisterTile,
    accumulator: str,
    attrs: Attributes,
    form: Form,
    *,
    block: int = 0,
) -> Any:
    """``data[..., m, k] @ weight[k, n]`` with the weight packed in panels.

    Args:
        data: Activations.
        packed: Operands of the weight.
        n: Columns of the product.
        tile: Rows and columns of a block of accumulators.
        accumulator: Dtype of the sums.
        attrs: Annotations of the kernel's heart.
        form: How the packed weight is read.
        block: Columns that share a row of a codebook; 0 for all.

    Returns a tensor ``[..., m, n]`` of dtype `accumulator`.
    """
    *batch, m, reduction = data.shape
    m, reduction = _int(m), _int(reduction)
    rows, width = round_up(m, tile.rows), tile.columns
    padded_n = round_up(n, width)
    whole = round_up(reduction, form.step)
    if reduction != whole:
        data = extend_last(data, whole)
    axes, k, weight = form.axes(whole)
    clamp = not (isinstance(m, int) and rows == m)

    def product(*index: Any) -> Any:
        *b, i, j = index
        row = tirx.min(i, m - 1) if clamp else i
        number = weight(packed, (j // width,), j % width, _block(j, block, n))
        return te.sum(multiply(data[(*b, row, k)], number, accumulator), axis=axes)

    out = te.compute(
        (*batch, rows, padded_n), product, name="dense",
        attrs={KERNEL: "dense", **attrs, **form.attributes()},
    )  # fmt: skip
    return crop(out, (*batch, m, n))


def batch_matmul(
    lhs: Any,
    rhs: Any,
    tile: RegisterTile,
    accumulator: str,
    attrs: Attributes,
    *,
    transpose_rhs: bool,
    group: int = 1,
) -> Any:
    """``lhs[b..., m, k] @ rhs[b..., k, n]``, the right side packed inside the kernel.

    With `transpose_rhs` the right side is ``[b..., n, k]``. Batch dimensions of extent 1
    broadcast. Returns ``[b..., m, n]`` of dtype `accumulator`.
    """
    *lb, m, reduction = lhs.shape
    *rb, r0, r1 = rhs.shape
    n = _int(r0 if transpose_rhs else r1)
    m = _int(m)
    batch = [b if not _is_one(b) else a for a, b in zip(lb, rb, strict=True)]
    width = tile.columns
    panels = round_up(n, width) // width
    reduction = _int(reduction)
    steps = round_up(reduction, group)
    whole = isinstance(n, int) and n % width == 0
    exact = isinstance(reduction, int) and reduction % group == 0
    if not exact:
        lhs = extend_last(lhs, steps)

    def packing(*index: Any) -> Any:
        *b, panel, kk, lane = index[: len(rb) + 3]
        if group > 1:
            kk = kk * group + index[-1]
        column = panel * width + lane
        value = rhs[(*b, column, kk) if transpose_rhs else (*b, kk, column)]
        inside = ([] if whole else [column < n]) + ([] if exact else [kk < reduction])
        if not inside:
            return value
        return choose(tirx.all(*inside), value, 0)

    packed = te.compute(
        (*rb, panels, steps // group, width, *([group] if group > 1 else [])), packing,
        name="pack", attrs={ROLE: "pack"},
    )  # fmt: skip
    rows = round_up(m, tile.rows)
    axes = reduction_axes((steps,), ("k",), group)
    clamp = not (isinstance(m, int) and rows == m)

    def product(*index: Any) -> Any:
        *b, i, j = index
        row = tirx.min(i, m - 1) if clamp else i
        left = [_broadcast(v, extent) for v, extent in zip(b, lb, strict=True)]
        right = [_broadcast(v, extent) for v, extent in zip(b, rb, strict=True)]
        k, place = axes.last
        weight = packed[(*right, j // width, *place(j % width))]
        return te.sum(multiply(lhs[(*left, row, k)], weight, accumulator), axis=axes.all)

    out = te.compute(
        (*batch, rows, panels * width), product, name="batch_matmul",
        attrs={KERNEL: "batch_matmul", **attrs, **({STEP: 1} if group > 1 else {})},
    )  # fmt: skip
    return crop(out, (*batch, m, n))


def conv2d_packed(
    data: Any,
    packed: Sequence[Any],
    out_channels: int,
    geometry: ConvGeometry,
    tile: RegisterTile,
    accumulator: str,
    attrs: Attributes,
    form: Form,
    *,
    inner: int,
    block: int = 0,
    input_dilation: tuple[int, int] = (1, 1),
    out_size: tuple[int, int] | None = None,
    pad_value: float = 0,
) -> Any:
    """2-D convolution of ``NHWC`` data with a kernel packed in panels; returns ``NHWC``.

    `inner` is the number of channels that an output reads, `form` says how the packed weight is
    read, `block` how many outputs share a row of a codebook (0 for all).

    With `input_dilation`, the stride of a transposed convolution, zeros are put between the
    input's elements; `out_size` is then the transposed convolution's output height and width.
    """
    batch, height, width, _ = (_int(v) for v in data.shape)
    panels, kh, kw, _, lanes = (_int(v) for v in packed[0].shape[:5])
    inner = round_up(inner, form.step)
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
        pad_value,
        input_dilation,
        channels=None if groups > 1 else inner,
    )
    per_group = panels // groups
    columns = panels * lanes
    y, x = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")
    axes, c, weight = form.axes(inner)

    def product(n: Any, h: Any, w: Any, o: Any) -> Any:
        channel = c if groups == 1 else o // (per_group * lanes) * inner + c
        value = source[n, h * stride_h + y * dilation_h, w * stride_w + x * dilation_w, channel]
        book = _block(o, block, out_channels)
        number = weight(packed, (o // lanes, y, x), o % lanes, book)
        return te.sum(multiply(value, number, accumulator), axis=[y, x, *axes])

    out = te.compute(
        (batch, rows_h, rows_w, columns), product, name="conv2d",
        attrs={KERNEL: "conv2d", **attrs, **form.attributes()},
    )  # fmt: skip
    return crop(out, (batch, out_h, out_w, out_channels))


def pad_spatial(
    data: Any,
    padding: Sequence[int],
    extent: tuple[int, int],
    value: float = 0.0,
    dilate: tuple[int, int] = (1, 1),
    channels: int | None = None,
) -> Any:
    """Pad ``NHWC`` data at top and left, and at bottom and right up to `extent`.

    With `dilate` greater than one, that many minus one fill values stand between
    neighbouring elements, as a transposed convolution needs. With `channels`, the channels
    are filled up to as many, with zeros.
    """
    batch, height, width, given = (_int(v) for v in data.shape)
    channels = channels or given
    top, left = padding[0], padding[1]
    step_h, step_w = dilate
    inside = extent[0] <= height and extent[1] <= width
    if top == left == 0 and inside and dilate == (1, 1) and channels == given:
        return data

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
        behind = channels != given and value != 0
        if channels != given and not behind:
            conditions.append(c < given)
        y, x = h - top, w - left
        if step_h > 1:
            conditions.append(tirx.floormod(y, step_h) == 0)
            y = tirx.floordiv(y, step_h)
        if step_w > 1:
            conditions.append(tirx.floormod(x, step_w) == 0)
            x = tirx.floordiv(x, step_w)
        value_here = data[n, y, x, c]
        if conditions:
            value_here = choose(tirx.all(*conditions), value_here, value)
        # Codes of weights need not include 0, so zeros have to stand against them.
        if not behind:
            return value_here
        return tirx.if_then_else(c < given, value_here, tirx.const(0, data.dtype))

    return te.compute(
        (batch, extent[0], extent[1], channels), padded, name="pad", attrs={ROLE: "pad"}
    )


def choose(condition: Any, value: Any, otherwise: float) -> Any:
    """`value` where the condition holds, else a number; no arithmetic on bfloat16.

    TVM computes a condition between bfloat16 in float32 and rounds the result, at many times
    the cost of the copy that it is.
    """
    if str(value.dtype) != "bfloat16":
        return tirx.if_then_else(condition, value, tirx.const(otherwise, value.dtype))
    bits = int(np.float32(otherwise).view(np.uint32)) >> 16
    chosen = tirx.if_then_else(
        condition, tirx.reinterpret("uint16", value), tirx.const(bits, "uint16")
    )
    return tirx.reinterpret("bfloat16", chosen)


def extend_last(data: Any, size: Any) -> Any:
    """The tensor with zeros behind the last dimension up to `size`."""
    last = data.shape[-1]

    def extended(*index: Any) -> Any:
        return choose(index[-1] < last, data[index], 0)

    return te.compute((*data.shape[:-1], size), extended, name="pad", attrs={ROLE: "pad"})


@dataclass(frozen=True)
class ReductionAxes:
    """Reduction axes of a product, the last one perhaps split into groups.

    Attributes:
        all: All axes, outermost first.
        last: The index along the whole last dimension, and a function that places a column
            of a panel: the last indices of the packed weight.
    """

    all: list[Any]
    last: tuple[Any, Callable[[Any], tuple[Any, ...]]]


def reduction_axes(extents: Sequence[Any], names: Sequence[str], group: int) -> ReductionAxes:
    """Axes over `extents`; the last one in steps of `group` if that is more than one."""
    *first, size = extents
    axes = [te.reduce_axis((0, e), n) for e, n in zip(first, names, strict=False)]
    outer = te.reduce_axis((0, size // group if group > 1 else size), names[-1])
    if group == 1:
        return ReductionAxes([*axes, outer], (outer, lambda column: (outer, column)))
    inner = te.reduce_axis((0, group), "group")
    return ReductionAxes(
        [*axes, outer, inner], (outer * group + inner, lambda column: (outer, column, inner))
    )


def multiply(data: Any, weight: Any, accumulator: str) -> Any:
    """The product of two elements in the accumulator's dtype."""
    return _cast(data, accumulator) * _cast(weight, accumulator)


def _cast(value: Any, dtype: str) -> Any:
    have = value.dtype if isinstance(value, te.TensorSlice) else value.ty.dtype
    return value if str(have) == dtype else value.astype(dtype)


def crop(tensor: Any, shape: tuple[Any, ...]) -> Any:
    """The leading part of `tensor`; the tensor itself if there is nothing to cut off."""
    if all(
        isinstance(_int(a), int) and _int(a) == b for a, b in zip(tensor.shape, shape, strict=True)
    ):
        return tensor
    return te.compute(shape, lambda *i: tensor[i], name="crop")


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, (int, tirx.IntImm)) else value


def _block(column: Any, size: int, columns: int) -> Any:
    """The row of a codebook for a column, also for one behind the last."""
    if size == 0 or size >= columns:
        return tirx.const(0, "int64")
    return tirx.min(column // size, (columns - 1) // size)


def _is_one(value: Any) -> bool:
    return bool(_int(value) == 1) if isinstance(_int(value), int) else False


def _broadcast(index: Any, extent: Any) -> Any:
    return 0 if _is_one(extent) else index
