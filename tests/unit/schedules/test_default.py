"""Every function gets a schedule; the fallback is named and explained."""

from __future__ import annotations

import pytest

from schedules.cpu import templates
from schedules.cpu.annotations import IS_SCHEDULED
from schedules.cpu.compute import rows
from schedules.cpu.compute.canonical import placeholders
from schedules.cpu.default import schedule_function, schedule_module
from schedules.cpu.rules import RULES
from schedules.tvm_adapter import IRModule, te, tirx, topi
from schedules.workload import Workload
from targets import get_target

SPEC = get_target("x86/generic-avx2")


def dense(m=8, k=16, n=32):
    workload = Workload(
        "dense", (m, k), (k, n), (m, n), ("float32", "float32", "float32"), "row-major"
    )
    choice = templates.default_choice(workload, SPEC)
    tensors = placeholders(workload, templates.packed(workload, choice, SPEC))
    out = templates.compute(workload, choice, SPEC, *tensors)
    return te.create_prim_func([*tensors, topi.nn.relu(out)])


def test_a_dense_layer_keeps_its_tile_in_registers():
    function, decision = schedule_function(dense(), "dense", SPEC)
    assert decision.rule == "register-tiled"
    assert decision.kind == "dense"
    assert not decision.fallback
    assert decision.operators[0] == "dense"
    assert decision.flops >= 2 * 8 * 16 * 32
    text = function.script()
    assert "T.vectorized" in text
    assert "T.unroll" in text


def test_rows_share_one_loop():
    x = te.placeholder((6, 40), name="x")
    function, decision = schedule_function(te.create_prim_func([x, rows.softmax(x, 8)]), "s", SPEC)
    assert (decision.rule, decision.kind) == ("row-by-row", "softmax")
    assert function.script().count("T.parallel") == 1


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda x: topi.nn.relu(x), "elementwise"),
        (lambda x: topi.transpose(x, (1, 0)), "layout"),
        (lambda x: topi.sum(x, axis=0), "reduction"),
        (lambda x: topi.argmax(x, axis=1), "reduction"),
        (lambda x: topi.take(x, topi.full((3,), "int32", 1), axis=0), "gather"),
    ],
    ids=["relu", "transpose", "sum", "argmax", "take"],
)
def test_common_operators_do_not_fall_back(make, kind):
    x = te.placeholder((12, 40), name="x")
    _, decision = schedule_function(te.create_prim_func([x, make(x)]), "f", SPEC)
    assert not decision.fallback
    assert decision.kind == kind


def test_what_no_rule_fits_meets_the_fallback_with_a_reason():
    x = te.placeholder((12, 40), name="x")
    function, decision = schedule_function(
        te.create_prim_func([x, topi.cumsum(x, axis=1)]), "scan", SPEC
    )
    assert decision.fallback
    assert decision.rule == RULES[-1].name
    assert "register-tiled: " in decision.remark
    assert isinstance(function, tirx.PrimFunc)


def test_a_module_leaves_nothing_unscheduled():
    module = IRModule({"a": dense(), "b": dense(3, 5, 7)})
    scheduled, decisions = schedule_module(module, SPEC)
    assert {d.name for d in decisions} == {"a", "b"}
    assert all(f.attrs.get(IS_SCHEDULED) for _, f in scheduled.functions_items())
    again, none = schedule_module(scheduled, SPEC)
    assert none == ()
    assert again.script() == scheduled.script()
