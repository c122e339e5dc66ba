"""Dot-product intrinsics in a minimal kernel: right bit by bit, and really in the assembly."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from schedules.cpu.intrinsics import bf16, vnni
from schedules.cpu.intrinsics.base import DotIntrinsic
from schedules.tvm_adapter import IRModule, Schedule, te, tvm
from schedules.tvm_adapter import target as tvm_target
from targets import TargetSpec, get_target, missing_features

pytestmark = pytest.mark.compile

ROWS, STEPS, VECTORS = 3, 32, 2


def build(
    intrinsic: DotIntrinsic,
    spec: TargetSpec,
    *,
    shift: int = 0,
    packed: bool = True,
    copied: bool = False,
) -> tuple[Any, str]:
    """A matrix product that keeps a tile of sums in registers, and its assembly."""
    lanes, group = intrinsic.lanes, intrinsic.group
    a, b, c = intrinsic.dtypes
    columns = VECTORS * lanes
    left = te.placeholder((ROWS, STEPS), a, "A")
    shape = (STEPS // group, columns, group) if packed else (STEPS // group, group, columns)
    right = te.placeholder(shape, b, "B")
    rows = te.compute(left.shape, lambda i, k: left[i, k], "copy") if copied else left
    outer = te.reduce_axis((0, STEPS // group), "ko")
    inner = te.reduce_axis((0, group), "ki")

    def product(i: Any, j: Any) -> Any:
        weight = right[outer, j, inner] if packed else right[outer, inner, j]
        factor = rows[i, outer * group + inner].astype(c)
        return te.sum(factor * weight.astype(c), axis=[outer, inner])

    result = te.compute((ROWS, columns), product, "C")
    sch = Schedule(te.create_prim_func([left, right, result]))
    block = sch.get_sblock("C")
    i, j, ko, ki = sch.get_loops(block)
    vector, lane = sch.split(j, [None, lanes])
    sch.reorder(ko, i, vector, lane, ki)
    sch.unroll(i)
    sch.unroll(vector)
    init = sch.decompose_reduction(block, ko)
    sch.tensorize(lane, intrinsic.name)
    sch.vectorize(sch.get_loops(init)[-1])
    function = sch.mod["main"].with_attr("global_symbol", "main")
    library = tvm.compile(IRModule({"main": function}), target=tvm_target.Target(spec.tvm_dict()))
    return library, str(library.mod.inspect_source("asm"))


def check_assembly(intrinsic: DotIntrinsic, assembly: str) -> None:
    """The instruction is there, and no sum goes through the stack."""
    compute = assembly[assembly.index("\nmain_compute_:") :]
    compute = compute[: compute.index(".Lfunc_end")]
    assert re.search(rf"\b{intrinsic.instruction}\b", compute)
    assert not re.search(r"(\(%rsp\), %[xyz]mm|%[xyz]mm\d+, -?\d*\(%rsp\))", compute)
    assert "call" not in compute


def run(library: Any, left: Any, right: Any, columns: int, dtype: str) -> np.ndarray[Any, Any]:
    arguments = [
        tvm.runtime.empty(x.shape, str(x.dtype)).copyfrom(x)
        for x in (left, right, np.zeros((ROWS, columns), dtype))
    ]
    library["main"](*arguments)
    return np.asarray(arguments[-1].numpy())


def runnable(name: str) -> TargetSpec:
    spec = get_target(name)
    missing = missing_features(spec)
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    return spec


def flush(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Subnormal float32 numbers as zeros."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, x * 0, x)


def multiply_add(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of float32 rounded once: the product of two bfloat16 is exact."""
    exact = a.astype(np.float64) * b.astype(np.float64)
    return flush((exact.astype(np.longdouble) + c.astype(np.longdouble)).astype(np.float32))


def vdpbf16ps_model(left: Any, right: Any) -> np.ndarray[Any, Any]:
    """The sums as the instruction makes them: odd step first, then the even one."""
    sums = np.zeros((left.shape[0], right.shape[1]), np.float32)
    a, b = flush(left.astype(np.float32)), flush(right.astype(np.float32))
    for pair in range(right.shape[0]):
        for step in (1, 0):
            sums = multiply_add(a[:, 2 * pair + step, None], b[None, pair, :, step], sums)
    return sums


