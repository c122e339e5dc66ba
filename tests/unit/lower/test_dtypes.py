"""Dtypes without kernels are refused by name, before any work."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.errors import ModelError
from compiler.lower.pipeline import check_dtypes
from compiler.stages import Imported, TensorSpec
from targets import get_target

SPEC = get_target("x86/generic-avx2")


def imported(dtype, parameters):
    return Imported(None, (TensorSpec("x", (1,), dtype),), (), parameters, "net")


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_inputs_and_parameters_are_named(dtype):
    with pytest.raises(ModelError, match=dtype) as caught:
        check_dtypes(imported(dtype, {}), SPEC)
    assert "float32" in str(caught.value)
    assert caught.value.where is not None
    assert "x" in caught.value.where


def test_a_double_parameter_is_named():
    parameters = {"head.weight": np.zeros(2, "float64")}
    with pytest.raises(ModelError, match=r"head\.weight"):
        check_dtypes(imported("float32", parameters), SPEC)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_others_pass(dtype):
    check_dtypes(imported(dtype, {"w": np.zeros(1, "float32")}), SPEC)
