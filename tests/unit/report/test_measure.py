from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from compiler.errors import InputError
from compiler.report import compare, measure
from compiler.report.environment import environment, pinned
from compiler.report.profile import _blocks, profile, record
from tests.unit.report.fakes import TARGET


class FakeTensor:
    """As much of a TVM tensor as the recorder looks at."""

    class dtype:  # noqa: N801 - stands for an attribute
        bits, lanes = 32, 1

    def __init__(self, address: int, *shape: int) -> None:
        self.address, self.shape = address, shape

    def data_ptr(self) -> int:
        return self.address


X, W = FakeTensor(100, 8), FakeTensor(200, 1000)
A, B, C = FakeTensor(1000, 16), FakeTensor(2000, 32), FakeTensor(1000, 4)


class FakeRunner:
    """A model of three kernels whose third writes into the storage of the first's output."""

    inputs = outputs = ()
    seconds = 0.001

    def __init__(self) -> None:
        self.replayed: list[str] = []
        self.timed: list[tuple[int, int]] = []
        self.callback: Callable[..., Any] | None = None

    def call(self, name: str, result: Any, *args: Any) -> None:
        def function(*given: Any) -> None:
            assert given == args
            self.replayed.append(name)

        if self.callback is not None:
            self.callback(function, name, True, None, *args)
            self.callback(function, name, False, result, *args)

    def run(self, *inputs: Any) -> Any:
        builtin = "vm.builtin."
        self.call(builtin + "check_tensor_info", None, X, 1, "float32", "")
        self.call(builtin + "alloc_storage", object(), None, (64,), 0, "uint8", "global")
        self.call(builtin + "alloc_tensor", A, object(), 0, (16,), "float32")
        self.call("first", None, X, W, A)
        self.call(builtin + "alloc_storage", object(), None, (128,), 0, "uint8", "global")
        self.call(builtin + "alloc_tensor", B, object(), 0, (32,), "float32")
        if self.callback is not None:  # a Relax function that calls a kernel
            self.callback(None, "subroutine", True, None, A, B)
        self.call("second", None, A, B)
        if self.callback is not None:
            self.callback(None, "subroutine", False, None, A, B)
        self.call(builtin + "null_value", None)
        self.call(builtin + "alloc_tensor", C, object(), 0, (4,), "float32")
        self.call("third", None, B, C)
        return C

    def time(self, inputs: Sequence[Any], *, warmup: int, repeat: int) -> Sequence[float]:
        self.timed.append((warmup, repeat))
        return (self.seconds,) * repeat

    @contextmanager
    def instrument(self, callback: Callable[..., Any]) -> Iterator[None]:
        self.callback = callback
        try:
            yield
        finally:
            self.callback = None


def test_recording_has_kernels_only_and_each_once() -> None:
    recording = record(FakeRunner(), [X])
    assert [call.name for call in recording.calls] == ["first", "second", "third"]
    assert recording.calls[0].arguments == (X, W, A)
    assert recording.allocated_bytes == 64 + 128


def test_buffers_live_from_first_to_last_use() -> None:
    # A: calls 0 to 1; B: 1 to 2; C lies where A was, and lives in call 2 only.
    assert record(FakeRunner(), [X]).live_bytes == (64, 64 + 128, 128 + 16)


def test_replays_and_runs_take_turns() -> None:
    runner = FakeRunner()
    result = profile(runner, [X], runs=13, warmup=3, budget_s=60)
    assert len(result.run_ms) == len(result.replay_ms) == 13
    assert result.warmup == 3
    # Three runs to warm up, of which the first says how many are affordable.
    assert runner.timed[:2] == [(0, 1), (1, 1)]
    assert runner.timed[2:] == [(1, 2)] * 5 + [(1, 3)]
    # Each block replays once more than it counts.
    assert runner.replayed == ["first", "second", "third"] * (13 + 6)
    assert all(ms >= 0 for ms in result.call_ms)


