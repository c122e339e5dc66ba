from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.bench.stats import geomean, quantile, ratio_spread, round_medians, spread

_times = st.floats(min_value=1e-3, max_value=1e6)


@given(st.lists(_times, min_size=1, max_size=50), st.floats(min_value=0, max_value=1))
def test_quantile_is_numpys(samples: list[float], q: float) -> None:
    assert quantile(samples, q) == pytest.approx(float(np.quantile(samples, q)), rel=1e-9)


def test_spread_of_known_samples() -> None:
    got = spread([float(i) for i in range(10, -1, -1)])
    assert (got.p10, got.median, got.p90, got.count) == (1.0, 5.0, 9.0, 11)


def test_one_sample_is_its_own_spread() -> None:
    got = spread([7.0])
    assert (got.p10, got.median, got.p90) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(("samples", "q"), [([], 0.5), ([1.0], -0.1), ([1.0], 1.1)])
def test_quantile_refuses(samples: list[float], q: float) -> None:
    with pytest.raises(ValueError, match=r"no samples|outside"):
        quantile(samples, q)


def test_ratio_is_taken_in_each_round() -> None:
    # The machine was ten times slower in the second round: each round's ratio is still 2.
    assert ratio_spread([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]).median == 2.0
    # The median of all times would have said 2 as well, but the edges would not.
    assert ratio_spread([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]).p90 == 2.0


def test_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio_spread([1.0, 2.0], [1.0])


def test_round_medians() -> None:
    assert round_medians([[3.0, 1.0, 100.0], [2.0, 4.0]]) == [3.0, 3.0]


@given(st.lists(_times, min_size=1, max_size=20))
def test_geomean_of_inverses_is_the_inverse(values: list[float]) -> None:
    inverse = geomean([1 / value for value in values])
    assert geomean(values) * inverse == pytest.approx(1, rel=1e-9)


def test_geomean() -> None:
    assert geomean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isclose(geomean([3.0]), 3.0)
    with pytest.raises(ValueError, match="no values"):
        geomean([])
    with pytest.raises(ValueError, match="positive"):
        geomean([1.0, 0.0])
