"""`tune`: one run over the tasks of a model, from the first default to the last batch."""

from __future__ import annotations

import math
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compiler.tune import start
from compiler.tune.budget import (
    HOPELESS,
    NEAR_ROOFLINE,
    PATIENCE,
    PATIENCE_ESTIMATED,
    Standing,
    expected_gain,
    roofline_ns,
)
from compiler.tune.events import (
    Finished,
    Improved,
    Listener,
    Note,
    Progress,
    Started,
    TaskState,
    TaskStatus,
    TimeSplit,
    TuneResult,
    ignore,
)
from compiler.tune.journal import Entry, Journal, Machine
from compiler.tune.keep import Keeper
from compiler.tune.keep import versions as current_versions
from compiler.tune.kernels import Kernels, TemplateKernels
from compiler.tune.measure.base import Failed, Rejected
from compiler.tune.search import TaskSearch, checked
from schedules.records import RecordStore
from schedules.records.record import Label
from schedules.search.cost_model import CostModel
from targets.errors import TargetError
from targets.host import host_target

if TYPE_CHECKING:
    from compiler.lower.tasks import Task
    from compiler.tune.measure.base import Measurer, Outcome
    from compiler.tune.options import Tune
    from schedules.space import Choice
    from targets.spec import TargetSpec

#: Candidates of a task's first batch: its default and what records and other algorithms offer.
_WARM_UP = 4
#: Chance that a task other than the most promising one gets the batch.
_EXPLORE = 0.05
#: An improvement below this share is noise.
_GAIN = 0.99
#: How often a batch may put a new best candidate to the test.
_CONFIRMATIONS = 3


def tune(
    tasks: Sequence[Task],
    spec: TargetSpec,
    options: Tune,
    store: RecordStore,
    *,
    measurer: Measurer,
    progress: Listener = ignore,
    others: Sequence[RecordStore] = (),
    kernels: Kernels | None = None,
    versions: Mapping[str, str] | None = None,
    cancel: threading.Event | None = None,
) -> TuneResult:
    """Search for faster choices of tasks, and keep the best as records.

    Each task's choice without a search is measured first; then the budget goes, batch by
    batch, to the task that promises most for the whole model. Every batch is written to the
    task's journal and every improvement to the store before the next one starts, so that
    whatever ends the process costs the batch in flight. A run that is started again on the
    same store continues; several may run at once.

    Ctrl-C, in the main thread, ends the run after what is being measured; once more, at once.

    Args:
        tasks: The tasks of a model (`compiler.lower.tasks.extract_tasks`).
        spec: The target.
        options: Limits, and which tasks to work on.
        store: The record store that is written to.
        measurer: Builds, checks and times candidates; the caller closes it.
        progress: Is told what happens.
        others: Further stores whose records are only read.
        kernels: The choices there are; the templates' by default.
        versions: For the records; of this installation by default.
        cancel: Ends the run when set by another thread, like Ctrl-C.

    Returns:
        What was done; also if the run was interrupted.

    Raises:
        StoreError: The store cannot be read or written, for example because the disk is full.
        TilewrightError: Nothing can be measured at all.
    """
    cancel = cancel or threading.Event()
    session = _Session(
        tasks,
        spec,
        options,
        store,
        measurer=measurer,
        progress=progress,
        others=others,
        kernels=kernels or TemplateKernels(),
        versions=versions or current_versions(),
        cancel=cancel,
    )
    with _stops_on_ctrl_c(cancel):
        return session.run()


@dataclass
class _Work:
    """A task at work."""

    name: str
    search: TaskSearch
    journal: Journal
    floor_ns: float
    state: TaskState = "waiting"
    stop: str = ""
    history_ns: list[float] = field(default_factory=list)
    idle_batches: int = 0
    searched: bool = False

    @property
    def task(self) -> Task:
        return self.search.task

    @property
    def best_ns(self) -> float | None:
        return None if self.search.best is None else self.search.best.latency_ns

    @property
    def time_ns(self) -> float:
        """Time of all its calls by what is known, measured or estimated."""
        best = self.search.estimate_ns if self.best_ns is None else self.best_ns
        return self.task.calls * (best if math.isfinite(best) else 0.0)

    def finish(self, why: str) -> None:
        self.state, self.stop = "done", why
        self.search.close()