def bfloat16_operands(
    columns: int, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    scale = 2.0 ** rng.integers(-6, 7, (ROWS, STEPS))
    left = (rng.standard_normal((ROWS, STEPS)) * scale).astype(ml_dtypes.bfloat16)
    right = rng.standard_normal((STEPS // 2, columns, 2)).astype(ml_dtypes.bfloat16)
    return left, right


@pytest.mark.parametrize("lanes", [16, 8])
def test_vdpbf16ps_is_exactly_its_model(lanes):
    spec = runnable("x86")
    if lanes not in bf16.native_lanes(spec):
        pytest.skip("this CPU lacks avx512bf16")
    intrinsic = bf16.dot(spec, lanes)
    library, assembly = build(intrinsic, spec)
    check_assembly(intrinsic, assembly)
    left, right = bfloat16_operands(VECTORS * lanes)
    right[0, 0] = ml_dtypes.bfloat16(1e-39)  # subnormal
    left[0, 2:4], right[1, 1] = ml_dtypes.bfloat16(2.0**-70), ml_dtypes.bfloat16(2.0**-62)
    got = run(library, left, right, VECTORS * lanes, "float32")
    np.testing.assert_array_equal(got, vdpbf16ps_model(left, right))


@pytest.mark.parametrize(
    ("target", "lanes"), [("x86/cascadelake", 16), ("x86/generic-avx2", 8), ("x86", 4)]
)
def test_bfloat16_without_the_instruction(target, lanes):
    spec = runnable(target)
    intrinsic = bf16.dot(spec, lanes)
    assert "fma" in intrinsic.name
    library, assembly = build(intrinsic, spec)
    check_assembly(intrinsic, assembly)
    left, right = bfloat16_operands(VECTORS * lanes)
    got = run(library, left, right, VECTORS * lanes, "float32")
    plain = right.astype(np.float64).transpose(0, 2, 1).reshape(STEPS, -1)
    want = left.astype(np.float64) @ plain
    bound = np.abs(left.astype(np.float64)) @ np.abs(plain) * STEPS * 2.0**-24
    assert (np.abs(got - want) <= bound).all()


def signed(spec: TargetSpec, lanes: int) -> DotIntrinsic:
    return vnni.dot(spec, lanes, "int8")


INTEGER: list[tuple[str, int, Callable[..., DotIntrinsic]]] = [
    ("x86", 16, vnni.dot),
    ("x86", 8, vnni.dot),
    ("x86", 16, signed),
    ("x86/cascadelake", 16, vnni.dot),
    ("x86/skylake-avx512", 16, vnni.dot),
    ("x86/skylake-avx512", 16, signed),
    ("x86/generic-avx2", 8, vnni.dot),
    ("x86/generic-avx2", 8, signed),
    ("x86/generic-avx2", 4, vnni.dot),
]


@pytest.mark.parametrize(
    ("target", "lanes", "choose"), INTEGER, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_integer_dots_are_exact(target, lanes, choose):
    spec = runnable(target)
    intrinsic = choose(spec, lanes)
    library, assembly = build(intrinsic, spec)
    check_assembly(intrinsic, assembly)
    rng = np.random.default_rng(0)
    low, high = (0, 255) if intrinsic.dtypes[0] == "uint8" else (-128, 127)
    left = rng.integers(low, high, (ROWS, STEPS), endpoint=True).astype(intrinsic.dtypes[0])
    right = rng.integers(-128, 128, (STEPS // 4, VECTORS * lanes, 4)).astype(np.int8)
    left[0], left[1] = high, low
    right[:, 0], right[:, 1] = -128, 127  # where 16-bit sums would saturate
    got = run(library, left, right, VECTORS * lanes, "int32")
    plain = right.astype(np.int32).transpose(0, 2, 1).reshape(STEPS, -1)
    np.testing.assert_array_equal(got, left.astype(np.int32) @ plain)


def test_signed_dots_where_the_target_has_them():
    """No CPU at hand runs it, so only the assembly is looked at."""
    base = get_target("x86/generic-avx2")
    spec = replace(
        base,
        features=base.features | {"avxvnni", "avxvnniint8"},
        tvm={**base.tvm_dict(), "mattr": ["+avxvnni", "+avxvnniint8"]},
    )
    for intrinsic in (vnni.dot(spec, 8, "int8"), vnni.dot(spec, 8)):
        check_assembly(intrinsic, build(intrinsic, spec)[1])


@pytest.mark.parametrize(("target", "lanes"), [("x86", 16), ("x86/generic-avx2", 8)])
def test_operands_held_inside_the_kernel_stay_bfloat16(target, lanes):
    """TVM would turn such a buffer into float32, and the pairs would be read wrongly."""
    spec = runnable(target)
    intrinsic = bf16.dot(spec, lanes)
    library, _ = build(intrinsic, spec, copied=True)
    left, right = bfloat16_operands(VECTORS * lanes)
    got = run(library, left, right, VECTORS * lanes, "float32")
    plain = right.astype(np.float64).transpose(0, 2, 1).reshape(STEPS, -1)
    want = left.astype(np.float64) @ plain
    bound = np.abs(left.astype(np.float64)) @ np.abs(plain) * STEPS * 2.0**-23
    assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("choose", [bf16.dot, vnni.dot])
def test_weights_with_gaps_are_refused(choose):
    """Plain weights would be read as if they were packed: wrong without a word."""
    spec = get_target("x86/cascadelake")
    with pytest.raises(Exception, match=r"(?i)stride|match|tensoriz"):
        build(choose(spec, 16), spec, packed=False)
