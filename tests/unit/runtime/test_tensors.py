"""Every dtype goes through unchanged, without a copy where none is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compiler.runtime.tensors import (
    ALIGNMENT_BYTES,
    aligned,
    aligned_empty,
    extent,
    numpy_to_tvm,
    torch_to_numpy,
    torch_to_tvm,
    tvm_to_numpy,
    tvm_to_torch,
)

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (2, 3, 5)])
def test_numpy_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    tensor, _ = numpy_to_tvm(values)
    back = tvm_to_numpy(tensor)
    assert back.dtype == values.dtype
    assert back.shape == shape
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_torch_round_trip(dtype: str) -> None:
    values = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    tensor, shared = torch_to_tvm(values)
    assert shared
    back = tvm_to_torch(tensor)
    assert back.dtype == values.dtype
    assert torch.equal(back, values)


def test_bfloat16_reaches_numpy() -> None:
    values = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    array = torch_to_numpy(values)
    assert array.dtype.name == "bfloat16"
    tensor, shared = numpy_to_tvm(array)
    assert not shared
    np.testing.assert_array_equal(tvm_to_numpy(tensor).astype(np.float32), values.float().numpy())


def test_aligned_copies_only_what_it_must() -> None:
    good = aligned_empty((3, 5), "float32")
    assert good.ctypes.data % ALIGNMENT_BYTES == 0
    assert aligned(good) is good
    bad = aligned_empty((16,), "float32")[1:]
    copy = aligned(bad)
    assert copy.ctypes.data % ALIGNMENT_BYTES == 0
    assert not np.shares_memory(copy, bad)


def test_extent_is_the_memory_covered() -> None:
    array = aligned_empty((3, 5), "int16")
    assert extent(numpy_to_tvm(array)[0]) == range(array.ctypes.data, array.ctypes.data + 30)
