"""Predicts latencies of candidates from those of the measured ones.

The template's analytic estimate is the start; gradient-boosted trees (XGBoost) learn by how
much, in logarithms, measured latencies differ from it. Without data the estimate stands as
it is. One model serves all workloads of an operator, so each search profits from the others,
and records of earlier runs are examples like any other. Models are never stored: they are
trained again from data, for a stored XGBoost model is a program of its maker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.search.features import Features

#: Fewer examples say nothing that the estimate does not.
MIN_EXAMPLES = 8
#: Older examples are dropped beyond this: training stays under a second.
MAX_EXAMPLES = 6000
_ROUNDS = 80
_PARAMETERS = {
    "objective": "reg:squarederror",
    "max_depth": 5,
    "eta": 0.15,
    "subsample": 0.8,
    "min_child_weight": 1.5,
    "lambda": 1.0,
    "nthread": 1,  # the other core measures
    "verbosity": 0,
}


@dataclass(frozen=True)
class Example:
    """One measured candidate.

    Attributes:
        features: Of the workload and the choice.
        log_ratio: Natural logarithm of the measured latency over the estimated one.
        weight: Its say: 1 for a measurement of this run, less for one from elsewhere.
    """

    features: Features
    log_ratio: float
    weight: float = 1.0


class CostModel:
    """What the measurements of one operator's candidates teach.

    Args:
        seed: Of the trees' random choices.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._examples: list[Example] = []
        self._columns: dict[str, int] = {}
        self._booster: Any = None
        self._base = 0.0
        self._stale = False

    @property
    def examples(self) -> int:
        """How many examples it learned from, or will."""
        return len(self._examples)

    def add(self, examples: Sequence[Example]) -> None:
        """Learn from these, too; the training happens when a prediction needs it.

        Raises:
            ValueError: An example holds a number that is not finite.
        """
        for example in examples:
            values = [*example.features.values(), example.log_ratio, example.weight]
            if not np.isfinite(values).all():
                raise ValueError("an example with numbers that are not finite")
        self._examples.extend(examples)
        del self._examples[:-MAX_EXAMPLES]
        self._stale = self._stale or bool(examples)

    def predict(self, rows: Sequence[Features]) -> npt.NDArray[np.float64]:
        """Logarithm of the latency over the estimated one, for each candidate."""
        if self._stale:
            self._fit()
        if self._booster is None:
            return np.full(len(rows), self._base)
        import xgboost

        matrix = xgboost.DMatrix(self._matrix(rows), nthread=1)
        return np.asarray(self._booster.predict(matrix), dtype=np.float64) + self._base

    def _fit(self) -> None:
        self._stale = False
        targets = np.array([example.log_ratio for example in self._examples])
        weights = np.array([example.weight for example in self._examples])
        self._base = float(np.average(targets, weights=weights))
        if len(targets) < MIN_EXAMPLES:
            return
        import xgboost

        names = {name for example in self._examples for name in example.features}
        self._columns = {name: index for index, name in enumerate(sorted(names))}
        matrix = xgboost.DMatrix(
            self._matrix([example.features for example in self._examples]),
            label=targets - self._base,
            weight=weights,
            nthread=1,
        )
        parameters = {**_PARAMETERS, "base_score": 0.0, "seed": self._seed}
        self._booster = xgboost.train(parameters, matrix, num_boost_round=_ROUNDS)

    def _matrix(self, rows: Sequence[Features]) -> npt.NDArray[np.float32]:
        """A row a candidate, NaN for what it lacks; features never seen in training go."""
        matrix = np.full((len(rows), len(self._columns)), np.nan, dtype=np.float32)
        for index, features in enumerate(rows):
            for name, value in features.items():
                column = self._columns.get(name)
                if column is not None:
                    matrix[index, column] = value
        return matrix


__all__ = ["MIN_EXAMPLES", "CostModel", "Example"]
