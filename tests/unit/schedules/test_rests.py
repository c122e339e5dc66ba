"""What is left of a row behind its last full vector does not make the row scalar."""

from __future__ import annotations

import re

import pytest

from schedules.cpu.compute import integer_rows
from schedules.cpu.default import schedule_module
from schedules.cpu.rests import narrow_indices
from schedules.tvm_adapter import IRModule, te, tirx, tvm
from schedules.tvm_adapter import target as tvm_target
from targets import get_target

SPEC = get_target("arm/neoverse-n1")


def _rows(length: int) -> tirx.PrimFunc:
    x = te.placeholder((3, length), "int16", name="x")
    result = integer_rows.exponentials(
        x, SPEC.vector_lanes("int32"), factor=47610, shift=13, limit=28192
    )
    return te.create_prim_func([x, result], index_dtype_override="int64")


@pytest.mark.compile
def test_rows_with_a_rest_are_vector_code() -> None:
    with tvm_target.Target(SPEC.tvm_dict()):
        module, _ = schedule_module(IRModule({"main": _rows(53)}), SPEC)
        library = tvm.compile(module, target=tvm_target.Target(SPEC.tvm_dict()))
    assert re.search(r"mul (nsw )?<16 x i32>", library.mod.inspect_source("ll"))


def test_functions_without_a_rest_stay_as_they_are() -> None:
    with tvm_target.Target(SPEC.tvm_dict()):
        module, _ = schedule_module(IRModule({"main": _rows(64)}), SPEC)
    function = module["main"]
    assert narrow_indices(function) is function


@pytest.mark.parametrize("shape", [("n", 53), (1 << 26, 53)])
def test_indices_that_32_bits_may_not_hold_stay(shape) -> None:
    rows = te.var("n", "int64") if shape[0] == "n" else shape[0]
    x = te.placeholder((rows, shape[1]), "int16", name="x")
    result = integer_rows.exponentials(
        x, SPEC.vector_lanes("int32"), factor=47610, shift=13, limit=28192
    )
    function = te.create_prim_func([x, result], index_dtype_override="int64")
    with tvm_target.Target(SPEC.tvm_dict()):
        module, _ = schedule_module(IRModule({"main": function}), SPEC)
    extents = [str(v.ty.dtype) for b in module["main"].params for v in b.shape]
    assert set(extents) == {"int64"}
