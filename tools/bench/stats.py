"""Medians, quantiles and ratios, on plain lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the edges of a set of samples.

    Attributes:
        p10: A tenth of the samples are below it.
        median: Half of them are.
        p90: Nine tenths are.
        count: How many samples there were.
    """

    p10: float
    median: float
    p90: float
    count: int


def quantile(samples: Sequence[float], q: float) -> float:
    """The `q` quantile, interpolated linearly between the two samples around it.

    Raises:
        ValueError: There are no samples, or `q` is outside [0, 1].
    """
    if not samples:
        raise ValueError("no samples")
    if not 0 <= q <= 1:
        raise ValueError(f"quantile {q} is outside [0, 1]")
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def spread(samples: Sequence[float]) -> Spread:
    """p10, median and p90 of at least one sample."""
    return Spread(
        quantile(samples, 0.1), quantile(samples, 0.5), quantile(samples, 0.9), len(samples)
    )


def round_medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The median of each round's samples."""
    return [median(samples) for samples in rounds]


def ratio_spread(peer: Sequence[float], ours: Sequence[float]) -> Spread:
    """Peer's time over ours, taken round by round, so that slow phases of the machine cancel.

    Args:
        peer: One time a round.
        ours: The same rounds' times of ours.

    Raises:
        ValueError: The two have different numbers of rounds.
    """
    return spread([a / b for a, b in zip(peer, ours, strict=True)])


def geomean(values: Sequence[float]) -> float:
    """The geometric mean of positive values.

    Raises:
        ValueError: There are none, or one is not positive.
    """
    if not values:
        raise ValueError("no values")
    if any(value <= 0 for value in values):
        raise ValueError("a geometric mean needs positive values")
    return math.exp(math.fsum(map(math.log, values)) / len(values))
