from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tools.bench.order import order_of


@pytest.mark.parametrize("count", range(1, 8))
def test_everyone_runs_once_a_round(count: int) -> None:
    for index in range(4 * count):
        assert sorted(order_of(range(count), index)) == list(range(count))


@pytest.mark.parametrize("count", range(1, 8))
def test_everyone_has_every_position_equally_often(count: int) -> None:
    seen = Counter(
        (who, place)
        for index in range(2 * count)
        for place, who in enumerate(order_of(range(count), index))
    )
    assert len(seen) == count * count
    assert set(seen.values()) == {2}


def test_nobody_always_follows_the_same_one() -> None:
    followed: dict[int, set[int]] = {who: set() for who in range(4)}
    for index in range(8):
        order = order_of(range(4), index)
        for before, after in pairwise(order):
            followed[after].add(before)
    assert all(len(others) == 2 for others in followed.values())


def test_first_rounds_in_full() -> None:
    assert ["".join(order_of("abc", i)) for i in range(6)] == [
        "abc",
        "bca",
        "cab",
        "cba",
        "acb",
        "bac",
    ]


def test_nobody() -> None:
    assert order_of([], 3) == []
