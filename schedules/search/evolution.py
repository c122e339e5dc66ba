"""MetaSchedule's evolutionary search over spaces of choices.

Driven from outside, one batch at a time, without MetaSchedule's task scheduler: `propose`
asks for candidates, `observe` tells what was measured. The population is small, for all that
a generation costs is taken from the time to measure; see docs/decisions/0008-search.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.search.design_space import DesignSpace
from schedules.search.mutators import mutate_decision
from schedules.search.postprocs import refuse_invalid
from schedules.space import Choice, Space
from schedules.tvm_adapter import (
    IRModule,
    derived_object,
    meta_schedule,
    skip_tensor_intrinsics,
    target,
    tirx,
)

POPULATION = 48
GENERATIONS = 3
_MEASURED_SHARE = 0.4
_RANDOM_PICKS = 0.1
_MUTATIONS = 0.85
#: The search counts its trials; nothing but the budget ends it.
_NO_LIMIT = 1_000_000

#: Scores of choices, higher is better, all above 0.
Score = Callable[[Sequence[Choice]], npt.NDArray[np.float64]]


class _ScoreModel(meta_schedule.cost_model.PyCostModel):
    """Scores candidates with a function; what it learns from is not its business."""

    def __init__(self, design: DesignSpace, score: Score) -> None:
        super().__init__()
        self._design = design
        self._score = score

    def load(self, path: str) -> None:
        """Refused: models are trained from data, never loaded."""
        raise NotImplementedError

    def save(self, path: str) -> None:
        """Refused, like `load`."""
        raise NotImplementedError

    def update(self, context: Any, candidates: Any, results: Any) -> None:
        """Measurements reach the model through `Evolution.observe`'s caller."""

    def predict(self, context: Any, candidates: Any) -> npt.NDArray[np.float64]:
        """One score for each candidate."""
        choices = [self._design.choice(candidate.sch) for candidate in candidates]
        return np.asarray(self._score(choices), dtype=np.float64)


_DerivedScore = derived_object(_ScoreModel)


class Evolution:
    """An evolutionary search over the spaces of one workload.

    Args:
        function: The canonical function (a ``PrimFunc``), which candidates annotate.
        spaces: The workload's spaces.
        target_dict: The target as TVM's dictionary.
        score: Scores candidates in each generation.
        accepts: Whether a choice may be measured.
        batch: Candidates of one proposal.
        seed: Of all random choices, at least 1.
    """

    def __init__(
        self,
        function: Any,
        spaces: Sequence[Space],
        target_dict: dict[str, Any],
        *,
        score: Score,
        accepts: Callable[[Choice], bool],
        batch: int,
        seed: int,
    ) -> None:
        skip_tensor_intrinsics()
        if isinstance(function, tirx.PrimFunc):
            function = IRModule({"main": function.with_attr("global_symbol", "main")})
        self._design = DesignSpace(spaces)
        self._target = target.Target(target_dict)
        self._context = meta_schedule.TuneContext(
            function,
            target=self._target,
            space_generator=meta_schedule.space_generator.ScheduleFn(
                self._design.generate,
                sch_rules=[],
                postprocs=[refuse_invalid(self._design, accepts)],
                mutator_probs={mutate_decision(seed): 1.0},
            ),
            search_strategy=meta_schedule.search_strategy.EvolutionarySearch(
                population_size=POPULATION,
                init_measured_ratio=_MEASURED_SHARE,
                init_min_unmeasured=1,
                max_fail_count=20,
                genetic_num_iters=GENERATIONS,
                genetic_mutate_prob=_MUTATIONS,
                genetic_max_fail_count=10,
                eps_greedy=_RANDOM_PICKS,
            ),
            num_threads=1,
            rand_state=seed,
            logger=_quiet_logger(),
        )
        self._database = meta_schedule.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._context.mod)
        # The model must outlive the search: TVM keeps the object, Python its methods.
        self._model = _DerivedScore(self._design, score)
        self._context.pre_tuning(_NO_LIMIT, batch, database=self._database, cost_model=self._model)

    def propose(self) -> list[Choice]:
        """The next candidates, none of them proposed before; none if it finds no more."""
        candidates = self._context.generate_measure_candidates()
        if not candidates:
            return []
        result = meta_schedule.runner.RunnerResult
        answers = [result(None, "measured elsewhere") for _ in candidates]
        self._context.notify_runner_results(candidates, answers)
        return [self._design.choice(candidate.sch) for candidate in candidates]

    def observe(self, choice: Choice, seconds: float) -> None:
        """Make a measured choice a parent of later candidates.

        Raises:
            ValueError: The choice is of none of the spaces.
        """
        schedule = self._design.schedule(self._context.mod, choice)
        info = meta_schedule.arg_info.ArgInfo.from_entry_func(self._context.mod, False)
        self._database.commit_tuning_record(
            meta_schedule.database.TuningRecord(
                schedule.trace, self._workload, [seconds], self._target, info
            )
        )

    def close(self) -> None:
        """End the search and free what it holds."""
        self._context.post_tuning()


def _quiet_logger() -> logging.Logger:
    """MetaSchedule reports each generation; ours to show is the progress of the run."""
    logger = logging.getLogger("tilewright.metaschedule")
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


__all__ = ["GENERATIONS", "POPULATION", "Evolution", "Score"]