class _Session:
    """One run; see `tune`."""

    def __init__(
        self,
        tasks: Sequence[Task],
        spec: TargetSpec,
        options: Tune,
        store: RecordStore,
        *,
        measurer: Measurer,
        progress: Listener,
        others: Sequence[RecordStore],
        kernels: Kernels,
        versions: Mapping[str, str],
        cancel: threading.Event,
    ) -> None:
        self._began = time.perf_counter()
        self._spec = spec
        self._options = options
        self._store = store
        self._stores = [store, *(o for o in others if o.folder != store.folder)]
        self._measurer = measurer
        self._tell = progress
        self._kernels = kernels
        self._cancel = cancel
        self._random = random.Random(options.seed)  # noqa: S311 - no secret
        self._id = secrets.token_hex(8)
        self._machine = _machine(spec, measurer, versions)
        self._label: Label = getattr(measurer, "label", "measured")
        self._patience = PATIENCE_ESTIMATED if self._label == "estimated" else PATIENCE
        self._keeper = Keeper(
            store,
            self._stores,
            spec,
            cpu=measurer.cpu,
            runner=measurer.runner,
            session=self._id,
            versions=versions,
            label=self._label,
        )
        self._split = TimeSplit()
        self._trials = self._rejected = self._failed = self._resumed = 0
        self._current = ""
        self._models: dict[str, CostModel] = {}
        self._clock_hz = _clock_hz(spec, measurer)
        self._tasks = [
            t for t in tasks if options.selects(t.workload.operator, t.name, str(t.workload))
        ]
        self._works: list[_Work] = []

    def run(self) -> TuneResult:
        """The whole run."""
        interrupted = False
        stop = ""
        try:
            self._prepare()
            self._warm_up()
            stop = self._search()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            for work in self._works:
                work.search.close()
        interrupted = interrupted or self._cancel.is_set()
        self._current = ""
        self._report()
        result = TuneResult(
            tasks=self._status(),
            trials=self._trials,
            resumed=self._resumed,
            rejected=self._rejected,
            failed=self._failed,
            stop="interrupted" if interrupted else stop,
            interrupted=interrupted,
            elapsed_s=self._elapsed(),
            split=self._split_now(),
            records=tuple(self._keeper.written),
            default_end_to_end_us=self._end_to_end_us(lambda work: work.search.default_ns),
            end_to_end_us=self._end_to_end_us(lambda work: work.best_ns),
        )
        self._tell(Finished(result))
        return result

    # Start

    def _prepare(self) -> None:
        """Set up every task's search, with what earlier runs measured."""
        names: set[str] = set()
        for index, task in enumerate(self._tasks):
            operator = task.workload.operator
            model = self._models.setdefault(operator, CostModel(self._options.seed))
            search = TaskSearch(
                task,
                self._spec,
                self._kernels,
                model,
                batch=self._options.batch,
                seed=self._options.seed + 7919 * index,
            )
            journal = Journal(
                self._store.folder, task.workload, self._machine, read_old=self._options.resume
            )
            flops = self._kernels.least_flops(task.workload, search.spaces)
            floor = roofline_ns(
                flops, task.bytes, task.workload.dtypes[0], self._spec, self._clock_hz
            )
            name = task.name if task.name not in names else f"{task.name} {index}"
            names.add(name)
            self._works.append(_Work(name, search, journal, floor))
        self._works.sort(key=lambda work: -work.time_ns)
        for operator, model in self._models.items():
            workloads = [t.workload for t in self._tasks if t.workload.operator == operator]
            start.warm(
                model,
                workloads,
                self._spec,
                self._kernels,
                self._stores,
                self._store.folder,
                self._machine,
            )
        for work in self._works:
            self._keeper.start(work.search)
            work.search.offer(start.seeds(work.search, self._spec, self._stores))
            self._resumed += self._catch_up(work)
        status = self._status()
        minutes = self._options.minutes
        seconds = None if minutes is None else 60 * minutes
        self._tell(Started(status, self._options.trials, seconds, self._resumed))
        self._pass_on()
        for work in self._works:
            if work.journal.damaged:
                text = f"{work.journal.damaged} damaged lines in {work.journal.path} are ignored"
                self._tell(Note(text, work.name))
            if not work.search.spaces:
                work.finish("no template offers a choice")
            elif work.search.trials:
                work.state = "searching"
                self._keep(work, None)
                self._judge(work)

    def _catch_up(self, work: _Work) -> int:
        """Take in what other runs measured; how many candidates that were."""
        return sum(work.search.observe(e.choice, e.outcome) for e in work.journal.read())

    # The run

    def _warm_up(self) -> None:
        """Measure every task's choice without a search, and what records offer."""
        waiting = [work for work in self._works if work.state == "waiting"]
        for index, work in enumerate(waiting):
            left = self._trials_left()
            if left <= 0 or self._cancel.is_set() or self._seconds_left() <= 0:
                return
            # A small budget goes to the defaults of all tasks first.
            count = min(_WARM_UP, self._options.batch) if left > 4 * len(waiting[index:]) else 1
            work.state = "warm-up"
            self._report(work)
            self._batch(work, count, only_offered=True)

    def _search(self) -> str:
        """Batches until something ends the run; what that was."""
        while True:
            if self._cancel.is_set():
                return "interrupted"
            if self._trials_left() <= 0:
                return f"all {self._options.trials} trials are used"
            if self._seconds_left() <= 0:
                return f"all {self._options.minutes:g} minutes are used"
            active = [work for work in self._works if work.state not in ("done", "waiting")]
            if not active:
                return "every task is done" if self._works else "there are no tasks"
            work = self._next(active)
            if not work.searched:
                siblings = [other.search for other in self._works]
                work.search.offer(start.from_siblings(work.search, siblings))
                work.searched = True
            count = self._batch_size()
            self._report(work)
            if not self._batch(work, count):
                work.finish("every choice is measured")

    def _next(self, active: Sequence[_Work]) -> _Work:
        if self._random.random() < _EXPLORE:
            return self._random.choice(active)
        return max(active, key=lambda work: expected_gain(self._standing(work)))

    def _standing(self, work: _Work) -> Standing:
        """What the budget's rule sees of a task."""
        best = work.search.estimate_ns if work.best_ns is None else work.best_ns
        shares = [
            other.floor_ns / other.best_ns
            for other in self._works
            if other.best_ns and other.task.workload.operator == work.task.workload.operator
        ]
        best_share = max(shares, default=0.0)
        reachable = work.floor_ns / best_share if best_share > 0 else 0.0
        return Standing(
            calls=work.task.calls,
            best_ns=best,
            floor_ns=work.floor_ns,
            reachable_ns=max(reachable, work.floor_ns),
            history_ns=tuple(work.history_ns),
            idle_batches=work.idle_batches,
        )

    def _batch(self, work: _Work, count: int, *, only_offered: bool = False) -> bool:
        """Propose, measure and keep one batch; False if there was nothing to measure."""
        began = time.perf_counter()
        self._catch_up(work)
        incumbent, before = work.search.best, work.best_ns
        choices = work.search.propose(count, only_offered=only_offered)
        proposed = time.perf_counter()
        self._split = replace(self._split, propose_s=self._split.propose_s + proposed - began)
        if not choices:
            return False
        outcomes = self._measure(work, choices)
        self._take(work, list(zip(choices, outcomes, strict=True)))
        if incumbent is not None:
            self._confirm(work, incumbent.choice)
        self._keep(work, before)
        work.state = "searching"
        if work.best_ns is not None:
            work.history_ns.append(work.best_ns)
        better = work.best_ns is not None and (before is None or work.best_ns < before * _GAIN)
        work.idle_batches = 0 if better else work.idle_batches + 1
        self._judge(work)
        self._report(work)
        return True

    def _measure(self, work: _Work, choices: Sequence[Choice]) -> list[Outcome]:
        began = time.perf_counter()
        try:
            return self._measurer.measure(work.task, choices, cancel=self._cancel)
        finally:
            spent = time.perf_counter() - began
            self._split = replace(self._split, measure_s=self._split.measure_s + spent)
            self._pass_on()

    def _pass_on(self) -> None:
        """Tell what the measurer has to say of its devices."""
        notes = getattr(self._measurer, "notes", None)
        for text in notes() if notes is not None else ():
            self._tell(Note(text, ""))

    def _confirm(self, work: _Work, incumbent: Choice) -> None:
        """Measure a new best candidate once more, beside the one that it beat.

        The fastest of many noisy measurements is fast by luck, too. Samples of both join the
        ones they have; the candidate stays the best only if it still is. Estimates do not vary.
        """
        if self._label == "estimated":
            return
        search = work.search
        tested: list[Choice] = []
        while search.best is not None and len(tested) < _CONFIRMATIONS:
            choice, known = search.best.choice, search.latency_of(incumbent)
            if choice == incumbent or choice in tested or self._cancel.is_set():
                return
            if known is not None and search.best.latency_ns > known * _GAIN:
                return
            tested.append(choice)
            pair = [choice, incumbent]
            self._take(work, list(zip(pair, self._measure(work, pair), strict=True)), again=True)

    def _take(
        self, work: _Work, results: Sequence[tuple[Choice, Outcome]], *, again: bool = False
    ) -> None:
        """Write a batch to the journal, then learn from it.

        Args:
            work: The task.
            results: What was measured.
            again: Whether the candidates are known, and count as trials already.
        """
        entries = []
        for choice, answer in results:
            outcome = checked(answer)
            self._split = replace(
                self._split,
                build_s=self._split.build_s + answer.build_s,
                run_s=self._split.run_s + answer.run_s,
            )
            if isinstance(outcome, Failed) and outcome.kind == "cancelled":
                continue
            entries.append(Entry(choice, outcome, self._id))
            if again:
                continue
            self._trials += 1
            self._rejected += isinstance(outcome, Rejected)
            self._failed += isinstance(outcome, Failed)
        work.journal.append(entries)
        for entry in entries:
            work.search.observe(entry.choice, entry.outcome)

    def _keep(self, work: _Work, before_ns: float | None) -> None:
        identifier = self._keeper.keep(work.search)
        if identifier is not None and work.best_ns is not None:
            before_us = None if before_ns is None else before_ns / 1e3
            after_us = work.best_ns / 1e3
            self._tell(Improved(work.name, before_us, after_us, identifier, self._label))

    def _judge(self, work: _Work) -> None:
        """Whether a task is done, and why."""
        search, best = work.search, work.best_ns
        if best is None:
            if search.trials >= HOPELESS:
                work.finish(f"none of its {search.trials} candidates could be measured")
                self._tell(Note(f"no candidate of {work.search.task.workload} works", work.name))
        elif work.floor_ns <= best <= work.floor_ns * NEAR_ROOFLINE:
            work.finish(f"within {NEAR_ROOFLINE - 1:.0%} of the roofline (estimated bound)")
        elif work.idle_batches >= self._patience:
            work.finish(f"{self._patience} batches without an improvement")

    # Budget

    def _trials_left(self) -> float:
        limit = self._options.trials
        return math.inf if limit is None else limit - self._trials

    def _seconds_left(self) -> float:
        minutes = self._options.minutes
        return math.inf if minutes is None else 60 * minutes - self._elapsed()

    def _batch_size(self) -> int:
        """Candidates of the next batch: as many as the budget allows."""
        size = min(self._options.batch, self._trials_left())
        if self._trials:
            size = min(size, self._seconds_left() / self._seconds_per_trial())
        return max(1, int(size))

    def _seconds_per_trial(self) -> float:
        return max(1e-6, self._split.measure_s / max(1, self._trials))

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def _left_s(self) -> float | None:
        by_trials = math.inf
        if self._trials and self._options.trials is not None:
            by_trials = self._trials_left() * self._elapsed() / self._trials
        left = min(by_trials, self._seconds_left())
        return max(0.0, left) if math.isfinite(left) else None

    # What is told

    def _report(self, work: _Work | None = None) -> None:
        if work is not None:
            self._current = work.name
        self._tell(
            Progress(
                tasks=self._status(),
                current=self._current,
                trials=self._trials,
                elapsed_s=self._elapsed(),
                left_s=self._left_s(),
                default_end_to_end_us=self._end_to_end_us(lambda work: work.search.default_ns),
                end_to_end_us=self._end_to_end_us(lambda work: work.best_ns),
                split=self._split_now(),
            )
        )

    def _split_now(self) -> TimeSplit:
        known = self._split.propose_s + self._split.measure_s
        return replace(self._split, other_s=max(0.0, self._elapsed() - known))

    def _status(self) -> tuple[TaskStatus, ...]:
        total = sum(work.time_ns for work in self._works) or 1.0
        return tuple(_status(work, work.time_ns / total, self._label) for work in self._works)

    def _end_to_end_us(self, latency_ns: Callable[[_Work], float | None]) -> float | None:
        total = 0.0
        for work in self._works:
            latency = latency_ns(work)
            if latency is None:
                return None
            total += work.task.calls * latency
        return total / 1e3 if self._works else None


