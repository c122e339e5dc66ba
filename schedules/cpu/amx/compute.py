"""Products and convolutions on weights packed in tiles, as tensor expressions.

Weights lie as ``[panels, kh, kw, steps, tiles, rows, 16, group]``: all tiles of a panel one
after the other, in the order in which they are multiplied; a row of a tile holds `group`
neighbouring elements of the reduction (4 bytes) for each of 16 columns. Where a run spans the
kernel's width, ``kw`` is 1 and the steps go over width and channels. The expressions say what
is computed, element by element; the rule replaces the block by tile instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.amx.plan import (
    PLAN_ANNOTATION,
    TILE_COLUMNS,
    Geometry,
    packed_weight_shape,
)
from schedules.cpu.annotations import CHOICE, KERNEL, ROLE
from schedules.cpu.compute.packed import ConvGeometry, crop, multiply, pad_spatial
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]


def pack_weight(weight: Array, shape: Geometry) -> Array:
    """Pack ``[kh, kw, channels, columns]`` for the geometry, with zeros where it is larger."""
    kh, kw, channels, columns = weight.shape
    panels, _, outer_kw, steps, tiles, rows, lanes, group = packed_weight_shape(shape, (kh, kw))
    padded = np.zeros((kh, kw, shape.run.channels, panels * tiles * lanes), weight.dtype)
    padded[:, :, :channels, :columns] = weight
    split = padded.reshape(kh, outer_kw, steps, rows, group, panels, tiles, lanes)
    return np.ascontiguousarray(split.transpose(5, 0, 1, 2, 6, 3, 7, 4))


def matmul(
    data: Any, weight: Any, columns: int, shape: Geometry, accumulator: str, choice: str
) -> Any:
    """``data[..., m, k]`` by a packed ``[k, columns]``; returns ``[..., m, columns]``."""
    *batch, m, _ = (int(v) for v in data.shape)
    if shape.source is not None:
        data = _extend(data, shape.source[0], shape.run.channels)
    k = te.reduce_axis((0, shape.run.channels), "k")

    def product(*index: Any) -> Any:
        *b, i, j = index
        packed = weight[_place(shape, j, 0, 0, k)]
        return te.sum(multiply(data[(*b, i, k)], packed, accumulator), axis=k)

    out = te.compute(
        (*batch, shape.rows, shape.panels * shape.plan.columns), product, name="dense",
        attrs=_attributes("amx_dense", shape, choice),
    )  # fmt: skip
    return crop(out, (*batch, m, columns))


def conv2d(
    data: Any,
    weight: Any,
    out_shape: tuple[int, int, int, int],
    conv: ConvGeometry,
    kernel: tuple[int, int],
    shape: Geometry,
    accumulator: str,
    choice: str,
    pad_value: float = 0,
) -> Any:
    """2-D convolution of ``NHWC`` data with a packed kernel; returns ``NHWC``.

    The positions of a line may be more than the output's: where lines are walked over as one,
    those behind the last reach into the next line, and are dropped.
    """
    source = data
    if shape.source is not None:
        height, width = shape.source
        source = pad_spatial(
            data, conv.padding, (height, width), pad_value, channels=shape.run.channels
        )
    pitch = int(source.shape[2])
    kh, kw = kernel
    y = te.reduce_axis((0, kh), "kh")
    x = te.reduce_axis((0, kw), "kw")
    c = te.reduce_axis((0, shape.run.channels), "ic")
    stride_h, stride_w = conv.strides
    dilation_h, dilation_w = conv.dilation
    overhang = shape.pitch > out_shape[2]

    def product(n: Any, h: Any, w: Any, o: Any) -> Any:
        row, column = h * stride_h + y * dilation_h, w * stride_w + x * dilation_w
        if overhang:
            row, column = row + column // pitch, column % pitch
        packed = weight[_place(shape, o, y, x, c)]
        return te.sum(multiply(source[n, row, column, c], packed, accumulator), axis=[y, x, c])

    out = te.compute(
        (out_shape[0], shape.lines, shape.pitch, shape.panels * shape.plan.columns), product,
        name="conv2d", attrs=_attributes("amx_conv2d", shape, choice),
    )  # fmt: skip
    return crop(out, out_shape)


def _place(shape: Geometry, column: Any, y: Any, x: Any, channel: Any) -> Any:
    """Indices of an element of the packed weight."""
    plan = shape.plan
    group = 4 // plan.item_bytes
    element = x * shape.run.channels + channel if shape.merged else channel
    per_step = plan.step_bytes // plan.item_bytes
    return (
        column // plan.columns,
        y,
        0 if shape.merged else x,
        element // per_step,
        column // TILE_COLUMNS % plan.column_tiles,
        element % per_step // group,
        column % TILE_COLUMNS,
        element % group,
    )


def _extend(data: Any, rows: int, reduction: int) -> Any:
    """``[..., m, k]`` data with zeros up to `rows` and `reduction`."""
    *batch, m, k = (int(v) for v in data.shape)

    def extended(*index: Any) -> Any:
        *b, i, j = index
        inside = [*([i < m] if rows > m else []), *([j < k] if reduction > k else [])]
        return tirx.if_then_else(tirx.all(*inside), data[(*b, i, j)], tirx.const(0, data.dtype))

    return te.compute((*batch, rows, reduction), extended, name="pad", attrs={ROLE: "pad"})


def _attributes(kind: str, shape: Geometry, choice: str) -> dict[str, str]:
    return {KERNEL: kind, CHOICE: choice, PLAN_ANNOTATION: shape.plan.to_json()}
