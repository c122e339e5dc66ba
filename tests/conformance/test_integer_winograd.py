"""Integer Winograd kernels on emulated ARM cores without a dot product: the reference's bits."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest

from compiler.build import build
from compiler.compress.interpret import interpret
from compiler.lower import lower
from compiler.stages import Imported, StageLog, TensorSpec
from schedules.cpu import templates
from schedules.selection import Selection
from schedules.tvm_adapter import relax
from targets import get_target
from tests.support.boards import emulates
from tests.support.emulated import EmulatedExecutor
from tests.support.integer_cases import Case, Maker, module_of, random_inputs

pytestmark = [pytest.mark.compile, emulates]


def convolution(maker, dtype, shape, outputs, padding, zero, weights):
    """A 3x3 convolution whose weights are as large as they can be, or random."""
    kernel = (outputs, shape[1], 3, 3)
    weight = {
        "extreme": maker.numpy.choice([-127, 127], kernel),
        "most": np.full(kernel, 127),
        "random": maker.numpy.integers(-127, 128, kernel),
    }[weights].astype(np.int8)
    finish, form = maker._requantize(None, weight, 0, 3, dtype)

    def emit(bb, inputs):
        data = inputs[0]
        if padding:
            data = bb.emit(
                relax.op.nn.pad(data, [0, 0, 0, 0, *[padding] * 4], "constant", float(zero))
            )
        constant = maker.table.constant(weight, "weight")
        sums = bb.emit(relax.op.nn.conv2d(data, constant, 1, 0, 1, 1, out_dtype="int32"))
        return [bb.emit(finish(sums))]

    return Case(f"{dtype} {shape} to {outputs}, {weights} weights, {form}", ((shape, dtype),), emit)


def lowered_cases(cases, spec, choose):
    """The cases with the choices that `choose` makes, and the log."""
    module = module_of(cases)
    main = module["main"]
    inputs = tuple(
        TensorSpec(str(v.name), tuple(int(e) for e in v.ty.shape.values), str(v.ty.dtype))
        for v in main.params
    )
    outputs = tuple(
        TensorSpec(f"y{i}", tuple(int(e) for e in ty.shape.values), str(ty.dtype))
        for i, ty in enumerate(main.ret_ty.fields)
    )
    log = StageLog()
    lowered = lower(
        Imported(module, inputs, outputs, {}, "cases"), spec, log,
        select=lambda workload, target: Selection(choose(workload, target)),
    )  # fmt: skip
    kernels = [k for k in lowered.kernels if k.kind == "conv2d"]
    assert {k.rule for k in kernels} == {"winograd-tiles"}, [k.why for k in kernels]
    return lowered, log, module


def run(cases, spec, choose, cpus, folder):
    """Compile the cases, run them on each processor, and compare every bit."""
    lowered, log, module = lowered_cases(cases, spec, choose)
    built = build(lowered, spec, log, folder)
    numpy = np.random.default_rng(0)
    drawn = [random_inputs(cases, numpy) for _ in range(4)]
    drawn.append([np.full(a.shape, np.iinfo(a.dtype).max, a.dtype) for a in drawn[0]])
    for cpu in cpus:
        executor = EmulatedExecutor(
            built.library, built.inputs, built.outputs, built.parameters, built.prepared, cpu=cpu
        )
        for arrays in drawn:
            given = executor.run(*arrays)
            given = given if isinstance(given, (tuple, list)) else [given]
            for case, want, have in zip(cases, interpret(module, arrays), given, strict=True):
                assert np.array_equal(np.asarray(have), want), case.text


def chosen(workload, spec, m, source=None):
    """The default of an algorithm, or any of its choices."""
    name = f"integer-winograd-{m}x{m}"
    space = next(s for s in templates.spaces(workload, spec) if s.algorithm == name)
    choice = dict(space.default)
    while source is not None:
        choice = {"algorithm": name}
        choice |= {d.name: source.choice(d.options) for d in space.decisions}
        if np.isfinite(templates.estimated_cycles(workload, choice, spec)):
            break
    return choice


@pytest.mark.slow
def test_the_largest_weights_and_data(tmp_path):
    maker = Maker(random.Random(1))
    cases = [
        convolution(maker, "uint8", (1, 32, 9, 13), 24, 1, 37, "most"),
        convolution(maker, "int8", (2, 16, 7, 6), 20, 0, 0, "extreme"),
    ]
    spec = get_target("arm/rpi4")
    run(cases, spec, lambda w, s: chosen(w, s, 4), ["cortex-a53"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_random_choices(m, seed, tmp_path):
    source = random.Random(seed)
    maker = Maker(source)
    cases = [
        convolution(
            maker, source.choice(["uint8", "int8"]),
            (source.choice([1, 1, 2]), source.choice([16, 24, 40]), source.randint(3, 20),
             source.randint(3, 20)),
            source.choice([16, 20, 33, 48]), source.choice([0, 1, 2]), source.choice([0, 5, 100]),
            source.choice(["extreme", "most", "random"]),
        )
        for _ in range(4)
    ]  # fmt: skip
    choose = partial(chosen, m=m, source=source)
    run(cases, get_target("arm/cortex-a53"), choose, ["cortex-a53", "max"], tmp_path)
