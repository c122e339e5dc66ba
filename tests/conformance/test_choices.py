"""Whatever choice serves a kernel, it computes what the canonical operator does."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from compiler.frontend import import_model
from compiler.lower.tasks import (
    Task,
    arguments,
    build_candidate,
    extract_tasks,
    pack_arguments,
    reference,
)
from compiler.stages import StageLog
from schedules.cpu import templates
from schedules.tvm_adapter import target as tvm_target
from schedules.tvm_adapter import tvm
from targets import get_target, missing_features

pytestmark = pytest.mark.compile


class Residual(nn.Module):
    """A convolution with bias, residual and activation."""

    def __init__(self, channels, out, kernel=3, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups)

    def forward(self, x, residual):
        return nn.functional.relu(self.conv(x) + residual)


MODELS = {
    "winograd": (Residual(32, 40), ((1, 32, 13, 15), (1, 40, 13, 15))),
    "winograd batch": (nn.Conv2d(16, 16, 3, padding=1), ((3, 16, 8, 8),)),
    "valid": (nn.Conv2d(20, 33, 3), ((1, 20, 11, 9),)),
    "strided": (Residual(24, 24, 3, 2), ((2, 24, 9, 9), (2, 24, 5, 5))),
    "grouped": (Residual(32, 64, 3, groups=4), ((1, 32, 7, 7), (1, 64, 7, 7))),
    "depthwise": (nn.Conv2d(40, 40, 3, 2, 1, groups=40), ((1, 40, 13, 13),)),
    "dense": (nn.Sequential(nn.Linear(50, 70), nn.GELU()), ((13, 50),)),
    "pool": (nn.MaxPool2d(3, 2, 1), ((1, 24, 13, 13),)),
}


def run(function, spec, arrays):
    library = tvm.compile(function, target=tvm_target.Target(spec.tvm_dict()))
    tensors = [tvm.runtime.tensor(a) for a in arrays]
    library(*tensors)
    return tensors


#: The fast cases: the cheapest of each algorithm, and one of narrower vectors.
FAST = (
    *((name, "x86", 2) for name in ("winograd batch", "strided", "depthwise", "dense", "pool")),
    ("grouped", "x86/generic-avx2", 2),
)
CASES = [
    (name, target, count)
    for target in ("x86", "x86/generic-avx2", "x86/cascadelake")
    for name in MODELS
    for count in (2, 5)
]


@pytest.mark.parametrize(
    ("name", "target", "count"),
    [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in CASES],
)
def test_random_choices_compute_what_the_canonical_kernel_does(name, target, count):
    spec = get_target(target)
    if missing_features(spec):
        pytest.skip("this CPU cannot run the target's code")
    module, shapes = MODELS[name]
    torch.manual_seed(0)
    inputs = tuple(torch.randn(shape) for shape in shapes)
    imported = import_model(module.eval(), inputs, log=StageLog())
    (task,) = extract_tasks(imported, spec, StageLog())
    task = Task.from_json(task.to_json())  # as a worker gets it
    generator = random.Random(name)
    numbers = np.random.default_rng(0)
    arrays = [numbers.standard_normal(a.shape).astype(a.dtype) for a in arguments(task)]
    for array, argument in zip(arrays, arguments(task), strict=True):
        if argument.role == "output":
            array.fill(np.nan)
    expected = run(reference(task), spec, arrays)[-1].numpy()
    assert np.isfinite(expected).all()
    for space in templates.spaces(task.workload, spec):
        choices = [space.default]
        while len(choices) < count:
            choice = {"algorithm": space.algorithm}
            choice |= {d.name: generator.choice(d.options) for d in space.decisions}
            if np.isfinite(templates.estimated_cycles(task.workload, choice, spec)):
                choices.append(choice)
        for choice in choices:
            candidate = build_candidate(task, choice, spec)
            packed = pack_arguments(task, choice, spec, arrays)
            result = run(candidate, spec, packed)[-1].numpy()
            error = np.abs(result - expected).max() / np.abs(expected).max()
            assert error <= (1e-4 if "winograd" in space.algorithm else 1e-5), choice


def test_a_choice_that_is_not_offered_is_refused():
    spec = get_target("x86/generic-avx2")
    imported = import_model(nn.Linear(8, 8).eval(), (torch.randn(4, 8),), log=StageLog())
    (task,) = extract_tasks(imported, spec, StageLog())
    with pytest.raises(ValueError, match="algorithm"):
        build_candidate(task, {"algorithm": "amx"}, spec)
