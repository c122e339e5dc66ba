"""A choice for one workload, moved to the space of a similar one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from schedules.space import Choice, Decision, Space
from schedules.workload import Json


def transfer(choice: Mapping[str, Json], spaces: Sequence[Space]) -> Choice | None:
    """The choice of `spaces` that is most like `choice`.

    Each decision takes the same option where there is one, else the nearest number, or list of
    numbers, in ratios; what has no counterpart stays as in the default.

    Returns:
        None if no space has the algorithm.
    """
    space = next((s for s in spaces if s.algorithm == choice.get("algorithm")), None)
    if space is None:
        return None
    result: Choice = dict(space.default)
    for decision in space.decisions:
        if decision.name in choice:
            result[decision.name] = _nearest(choice[decision.name], decision, result)
    return result


def _nearest(value: Json, decision: Decision, default: Choice) -> Json:
    wanted = _plain(value)
    for option in decision.options:
        if _plain(option) == wanted and isinstance(option, bool) == isinstance(value, bool):
            return option
    near = [(d, i) for i, o in enumerate(decision.options) if (d := _distance(wanted, _plain(o)))]
    return decision.options[min(near)[1]] if near else default[decision.name]


def _distance(one: Json, other: Json) -> float | None:
    """Doublings between numbers, or lists of as many; None if they are no such things."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = [_distance(a, b) for a, b in zip(one, other, strict=True)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None
    if _is_size(one) and _is_size(other):
        return abs(math.log2(one / other))
    return None


def _is_size(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _plain(value: Json) -> Json:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


__all__ = ["transfer"]
