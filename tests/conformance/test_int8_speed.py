"""Kernels of their own for integers: the bits of the reference, whatever choice builds them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from compiler import compile
from compiler.compress.plan import CompressionPlan
from compiler.frontend import import_model
from compiler.lower.plain import reference_outputs
from compiler.lower.tasks import (
    arguments,
    build_candidate,
    extract_tasks,
    pack_arguments,
    reference,
)
from compiler.stages import StageLog
from compiler.tune.measure.values import random_inputs, terms
from schedules.cpu import templates
from schedules.tvm_adapter import target as tvm_target
from schedules.tvm_adapter import tvm
from targets import get_target, missing_features

pytestmark = pytest.mark.compile


def samples(shape, count=4, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.3, 1, shape).astype(np.float32) for _ in range(count)]


def quantized(module, shape, target="x86"):
    spec = get_target(target)
    if missing_features(spec):
        pytest.skip("this CPU cannot run the target's code")
    torch.manual_seed(0)
    x = samples(shape)
    return compile(
        module.eval(), target, example_inputs=(x[0],), quantize="int8", calibration=x,
        measure=False, records=False, name="net",
    )  # fmt: skip


def check(bundle, module, shape):
    """Every output bit is the reference's, on ordinary and on extreme inputs."""
    x = samples(shape, seed=1)
    imported = import_model(module.eval(), (torch.from_numpy(x[0]),), name="net", log=StageLog())
    spikes = np.random.default_rng(2).choice([-1e30, 1e30, 0.0, np.inf, -np.inf, np.nan], shape)
    for value in (*x[:2], x[0] * 100, spikes.astype(np.float32)):
        (want,) = reference_outputs(imported, get_target("x86"), bundle.plan, [value])
        assert np.array_equal(bundle(value), want, equal_nan=True)


@pytest.mark.parametrize(
    "target", ["x86", pytest.param("x86/generic-avx2", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("channels", "size", "stride", "padding"),
    [
        (3, (9, 20), 2, 1),
        pytest.param(1, (5, 17), 1, 2, marks=pytest.mark.slow),
        pytest.param(4, (6, 16), 1, 0, marks=pytest.mark.slow),
        pytest.param(2, (7, 5), 1, 1, marks=pytest.mark.slow),
    ],
)
def test_images(channels, size, stride, padding, target):
    module = nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride, padding), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU()
    )
    shape = (2, channels, *size)
    bundle = quantized(module, shape, target)
    assert "image-bytes" in {k.rule for k in bundle.kernels}
    check(bundle, module, shape)


@pytest.mark.parametrize("function", [nn.SiLU, pytest.param(nn.Sigmoid, marks=pytest.mark.slow)])
def test_tables(function):
    module = nn.Sequential(nn.Conv2d(3, 16, 3), function(), nn.Conv2d(16, 8, 1), nn.ReLU())
    shape = (1, 3, 10, 18)
    bundle = quantized(module, shape)
    if get_target("x86").has("avx512vbmi"):
        assert "table-lookup" in {k.rule for k in bundle.kernels}
    check(bundle, module, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "dilation"),
    [(32, 3, 1, 1), (40, 3, 2, 1), (16, 5, 1, 1), (96, 5, 2, 1), (24, 7, 1, 1), (64, (4, 2), 1, 2)],
)
def test_choices_of_depthwise_convolutions(channels, kernel, stride, dilation):
    spec = get_target("x86")
    module = nn.Sequential(
        nn.Conv2d(channels, channels, 1), nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, 2, dilation, groups=channels), nn.ReLU(),
        nn.Conv2d(channels, 4, 1),
    ).eval()  # fmt: skip
    shape = (1, channels, 11, 13)
    x = tuple(torch.from_numpy(v) for v in samples(shape))
    bundle = quantized(module, shape)
    plan = CompressionPlan.from_json(bundle.plan.to_json())
    imported = import_model(module, x[:1], name="net", log=StageLog())
    tasks = extract_tasks(imported, spec, StageLog(), plan=plan)
    (task,) = [t for t in tasks if t.workload.operator == "depthwise_conv2d"]
    generator = random.Random(channels)
    spaces = templates.spaces(task.workload, spec)
    if spec.has("avx512vnni"):
        assert "dots" in {space.algorithm for space in spaces}
    inputs = [a for a in arguments(task) if a.role != "output"]
    arrays = random_inputs(inputs, 3, terms(task.workload))
    expected = run(reference(task), task, spec, arrays)
    for space in spaces:
        for _ in range(3):
            choice = {"algorithm": space.algorithm}
            choice |= {d.name: generator.choice(d.options) for d in space.decisions}
            packed = pack_arguments(task, choice, spec, arrays)
            got = run(build_candidate(task, choice, spec), task, spec, packed)
            assert np.array_equal(got, expected), choice


def run(function, task, spec, arrays):
    """The output of a function on its inputs."""
    (output,) = [a for a in arguments(task) if a.role == "output"]
    library = tvm.compile(function, target=tvm_target.Target(spec.tvm_dict()))
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
    result = tvm.runtime.tensor(np.full(output.shape, 77, output.dtype))
    library(*tensors, result)
    return result.numpy()
