"""The rule that gives the next batch to a task, and the roofline's bound."""

import pytest

from compiler.tune.budget import Standing, expected_gain, roofline_ns
from targets import get_target

SPEC = get_target("x86/zen4")


def standing(**changes: object) -> Standing:
    values: dict[str, object] = {
        "calls": 1,
        "best_ns": 1000.0,
        "floor_ns": 500.0,
        "reachable_ns": 500.0,
        "history_ns": (1000.0,),
    }
    return Standing(**{**values, **changes})  # type: ignore[arg-type] - values are of each field


def test_calls_multiply_what_a_batch_gains() -> None:
    assert expected_gain(standing(calls=10)) == pytest.approx(10 * expected_gain(standing()))


def test_a_gap_that_a_similar_task_does_not_have_promises_more() -> None:
    no_gap = standing(reachable_ns=1000.0)
    assert expected_gain(standing()) > expected_gain(no_gap) > 0


def test_batches_that_still_improve_promise_more_than_a_standstill() -> None:
    falling = standing(history_ns=(1600.0, 1400.0, 1200.0, 1000.0))
    still = standing(history_ns=(1000.0,) * 4)
    assert expected_gain(falling) > expected_gain(still)


def test_hope_fades_with_the_batches() -> None:
    gains = [expected_gain(standing(history_ns=(1000.0,) * n)) for n in (1, 3, 6, 20)]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] < gains[0] / 2


def test_nothing_is_expected_at_the_roofline() -> None:
    assert expected_gain(standing(best_ns=500.0, history_ns=(500.0, 500.0))) == 0


def test_the_roofline_is_the_larger_of_arithmetic_and_memory() -> None:
    clock = SPEC.clock_hz
    rate = 32 * clock / 1e9  # operations a nanosecond
    assert roofline_ns(32e6, 0, "float32", SPEC, clock) == pytest.approx(32e6 / rate)
    assert roofline_ns(32e6, 0, "float32", SPEC, 2 * clock) == pytest.approx(16e6 / rate)
    assert roofline_ns(32e6, 0, "bfloat16", SPEC, clock) == pytest.approx(16e6 / rate)
    cached = SPEC.cache_bytes(3)
    assert roofline_ns(1.0, cached, "float32", SPEC, clock) < 1
    moved = roofline_ns(1.0, cached + 460.8e6, "float32", SPEC, clock)
    assert moved == pytest.approx(1e6)
