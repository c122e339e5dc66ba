"""Random inputs, and what counts as the same output."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from compiler.tune.measure.confine import _cpu_list
from compiler.tune.measure.values import compare, random_inputs, terms, tolerance
from schedules.workload import Workload


@dataclass
class Argument:
    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    codes: tuple[int, ...] = ()


def test_equal_outputs_have_no_error():
    array = np.array([1.0, -2.0, np.inf, np.nan], np.float32)
    assert compare([array], [array.copy()], 1e-4) == (0.0, "")


def test_the_error_is_a_share_of_the_largest_value():
    want = np.array([100.0, 1.0], np.float32)
    got = np.array([100.0, 1.005], np.float32)
    error, wrong = compare([got], [want], 1e-4)
    assert error == pytest.approx(5e-5, rel=1e-2)
    assert wrong == ""
    error, wrong = compare([got], [want], 1e-5)
    assert "off by" in wrong


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_wrong(bad):
    want = np.ones(4, np.float32)
    got = want.copy()
    got[2] = bad
    error, wrong = compare([got], [want], 1e-4)
    assert error == math.inf
    assert "1 of 4" in wrong


def test_opposite_infinities_differ():
    want, got = np.array([np.inf], np.float32), np.array([-np.inf], np.float32)
    assert compare([got], [want], 1e-4)[1]


def test_zeros_where_zeros_are_expected():
    zeros = np.zeros(3, np.float32)
    assert compare([zeros], [zeros], 1e-4) == (0.0, "")
    assert compare([zeros + 1], [zeros], 1e-4)[1]


def test_integers_must_be_equal():
    want = np.array([-128, 127], np.int8)
    assert compare([want.copy()], [want], 1e-2) == (0.0, "")
    error, wrong = compare([np.array([127, 127], np.int8)], [want], 1e-2)
    assert error == math.inf
    assert "1 of 2 integers wrong, by up to 255" in wrong


def test_the_wrong_one_of_several_outputs_is_named():
    a, b = np.ones(2, np.float32), np.ones(2, np.float32)
    assert "output 1" in compare([a, b * 2], [a, b], 1e-4)[1]


def test_bfloat16_is_compared_by_its_values():
    want = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    got = np.array([1.0, 2.015625], ml_dtypes.bfloat16)
    assert compare([got], [want], tolerance(["bfloat16"]))[1] == ""
    assert compare([got], [want], tolerance(["float32"]))[1]


def test_the_loosest_dtype_decides():
    assert tolerance(["bfloat16", "float32"]) == tolerance(["bfloat16"])
    assert tolerance(["int8", "int32"]) == 0.0


def test_inputs_are_the_same_for_the_same_seed():
    arguments = [Argument("x", (5, 7), "float32", "data"), Argument("b", (7,), "int32", "extra")]
    first, again = random_inputs(arguments, 3, 9), random_inputs(arguments, 3, 9)
    other = random_inputs(arguments, 4, 9)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_small_integers_cover_their_range(dtype):
    (array,) = random_inputs([Argument("x", (10_000,), dtype, "data")], 0, 1)
    info = np.iinfo(dtype)
    assert array.dtype == dtype
    assert array.min() == info.min
    assert array.max() == info.max


def test_sums_of_products_keep_the_spread_of_the_data():
    """Otherwise a clipping epilogue hides errors: every output would be a limit."""
    data = Argument("x", (256, 4608), "float32", "data")
    weight = Argument("w", (4608, 64), "float32", "weight")
    x, w = random_inputs([data, weight], 0, 4608)
    assert np.std(x @ w) == pytest.approx(1.0, rel=0.05)


def test_other_operands_can_be_divided_by():
    (array,) = random_inputs([Argument("scale", (1000,), "bfloat16", "extra")], 0, 1)
    assert array.astype(np.float32).min() >= 0.25


def test_terms_of_a_sum():
    conv = Workload("conv2d", (1, 8, 8, 16), (32, 16, 3, 3), (1, 8, 8, 32),
                    ("float32",) * 3, "NHWC")  # fmt: skip
    dense = Workload("dense", (4, 512), (512, 10), (4, 10), ("float32",) * 3, "row-major")
    assert terms(conv) == 16 * 9
    assert terms(dense) == 512


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0\n", {0}), ("0-1\n", {0, 1}), ("0,64\n", {0, 64}), ("0-1,4-5", {0, 1, 4, 5})],
)
def test_lists_of_cpus(text, cpus):
    assert _cpu_list(text) == cpus
