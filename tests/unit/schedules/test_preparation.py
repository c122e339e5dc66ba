"""Winograd's kernels, made when a model is loaded: what NumPy makes of the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from schedules.cpu import templates
from schedules.cpu.preparation import KernelTransform
from schedules.tvm_adapter import IRModule, tvm
from schedules.tvm_adapter import target as tvm_target
from schedules.workload import SUM_BITS, Workload
from targets import get_target

HOST = get_target("x86/generic-avx2")


def conv(data="float32", channels=16, outputs=40, **attributes):
    accumulator, weight = ("int32", "int8") if data == "uint8" else ("float32", data)
    return Workload(
        "conv2d", (1, 14, 14, channels), (outputs, channels, 3, 3), (1, 14, 14, outputs),
        (data, weight, accumulator), "NHWC",
        {"strides": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1, **attributes},
    )  # fmt: skip


def run(transform: KernelTransform, compact, spec):
    """The function, compiled for this machine."""
    function = transform.function(spec).with_attr("global_symbol", "prepare")
    built = tvm.compile(IRModule({"prepare": function}), tvm_target.Target(HOST.tvm_dict()))
    shape, dtype = transform.packed
    result = tvm.runtime.tensor(np.full(shape, 77, dtype))
    built["prepare"](tvm.runtime.tensor(compact), result)
    return result.numpy()


def spaces(workload, target, name):
    spec = get_target(target)
    return [s for s in templates.spaces(workload, spec) if name in s.algorithm], spec


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_arm(dtype):
    workload = conv(dtype, **({SUM_BITS: 25} if dtype == "uint8" else {}))
    target = "arm/neoverse-n1" if dtype == "float16" else "arm/cortex-a72"
    found, spec = spaces(workload, target, "winograd")
    assert len(found) == 2
    check(workload, found, spec, np.random.default_rng(0))


@pytest.mark.parametrize("target", ["x86/zen4", "x86/generic-avx2", "arm/armv7"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_machines(dtype, target):
    workload = conv(dtype)
    found, spec = spaces(workload, target, "winograd")
    assert len(found) == 2
    check(workload, found, spec, np.random.default_rng(1))


def check(workload, found, spec, source):
    weight = source.standard_normal(workload.weight)
    dtype = workload.dtypes[1]
    if dtype == "int8":
        weight = source.integers(-128, 128, workload.weight)
    elif dtype == "bfloat16":
        dtype = "float32"
    weight = weight.astype(dtype)
    for space in found:
        transform = templates.template_for(workload, space.default).transform(
            workload, space.default, spec
        )
        compact = transform.pack(weight)
        assert (compact.shape, compact.dtype.name) == transform.compact
        assert compact.size == -(-40 // transform.columns) * transform.columns * 16 * 9
        (want,) = templates.pack(workload, space.default, spec, weight)
        have = run(transform, compact, spec)
        assert (have.shape, have.dtype) == (want.shape, want.dtype)
        if dtype == "int8":
            np.testing.assert_array_equal(have, want)
        else:  # float64 rounded to float32, both: the last digit at most
            np.testing.assert_array_max_ulp(have, want, maxulp=1)
            assert np.mean(have == want) > 0.99


def test_only_what_pays():
    small = conv(channels=16, outputs=16)
    spec = get_target("x86/generic-avx2")
    pays = {
        s.algorithm: templates.preparation(small, s.default, spec) is not None
        for s in templates.spaces(small, spec)
    }
    assert pays["winograd-4x4"]
    assert not pays["winograd-2x2"]  # 7 kB
    direct = next(s for s in templates.spaces(small, spec) if "winograd" not in s.algorithm)
    assert templates.preparation(small, direct.default, spec) is None
