"""Builds some candidates while others run: any builder with any runner."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.tune.measure.base import Failed, Outcome
from compiler.tune.measure.stages import Artifact, Builder, Cancelled, Runner
from schedules.records import Cpu
from schedules.records.record import Label
from schedules.space import Choice

if TYPE_CHECKING:
    from compiler.lower.tasks import Task

_POLL_S = 0.2
_REFERENCES_KEPT = 64


class PipelineMeasurer:
    """A `Measurer` made of a builder and a runner. Used by one thread at a time.

    Args:
        builder: Builds the candidates.
        runner: Checks and times them.
        owned: Closed after builder and runner.
    """

    def __init__(self, builder: Builder, runner: Runner, *owned: Any) -> None:
        self._builder = builder
        self._runner = runner
        self._owned = owned
        self._references: OrderedDict[str, Artifact] = OrderedDict()
        self._closed = False

    @property
    def runner(self) -> str:
        """Where candidates run."""
        return self._runner.name

    @property
    def cpu(self) -> Cpu:
        """The processor that candidates run on."""
        return self._runner.cpu

    @property
    def label(self) -> Label:
        """What the latencies are: measured, unless the runner says otherwise."""
        label: Label = getattr(self._runner, "label", "measured")
        return label

    def notes(self) -> list[str]:
        """What happened since this was asked last, for people."""
        told = getattr(self._runner, "notes", None)
        return [] if told is None else list(told())

    def measure(
        self, task: Task, choices: Sequence[Choice], *, cancel: threading.Event
    ) -> list[Outcome]:
        """See `Measurer`.

        A Ctrl-C that arrives here ends what is being built and run, and is raised.
        """
        abandoned = threading.Event()

        def cancelled() -> bool:
            return cancel.is_set() or abandoned.is_set()

        self._builder.check()
        self._runner.check()
        text = task.to_json()
        batch = _Batch(self._builder, self._runner, text, choices, cancelled)
        try:
            reference = self._reference(text, cancelled)
            if isinstance(reference, Failed):
                return [reference] * len(choices)
            return batch.outcomes(reference)
        except BaseException:
            abandoned.set()
            batch.drain()
            raise

    def _reference(self, task: str, cancelled: Cancelled) -> Artifact | Failed:
        """The reference kernel of a task, built once."""
        if task in self._references:
            self._references.move_to_end(task)
            return self._references[task]
        built = _result(self._builder.build(task, None, cancelled))
        if isinstance(built, Failed):
            if built.kind == "cancelled":
                return built
            return Failed("verify", f"the reference kernel: {built.reason}")
        while len(self._references) >= _REFERENCES_KEPT:
            self._references.popitem(last=False)[1].library.unlink(missing_ok=True)
        self._references[task] = built
        return built

    def close(self) -> None:
        """End workers, free devices, remove temporary files."""
        if self._closed:
            return
        self._closed = True
        for part in (self._builder, self._runner, *self._owned):
            part.close()


class _Batch:
    """The candidates of one call, on their way through builder and runner."""

    def __init__(
        self,
        builder: Builder,
        runner: Runner,
        task: str,
        choices: Sequence[Choice],
        cancelled: Cancelled,
    ) -> None:
        self._builder = builder
        self._runner = runner
        self._task = task
        self._choices = choices
        self._cancelled = cancelled
        self._outcomes: list[Outcome | None] = [None] * len(choices)
        self._building: dict[Future[Artifact | Failed], int] = {}
        self._held: list[tuple[int, Artifact]] = []
        self._running: dict[Future[Outcome], tuple[int, Artifact]] = {}

    def outcomes(self, reference: Artifact) -> list[Outcome]:
        """Build and run all of them."""
        for i, choice in enumerate(self._choices):
            self._building[self._builder.build(self._task, choice, self._cancelled)] = i
        while self._building or self._running or self._held:
            waiting: list[Future[Any]] = [*self._building, *self._running]
            done, _ = wait(waiting, _POLL_S, FIRST_COMPLETED)
            for future in done & self._building.keys():
                index, built = self._building.pop(future), future.result()
                if isinstance(built, Failed):
                    self._outcomes[index] = built
                else:
                    self._held.append((index, built))
            for future in done & self._running.keys():
                index, artifact = self._running.pop(future)
                artifact.library.unlink(missing_ok=True)
                self._outcomes[index] = replace(future.result(), build_s=artifact.seconds)
            if not (self._runner.shares_cores and self._building):
                while self._held:
                    self._start(reference, *self._held.pop(0))
        return [outcome for outcome in self._outcomes if outcome is not None]

    def _start(self, reference: Artifact, index: int, artifact: Artifact) -> None:
        future = self._runner.run(
            self._task, reference.library, self._choices[index], artifact.library, self._cancelled
        )
        self._running[future] = index, artifact

    def drain(self) -> None:
        """Wait for the end of everything that was started; it was told to stop before."""
        for _, artifact in self._held:
            artifact.library.unlink(missing_ok=True)
        for future in self._building:
            with contextlib.suppress(Exception):
                built = _result(future)
                if isinstance(built, Artifact):
                    built.library.unlink(missing_ok=True)
        for run, (_, artifact) in self._running.items():
            with contextlib.suppress(Exception):
                _result(run)
            artifact.library.unlink(missing_ok=True)


def _result(future: Future[Any]) -> Any:
    """A future's result, in slices that Ctrl-C can interrupt on every system."""
    while not wait([future], _POLL_S).done:
        pass
    return future.result()


__all__ = ["PipelineMeasurer"]
