"""Inputs that give the peers' quantizers their ranges: smooth noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Length of the edges of the networks' inputs.
EDGE = 224
COUNT = 4


def smooth_noise(count: int = COUNT) -> npt.NDArray[np.float32]:
    """Inputs of shape (count, 3, 224, 224), standard deviation 1."""
    values = np.random.default_rng(0).normal(size=(count, 3, EDGE, EDGE))
    for _ in range(3):
        values = values + np.roll(values, 1, 2) + np.roll(values, 1, 3) + np.roll(values, 2, 3)
    return (values / values.std()).astype(np.float32)


__all__ = ["COUNT", "EDGE", "smooth_noise"]
