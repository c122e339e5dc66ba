"""What a tuning run shows while it works, and its summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.cli.output import Session, Steps, console
from compiler.coverage import SHORT_ID
from compiler.tune.events import (
    Event,
    Finished,
    Improved,
    Listener,
    Note,
    Progress,
    Started,
    TaskStatus,
    TimeSplit,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from compiler.tune.result import TuneResult

#: Seconds between two lines about the progress where the output is no terminal.
LINE_EVERY_S = 15.0
#: Lines of a terminal that are not rows of the table.
_OTHER_LINES = 12
_NOTES = 3
_NONE = "–"


@contextmanager
def live(screen: Console, title: str) -> Iterator[Listener]:
    """A table that follows the run, on a terminal.

    It is drawn once a second, so that it takes next to nothing from the cores that measure.

    Args:
        screen: The terminal.
        title: What is tuned, for which target.

    Yields:
        To be called with each event.
    """
    from rich.live import Live

    state = _State(title)
    with Live(
        get_renderable=lambda: state.draw(screen.width, screen.height, time.monotonic()),
        console=screen,
        refresh_per_second=1,
        transient=True,
    ):
        yield state.take


@contextmanager
def lines(say: Callable[[str], None], title: str) -> Iterator[Listener]:
    """A line from time to time, where the output is no terminal.

    Args:
        say: Shows a line.
        title: What is tuned, for which target.

    Yields:
        To be called with each event.
    """
    last = -LINE_EVERY_S

    def take(event: Event) -> None:
        nonlocal last
        match event:
            case Started():
                say(f"{title}: {started_text(event)}")
            case Progress() if event.elapsed_s - last >= LINE_EVERY_S:
                last = event.elapsed_s
                at = f"; at work: {event.current}" if event.current else ""
                say(f"{clock(event.elapsed_s)}  {progress_text(event)}{at}")
            case Improved():
                before = _NONE if event.before_us is None else f"{event.before_us:,.1f}"
                say(
                    f"  {event.task}: {before} → {event.after_us:,.1f} µs ({event.label}), "
                    f"record {event.record[:SHORT_ID]}"
                )
            case Note():
                say(note_text(event))
            case _:
                pass

    yield take


@contextmanager
def follow(session: Session, steps: Steps, title: str) -> Iterator[Listener]:
    """Show a search while it runs: a live table on a terminal, lines elsewhere.

    Args:
        session: Where to show it.
        steps: The line of the step at work, which makes room for the table.
        title: What is tuned, for which target.

    Yields:
        To be called with each event; the view opens with the first and closes with the last.
    """
    screen = console(stderr=True)
    with ExitStack() as stack:
        view: Listener | None = None

        def take(event: Event) -> None:
            nonlocal view
            if view is None:
                if session.json or not screen.is_terminal:
                    view = stack.enter_context(lines(session.message, title))
                else:
                    steps.stop()
                    stack.callback(steps.start)
                    view = stack.enter_context(live(screen, title))
            view(event)
            if isinstance(event, Finished):
                stack.close()

        yield take


class _State:
    """What the live table shows."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started: Started | None = None
        self._progress: Progress | None = None
        self._notes: list[str] = []
        self._at = 0.0

    def take(self, event: Event) -> None:
        """Keep what the next drawing needs."""
        match event:
            case Started():
                self._started = event
            case Progress():
                self._progress, self._at = event, time.monotonic()
            case Note():
                self._notes = [*self._notes, note_text(event)][-_NOTES:]
            case _:
                pass

    def draw(self, width: int, height: int, now: float) -> RenderableType:
        """The state at the time `now` for a terminal of that size."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(self._title, style="bold")]
        if self._started is not None:
            parts.append(Text(started_text(self._started), style="dim"))
        if self._progress is None:
            parts.append(Text("extracting tasks"))
            return Group(*parts)
        since = max(0.0, now - self._at)
        left = self._progress.left_s
        progress = replace(
            self._progress,
            elapsed_s=self._progress.elapsed_s + since,
            left_s=None if left is None else max(0.0, left - since),
        )
        parts += [
            tasks_table(
                progress.tasks, progress.current, width=width, top=max(3, height - _OTHER_LINES)
            ),
            Text(f"{clock(progress.elapsed_s)}  {progress_text(progress)}", style="bold"),
            Text(f"time: {split_text(progress.split)}", style="dim"),
            *(Text(note, style="yellow") for note in self._notes),
            Text("Ctrl-C stops and keeps all; the same command continues", style="dim"),
        ]
        return Group(*parts)


def started_text(event: Started) -> str:
    """The run's limits in words."""
    limits = []
    if event.seconds is not None:
        limits.append(clock(event.seconds))
    if event.trials is not None:
        limits.append(f"{event.trials} trials")
    text = f"{count(len(event.tasks), 'task')}, " + (
        f"at most {' and '.join(limits)}" if limits else "no limit of time or trials"
    )
    return text + (f"; {event.resumed} trials of earlier runs" if event.resumed else "")


def progress_text(event: Progress) -> str:
    """Trials, estimated latency and time left in one line."""
    text = count(event.trials, "trial")
    if event.end_to_end_us is not None:
        text += f", end to end {end_to_end_text(event.default_end_to_end_us, event.end_to_end_us)}"
    if event.left_s is not None:
        text += f", {clock(event.left_s)} left"
    return text


def end_to_end_text(default_us: float | None, best_us: float) -> str:
    """Latency without and with what was found, in milliseconds."""
    text = f"{best_us / 1e3:.3f} ms"
    if default_us is not None and best_us > 0:
        text = f"{default_us / 1e3:.3f} → {text}, {default_us / best_us:.2f}x"
    return f"{text} (estimated from its kernels)"


