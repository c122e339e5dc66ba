"""Names of dtypes between PyTorch, TVM and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_NAMES: dict[torch.dtype, str] = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
    torch.uint16: "uint16",
    torch.uint32: "uint32",
    torch.uint64: "uint64",
    torch.bool: "bool",
}


def dtype_name(dtype: torch.dtype) -> str:
    """The name that TVM and NumPy use for a PyTorch dtype.

    Raises:
        NotImplementedError: The dtype (complex, quantized, float8) has no counterpart.
    """
    try:
        return _NAMES[dtype]
    except KeyError:
        raise NotImplementedError(f"tensors of dtype {dtype} are not supported") from None


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A copy of a tensor as a contiguous NumPy array; bfloat16 by way of ``ml_dtypes``."""
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    dense = dense.cpu().contiguous()
    if dense.dtype == torch.bfloat16:
        import ml_dtypes

        return dense.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return np.array(dense.numpy(), copy=True)


__all__ = ["dtype_name", "to_numpy"]
