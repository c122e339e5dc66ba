"""Depthwise convolutions and pooling on ``NHWC`` data: windows over one channel at a time."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL
from schedules.cpu.compute.packed import (
    Attributes,
    ConvGeometry,
    _cast,
    _int,
    multiply,
    pad_spatial,
)
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]


def pack_depthwise(weight: Array) -> Array:
    """Pack ``[channels * multiplier, 1, kh, kw]`` into ``[kh, kw, channels * multiplier]``."""
    return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))


def depthwise_conv2d(
    data: Any,
    packed: Any,
    geometry: ConvGeometry,
    accumulator: str,
    attrs: Attributes,
    pad_value: float = 0,
) -> Any:
    """Depthwise convolution of ``NHWC`` data with ``[kh, kw, channels * multiplier]`` weights.

    Returns ``NHWC`` of dtype `accumulator`.
    """
    batch, height, width, channels = (_int(v) for v in data.shape)
    kh, kw, out_channels = (_int(v) for v in packed.shape)
    multiplier = out_channels // channels
    out_h, out_w = geometry.output_extent((height, width), (kh, kw))
    source = _pad_for(data, geometry, (out_h, out_w), (kh, kw), pad_value)
    y = te.reduce_axis((0, kh), "kh")
    x = te.reduce_axis((0, kw), "kw")

    def product(n: Any, h: Any, w: Any, c: Any) -> Any:
        place = _window(geometry, h, w, y, x)
        channel = c if multiplier == 1 else c // multiplier
        product = multiply(source[(n, *place, channel)], packed[y, x, c], accumulator)
        return te.sum(product, axis=[y, x])

    return te.compute(
        (batch, out_h, out_w, out_channels), product, name="depthwise_conv2d",
        attrs={KERNEL: "depthwise_conv2d", **attrs},
    )  # fmt: skip


def pool2d(
    data: Any,
    kernel: tuple[int, int],
    geometry: ConvGeometry,
    kind: Literal["max", "avg"],
    attrs: Attributes,
    accumulator: str,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Any:
    """Max or average pooling of ``NHWC`` data, with PyTorch's rules for edges.

    With `ceil_mode` the last window may start inside the input or its left padding only and
    hang over the right edge; the divisor of an average counts what PyTorch counts.
    The result has dtype `accumulator`.
    """
    batch, height, width, channels = (_int(v) for v in data.shape)
    size = (height, width)
    before = geometry.padding[:2]
    after = geometry.padding[2:]
    extents = []
    for axis in range(2):
        span = size[axis] + before[axis] + after[axis] - (
            geometry.dilation[axis] * (kernel[axis] - 1) + 1
        )  # fmt: skip
        stride = geometry.strides[axis]
        count = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
        if ceil_mode and (count - 1) * stride >= size[axis] + before[axis]:
            count -= 1
        extents.append(count)
    out_h, out_w = extents
    fill = 0.0
    if kind == "max":
        fill = float("-inf") if "float" in str(data.dtype) else int(np.iinfo(str(data.dtype)).min)
    source = _pad_for(data, geometry, (out_h, out_w), kernel, fill)
    y = te.reduce_axis((0, kernel[0]), "kh")
    x = te.reduce_axis((0, kernel[1]), "kw")
    reduce = te.max if kind == "max" else te.sum

    out = te.compute(
        (batch, out_h, out_w, channels),
        lambda n, h, w, c: reduce(
            _cast(source[(n, *_window(geometry, h, w, y, x), c)], accumulator), axis=[y, x]
        ),
        name=f"{kind}_pool2d",
        attrs={KERNEL: "pool2d", **attrs},
    )
    if kind == "max":
        return out

    def divisor(h: Any, w: Any) -> Any:
        count: Any = 1
        for axis, index in enumerate((h, w)):
            start = index * geometry.strides[axis] - before[axis]
            limit = size[axis] + after[axis]
            end = tirx.min(start + kernel[axis], limit)
            if not count_include_pad:
                start = tirx.max(start, 0)
                end = tirx.min(end, size[axis])
            count = count * (end - start)
        return tirx.Cast(accumulator, count)

    overhang = any(
        (extents[a] - 1) * geometry.strides[a] - before[a] + kernel[a] > size[a] + after[a]
        for a in range(2)
    )
    if (count_include_pad or not any(geometry.padding)) and not overhang:
        inverse = tirx.const(1.0 / (kernel[0] * kernel[1]), accumulator)
        return te.compute(out.shape, lambda n, h, w, c: out[n, h, w, c] * inverse, name="average")
    return te.compute(out.shape, lambda n, h, w, c: out[n, h, w, c] / divisor(h, w), name="average")


def _pad_for(
    data: Any,
    geometry: ConvGeometry,
    out: tuple[int, int],
    kernel: tuple[int, int],
    fill: float,
) -> Any:
    extent = (
        (out[0] - 1) * geometry.strides[0] + (kernel[0] - 1) * geometry.dilation[0] + 1,
        (out[1] - 1) * geometry.strides[1] + (kernel[1] - 1) * geometry.dilation[1] + 1,
    )
    return pad_spatial(data, geometry.padding, extent, fill)


def _window(geometry: ConvGeometry, h: Any, w: Any, y: Any, x: Any) -> tuple[Any, Any]:
    return (
        h * geometry.strides[0] + y * geometry.dilation[0],
        w * geometry.strides[1] + x * geometry.dilation[1],
    )
