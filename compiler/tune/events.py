"""What a tuning run tells while it runs: plain data for a live view, a log or a test.

A view gets `Started` first, `Finished` last, and a `Progress` (the whole state) after each
batch and at each change of the task at work; `Improved` and `Note` come between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from compiler.tune.result import TaskState, TaskStatus, TimeSplit, TuneResult


@dataclass(frozen=True)
class Started:
    """A run begins.

    Attributes:
        tasks: All tasks of the run.
        trials: Limit of trials in this run; None without one.
        seconds: Limit of time in this run; None without one.
        resumed: Trials found in the journals of earlier runs, not measured again.
    """

    tasks: tuple[TaskStatus, ...]
    trials: int | None
    seconds: float | None
    resumed: int


@dataclass(frozen=True)
class Progress:
    """The whole state of a run.

    Attributes:
        tasks: All tasks, in the order of the model's time.
        current: Name of the task at work; empty between tasks.
        trials: Trials of this run.
        elapsed_s: Seconds since the start.
        left_s: Estimated seconds that are left: by the time limit, or by the limit of trials
            and the rate so far; None if unknown.
        default_end_to_end_us: Sum of calls times the latency without a search (estimated from
            measured kernels); None until every task's default is measured.
        end_to_end_us: Sum of calls times the best latency; None until every task has one.
        split: Where the time went.
    """

    tasks: tuple[TaskStatus, ...]
    current: str
    trials: int
    elapsed_s: float
    left_s: float | None
    default_end_to_end_us: float | None
    end_to_end_us: float | None
    split: TimeSplit


@dataclass(frozen=True)
class Improved:
    """A candidate beat the best of its task, and its record is written.

    Attributes:
        task: Name of the task.
        before_us: What it beat; None if it is the first.
        after_us: Its latency.
        record: ID of the record.
        label: Whether the latencies are ``measured``, ``simulated`` or ``estimated``.
    """

    task: str
    before_us: float | None
    after_us: float
    record: str
    label: str = "measured"


@dataclass(frozen=True)
class Note:
    """Something to know: a task that nothing can build, a damaged journal line, ..."""

    text: str
    task: str = ""


@dataclass(frozen=True)
class Finished:
    """A run is over; the last event."""

    result: TuneResult


Event: TypeAlias = Started | Progress | Improved | Note | Finished
#: Called with each event, from the thread that runs the search.
Listener: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that nobody looks at."""


__all__ = [
    "Event",
    "Finished",
    "Improved",
    "Listener",
    "Note",
    "Progress",
    "Started",
    "TaskState",
    "TaskStatus",
    "TimeSplit",
    "TuneResult",
    "ignore",
]
