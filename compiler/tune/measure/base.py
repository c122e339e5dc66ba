"""What a search asks of whatever measures its candidates, and the answers it can get."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from schedules.records import Cpu
from schedules.space import Choice

if TYPE_CHECKING:
    from compiler.lower.tasks import Task

#: Why a candidate gave no result. ``cancelled`` says nothing about the candidate: it may be
#: measured again; the others are remembered.
FailureKind: TypeAlias = Literal["build", "verify", "crash", "timeout", "cancelled"]


@dataclass(frozen=True)
class Measured:
    """A candidate ran, and its output was the reference's.

    Attributes:
        samples_ns: Latencies of single calls, in nanoseconds, in the order of measuring.
        max_relative_error: Largest difference from the reference's output, as a share of the
            reference's largest value.
        tolerance: The largest difference that was accepted.
        build_s: Seconds it took to build.
        run_s: Seconds it took to check and time.
    """

    samples_ns: tuple[float, ...]
    max_relative_error: float
    tolerance: float
    build_s: float = 0.0
    run_s: float = 0.0


@dataclass(frozen=True)
class Rejected:
    """A candidate ran, and its output was not the reference's."""

    reason: str
    build_s: float = 0.0
    run_s: float = 0.0


@dataclass(frozen=True)
class Failed:
    """A candidate did not build, or its run ended without an output."""

    kind: FailureKind
    reason: str
    build_s: float = 0.0
    run_s: float = 0.0


Outcome: TypeAlias = Measured | Rejected | Failed


@runtime_checkable
class Measurer(Protocol):
    """Builds and times candidates. Nothing that a candidate does may end the search.

    A measurer whose latencies are simulated or estimated says so by its attribute ``label``.
    """

    @property
    def runner(self) -> str:
        """Where candidates run, for records: ``local``, ``rpc:rpi5``, ..."""

    @property
    def cpu(self) -> Cpu:
        """The processor that candidates run on, for records: `Cpu.here()` if it is this one."""

    def measure(
        self, task: Task, choices: Sequence[Choice], *, cancel: threading.Event
    ) -> list[Outcome]:
        """One outcome for each choice, in order.

        Returns soon after `cancel` is set, with ``Failed("cancelled", ...)`` for what was not
        measured any more.

        Raises:
            TilewrightError: Nothing can be measured at all: no worker starts, no device answers.
        """

    def close(self) -> None:
        """Ends workers and frees devices; calling it again does nothing."""


__all__ = ["Failed", "FailureKind", "Measured", "Measurer", "Outcome", "Rejected"]