def split_text(split: TimeSplit) -> str:
    """What the time went to."""
    total = split.propose_s + split.measure_s + split.other_s
    if not total:
        return _NONE
    return (
        f"{split.measure_s / total:.0%} measuring (builds {split.build_s:.0f} s, runs "
        f"{split.run_s:.0f} s), {split.propose_s / total:.0%} searching, "
        f"{split.other_s / total:.0%} other"
    )


def note_text(event: Note) -> str:
    """A remark with its task."""
    return f"note: {event.task}: {event.text}" if event.task else f"note: {event.text}"


def clock(seconds: float) -> str:
    """``4:05`` or ``1:04:05``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def tasks_table(
    tasks: Sequence[TaskStatus], current: str = "", *, width: int, top: int | None = None
) -> Table:
    """The tasks, most of the model's time first.

    Args:
        tasks: Any order.
        current: Name of the task at work, which is marked.
        width: Columns of the terminal; a narrow one gets fewer columns of the table.
        top: Rows at most; the rest becomes one row.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    columns = [column for column in _COLUMNS if width >= _WIDE or not column.wide]
    room = width - sum(column.width + 2 for column in columns) - 1
    table.add_column("task", overflow="ellipsis", no_wrap=True)
    shorts = {"simulated": "sim.", "estimated": "est."}
    short = next((shorts[task.label] for task in tasks if task.label in shorts), "meas.")
    for column in columns:
        table.add_column(
            column.title.replace("meas.", short), justify="right" if column.right else "left",
            no_wrap=True, overflow="ellipsis",
        )  # fmt: skip
    ordered = sorted(tasks, key=lambda task: -task.weight)
    shown = ordered if top is None else ordered[:top]
    for task in shown:
        table.add_row(
            Text(_shorten(_task_text(task), max(12, room))),
            *(Text(column.show(task)) for column in columns),
            style="bold" if task.name == current else "dim" if task.state == "done" else None,
        )
    if rest := ordered[len(shown) :]:
        total = TaskStatus(
            "", "", 0, sum(t.weight for t in rest), trials=sum(t.trials for t in rest),
            rejected=sum(t.rejected for t in rest), failed=sum(t.failed for t in rest),
        )  # fmt: skip
        cells = [column.show(total) if column.sums else "" for column in columns]
        table.add_row(f"… {len(rest)} more", *cells, style="dim")
    return table


#: Columns that a terminal has for all of `_COLUMNS`.
_WIDE = 110


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the tasks' table.

    Attributes:
        title: What it holds, and how the figures were come by.
        width: Characters that it takes at most.
        show: A task's cell.
        sums: Whether the sum over tasks makes sense.
        wide: Whether only wide terminals show it.
        right: Whether it is aligned to the right.
    """

    title: str
    width: int
    show: Callable[[TaskStatus], str]
    sums: bool = False
    wide: bool = False
    right: bool = True


_COLUMNS = (
    _Column("weight\nest.", 7, lambda t: f"{100 * t.weight:.1f} %", sums=True),
    _Column("default\nµs meas.", 9, lambda t: _number(t.default_us, "{:,.1f}"), wide=True),
    _Column("best\nµs meas.", 9, lambda t: _number(t.best_us, "{:,.1f}")),
    _Column("GFLOPS\nest.", 7, lambda t: _number(t.gflops, "{:,.1f}")),
    _Column("roof\nest.", 5, lambda t: _number(t.roofline_share, "{:.0%}")),
    _Column("trials", 6, lambda t: str(t.trials), sums=True),
    _Column("rejected", 8, lambda t: str(t.rejected), sums=True),
    _Column("failed", 6, lambda t: str(t.failed), sums=True),
    _Column("state", 9, lambda t: t.state, wide=True, right=False),
)


def _task_text(task: TaskStatus) -> str:
    # Nearly all of them are float32, and the room is needed.
    return f"{task.calls} × {task.workload.replace(' float32', '')}"


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


def summary_text(result: TuneResult, store: str) -> str:
    """What a run did, in a few lines."""
    done = f"{result.stop} after {clock(result.elapsed_s)}: {count(result.trials, 'trial')}"
    rows = [
        f"{done}, {result.rejected} rejected for a wrong output, {result.failed} failed",
        f"{count(len(result.records), 'record')} written to {store}",
    ]
    if result.resumed:
        rows.append(f"{count(result.resumed, 'trial')} of earlier runs were not measured again")
    if result.end_to_end_us is not None:
        ends = end_to_end_text(result.default_end_to_end_us, result.end_to_end_us)
        rows.append(f"end to end: {ends}")
    rows.append(f"time: {split_text(result.split)}")
    reasons = Counter(task.stop for task in result.tasks if task.stop)
    rows += [f"{count(number, 'task')} done: {why}" for why, number in reasons.most_common()]
    return "\n".join(rows)


def document(result: TuneResult) -> dict[str, Any]:
    """The run as JSON takes it, with the labels of its figures."""
    from compiler.codec import encode

    fields: dict[str, Any] = encode(result)
    latency = next((task.label for task in result.tasks), "measured")
    return {
        **fields,
        "labels": {
            "default_us": latency,
            "best_us": latency,
            "gflops": "estimated",
            "roofline_share": "estimated",
            "weight": "estimated",
            "default_end_to_end_us": "estimated",
            "end_to_end_us": "estimated",
            "elapsed_s": "measured",
            "split": "measured",
        },
    }


__all__ = [
    "LINE_EVERY_S",
    "document",
    "follow",
    "lines",
    "live",
    "summary_text",
    "tasks_table",
]