def test_a_slow_model_is_run_less_often() -> None:
    # 1 ms a run and 1 ms a replay: 20 ms are enough for ten.
    assert len(profile(FakeRunner(), [X], runs=60, warmup=0, budget_s=0.0201).run_ms) == 10
    slow = FakeRunner()
    slow.seconds = 3.0
    result = profile(slow, [X], runs=60, warmup=5, budget_s=5)
    assert len(result.run_ms) == len(result.replay_ms) == 3
    assert result.warmup == 1
    assert slow.timed == [(0, 1), (0, 3)]


@pytest.mark.parametrize("runs", [1, 2, 5, 6, 7, 50])
def test_blocks_cover_all_runs(runs: int) -> None:
    blocks = list(_blocks(runs))
    assert sum(blocks) == runs
    assert min(blocks) >= 1
    assert max(blocks) - min(blocks) <= 1


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"threads": 0}])
def test_impossible_counts(wrong: dict[str, int]) -> None:
    (what,) = wrong
    with pytest.raises(InputError, match=what):
        measure(FakeRunner(), [X], target=TARGET, kernels=(), name="fake", **wrong)


def test_measure_fills_the_report() -> None:
    report = measure(FakeRunner(), [X], target=TARGET, kernels=(), name="fake", quick=True)
    assert report.model == "fake"
    assert report.latency.runs == 5
    assert report.latency.median.value == pytest.approx(1.0)
    assert {row.name for row in report.kernels} == {"first", "second", "third"}
    assert report.memory.process_rss.value > 2**20
    assert report.memory.process_rss.label == "measured"
    assert report.environment.versions["tilewright"]
    assert any("no description of 3 kernels" in note for note in report.notes)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_one_thread_is_pinned_and_set_free_again() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as core:
        assert os.sched_getaffinity(0) == {core}
        assert core in before
        assert environment(1, core).pinned_core == core
    assert os.sched_getaffinity(0) == before

    def fail() -> None:
        with pinned(1):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.sched_getaffinity(0) == before


def test_several_threads_are_not_pinned() -> None:
    with pinned(2) as core:
        assert core is None


def test_compare() -> None:
    want = [np.array([1.0, -4.0], np.float32), np.array([[100.0]], np.float32)]
    got = [np.array([1.5, -4.0], np.float32), np.array([[101.0]], np.float32)]
    accuracy = compare(got, want, reference="PyTorch 2")
    assert accuracy.max_abs.value == pytest.approx(1.0)
    assert accuracy.max_rel.value == pytest.approx(0.5 / 4)
    assert accuracy.max_abs.label == "measured"
    assert accuracy.reference == "PyTorch 2"


def test_compare_does_not_lose_nan() -> None:
    good, bad = np.ones(2), np.array([1.0, math.nan])
    assert math.isnan(compare([bad, good], [good, good]).max_abs.value)
    assert math.isnan(compare([good, bad], [good, good]).max_rel.value)
    assert compare([bad], [bad]).max_abs.value == 0


def test_compare_infinities_and_integers() -> None:
    inf = np.array([math.inf, 1.0])
    assert compare([inf], [inf]).max_abs.value == 0
    assert compare([np.array([3])], [np.array([1])]).max_abs.value == 2
    assert math.isinf(compare([np.ones(1)], [np.zeros(1)]).max_rel.value)


def test_compare_different_outputs() -> None:
    with pytest.raises(InputError, match="outputs"):
        compare([np.ones(1)], [])
    with pytest.raises(InputError, match="output 0: shape"):
        compare([np.ones(1)], [np.ones(2)])


def test_reading_and_showing_a_report_needs_neither_tvm_nor_torch() -> None:
    code = (
        "import sys; from tests.unit.report.fakes import make_report; r = make_report(); str(r); "
        "r.to_json(); r._repr_html_(); "
        "assert not {'tvm', 'torch'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
