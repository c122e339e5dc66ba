"""Accuracy and latency of two ways to run one model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.bench.order import order_of
from tools.bench.stats import Spread, ratio_spread, round_medians, spread

Array = npt.NDArray[np.generic]

#: Largest error of a logit, relative to the largest logit, that counts as the same.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near two sets of logits are.

    Attributes:
        images: How many there are.
        top1: On how many the most likely class is the same.
        top5: On how many the five most likely classes are the same set.
        max_abs_error: Largest difference of a logit.
        max_rel_error: The same over the largest magnitude of a logit.
    """

    images: int
    top1: int
    top5: int
    max_abs_error: float
    max_rel_error: float

    @property
    def holds(self) -> bool:
        """The same class on every image, and logits within `TOLERANCE`."""
        return self.top1 == self.images and self.max_rel_error <= TOLERANCE


def top_classes(logits: Array, count: int = 5) -> npt.NDArray[np.int64]:
    """The `count` largest logits' classes of each row of (images, classes), largest first."""
    return np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :count]


def hits(logits: Array, labels: Sequence[int], count: int) -> int:
    """On how many rows the label is among the `count` largest."""
    wanted = np.asarray(labels)[:, None]
    return int((top_classes(logits, count) == wanted).any(axis=1).sum())


def agreement(ours: Array, reference: Array) -> Agreement:
    """Compare logits (images, classes) with the reference's."""
    mine, theirs = top_classes(ours), top_classes(reference)
    error = float(np.abs(ours.astype(np.float64) - reference.astype(np.float64)).max())
    if not np.isfinite(error):
        error = float("inf")
    return Agreement(
        images=len(reference),
        top1=int((mine[:, 0] == theirs[:, 0]).sum()),
        top5=int((np.sort(mine) == np.sort(theirs)).all(axis=1).sum()),
        max_abs_error=error,
        max_rel_error=error / float(np.abs(reference).max()),
    )


def probabilities(logits: Array) -> npt.NDArray[np.float64]:
    """Softmax over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(axis=-1, keepdims=True)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep the calling thread on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured times.

    Attributes:
        milliseconds: Of each contender, over all timed runs.
        ratio: Each contender's time over that of the first, round by round.
    """

    milliseconds: Mapping[str, Spread]
    ratio: Mapping[str, Spread]


def interleave(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, *, count: int = 3
) -> Latency:
    """Time the contenders in turn: in each round one untimed run of each, then `count` timed ones.

    Args:
        contenders: What to call, by name; the first is what the others are compared with.
        rounds: How many.
        count: Timed runs of each in a round.
    """
    names = list(contenders)
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    for index in range(rounds):
        for name in order_of(names, index):
            run = contenders[name]
            run()
            samples = []
            for _ in range(count):
                start = time.perf_counter_ns()
                run()
                samples.append((time.perf_counter_ns() - start) / 1e6)
            times[name].append(samples)
    medians = {name: round_medians(samples) for name, samples in times.items()}
    return Latency(
        {name: spread([t for s in samples for t in s]) for name, samples in times.items()},
        {name: ratio_spread(medians[name], medians[names[0]]) for name in names},
    )
