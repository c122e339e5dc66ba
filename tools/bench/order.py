"""Who runs when: the order of contenders in each round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


def order_of(contenders: Sequence[_T], index: int) -> list[_T]:
    """The contenders in the order of round `index`.

    Each round starts one further, and every other cycle runs backwards. After two cycles
    every contender has had every position twice and has followed both its neighbours, so
    that nobody always runs on the caches or the clock that the same other left behind.
    """
    count = len(contenders)
    if not count:
        return []
    cycle, start = divmod(index, count)
    rotated = [contenders[(start + i) % count] for i in range(count)]
    return rotated[::-1] if cycle % 2 else rotated
