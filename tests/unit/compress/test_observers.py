"""Observers: ranges out of a stream, in fixed memory and always the same."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.compress.observers import BINS, METHODS, Observer
from compiler.compress.ranges import (
    activation_plan,
    choose_range,
    fake_quantize_weight,
    weight_scales,
)


def observe(*samples: np.ndarray) -> Observer:
    observer = Observer()
    for sample in samples:
        observer.update(sample.astype(np.float32))
    return observer


def quantization_error(values: np.ndarray, low: float, high: float) -> float:
    plan = activation_plan(low, high, method="t", power_of_two=False, seen=(low, high))
    stored = np.clip(np.rint(values / plan.scale) + plan.zero_point, 0, 255)
    return float((((stored - plan.zero_point) * plan.scale - values) ** 2).mean())


def test_minimum_and_maximum_are_exact() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((3, 5)) * 10**i for i in range(4)]
    every = np.concatenate(samples).astype(np.float32)
    low, high = observe(*samples).range_by("minmax")
    assert (low, high) == (every.min(), every.max())


def test_zero_is_always_inside() -> None:
    assert observe(np.full(9, 3.0), np.full(9, 5.0)).range_by("minmax") == (0.0, 5.0)
    assert observe(np.full(9, -3.0), np.full(9, -5.0)).range_by("minmax") == (-5.0, 0.0)


def test_moving_average_follows_slowly() -> None:
    observer = observe(np.asarray([0.0, 1.0]), np.asarray([0.0, 2.0]))
    assert observer.range_by("average") == pytest.approx((0.0, 1.05))


def test_histogram_widens_and_loses_no_value() -> None:
    observer = observe(*(np.asarray([0.3, -0.7, 0.0]) * 2.0**i for i in range(12)))
    assert observer.counts.sum() == 24  # zeros are in no bin
    assert observer.reach >= 0.7 * 2**11
    assert len(observer.counts) == BINS


def test_percentile_matches_numpy() -> None:
    values = np.random.default_rng(1).standard_normal(200_000)
    low, high = observe(*values.reshape(10, -1)).range_by("percentile", 99.0)
    want = np.percentile(values, [0.5, 99.5])
    assert (low, high) == pytest.approx(tuple(want), abs=0.01)


@pytest.mark.parametrize("method", ["kl", "percentile"])
def test_outliers_are_clipped(method: str) -> None:
    values = np.random.default_rng(2).standard_normal(100_000)
    values[0] = 300.0
    observer = observe(*values.reshape(10, -1))
    assert observer.range_by(method)[1] < 150.0
    assert observer.range_by("minmax")[1] == 300.0


def test_mse_is_better_than_the_whole_range() -> None:
    values = np.random.default_rng(3).laplace(size=100_000)
    observer = observe(*values.reshape(10, -1))
    best = quantization_error(values, *observer.range_by("mse"))
    assert best < quantization_error(values, *observer.range_by("minmax"))
    # Nothing much better on a fine grid of symmetric ranges.
    grid = [quantization_error(values, -c, c) for c in np.linspace(2, 14, 60)]
    assert best < 1.05 * min(grid)


@pytest.mark.parametrize("method", METHODS)
def test_deterministic(method: str) -> None:
    samples = np.random.default_rng(4).standard_normal((5, 1000))
    assert observe(*samples).range_by(method) == observe(*samples).range_by(method)


def test_constant_is_noticed() -> None:
    assert observe(np.full(4, 2.0), np.full(4, 2.0)).constant
    assert not observe(np.full(4, 2.0), np.full(4, 2.5)).constant


@pytest.mark.parametrize("power_of_two", [False, True])
def test_the_zero_of_activations_is_exact(power_of_two: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        low, high = -rng.uniform(0, 3), rng.uniform(0.1, 3)
        plan = activation_plan(low, high, method="t", power_of_two=power_of_two, seen=(low, high))
        assert plan.dtype == ("int8" if power_of_two else "uint8")
        assert plan.zero_point == 0 if power_of_two else 0 <= plan.zero_point <= 255
        least, greatest = plan.real_limits
        assert least <= low + plan.scale
        assert greatest >= high - plan.scale


def test_power_of_two_takes_the_better_neighbour() -> None:
    values = np.random.default_rng(6).standard_normal(50_000)
    observer = observe(*values.reshape(5, -1))
    low, high = choose_range(observer, "mse", 99.99, True)
    plan = activation_plan(low, high, method="mse", power_of_two=True, seen=(low, high))
    scale = plan.scale
    errors = {
        s: quantization_error(values, -128 * s, 127 * s) for s in (scale / 2, scale, scale * 2)
    }
    assert errors[scale] == min(errors.values())


@pytest.mark.parametrize("method", ["minmax", "percentile", "kl"])
def test_a_power_of_two_spans_the_range_of_other_methods(method: str) -> None:
    observer = observe(*np.random.default_rng(9).exponential(0.3, (5, 2000)))
    low, high = observer.range_by(method, 99.9)
    _, greatest = choose_range(observer, method, 99.9, True)
    assert greatest >= high > greatest / 2
    assert low == 0.0


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_weights_by_channel_beat_weights_by_tensor(method: str) -> None:
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((8, 4, 3, 3)) * (2.0 ** np.arange(8))[:, None, None, None]
    weight = weight.astype(np.float32)

    def error(granularity: str) -> float:
        scales = weight_scales(
            weight, 0, granularity=granularity, method=method, power_of_two=False, bias=None,
            data_scale=0.01,
        )  # fmt: skip
        assert len(scales) == (8 if granularity == "channel" else 1)
        return float(((fake_quantize_weight(weight, 0, scales) - weight) ** 2).mean())

    assert error("channel") < error("tensor")


def test_scales_leave_room_for_the_bias() -> None:
    weight = np.full((2, 3), 1e-12, np.float32)
    weight[1] = 1.0
    scales = weight_scales(
        weight, 0, granularity="channel", method="minmax", power_of_two=False,
        bias=np.asarray([1000.0, 1000.0]), data_scale=1e-3,
    )  # fmt: skip
    assert all(1000.0 / (1e-3 * s) < 2**31 for s in scales)


def test_a_channel_of_zeros_has_a_scale() -> None:
    weight = np.zeros((2, 3), np.float32)
    weight[1] = 1.0
    for power in (False, True):
        scales = weight_scales(
            weight, 0, granularity="channel", method="mse", power_of_two=power, bias=None,
            data_scale=1.0,
        )  # fmt: skip
        assert all(s > 0 for s in scales)
        assert (fake_quantize_weight(weight, 0, scales)[0] == 0).all()
