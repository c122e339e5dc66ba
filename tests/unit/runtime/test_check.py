"""Inputs that do not fit are refused before any machine code runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compiler.errors import InputError
from compiler.runtime.check import bind, check_inputs, describe, dtype_name
from compiler.stages import TensorSpec

X = TensorSpec("x", (1, 3, 8, 8), "float32")
IDS = TensorSpec("ids", ("batch", 16), "int64")
MASK = TensorSpec("mask", ("batch", 16), "int64")


def test_good_inputs_give_the_symbolic_sizes() -> None:
    ids = np.zeros((5, 16), np.int64)
    assert check_inputs([IDS, MASK], [ids, torch.zeros(5, 16, dtype=torch.int64)]) == {"batch": 5}


def test_numpy_and_torch_dtypes_have_the_same_names() -> None:
    assert dtype_name(np.zeros(1, np.float32)) == dtype_name(torch.zeros(1)) == "float32"
    assert dtype_name(torch.zeros(1, dtype=torch.bfloat16)) == "bfloat16"
    assert dtype_name(np.zeros(1, ">f4")) == ">f4"
    assert describe(torch.zeros(2, 3)) == "float32[2, 3]"
    assert describe([1]) == "list"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros((1, 3, 8, 9), np.float32), ["float32[1, 3, 8, 9]", "[1, 3, 8, 8]", "9 instead"]),
        (np.zeros((3, 8, 8), np.float32), ["float32[3, 8, 8]", "[1, 3, 8, 8]", "batch"]),
        (np.zeros((1, 3, 8, 8)), ["float64", "float32", ".astype('float32')"]),
        (torch.zeros(1, 3, 8, 8, dtype=torch.float16), ["float16", ".to(torch.float32)"]),
        (np.zeros((1, 3, 8, 8), ">f4"), [">f4", "float32"]),
        ([[0.0]], ["list", "no array"]),
        (None, ["NoneType", "no array"]),
        (torch.zeros(1, 3, 8, 8).to_sparse(), ["sparse", "to_dense"]),
        (torch.zeros(1, 3, 8, 8, device="meta"), ["meta", ".cpu()"]),
    ],
)
def test_a_wrong_input_is_named_with_both_shapes(value: object, says: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs([X], [value])
    text = str(caught.value)
    assert "input 'x'" in text
    assert "hint:" in text
    for part in says:
        assert part in text


def test_symbolic_sizes_must_agree() -> None:
    with pytest.raises(InputError, match=r"'batch'.* is 3, but it is 2 in input 'ids'") as caught:
        check_inputs([IDS, MASK], [np.zeros((2, 16), np.int64), np.zeros((3, 16), np.int64)])
    assert "mask" in str(caught.value)


def test_a_symbolic_size_cannot_be_zero() -> None:
    with pytest.raises(InputError, match="at least one element"):
        check_inputs([IDS], [np.zeros((0, 16), np.int64)])


def test_bind_orders_inputs_by_name() -> None:
    assert bind([IDS, MASK], (), {"mask": 2, "ids": 1}, "run") == (1, 2)
    assert bind([IDS, MASK], (1,), {"mask": 2}, "run") == (1, 2)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((1, 2, 3), {}, "3 inputs given, but the model takes 2 inputs: ids: int64"),
        ((1,), {}, "missing 'mask'"),
        ((), {}, "missing 'ids', 'mask'"),
        ((1,), {"ids": 1, "mask": 2}, "'ids' is given twice"),
        ((1,), {"maks": 2}, "no input is named 'maks'"),
    ],
)
def test_number_and_names(args: tuple[int, ...], kwargs: dict[str, int], says: str) -> None:
    with pytest.raises(InputError) as caught:
        bind([IDS, MASK], args, kwargs, "run")
    assert says in str(caught.value)


def test_check_inputs_counts() -> None:
    with pytest.raises(InputError, match="missing 'mask'"):
        check_inputs([IDS, MASK], [np.zeros((2, 16), np.int64)])
