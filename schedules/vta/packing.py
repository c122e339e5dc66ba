"""How tensors lie in VTA's DRAM."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.vta.layers import Tensor
from targets.vta.config import VtaConfig


def blocks(channels: int, config: VtaConfig) -> int:
    """Blocks that hold so many channels."""
    return -(-channels // config.block)


def packed_shape(tensor: Tensor, config: VtaConfig) -> tuple[int, int, int, int]:
    """``(blocks, height, width, batch * block)``: an element of INP is the last axis."""
    return (
        blocks(tensor.channels, config), tensor.height, tensor.width, config.batch * config.block,
    )  # fmt: skip


def pack_tensor(
    array: npt.NDArray[np.int8], tensor: Tensor, config: VtaConfig
) -> npt.NDArray[np.int8]:
    """An activation as VTA reads it.

    Args:
        array: int8, of as many numbers as the tensor, in the order channels, height, width.
        tensor: What it is.
        config: The VTA.

    Returns:
        int8 of `packed_shape`; channels beyond the tensor's are zero.

    Raises:
        ValueError: The array is of another dtype or size.
    """
    if array.dtype != np.int8 or array.size != int(np.prod(tensor.shape)):
        raise ValueError(
            f"{tensor.name} is int8 {tensor.shape}, the array {array.dtype} {array.shape}"
        )
    count = blocks(tensor.channels, config)
    full = np.zeros((count * config.block, tensor.height, tensor.width), dtype=np.int8)
    full[: tensor.channels] = array.reshape(tensor.shape)
    parts = full.reshape(count, config.block, tensor.height, tensor.width).transpose(0, 2, 3, 1)
    result = np.zeros(packed_shape(tensor, config), dtype=np.int8)
    result[..., : config.block] = parts
    return result


def unpack_tensor(
    packed: npt.NDArray[Any], tensor: Tensor, config: VtaConfig
) -> npt.NDArray[np.int8]:
    """The activation of a packed array: int8 (channels, height, width).

    Raises:
        ValueError: The array is not of `packed_shape`.
    """
    shape = packed_shape(tensor, config)
    if packed.shape != shape:
        raise ValueError(f"{tensor.name} is packed as {shape}, the array is {packed.shape}")
    parts = packed[..., : config.block].transpose(0, 3, 1, 2)
    channels = parts.reshape(-1, tensor.height, tensor.width)[: tensor.channels]
    return np.ascontiguousarray(channels, dtype=np.int8)


__all__ = ["blocks", "pack_tensor", "packed_shape", "unpack_tensor"]
