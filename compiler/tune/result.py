"""How the tasks of a tuning run stand, and what the run did in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

#: ``waiting``: nothing measured yet; ``warm-up``: its default is measured; ``searching``: it
#: gets its share of the budget; ``done``: nothing is left to win, see `TaskStatus.stop`.
TaskState: TypeAlias = Literal["waiting", "warm-up", "searching", "done"]


@dataclass(frozen=True)
class TaskStatus:
    """One task as it stands now.

    Attributes:
        name: Name of the task, unique in the run.
        workload: The workload in words.
        calls: How often one run of the model calls it.
        weight: Share of the model's estimated time that its calls take, 0 to 1; by measured
            latencies where there are some, else by estimates.
        default_us: Measured latency of the choice without a search; None before it is measured
            or if it failed.
        best_us: Best measured latency; None if nothing was measured.
        gflops: Rate at the best latency, in 1e9 operations a second; None like `best_us`.
        roofline_share: The roofline's least time divided by the best latency, 0 to 1
            (estimated bound, measured time); None like `best_us`. The bound counts the
            operations of the algorithm that needs fewest.
        trials: Candidates measured, rejected or failed, in this run and in the ones it continues.
        rejected: Of these, outputs that were not the reference's.
        failed: Of these, no build, a crash, a timeout or samples that are no latencies.
        state: What happens with it.
        stop: Why it is done; empty before.
        label: Whether its latencies are ``measured``, ``simulated`` or ``estimated``.
    """

    name: str
    workload: str
    calls: int
    weight: float
    default_us: float | None = None
    best_us: float | None = None
    gflops: float | None = None
    roofline_share: float | None = None
    trials: int = 0
    rejected: int = 0
    failed: int = 0
    state: TaskState = "waiting"
    stop: str = ""
    label: str = "measured"


@dataclass(frozen=True)
class TimeSplit:
    """Seconds of wall clock that a run spent on each of its works.

    Attributes:
        propose_s: Finding candidates: cost model, evolutionary search.
        measure_s: Waiting for the measurer; builds and runs overlap in it.
        other_s: Records, journal, start.
        build_s: Seconds of all workers building, part of `measure_s` and overlapping.
        run_s: Seconds of checking and timing, part of `measure_s`.
    """

    propose_s: float = 0.0
    measure_s: float = 0.0
    other_s: float = 0.0
    build_s: float = 0.0
    run_s: float = 0.0


@dataclass(frozen=True)
class TuneResult:
    """The summary of a run.

    Attributes:
        tasks: How each task ended; `TaskStatus.default_us` is before, `TaskStatus.best_us` after.
        trials: Candidates that this run measured, rejected or saw fail.
        resumed: Trials of earlier runs that were not measured again.
        rejected: Candidates of this run whose output was not the reference's.
        failed: Candidates of this run that gave no result.
        stop: Why the run ended: its trials or minutes are used up, every task is done, or it
            was interrupted.
        interrupted: Whether somebody stopped it.
        elapsed_s: Seconds that it took.
        split: Where they went.
        records: IDs of the records written, in order.
        default_end_to_end_us: Sum of calls times the latency without a search, over the tasks;
            None if a default could not be measured.
        end_to_end_us: Sum of calls times the best latency; None if a task has none.
    """

    tasks: tuple[TaskStatus, ...]
    trials: int
    resumed: int
    rejected: int
    failed: int
    stop: str
    interrupted: bool
    elapsed_s: float
    split: TimeSplit
    records: tuple[str, ...]
    default_end_to_end_us: float | None
    end_to_end_us: float | None


__all__ = ["TaskState", "TaskStatus", "TimeSplit", "TuneResult"]
