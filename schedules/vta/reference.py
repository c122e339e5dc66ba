"""What a region computes, in NumPy, slow and plain; programs are compared with it bit for bit.

Numbers are computed in 64 bits and have to fit into 32 where the hardware has 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.vta.layers import Conv2d, Layer, MaxPool2d, Region, Step, output_shape

Array = npt.NDArray[Any]
_INT32 = np.iinfo(np.int32)


def reference_run(region: Region, inputs: Mapping[str, Array]) -> dict[str, npt.NDArray[np.int8]]:
    """Every tensor of a region.

    Args:
        region: The layers.
        inputs: int8 arrays of the region's inputs, of the tensors' shapes.

    Returns:
        int8 (channels, height, width) by name, inputs and intermediate results included.

    Raises:
        ValueError: An input is missing, of another shape, or beyond its tensor's limits.
        OverflowError: A sum needs more than 32 bits.
    """
    values: dict[str, npt.NDArray[np.int8]] = {}
    for name in region.inputs:
        item = region.tensor(name)
        if name not in inputs:
            raise ValueError(f"there is no input {name!r}")
        value = np.asarray(inputs[name])
        if value.dtype != np.int8 or value.size != int(np.prod(item.shape)):
            raise ValueError(f"{name} is int8 {item.shape}, not {value.dtype} {value.shape}")
        if value.min() < item.low or value.max() > item.high:
            raise ValueError(f"{name} is from {item.low} to {item.high}; the values go beyond")
        values[name] = value.reshape(item.shape)
    for layer in region.layers:
        values[layer.output] = run_layer(layer, region, values)
    return values


def run_layer(
    layer: Layer, region: Region, values: Mapping[str, npt.NDArray[np.int8]]
) -> npt.NDArray[np.int8]:
    """One layer's result, int8 (channels, height, width)."""
    shape = output_shape(layer, region)
    if isinstance(layer, MaxPool2d):
        return _max_pool(layer, values[layer.data], shape)
    value = np.zeros(shape, dtype=np.int64)
    if isinstance(layer, Conv2d):
        value = _fit(_convolve(layer, values[layer.data], shape))
        value = _fit(value + layer.bias.astype(np.int64)[:, None, None])
    for step in layer.steps:
        value = _requantize(step, value, values)
    return value.astype(np.int8)


def _requantize(step: Step, value: Array, values: Mapping[str, Array]) -> Array:
    value = _fit(value << step.up)
    for addend in step.adds:
        value = _fit(value + (values[addend.tensor].astype(np.int64) << addend.shift))
    shift = np.asarray(step.shift, dtype=np.int64).reshape(-1, 1, 1)
    value = _fit(value + ((np.int64(1) << shift) >> 1)) >> shift
    return np.asarray(np.clip(value, step.low, step.high))


def _convolve(layer: Conv2d, data: Array, shape: tuple[int, int, int]) -> Array:
    outputs, height, width = shape
    top, left, bottom, right = layer.padding
    source = np.pad(data.astype(np.float64), ((0, 0), (top, bottom), (left, right)))
    kernel = layer.weight.astype(np.float64)
    inner, kh, kw = kernel.shape[1:]
    groups = layer.groups
    source = source.reshape(groups, inner, *source.shape[1:])
    kernel = kernel.reshape(groups, outputs // groups, inner, kh, kw)
    result = np.zeros((groups, outputs // groups, height * width))
    for y in range(kh):
        for x in range(kw):
            begin_y, begin_x = y * layer.dilation[0], x * layer.dilation[1]
            window = source[
                :, :,
                begin_y : begin_y + (height - 1) * layer.strides[0] + 1 : layer.strides[0],
                begin_x : begin_x + (width - 1) * layer.strides[1] + 1 : layer.strides[1],
            ]  # fmt: skip
            # Whole numbers below 2**53 are exact.
            result += kernel[..., y, x] @ window.reshape(groups, inner, -1)
    return result.reshape(shape).astype(np.int64)


def _max_pool(
    layer: MaxPool2d, data: npt.NDArray[np.int8], shape: tuple[int, int, int]
) -> npt.NDArray[np.int8]:
    _, height, width = shape
    top, left, bottom, right = layer.padding
    source = np.pad(data, ((0, 0), (top, bottom), (left, right)), constant_values=-128)
    result = np.full(shape, -128, dtype=np.int8)
    for y in range(layer.kernel[0]):
        for x in range(layer.kernel[1]):
            window = source[
                :,
                y : y + (height - 1) * layer.strides[0] + 1 : layer.strides[0],
                x : x + (width - 1) * layer.strides[1] + 1 : layer.strides[1],
            ]
            result = np.maximum(result, window)
    return np.asarray(np.clip(result, layer.low, layer.high), dtype=np.int8)


def _fit(value: Array) -> Array:
    if value.size and (value.max() > _INT32.max or value.min() < _INT32.min):
        raise OverflowError("a sum that has 32 bits in hardware does not fit")
    return value


__all__ = ["reference_run", "run_layer"]