def _status(work: _Work, weight: float, label: str) -> TaskStatus:
    search, best = work.search, work.best_ns
    return TaskStatus(
        name=work.name,
        workload=str(work.task.workload),
        calls=work.task.calls,
        weight=weight,
        default_us=None if search.default_ns is None else search.default_ns / 1e3,
        best_us=None if best is None else best / 1e3,
        gflops=None if best is None else work.task.flops / best,
        roofline_share=None if best is None else work.floor_ns / best,
        trials=search.trials,
        rejected=search.rejected,
        failed=search.failed,
        state=work.state,
        stop=work.stop,
        label=label,
    )


def _machine(spec: TargetSpec, measurer: Measurer, versions: Mapping[str, str]) -> Machine:
    """What decides whether an earlier measurement still holds.

    The target's measured facts (clock, bandwidth) differ from run to run and are left out.
    """
    cpu = measurer.cpu
    facts: dict[str, Any] = {
        "cpu": [cpu.name, cpu.id],
        "target": spec.tvm_dict(),
        "features": sorted(spec.features),
        "vector_bits": spec.vector_bits,
        "runner": measurer.runner,
        "versions": dict(versions),
    }
    if getattr(measurer, "label", "measured") == "estimated":
        facts["modelled"] = [spec.name, spec.clock_hz, [asdict(cache) for cache in spec.caches]]
    return Machine(facts)


def _clock_hz(spec: TargetSpec, measurer: Measurer) -> float:
    """The clock for the roofline: a processor may run faster than its maker promises."""
    if measurer.runner != "local":
        return spec.clock_hz
    try:
        return host_target().clock_hz
    except TargetError:
        return spec.clock_hz


@contextmanager
def _stops_on_ctrl_c(cancel: threading.Event) -> Iterator[None]:
    """In the main thread, the first Ctrl-C sets `cancel`, the second one is an exception.

    A process that was told to ignore it, as a shell's background jobs are, goes on to.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if before is None or before is signal.SIG_IGN:
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


__all__ = ["tune"]
