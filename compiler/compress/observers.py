"""Streaming observers: ranges of activations out of any number of samples in fixed memory.

One observer a tensor sees its values sample by sample and keeps least and greatest value,
their moving averages, and a histogram whose bins widen by powers of two as the range grows.
The methods then choose a range to quantize:

- ``minmax``: all that was seen;
- ``average``: exponential moving averages of each sample's least and greatest value;
- ``percentile``: without the outermost values, as many on each side as asked for;
- ``mse``: least mean squared error of rounding and clipping together;
- ``kl``: least Kullback-Leibler divergence between what was seen and its quantized form.

All of it is deterministic: the same samples in the same order give the same range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

#: Bins of a histogram, half of them for negative values.
BINS = 8192
#: Share of the newest sample in a moving average.
NEWEST = 0.05
METHODS = ("minmax", "average", "percentile", "mse", "kl")
#: Stored values that a range is divided into: uint8.
_STEPS = 255

Floats = npt.NDArray[np.float64]


class Observer:
    """Sees one tensor's values; about 70 kB, whatever the number of samples."""

    def __init__(self) -> None:
        self.minimum = math.inf
        self.maximum = -math.inf
        self.average: tuple[float, float] | None = None
        self.samples = 0
        self.count = 0
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.reach = 0.0  # the histogram is of -reach to reach

    def update(self, values: npt.NDArray[Any]) -> None:
        """See one sample: finite float32 values, at least one."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        if self.average is None:
            self.average = (low, high)
        else:
            a, b = self.average
            self.average = (a + NEWEST * (low - a), b + NEWEST * (high - b))
        self.samples += 1
        self.count += flat.size
        self._widen(max(-low, high))
        if self.reach > 0.0:
            # The reach is a power of two, so that scaling is exact. A value at its very end
            # belongs to the last bin.
            scaled = flat * np.float32(BINS / 2 / self.reach) + np.float32(BINS / 2)
            found = np.bincount(scaled.astype(np.intp), minlength=BINS + 1)
            found[BINS - 1] += found[BINS]
            # Exact zeros cost nothing to quantize: they are in no bin.
            found[BINS // 2] -= flat.size - np.count_nonzero(flat)
            self.counts += found[:BINS]

    @property
    def constant(self) -> bool:
        """Whether all values seen were one and the same."""
        return self.minimum == self.maximum

    @property
    def centers(self) -> Floats:
        """The middle of each bin."""
        middles = (np.arange(BINS, dtype=np.float64) + 0.5) / (BINS / 2) - 1.0
        return np.asarray(middles * self.reach, np.float64)

    def range_by(self, method: str, percentile: float = 99.99) -> tuple[float, float]:
        """The range that a method chooses, with 0 inside.

        Args:
            method: One of `METHODS`.
            percentile: Share of the values, in percent, that ``percentile`` keeps.
        """
        low, high = min(self.minimum, 0.0), max(self.maximum, 0.0)
        if method == "average" and self.average is not None:
            low, high = min(self.average[0], 0.0), max(self.average[1], 0.0)
        elif method == "percentile":
            low, high = self._percentile(percentile, low, high)
        elif method == "mse":
            low, high = self._least(_SquaredError(self), low, high)
        elif method == "kl":
            low, high = self._least(self._divergence, low, high)
        return low, high

    def squared_error(self, low: float, high: float) -> float:
        """Estimated sum of squared errors when this range is quantized to 256 steps."""
        return _SquaredError(self)(low, high)

    def _widen(self, largest: float) -> None:
        if largest <= self.reach or largest == 0.0:
            return
        if self.reach == 0.0:
            self.reach = 2.0 ** math.ceil(math.log2(largest))
        while self.reach < largest:
            # Two bins become one, around the middle.
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = pairs
            self.reach *= 2.0

    def _percentile(self, percentile: float, low: float, high: float) -> tuple[float, float]:
        outside = (1.0 - percentile / 100.0) * self.count
        if outside < 1.0:
            return low, high
        edges = (np.arange(BINS + 1) / (BINS / 2) - 1.0) * self.reach
        half = outside / 2.0 if low < 0.0 < high else outside
        if high > 0.0:
            kept = np.nonzero(np.cumsum(self.counts[::-1])[::-1] > half)[0]
            high = min(high, max(float(edges[kept[-1] + 1]), 0.0)) if len(kept) else high
        if low < 0.0:
            kept = np.nonzero(np.cumsum(self.counts) > half)[0]
            low = max(low, min(float(edges[kept[0]]), 0.0)) if len(kept) else low
        return low, high

    def _divergence(self, low: float, high: float) -> float:
        centers = self.centers
        step = (high - low) / _STEPS
        clipped = np.clip(centers, low, high)
        width = 2.0 * self.reach / BINS
        bins = np.round((clipped - centers[0]) / width).astype(np.int64).clip(0, BINS - 1)
        seen = np.bincount(bins, weights=self.counts, minlength=BINS)
        inside = self.counts * (clipped == centers)
        levels = np.round((centers - low) / step).astype(np.int64).clip(0, _STEPS)
        used = inside > 0
        mass = np.bincount(levels, weights=inside, minlength=_STEPS + 1)
        members = np.bincount(levels, weights=used, minlength=_STEPS + 1)
        model = np.where(used, mass[levels] / np.maximum(members[levels], 1), 0.0)
        total, modelled = seen.sum(), model.sum()
        if total == 0.0 or modelled == 0.0:
            return math.inf
        p = seen / total
        q = np.maximum(model / modelled, 1e-9)
        here = p > 0.0
        return float((p[here] * np.log(p[here] / q[here])).sum())

    def _least(self, cost: Any, low: float, high: float) -> tuple[float, float]:
        """Shrink both ends together, then each alone, to where the cost is least."""
        shares = np.linspace(0.2, 1.0, 41)
        best = (cost(low, high), low, high) if high > low else (0.0, low, high)
        if high <= low:
            return low, high
        for share in shares:
            best = min(best, (cost(low * share, high * share), low * share, high * share))
        if low < 0.0 < high:
            for _ in range(2):
                _, a, _ = best
                for share in shares:
                    best = min(best, (cost(a, high * share), a, high * share))
                _, _, b = best
                for share in shares:
                    best = min(best, (cost(low * share, b), low * share, b))
        return float(best[1]), float(best[2])


class _SquaredError:
    """Sum of squared errors of rounding and clipping to a range, in the time of two searches.

    Clipping costs ``sum n (c - t)^2`` over the bins beyond the end ``t``: sums of ``n``, ``n c``
    and ``n c^2`` up to each bin are enough.
    """

    def __init__(self, observer: Observer) -> None:
        self.centers = observer.centers
        counts = observer.counts.astype(np.float64)
        powers = np.stack([counts, counts * self.centers, counts * self.centers**2])
        self.sums = np.concatenate([np.zeros((3, 1)), np.cumsum(powers, axis=1)], axis=1)

    def __call__(self, low: float, high: float) -> float:
        first = int(np.searchsorted(self.centers, low, "left"))
        end = int(np.searchsorted(self.centers, high, "right"))
        step = (high - low) / _STEPS
        inside = float(self.sums[0, end] - self.sums[0, first])
        below, above = self.sums[:, first], self.sums[:, -1] - self.sums[:, end]
        clipped = sum(
            s[2] - 2.0 * t * s[1] + t * t * s[0] for s, t in ((below, low), (above, high))
        )
        return inside * step * step / 12.0 + max(float(clipped), 0.0)


__all__ = ["BINS", "METHODS", "Observer"]
