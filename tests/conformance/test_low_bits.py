"""Weights of one and two bits and products of signs: the bits of the NumPy reference."""

from __future__ import annotations

import random

import pytest

from schedules.tvm_adapter import relax
from tests.conformance.test_integer_kernels import TARGETS, runnable
from tests.support.integer_cases import Case, check
from tests.support.low_bits_cases import LOW_KINDS, LowMaker

pytestmark = pytest.mark.compile


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("x86/generic-avx2", 2),  # each kind on this machine's own target follows
        *(pytest.param(target, 3, marks=pytest.mark.slow) for target in TARGETS),
    ],
)
def test_random_operators(target, count):
    maker = LowMaker(random.Random(target))
    kernels = check([maker.case() for _ in range(count)], runnable(target), draws=3)
    assert not [(k.name, k.why) for k in kernels if k.fallback]


SLOW_PARTS = [pytest.param(part, marks=pytest.mark.slow) for part in range(2, 6)]


@pytest.mark.parametrize("part", [*range(2), *SLOW_PARTS])
def test_each_kind(part):
    """Half of the kinds in one module, which compiles faster than a module each."""
    kinds = LOW_KINDS[part % 2 :: 2]
    maker = LowMaker(random.Random(part))
    check([maker.case(kind) for kind in kinds], runnable("x86"), draws=3)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(12))
def test_many_operators(target, seed):
    """Twelve modules of eight operators on twenty inputs, a target: 5,760 cases in all."""
    maker = LowMaker(random.Random(seed))
    check([maker.case() for _ in range(8)], runnable(target), draws=20, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["binary", "ternary"])
def test_channels_that_fill_no_byte(encoding):
    """Binary codes have no 0: what fills up the last byte has to meet zeros, not the padding."""
    maker = LowMaker(random.Random(3))
    weight = maker._codes((9, 20, 3, 3), encoding)
    finish, _ = maker._requantize(None, weight, 0, 3, "uint8")

    def emit(bb, inputs):
        data = bb.emit(relax.op.nn.pad(inputs[0], [0, 0, 0, 0, 1, 1, 1, 1], "constant", 77))
        constant = maker.table.constant(weight, encoding, encoding)
        return [bb.emit(finish(bb.emit(relax.op.nn.conv2d(data, constant, out_dtype="int32"))))]

    case = Case(encoding, (((1, 20, 5, 6), "uint8"),), emit)
    (kernel,) = [k for k in check([case], runnable("x86"), draws=2) if "conv2d" in k.name]
    assert kernel.choice["algorithm"] == "direct"
