"""Between numpy or torch arrays and TVM's tensors, without a copy where that is possible.

Compiled code loads whole vectors from addresses that it takes to be multiples of
`ALIGNMENT_BYTES`; a misaligned buffer makes it crash. So an array is passed on as it is only
if it is contiguous and aligned, and copied into an aligned buffer otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from compiler.runtime.check import is_torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: TVM's kAllocAlignment: what the code generator assumes of every buffer.
ALIGNMENT_BYTES = 64


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """An uninitialised C-contiguous array whose first byte is at a multiple of 64."""
    import numpy as np

    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    buffer = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES
    return buffer[start : start + size].view(kind).reshape(shape)


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself if compiled code can read it where it lies, else an aligned copy."""
    import numpy as np

    if is_ready(array) or _is_bfloat16(array.dtype):
        return array
    copy = aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array, casting="no")
    return copy


def is_ready(array: npt.NDArray[Any]) -> bool:
    """Whether compiled code can read this numpy array where it lies.

    DLPack as numpy speaks it cannot export read-only arrays, so these are copied too.
    """
    flags = array.flags
    return bool(
        flags.c_contiguous
        and flags.writeable
        and array.ctypes.data % ALIGNMENT_BYTES == 0
        and not _is_bfloat16(array.dtype)
    )


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.name == "bfloat16"


def numpy_to_tvm(array: npt.NDArray[Any], into: npt.NDArray[Any] | None = None) -> tuple[Any, bool]:
    """A TVM tensor with the values of a numpy array.

    Args:
        array: Any strides, any alignment.
        into: An aligned buffer of the same shape and dtype to use if a copy is needed.

    Returns:
        The tensor, and whether it shares the array's memory.
    """
    import numpy as np
    import tvm_ffi

    if is_ready(array):
        return tvm_ffi.from_dlpack(array), True
    if _is_bfloat16(array.dtype):
        return _bfloat16_to_tvm(array), False
    if into is None:
        into = aligned_empty(array.shape, array.dtype)
    np.copyto(into, array, casting="no")
    return tvm_ffi.from_dlpack(into), False


def _bfloat16_to_tvm(array: npt.NDArray[Any]) -> Any:
    """DLPack as numpy speaks it has no bfloat16, so TVM copies the bits itself."""
    from schedules.tvm_adapter import tvm

    return tvm.runtime.empty(array.shape, "bfloat16").copyfrom(array)


def torch_to_tvm(tensor: Any) -> tuple[Any, bool]:
    """A TVM tensor with the values of a dense CPU torch tensor, and whether memory is shared."""
    import tvm_ffi

    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    shared = plain.data_ptr() == tensor.data_ptr()
    if plain.data_ptr() % ALIGNMENT_BYTES:
        plain, shared = plain.clone(), False
    if plain.data_ptr() % ALIGNMENT_BYTES:  # an allocator other than torch's own
        return numpy_to_tvm(plain.numpy())[0], False
    return tvm_ffi.from_dlpack(plain), shared


def tvm_to_numpy(tensor: Any) -> npt.NDArray[Any]:
    """A writable numpy array over a TVM tensor's memory, which lives as long as the array.

    bfloat16, which DLPack as numpy speaks it does not know, is copied into an array with the
    dtype of the ml_dtypes package.
    """
    import numpy as np

    if str(tensor.dtype) == "bfloat16":
        return tensor.numpy()
    return np.from_dlpack(tensor)


def torch_to_numpy(tensor: Any) -> npt.NDArray[Any]:
    """A dense CPU torch tensor as a numpy array; bfloat16 with the dtype of ml_dtypes."""
    import numpy as np

    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    if str(plain.dtype) != "torch.bfloat16":
        return np.asarray(plain.numpy())
    import ml_dtypes
    import torch

    return plain.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def tvm_to_torch(tensor: Any) -> Any:
    """A torch tensor over a TVM tensor's memory, which lives as long as the torch tensor."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(tensor)


def extent(tensor: Any) -> range:
    """The addresses that a contiguous TVM tensor covers."""
    start = int(tensor.data_ptr())
    bits = int(tensor.dtype.bits) * int(tensor.dtype.lanes)
    return range(start, start + math.prod(int(d) for d in tensor.shape) * ((bits + 7) // 8))


__all__ = [
    "ALIGNMENT_BYTES",
    "aligned",
    "aligned_empty",
    "extent",
    "is_ready",
    "is_torch",
    "numpy_to_tvm",
    "torch_to_numpy",
    "torch_to_tvm",
    "tvm_to_numpy",
    "tvm_to_torch",
]
