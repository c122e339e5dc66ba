"""Spaces of choices: defaults are in them, and packing does what the kernel expects."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from schedules.cpu import templates
from schedules.cpu.compute.winograd import INPUT, KERNEL_TRANSFORM, OUTPUT
from schedules.workload import Workload
from targets import get_target
from tests.support.examples import some_of

F32 = ("float32", "float32", "float32")
BF16 = ("bfloat16", "bfloat16", "float32")
U8 = ("uint8", "int8", "int32")


def conv(size=14, inner=32, outer=48, kernel=3, stride=1, groups=1, dtypes=F32):
    pad = kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    operator = "depthwise_conv2d" if groups == inner else "conv2d"
    return Workload(
        operator, (1, size, size, inner), (outer, inner // groups, kernel, kernel),
        (1, out, out, outer), dtypes, "NHWC",
        {"strides": [stride] * 2, "padding": [pad] * 4, "dilation": [1, 1], "groups": groups},
    )  # fmt: skip


def dense(m=12, k=40, n=70, dtypes=F32):
    return Workload("dense", (m, k), (k, n), (m, n), dtypes, "row-major")


WORKLOADS = [
    conv(), conv(kernel=1), conv(stride=2), conv(groups=4), conv(groups=32, outer=32),
    conv(inner=3, kernel=7), conv(dtypes=BF16), conv(dtypes=U8), conv(inner=30, dtypes=U8),
    dense(), dense(m=1), dense(k=39, dtypes=BF16), dense(k=39, dtypes=U8),
]  # fmt: skip
TARGETS = ["x86/zen4", "x86/cascadelake", "x86/generic-avx2", "x86/sapphirerapids"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_defaults_are_choices_and_weights_pack_to_the_promised_shape(workload, target):
    spec = get_target(target)
    found = templates.spaces(workload, spec)
    assert found
    weight = np.ones([int(v) for v in workload.weight], np.int8)
    for space in found:
        assert space.refusal(space.default) is None
        assert math.isfinite(templates.estimated_cycles(workload, space.default, spec))
        types = templates.packed(workload, space.default, spec)
        packed = templates.pack(workload, space.default, spec, *([weight] if types else []))
        assert [p.shape for p in packed] == [shape for shape, _ in types]
    cycles = [templates.estimated_cycles(workload, s.default, spec) for s in found]
    assert cycles == sorted(cycles)


@pytest.mark.parametrize("target", TARGETS)
def test_random_choices_of_a_space_are_accepted_or_said_to_be_none(target):
    spec = get_target(target)
    generator = random.Random(0)
    for workload in WORKLOADS:
        for space in templates.spaces(workload, spec):
            for _ in range(some_of(20, 5)):
                choice = {"algorithm": space.algorithm}
                choice |= {d.name: generator.choice(d.options) for d in space.decisions}
                assert templates.refusal(workload, choice, spec) is None
                assert templates.estimated_cycles(workload, choice, spec) > 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"algorithm": "magic"}, "algorithm"),
        ({"tile": [1, 1000, 2, 16]}, "tile"),
        ({"extra": 1}, "unknown"),
    ],
)
def test_what_no_template_offers_is_refused(change, why):
    spec = get_target("x86/zen4")
    choice = {**templates.default_choice(dense(), spec), **change}
    assert why in str(templates.refusal(dense(), choice, spec))


def test_instructions_that_a_target_lacks_are_not_offered():
    workload = dense(64, 64, 64, U8)
    assert "amx" in {s.algorithm for s in templates.spaces(workload, get_target(TARGETS[3]))}
    assert "amx" not in {s.algorithm for s in templates.spaces(workload, get_target(TARGETS[0]))}


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_matrices_make_a_convolution(m):
    generator = np.random.default_rng(0)
    data, kernel = generator.standard_normal(m + 2), generator.standard_normal(3)
    product = (np.array(KERNEL_TRANSFORM[m]) @ kernel) * (np.array(INPUT[m]) @ data)
    expected = np.correlate(data, kernel, "valid")
    assert np.allclose(np.array(OUTPUT[m]) @ product, expected)


def test_winograd_is_for_plain_3x3_convolutions_only():
    spec = get_target("x86/zen4")

    def algorithms(workload):
        return {s.algorithm for s in templates.spaces(workload, spec)}

    assert {"winograd-2x2", "winograd-4x4"} < algorithms(conv())
    for other in (conv(stride=2), conv(kernel=1), conv(groups=4), conv(dtypes=U8)):
        assert not any("winograd" in name for name in algorithms(other))
    dilated = conv()
    dilated = Workload(
        dilated.operator, dilated.data, dilated.weight, (1, 12, 12, 48), F32, "NHWC",
        {**dilated.attributes, "dilation": [2, 2]},
    )  # fmt: skip
    assert not any("winograd" in name for name in algorithms(dilated))


def test_the_winograd_tile_has_to_fill_its_strip():
    spec = get_target("x86/zen4")
    workload = conv(56, 64, 64)
    space = next(s for s in templates.spaces(workload, spec) if s.algorithm == "winograd-4x4")
    finite = {
        (strip, tuple(tile))
        for strip in space.decisions[0].options
        for tile in space.decisions[1].options
        if math.isfinite(
            templates.estimated_cycles(
                workload, {**space.default, "strip": strip, "tile": tile}, spec
            )
        )
    }
    assert finite
    assert all((strip * 14) % tile[1] == 0 for strip, tile in finite)
