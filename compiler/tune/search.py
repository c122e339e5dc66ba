"""The search for one task: which candidates to measure next, and what the measured ones say."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compiler.tune.measure.base import Failed, Measured, Outcome, Rejected
from schedules.records.selector import refusal_by
from schedules.search.cost_model import CostModel, Example
from schedules.search.features import Features, choice_features, workload_features
from schedules.space import Choice, Space

if TYPE_CHECKING:
    from compiler.lower.tasks import Task
    from compiler.tune.kernels import Kernels
    from schedules.search.evolution import Evolution
    from targets.spec import TargetSpec

#: Spaces up to this many choices are ranked whole, by estimate and cost model, before each
#: batch; larger ones are searched by evolution.
RANKED_WHOLE = 512
#: What a candidate that failed teaches: as if it had taken this many times its estimate.
_FAILED_LOG_RATIO = math.log(8.0)
#: Shares of a batch that are taken at random, while the model knows little and later.
_RANDOM_EARLY, _RANDOM_LATE = 0.25, 0.1
_EARLY = 48
_EMPTY_PROPOSALS = 3
_MAX_SAMPLES = 1000


@dataclass(frozen=True)
class Trial:
    """A measured candidate and its median latency."""

    choice: Choice
    outcome: Measured
    latency_ns: float


def choice_key(choice: Choice) -> str:
    """One text for equal choices."""
    return json.dumps(choice, sort_keys=True, separators=(",", ":"))


def checked(outcome: Outcome) -> Outcome:
    """The outcome, or a failure if its samples are no latencies."""
    if isinstance(outcome, Measured):
        samples = outcome.samples_ns
        if not samples:
            return Failed("verify", "it was measured without a sample", outcome.build_s)
        wrong = [v for v in samples if not (math.isfinite(v) and 0 < v < 1e15)]
        if wrong:
            reason = f"{len(wrong)} of {len(samples)} samples are no latencies: {wrong[0]} ns"
            return Failed("verify", reason, outcome.build_s, outcome.run_s)
        error = outcome.max_relative_error
        if not 0 <= error <= outcome.tolerance:
            return Rejected(
                f"its output is off by {error}, and {outcome.tolerance} is allowed",
                outcome.build_s,
                outcome.run_s,
            )
    return outcome


class TaskSearch:
    """The state of the search for one task.

    Args:
        task: What is tuned.
        spec: What for.
        kernels: The templates.
        model: The cost model of the task's operator, shared with its other tasks.
        batch: Candidates of one proposal at most.
        seed: Of its random choices.

    Attributes:
        spaces: The task's spaces; empty if no template has any.
        default: The choice without a search.
        best: The fastest candidate so far.
        default_ns: Latency of the default; None if it was not measured or failed.
        trials, rejected, failed: Counts, journal included.
        exhausted: Whether nothing is left to propose.
    """

    def __init__(
        self,
        task: Task,
        spec: TargetSpec,
        kernels: Kernels,
        model: CostModel,
        *,
        batch: int,
        seed: int,
    ) -> None:
        self.task = task
        self.spaces: tuple[Space, ...] = tuple(kernels.spaces(task.workload, spec))
        self.default: Choice | None = dict(self.spaces[0].default) if self.spaces else None
        self.best: Trial | None = None
        self.default_ns: float | None = None
        self.trials = self.rejected = self.failed = 0
        self.exhausted = not self.spaces
        self._spec = spec
        self._kernels = kernels
        self._model = model
        self._batch = batch
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._measured: dict[str, Outcome] = {}
        self._cycles: dict[str, float] = {}
        self._known_features: dict[str, Features] = {}
        self._common: Features = workload_features(task.workload, spec) if self.spaces else {}
        self._queue: list[Choice] = []
        self._evolution: Evolution | None = None
        self._size = sum(space.size for space in self.spaces)
        self.offer([dict(space.default) for space in self.spaces])

    @property
    def estimate_ns(self) -> float:
        """The analytic model's latency of the default; infinite without one."""
        return math.inf if self.default is None else self._estimated_ns(self.default)

    def accepts(self, choice: Choice) -> bool:
        """Whether the choice is one of the task's and holds together."""
        if choice_key(choice) in self._cycles:
            return self._holds(choice)
        return refusal_by(self.spaces, choice) is None and self._holds(choice)

    def offer(self, choices: Sequence[Choice]) -> None:
        """Propose these before all others, in this order; what is refused or known is left out."""
        waiting = {choice_key(choice) for choice in self._queue}
        for choice in choices:
            key = choice_key(choice)
            if key not in self._measured and key not in waiting and self.accepts(choice):
                self._queue.append(dict(choice))
                waiting.add(key)

    def propose(self, count: int, *, only_offered: bool = False) -> list[Choice]:
        """Candidates to measure next, best first; none when nothing is left.

        Args:
            count: How many at most.
            only_offered: Only what `offer` was given, the defaults among it.
        """
        picked: dict[str, Choice] = {}
        while self._queue and len(picked) < count:
            choice = self._queue.pop(0)
            if choice_key(choice) not in self._measured:
                picked[choice_key(choice)] = choice
        if only_offered:
            return list(picked.values())
        if len(picked) < count:
            source = self._ranked() if self._size <= RANKED_WHOLE else self._evolved()
            for choice in source:
                key = choice_key(choice)
                if key not in self._measured:
                    picked.setdefault(key, choice)
                if len(picked) >= count:
                    break
        if not picked:
            self.exhausted = True
        return list(picked.values())

    def observe(self, choice: Choice, outcome: Outcome) -> bool:
        """Take in what was measured; further samples of a known choice join the ones it has.

        Returns:
            Whether it is news: False for a choice that is known or none of the task's.
        """
        key = choice_key(choice)
        outcome = checked(outcome)
        if key in self._measured:
            self._pool(key, outcome)
            return False
        if not self.accepts(choice):
            return False
        self._measured[key] = outcome
        self.trials += 1
        if isinstance(outcome, Measured):
            self._observe_latency(choice, outcome)
        else:
            if isinstance(outcome, Rejected):
                self.rejected += 1
            else:
                self.failed += 1
            self._model.add([Example(self._features(choice), _FAILED_LOG_RATIO)])
        return True

    def latency_of(self, choice: Choice) -> float | None:
        """Median latency of a choice in nanoseconds; None if it was not measured or failed."""
        outcome = self._measured.get(choice_key(choice))
        return median(outcome.samples_ns) if isinstance(outcome, Measured) else None

    def waits_for(self, choice: Choice) -> bool:
        """Whether a choice can be measured and was not yet."""
        return choice_key(choice) not in self._measured and self.accepts(choice)

    def close(self) -> None:
        """Free what the search holds."""
        if self._evolution is not None:
            self._evolution.close()
            self._evolution = None

    def _observe_latency(self, choice: Choice, outcome: Measured) -> None:
        latency = median(outcome.samples_ns)
        ratio = math.log(latency / self._estimated_ns(choice))
        self._model.add([Example(self._features(choice), ratio)])
        if choice == self.default:
            self.default_ns = latency
        if self.best is None or latency < self.best.latency_ns:
            self.best = Trial(dict(choice), outcome, latency)
        if self._evolution is not None:
            self._evolution.observe(choice, latency * 1e-9)

    def _pool(self, key: str, outcome: Outcome) -> None:
        """Join the samples of two measurements of a choice; it may not be the best any more."""
        known = self._measured[key]
        if not isinstance(known, Measured) or not isinstance(outcome, Measured):
            if isinstance(known, Measured) and isinstance(outcome, Rejected):
                # Right once and wrong the next time: a race is no kernel to keep.
                self._measured[key] = outcome
                self.rejected += 1
                self._find_best()
            return
        samples = (known.samples_ns + outcome.samples_ns)[-_MAX_SAMPLES:]
        error = max(known.max_relative_error, outcome.max_relative_error)
        self._measured[key] = replace(known, samples_ns=samples, max_relative_error=error)
        self._find_best()

    def _find_best(self) -> None:
        """Look for the best candidate anew, and at the default."""
        self.best = self.default_ns = None
        for key, outcome in self._measured.items():
            if isinstance(outcome, Measured):
                latency = median(outcome.samples_ns)
                choice: Choice = json.loads(key)
                if choice == self.default:
                    self.default_ns = latency
                if self.best is None or latency < self.best.latency_ns:
                    self.best = Trial(choice, outcome, latency)

    def _ranked(self) -> Iterator[Choice]:
        """All choices that are left, the most promising first, some at random between them."""
        left = [choice for choice in self._all() if choice_key(choice) not in self._measured]
        if not left:
            return
        order = [left[i] for i in np.argsort(self._predicted_ns(left), kind="stable")]
        while order:
            at = 0
            if self._random.random() < self._random_share():
                at = self._random.randrange(len(order))
            yield order.pop(at)

    def _all(self) -> Iterator[Choice]:
        for space in self.spaces:
            names = [decision.name for decision in space.decisions]
            for values in itertools.product(*(decision.options for decision in space.decisions)):
                choice = {"algorithm": space.algorithm, **dict(zip(names, values, strict=True))}
                if self._holds(choice):
                    yield choice

    def _evolved(self) -> Iterator[Choice]:
        """What MetaSchedule's evolutionary search proposes, until it finds nothing new."""
        evolution = self._evolution or self._start_evolution()
        empty = 0
        while empty < _EMPTY_PROPOSALS:
            found = evolution.propose()
            new = [choice for choice in found if choice_key(choice) not in self._measured]
            empty = 0 if new else empty + 1
            yield from new
        # The rest of the space is nothing that its model would ever pick: take it at random.
        for _ in range(20 * self._batch):
            choice = self._any()
            if self._holds(choice):
                yield choice

    def _start_evolution(self) -> Evolution:
        from schedules.search.evolution import Evolution

        evolution = Evolution(
            self._kernels.function(self.task),
            self.spaces,
            self._spec.tvm_dict(),
            score=self._score,
            accepts=self._holds,
            batch=self._batch,
            seed=self._seed + 1,
        )
        for key, outcome in self._measured.items():
            if isinstance(outcome, Measured):
                evolution.observe(json.loads(key), median(outcome.samples_ns) * 1e-9)
        self._evolution = evolution
        return evolution

    def _any(self) -> Choice:
        space = self._random.choice(self.spaces)
        chosen: Choice = {"algorithm": space.algorithm}
        for decision in space.decisions:
            chosen[decision.name] = self._random.choice(decision.options)
        return chosen

    def _score(self, choices: Sequence[Choice]) -> npt.NDArray[np.float64]:
        """The best latency, or the default's estimate, over the predicted one, above 0."""
        goal = self.estimate_ns if self.best is None else self.best.latency_ns
        # Squared, so that parents are chosen among the fast ones rather than at random.
        scores: npt.NDArray[np.float64] = (goal / self._predicted_ns(choices)) ** 2
        return scores

    def _predicted_ns(self, choices: Sequence[Choice]) -> npt.NDArray[np.float64]:
        estimates = np.array([self._estimated_ns(choice) for choice in choices])
        ratios = self._model.predict([self._features(choice) for choice in choices])
        predicted: npt.NDArray[np.float64] = estimates * np.exp(ratios)
        return predicted

    def _random_share(self) -> float:
        return _RANDOM_EARLY if self.trials < _EARLY else _RANDOM_LATE

    def _features(self, choice: Choice) -> Features:
        key = choice_key(choice)
        if key not in self._known_features:
            cycles = self._estimate(choice)
            found = choice_features(self.task.workload, choice, self._spec, cycles)
            self._known_features[key] = {**self._common, **found}
        return self._known_features[key]

    def _holds(self, choice: Choice) -> bool:
        """Whether a choice of the spaces holds together."""
        return math.isfinite(self._estimate(choice))

    def _estimated_ns(self, choice: Choice) -> float:
        return self._estimate(choice) / self._spec.clock_hz * 1e9

    def _estimate(self, choice: Choice) -> float:
        """The template's estimate, asked for once a choice; infinite where it is none."""
        key = choice_key(choice)
        if key not in self._cycles:
            cycles = self._kernels.estimated_cycles(self.task.workload, choice, self._spec)
            self._cycles[key] = cycles if cycles > 0 else math.inf
        return self._cycles[key]


def foreign_example(
    workload: Any,
    choice: Choice,
    latency_ns: float,
    spec: TargetSpec,
    kernels: Kernels,
    spaces: Callable[[Any], Sequence[Space]],
    weight: float,
) -> Example | None:
    """What a measurement of another workload teaches; None if its choice is not offered now.

    Args:
        workload: Its workload.
        choice: Its choice.
        latency_ns: Its median latency, in nanoseconds.
        spec: The target of this search.
        kernels: The templates.
        spaces: The spaces of a workload on `spec`.
        weight: Its say beside a measurement of this run.
    """
    if not workload.is_static or refusal_by(spaces(workload), choice) is not None:
        return None
    cycles = kernels.estimated_cycles(workload, choice, spec)
    if not (math.isfinite(cycles) and cycles > 0):
        return None
    features = {
        **workload_features(workload, spec),
        **choice_features(workload, choice, spec, cycles),
    }
    ratio = math.log(latency_ns / (cycles / spec.clock_hz * 1e9))
    return Example(features, ratio, weight)


__all__ = ["RANKED_WHOLE", "TaskSearch", "Trial", "checked", "choice_key", "foreign_example"]
