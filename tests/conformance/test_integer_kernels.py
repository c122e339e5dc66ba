"""Integer operators on every x86 feature level: the bits of the NumPy reference.

`python -m tools.integer_conformance` runs as many cases as one likes and counts them.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.compress import reference
from targets import TargetSpec, get_target, missing_features
from tests.support.integer_cases import KINDS, Maker, check

pytestmark = pytest.mark.compile

TARGETS = ("x86", "x86/cascadelake", "x86/generic-avx2")


def runnable(name: str) -> TargetSpec:
    spec = get_target(name)
    missing = missing_features(spec)
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    return spec


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("x86/generic-avx2", 1),  # each kind on this machine's own target follows
        *(pytest.param(target, 2, marks=pytest.mark.slow) for target in TARGETS),
    ],
)
def test_random_operators(target, count):
    maker = Maker(random.Random(target))
    for _ in range(count):
        kernels = check([maker.case() for _ in range(4)], runnable(target), draws=4)
        assert not [(k.name, k.why) for k in kernels if k.fallback]


SLOW_PARTS = [pytest.param(part, marks=pytest.mark.slow) for part in range(4, 12)]


@pytest.mark.parametrize("part", [*range(4), *SLOW_PARTS])
def test_each_kind(part):
    """A quarter of the kinds in one module, which compiles faster than a module each."""
    kinds = sorted(set(KINDS))[part % 4 :: 4]
    maker = Maker(random.Random(part))
    check([maker.case(kind) for kind in kinds], runnable("x86"), draws=4)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(20))
def test_many_operators(target, seed):
    """Twenty modules of eight operators on twenty inputs, a target: 9,600 cases in all."""
    maker = Maker(random.Random(seed))
    check([maker.case() for _ in range(8)], runnable(target), draws=20, seed=seed)


class TestChoosingNumbers:
    """The integers that stand for real factors."""

    @given(st.lists(st.floats(1e-12, 1e8), min_size=1, max_size=5))
    def test_fixed_point_is_close(self, scales):
        multipliers, shift = reference.fixed_point(scales)
        assert 1 <= shift <= reference.MAX_SHIFT
        assert multipliers.dtype == np.int32
        error = np.abs(np.ldexp(multipliers.astype(np.float64), -shift) - scales)
        assert (error <= max(scales) * 2.0**-30 + 2.0**-62).all()

    @given(st.integers(0, 30), st.integers(-(2**30), 2**30))
    def test_a_power_of_two_is_a_shift(self, shift, value):
        assert reference.power_of_two([2.0**-shift] * 3) == shift
        multipliers, long_shift = reference.fixed_point([2.0**-shift])
        common = {"zero_point": 0, "low": -(2**31), "high": 2**31 - 1, "dtype": "int64"}
        sums, bias = np.array([value]), np.array([0])
        by_shift = reference.requantize(sums, bias, shift=shift, **common)
        by_product = reference.requantize(sums, bias, multipliers, shift=long_shift, **common)
        assert by_shift == by_product

    def test_different_scales_are_no_shift(self):
        assert reference.power_of_two([0.5, 0.25]) is None
        assert reference.power_of_two([0.3]) is None
        assert reference.power_of_two([2.0]) is None

    @given(st.lists(st.floats(1e-6, 1e5), min_size=2, max_size=2))
    def test_small_factors_fit(self, scales):
        factors, shift = reference.small_factors(scales)
        assert all(0 <= f < 1 << reference.FACTOR_BITS for f in factors)
        assert 255 * 2 * sum(factors) + (1 << shift) // 2 < 2**31 or sum(factors) * 255 < 2**30
        for factor, scale in zip(factors, scales, strict=True):
            assert abs(factor * 2.0**-shift - scale) <= max(scales) * 2.0**-20 + 2.0**-31

    @pytest.mark.parametrize("scales", [[0.0], [-1.0], [float("nan")], [2.0**40]])
    def test_impossible_scales_are_refused(self, scales):
        with pytest.raises(ValueError, match="scales"):
            reference.fixed_point(scales)
        with pytest.raises(ValueError, match="scales"):
            reference.small_factors(scales)

    def test_ties_round_up(self):
        sums = np.array([-3, -2, -1, 0, 1, 2, 3])
        result = reference.requantize(
            sums, np.array(0), shift=1, zero_point=0, low=-128, high=127, dtype="int8"
        )
        assert result.tolist() == [-1, -1, 0, 0, 1, 1, 2]

    def test_an_overflow_is_found(self):
        data = np.full((1, 70000), 255, np.uint8)
        with pytest.raises(OverflowError):
            reference.matmul(data, np.full((70000, 1), 127, np.int8))
