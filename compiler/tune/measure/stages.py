"""What the two halves of a measurement promise: builders and runners."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from compiler.tune.measure.base import Failed, Outcome
from schedules.records import Cpu
from schedules.records.record import Label
from schedules.space import Choice

#: Asked often: whether nobody waits for the answer any more.
Cancelled: TypeAlias = Callable[[], bool]


@dataclass(frozen=True)
class Artifact:
    """A built candidate.

    Attributes:
        library: Shared object with the symbol ``main``; removed when it has run.
        seconds: What building it took.
    """

    library: Path
    seconds: float


class Builder(Protocol):
    """Builds candidates, several at once. A task is given as its JSON text."""

    def build(
        self, task: str, choice: Choice | None, cancelled: Cancelled
    ) -> Future[Artifact | Failed]:
        """Start to build a candidate, or the reference if there is no choice.

        The future raises `TilewrightError` where no candidate can be built at all.
        """

    def check(self) -> None:
        """Raise `TilewrightError` if nothing can be built any more."""

    def close(self) -> None:
        """End what was started."""


class Runner(Protocol):
    """Runs built candidates, as many at once as there are devices."""

    @property
    def name(self) -> str:
        """Where they run, for records."""

    @property
    def cpu(self) -> Cpu:
        """The processor that they run on, for records."""

    @property
    def label(self) -> Label:
        """Whether latencies are measured or estimated."""

    @property
    def shares_cores(self) -> bool:
        """Whether building at the same time would take the CPUs that candidates run on."""

    def run(
        self, task: str, reference: Path, choice: Choice, library: Path, cancelled: Cancelled
    ) -> Future[Outcome]:
        """Start to check a candidate against the reference's shared object, and to time it.

        The future raises `TilewrightError` where nothing can run at all.
        """

    def check(self) -> None:
        """Raise `TilewrightError` if nothing can run any more."""

    def close(self) -> None:
        """End what was started."""


__all__ = ["Artifact", "Builder", "Cancelled", "Runner"]
