"""Building refuses what would run slowly in silence, and names what is missing."""

from __future__ import annotations

import pytest

from compiler.build import build as build_stage
from compiler.build.build import check_scheduled
from compiler.errors import CompileError
from compiler.linker import LINKERS, find_linker
from compiler.stages import Lowered, StageLog
from schedules.cpu.annotations import IS_HOST_FUNCTION, IS_SCHEDULED
from schedules.tvm_adapter import IRModule, te, topi
from targets import get_target

SPEC = get_target("x86/generic-avx2")


def unscheduled():
    x = te.placeholder((4,), name="x")
    return te.create_prim_func([x, topi.nn.relu(x)])


def test_an_unscheduled_function_is_refused_by_name(tmp_path):
    module = IRModule({"slow_one": unscheduled()})
    with pytest.raises(CompileError, match="slow_one"):
        check_scheduled(module, SPEC)
    lowered = Lowered(module, (), (), {}, (), 0, "net")
    with pytest.raises(CompileError, match="without a schedule"):
        build_stage(lowered, SPEC, StageLog(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_scheduled_function_passes():
    check_scheduled(IRModule({"f": unscheduled().with_attr(IS_SCHEDULED, True)}), SPEC)


def test_shape_arithmetic_needs_no_schedule():
    function = unscheduled().with_attr(IS_HOST_FUNCTION, True)
    check_scheduled(IRModule({"shape_func": function}), SPEC)


def test_a_missing_linker_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError) as caught:
        find_linker()
    assert "g++" in str(caught.value)
    assert LINKERS[0] in str(caught.value)
