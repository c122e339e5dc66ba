"""What a tuning run shows, from made-up events."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

from compiler.cli.tune_view import (
    LINE_EVERY_S,
    _State,
    clock,
    document,
    lines,
    live,
    summary_text,
    tasks_table,
)
from compiler.tune.events import Finished, Improved, Note, Progress, Started, TaskStatus, TimeSplit
from compiler.tune.result import TuneResult

SMALL = TaskStatus(
    "dense-1", "dense 1x512 float32 by 512x1000", 1, 0.1, 40.0, 30.0, 34.1, 0.52, 20, 1, 2, "done",
    "nothing left to win",
)  # fmt: skip
LARGE = TaskStatus(
    "conv2d-2", "conv2d 1x56x56x64 float32 by 64x64x3x3 + add + relu", 4, 0.85, 2100.0, 1800.5,
    128.4, 0.913, 31, 0, 0, "searching",
)  # fmt: skip
NEW = TaskStatus("pool2d-3", "pool2d [1, 112, 112, 64] float32", 1, 0.05)
SPLIT = TimeSplit(propose_s=20.0, measure_s=75.0, other_s=5.0, build_s=60.0, run_s=44.0)
PROGRESS = Progress(
    (SMALL, LARGE, NEW), "conv2d-2", 51, 100.0, 1700.0, 8500.0, 7250.0, SPLIT
)  # fmt: skip
STARTED = Started((SMALL, LARGE, NEW), 2000, 1800.0, 12)
RESULT = TuneResult(
    (SMALL, LARGE), 51, 12, 1, 2, "interrupted", True, 101.0, SPLIT, ("ab" * 32,), 8500.0, 7250.0
)


def drawn(state: _State, *, width: int = 140, height: int = 40, now: float = 0.0) -> str:
    screen = Console(file=io.StringIO(), width=width, height=height)
    screen.print(state.draw(width, height, now))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_the_live_table_has_most_weight_first_and_the_run_below() -> None:
    state = _State("resnet18 on x86/host")
    assert "extracting tasks" in drawn(state)
    for event in (STARTED, PROGRESS, Note("nothing builds", "pool2d-3"), Note("[red]x")):
        state.take(event)
    text = drawn(state)
    places = [text.index(part) for part in ("conv2d 1x56", "dense 1x512", "pool2d [1, 112")]
    assert places == sorted(places)
    for part in (
        "resnet18 on x86/host", "3 tasks, at most 30:00 and 2000 trials",
        "12 trials of earlier runs", "85.0 %", "1,800.5", "128.4", "91%", "51 trials",
        "8.500 → 7.250 ms, 1.17x (estimated from its kernels)", "75% measuring",
        "20% searching", "note: pool2d-3: nothing builds", "note: [red]x",
        "4 × conv2d", "Ctrl-C",
    ):  # fmt: skip
        assert part in text, part


def test_the_clocks_go_on_between_events() -> None:
    state = _State("net")
    state.take(PROGRESS)
    now = time.monotonic()
    assert "28:20 left" in drawn(state, now=now)
    assert "27:20 left" in drawn(state, now=now + 60)
    assert "0:00 left" in drawn(state, now=now + 1e5)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_fits_the_terminal(width: int) -> None:
    state = _State("net")
    state.take(PROGRESS)
    assert max(map(len, drawn(state, width=width).splitlines())) <= width


def test_a_low_terminal_gets_fewer_rows_and_their_sum() -> None:
    state = _State("net")
    many = tuple(TaskStatus(f"t{i}", f"work {i}", 1, 0.01, trials=2) for i in range(100))
    state.take(Progress(many, "", 200, 1.0, None, None, None, SPLIT))
    text = drawn(state, height=24)
    assert len(text.splitlines()) <= 24
    assert "… 88 more" in text
    assert "176" in text


def test_lines_where_the_output_is_no_terminal() -> None:
    said: list[str] = []
    with lines(said.append, "net on x86/host") as take:
        take(STARTED)
        take(PROGRESS)
        take(PROGRESS)
        later = Progress((), "", 60, 100.0 + LINE_EVERY_S, None, None, None, SPLIT)
        take(later)
        take(Improved("conv2d-2", 1900.0, 1800.5, "ab" * 32))
        take(Improved("dense-1", None, 30.0, "cd" * 32))
        take(Note("a damaged line"))
        take(Finished(RESULT))
    ends = "8.500 → 7.250 ms, 1.17x (estimated from its kernels)"
    assert said == [
        "net on x86/host: 3 tasks, at most 30:00 and 2000 trials; 12 trials of earlier runs",
        f"1:40  51 trials, end to end {ends}, 28:20 left; at work: conv2d-2",
        "1:55  60 trials",
        "  conv2d-2: 1,900.0 → 1,800.5 µs (measured), record ababababab",
        "  dense-1: – → 30.0 µs (measured), record cdcdcdcdcd",
        "note: a damaged line",
    ]


def test_live_takes_all_events() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, height=30)
    with live(screen, "net") as take:
        for event in (
            STARTED,
            PROGRESS,
            Improved("a", None, 1.0, "b"),
            Note("x"),
            Finished(RESULT),
        ):
            take(event)
    assert isinstance(screen.file, io.StringIO)
    assert "conv2d 1x56" in screen.file.getvalue()


def test_summary() -> None:
    text = summary_text(RESULT, "/home/me/records")
    assert "interrupted after 1:41: 51 trials, 1 rejected for a wrong output, 2 failed" in text
    assert "1 record written to /home/me/records" in text
    assert "8.500 → 7.250 ms" in text
    assert "1 task done: nothing left to win" in text
    nothing = TuneResult((), 0, 0, 0, 0, "nothing to tune", False, 0.0, TimeSplit(), (), None, None)
    assert "nothing to tune after 0:00: 0 trials" in summary_text(nothing, "x")
    Console(file=io.StringIO()).print(tasks_table((), width=80))


def test_document() -> None:
    written = json.loads(json.dumps(document(RESULT), allow_nan=False))
    assert written["tasks"][1]["best_us"] == 1800.5
    assert written["records"] == ["ab" * 32]
    assert written["interrupted"] is True
    figures = {name for name, value in written.items() if isinstance(value, float)}
    assert figures <= set(written["labels"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (245, "4:05"), (3845, "1:04:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
