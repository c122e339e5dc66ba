"""Whole runs over synthetic tasks: what is measured, kept, resumed, and how runs end."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from compiler.tune import Tune, TuneResult
from compiler.tune.events import Event, Finished, Improved, Note, Progress, Started
from compiler.tune.journal import FOLDER
from compiler.tune.measure.base import Failed, Measured, Rejected
from compiler.tune.search import choice_key
from compiler.tune.session import tune
from schedules.records import RecordStore, choice_of
from tests.unit.tune.fakes import (
    ROWS,
    SPEC,
    VECTORS,
    VERSIONS,
    FakeKernels,
    FakeMeasurer,
    dense,
    landscape,
)

pytestmark = pytest.mark.filterwarnings("error")


def run(
    store: Path,
    measurer: FakeMeasurer,
    *tasks: Any,
    kernels: FakeKernels | None = None,
    options: Tune | None = None,
    **more: Any,
) -> TuneResult:
    return tune(
        tasks or (dense(),),
        SPEC,
        options or Tune(trials=60),
        RecordStore(store),
        measurer=measurer,
        kernels=kernels or FakeKernels(),
        versions=VERSIONS,
        **more,
    )


def best_of(store: Path, task: Any) -> Any:
    found = RecordStore(store).best(task.workload)
    assert found is not None
    return found


def test_defaults_come_first_and_records_of_improvements_chain(tmp_path: Path) -> None:
    measurer = FakeMeasurer()
    tasks = dense(), dense(128, 512, 512, calls=3)
    result = run(tmp_path, measurer, *tasks, options=Tune(trials=120))
    default = {"algorithm": "direct", "tile": [4, 2], "unroll": 1, "order": "rows"}
    for task in tasks:
        assert next(c for name, c in measurer.asked if name == task.name) == default
        best = best_of(tmp_path, task)
        assert landscape(task, choice_of(best)) == pytest.approx(best.median_ns, rel=1e-3)
        assert choice_of(best)["tile"] == [7, 3]
        assert best.baseline is not None
        assert dict(best.baseline.choice)["tile"] == [4, 2]
        assert best.provenance.parent in result.records
        assert best.check is not None
    assert result.trials == len(measurer.candidates) <= 120
    assert result.end_to_end_us is not None
    assert result.default_end_to_end_us is not None
    assert result.end_to_end_us < 0.8 * result.default_end_to_end_us
    assert sorted(result.records) == sorted(r.id for r in RecordStore(tmp_path))


def test_events_tell_the_whole_story(tmp_path: Path) -> None:
    events: list[Event] = []
    measurer = FakeMeasurer()
    result = run(tmp_path, measurer, dense(), options=Tune(trials=40), progress=events.append)
    assert isinstance(events[0], Started)
    assert events[0].trials == 40
    assert isinstance(events[-1], Finished)
    assert events[-1].result == result
    progress = [e for e in events if isinstance(e, Progress)]
    assert [p.trials for p in progress] == sorted(p.trials for p in progress)
    assert progress[-1].trials == result.trials == 40
    assert progress[-1].tasks == result.tasks
    improved = [e for e in events if isinstance(e, Improved)]
    assert [e.record for e in improved] == list(result.records)
    assert improved[0].before_us is None
    assert all(e.before_us is None or e.after_us < e.before_us for e in improved)
    split = result.split
    assert split.build_s == pytest.approx(0.5 * len(measurer.asked))
    assert split.run_s == pytest.approx(0.1 * len(measurer.asked))
    total = split.propose_s + split.measure_s + split.other_s
    assert total == pytest.approx(result.elapsed_s, rel=0.05)


def test_a_second_run_continues_and_measures_nothing_twice(tmp_path: Path) -> None:
    first, second = FakeMeasurer(), FakeMeasurer()
    run(tmp_path, first, options=Tune(trials=40))
    result = run(tmp_path, second, options=Tune(trials=40))
    assert len(first.candidates) == 40
    assert len(set(first.candidates) & set(second.candidates)) <= 1  # beside a new best one
    assert len(set(first.candidates) | set(second.candidates)) == 80
    assert result.resumed == 40
    assert result.tasks[0].trials == 80
    assert result.tasks[0].default_us is not None


def test_without_resuming_the_default_is_measured_again(tmp_path: Path) -> None:
    first, second = FakeMeasurer(), FakeMeasurer()
    run(tmp_path, first, options=Tune(trials=20))
    result = run(tmp_path, second, options=Tune(trials=20, resume=False))
    assert result.resumed == 0
    assert first.asked[0] == second.asked[0]


def test_a_known_record_is_a_seed_and_no_duplicate_is_written(tmp_path: Path) -> None:
    run(tmp_path, FakeMeasurer(), options=Tune(trials=60))
    best = best_of(tmp_path, dense())
    for journal in (tmp_path / FOLDER).iterdir():
        journal.unlink()
    measurer = FakeMeasurer()
    result = run(tmp_path, measurer, options=Tune(trials=8))
    assert choice_of(best) in [choice for _, choice in measurer.asked[:4]]
    assert result.records == ()


def test_records_of_similar_shapes_start_the_search(tmp_path: Path) -> None:
    run(tmp_path, FakeMeasurer(), dense(), options=Tune(trials=60))
    other = dense(96, 256, 512)
    measurer = FakeMeasurer()
    run(tmp_path, measurer, other, options=Tune(trials=4))
    assert [7, 3] in [choice.get("tile") for _, choice in measurer.asked]


@pytest.mark.parametrize("large", [False, True], ids=["ranked", "evolution"])
def test_the_search_beats_random_choices(tmp_path: Path, large: bool) -> None:
    task = dense()
    kernels = FakeKernels(large)
    (space, _) = kernels.spaces(task.workload, SPEC)
    trials = 64

    def random_best(seed: int) -> float:
        rng = random.Random(seed)
        found: list[float] = []
        while len(found) < trials:
            choice = {"algorithm": "direct"}
            choice |= {d.name: rng.choice(d.options) for d in space.decisions}
            if math.isfinite(kernels.estimated_cycles(task.workload, choice, SPEC)):
                found.append(landscape(task, choice))
        return min(found)

    searched = []
    for seed in range(3):
        result = run(
            tmp_path / str(seed),
            FakeMeasurer(),
            task,
            kernels=kernels,
            options=Tune(trials=trials, seed=seed),
        )
        assert result.tasks[0].best_us is not None
        searched.append(result.tasks[0].best_us * 1e3)
    by_chance = sorted(random_best(seed) for seed in range(20))
    assert sorted(searched)[1] < by_chance[len(by_chance) // 4]


def test_the_budget_goes_where_the_time_is(tmp_path: Path) -> None:
    large, small = dense(256, 512, 512, calls=8, name="large"), dense(1, 64, 64, name="small")
    result = run(tmp_path, FakeMeasurer(), large, small, options=Tune(trials=72))
    trials = {status.name: status.trials for status in result.tasks}
    assert trials["large"] > 3 * trials["small"] > 0
    assert [status.name for status in result.tasks] == ["large", "small"]
    assert result.tasks[0].weight > 0.9


def test_a_small_budget_measures_every_default(tmp_path: Path) -> None:
    tasks = [dense(8 * (i + 1), 64, 64) for i in range(6)]
    measurer = FakeMeasurer()
    result = run(tmp_path, measurer, *tasks, options=Tune(trials=6))
    assert Counter(name for name, _ in measurer.asked) == {t.name: 1 for t in tasks}
    assert result.default_end_to_end_us == result.end_to_end_us
    assert "6 trials" in result.stop


def test_an_exhausted_space_ends_its_task(tmp_path: Path) -> None:
    class Tiny(FakeKernels):
        def spaces(self, workload: Any, spec: Any) -> Any:
            return FakeKernels.spaces(self, workload, spec)[1:]

    result = run(tmp_path, FakeMeasurer(), kernels=Tiny(), options=Tune(trials=500))
    assert result.trials == 5
    assert result.tasks[0].state == "done"
    assert "every choice" in result.tasks[0].stop
    assert result.stop == "every task is done"
    again = run(tmp_path, FakeMeasurer(), kernels=Tiny(), options=Tune(trials=500))
    assert again.trials == 0
    assert again.resumed == 5


def test_a_task_without_a_template_is_named_and_left(tmp_path: Path) -> None:
    class Odd(FakeKernels):
        def spaces(self, workload: Any, spec: Any) -> Any:
            return () if workload.data[0] == 1 else FakeKernels.spaces(self, workload, spec)

    measurer = FakeMeasurer()
    result = run(tmp_path, measurer, dense(1), dense(), kernels=Odd(), options=Tune(trials=10))
    stops = {status.name: status.stop for status in result.tasks}
    assert "no template" in stops[dense(1).name]
    assert {name for name, _ in measurer.asked} == {dense().name}


def test_all_candidates_failing_ends_the_task_with_a_note(tmp_path: Path) -> None:
    events: list[Event] = []
    measurer = FakeMeasurer(lambda task, choice: Failed("crash", "it was killed by signal 11"))
    result = run(tmp_path, measurer, options=Tune(trials=500), progress=events.append)
    (status,) = result.tasks
    assert 32 <= status.trials == status.failed == result.failed < 60
    assert "could be measured" in status.stop
    assert any(isinstance(event, Note) for event in events)
    assert result.records == ()
    assert result.end_to_end_us is None
    assert not list(RecordStore(tmp_path))


def test_luck_is_no_improvement(tmp_path: Path) -> None:
    rng = random.Random(5)
    luckiest = math.inf

    def answer(task: Any, choice: Any) -> Any:
        # All candidates are equal; single measurements are off by up to a tenth.
        nonlocal luckiest
        latency = 1e6 * (1 + rng.uniform(-0.1, 0.1))
        luckiest = min(luckiest, latency)
        return Measured((latency,), 0.0, 1e-3)

    measurer = FakeMeasurer(answer)
    result = run(tmp_path, measurer, options=Tune(trials=200))
    best = best_of(tmp_path, dense())
    assert len(best.measurement.samples) >= 2
    assert len(measurer.asked) > len(measurer.candidates) == result.trials
    assert best.median_ns > luckiest


def test_a_best_candidate_that_is_wrong_the_next_time_is_rejected(tmp_path: Path) -> None:
    seen: set[str] = set()

    def answer(task: Any, choice: Any) -> Any:
        if choice.get("tile") == [7, 3]:
            if choice_key(choice) in seen:
                return Rejected("a race")
            seen.add(choice_key(choice))
        return landscape(task, choice)

    result = run(tmp_path, FakeMeasurer(answer), options=Tune(trials=80))
    assert seen
    assert result.tasks[0].rejected > 0
    assert choice_of(best_of(tmp_path, dense()))["tile"] != [7, 3]


def test_wrong_outputs_are_rejected_counted_and_never_kept(tmp_path: Path) -> None:
    def answer(task: Any, choice: Any) -> Any:
        if choice.get("order") == "rows" and choice["tile"] != [4, 2]:
            return Rejected("3 of 64 values differ")
        return landscape(task, choice)

    result = run(tmp_path, FakeMeasurer(answer), options=Tune(trials=120))
    assert result.rejected == result.tasks[0].rejected > 0
    best = choice_of(best_of(tmp_path, dense()))
    assert best["order"] != "rows"


@pytest.mark.parametrize("samples", [(math.nan,), (), (0.0,), (-1.0, 5.0), (math.inf,)])
def test_samples_that_are_no_latencies_are_failures(tmp_path: Path, samples: Any) -> None:
    def answer(task: Any, choice: Any) -> Any:
        if choice.get("order") == "rows":
            return Measured(samples, 0.0, 1e-3)
        return landscape(task, choice)

    result = run(tmp_path, FakeMeasurer(answer), options=Tune(trials=60))
    assert result.failed == result.tasks[0].failed > 0
    assert result.tasks[0].default_us is None
    assert result.tasks[0].best_us is not None
    assert choice_of(best_of(tmp_path, dense())).get("order") != "rows"


def test_an_error_beyond_the_tolerance_is_a_mismatch_whatever_the_measurer_says(
    tmp_path: Path,
) -> None:
    measurer = FakeMeasurer(lambda task, choice: Measured((100.0,), 0.5, 1e-3))
    result = run(tmp_path, measurer, options=Tune(trials=20))
    assert result.rejected == 20
    assert result.records == ()


def test_a_kernel_at_the_roofline_is_left_alone(tmp_path: Path) -> None:
    task = dense(512, 512, 512)
    ideal = task.flops / (SPEC.peak_ops_per_cycle["float32"] * SPEC.clock_hz) * 1e9
    result = run(tmp_path, FakeMeasurer(lambda t, c: 1.02 * ideal), task, options=Tune(trials=400))
    assert result.trials <= 8
    assert "roofline" in result.tasks[0].stop
    assert result.stop == "every task is done"
    assert result.tasks[0].roofline_share == pytest.approx(1 / 1.02, rel=0.02)


def test_batches_that_bring_nothing_end_a_task(tmp_path: Path) -> None:
    measurer = FakeMeasurer(lambda task, choice: 1e7)
    result = run(tmp_path, measurer, options=Tune(trials=2000))
    assert "without an improvement" in result.tasks[0].stop
    assert result.trials < 200


def test_the_time_limit_holds(tmp_path: Path) -> None:
    measurer = FakeMeasurer(seconds=0.01)
    result = run(tmp_path, measurer, dense(), dense(128), options=Tune(None, minutes=0.01))
    assert "minutes are used" in result.stop
    # Sixty candidates of 0.01 s fill the 0.6 s, and what was begun is finished.
    assert 4 < result.trials < 200


def test_tasks_are_chosen_by_pattern(tmp_path: Path) -> None:
    measurer = FakeMeasurer()
    tasks = dense(name="first"), dense(128, name="second")
    run(tmp_path, measurer, *tasks, options=Tune(trials=10, tasks="conv*, SEC*"))
    assert {name for name, _ in measurer.asked} == {"second"}
    nothing = run(tmp_path, FakeMeasurer(), *tasks, options=Tune(trials=10, tasks="conv2d"))
    assert nothing.trials == 0
    assert nothing.stop == "there are no tasks"


def test_damaged_journal_lines_are_skipped_and_told(tmp_path: Path) -> None:
    run(tmp_path, FakeMeasurer(), options=Tune(trials=20))
    (journal,) = (tmp_path / FOLDER).iterdir()
    lines = list(dict.fromkeys(journal.read_bytes().splitlines(keepends=True)))[:21]
    lines[3] = b'{"choice": \xff\n'
    lines[5] = b'{"choice":{"algorithm":"__import__"},"outcome":"build","reason":"","session":""}\n'
    journal.write_bytes(b"".join(lines)[:-25])  # the end of the last line is lost, too
    events: list[Event] = []
    measurer = FakeMeasurer()
    result = run(tmp_path, measurer, options=Tune(trials=20), progress=events.append)
    assert result.resumed == 17
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("1 damaged" in note for note in notes)
    after = run(tmp_path, FakeMeasurer(), options=Tune(trials=1))
    assert after.resumed == 37


def test_a_measurement_of_other_versions_or_features_is_not_taken_over(tmp_path: Path) -> None:
    run(tmp_path, FakeMeasurer(), options=Tune(trials=8))
    other = FakeMeasurer(runner="rpc:board")
    assert run(tmp_path, other, options=Tune(trials=8)).resumed == 0
    result = tune(
        [dense()], SPEC, Tune(trials=8), RecordStore(tmp_path), measurer=FakeMeasurer(),
        kernels=FakeKernels(), versions={**VERSIONS, "llvm": "1"},
    )  # fmt: skip
    assert result.resumed == 0


def test_two_runs_on_one_store_at_once_lose_nothing(tmp_path: Path) -> None:
    measurers = [FakeMeasurer(seconds=0.002), FakeMeasurer(seconds=0.002)]
    results: list[TuneResult] = []

    def work(index: int) -> None:
        options = Tune(trials=64, seed=index)
        results.append(run(tmp_path, measurers[index], dense(), dense(128), options=options))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    records = {record.id for record in RecordStore(tmp_path)}
    assert set(results[0].records) | set(results[1].records) == records
    third = run(tmp_path, FakeMeasurer(), dense(), dense(128), options=Tune(trials=1))
    asked = {candidate for m in measurers for candidate in m.candidates}
    assert third.resumed == len(asked)


def test_an_event_ends_the_run_and_keeps_what_was_measured(tmp_path: Path) -> None:
    cancel = threading.Event()
    measurer = FakeMeasurer(after_batch=lambda count: cancel.set() if count == 2 else None)
    result = run(tmp_path, measurer, options=Tune(trials=500), cancel=cancel)
    assert result.interrupted
    assert result.stop == "interrupted"
    assert result.trials == len(measurer.candidates) > 0
    assert run(tmp_path, FakeMeasurer(), options=Tune(trials=1)).resumed == result.trials


def test_ctrl_c_ends_the_run_once_gently_and_twice_at_once(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:

        def press(count: int) -> None:
            if count == 2:
                signal.raise_signal(signal.SIGINT)

        result = run(tmp_path, FakeMeasurer(after_batch=press), options=Tune(trials=500))
        assert result.interrupted
        assert result.tasks[0].best_us is not None
        assert run(tmp_path, FakeMeasurer(), options=Tune(trials=1)).resumed == result.trials

        def press_twice(count: int) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        lost = FakeMeasurer(after_batch=press_twice)
        result = run(tmp_path / "other", lost, options=Tune(trials=500))
        assert result.interrupted
        assert result.trials == 0
        assert len(lost.batches) == 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


_KILLED = """
import sys
from pathlib import Path
from tests.unit.tune.fakes import SPEC, VERSIONS, FakeKernels, FakeMeasurer, dense
from compiler.tune import Tune
from compiler.tune.session import tune
from schedules.records import RecordStore
measurer = FakeMeasurer(seconds=0.01, after_batch=lambda count: print(count, flush=True))
tune([dense(), dense(128)], SPEC, Tune(trials=2000), RecordStore(Path(sys.argv[1])),
     measurer=measurer, kernels=FakeKernels(), versions=VERSIONS)
"""


def test_kill_9_loses_at_most_the_batch_in_flight(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 5:  # five batches are measured, four are certainly written
                process.kill()
                break
    lines = [
        (path.name, json.dumps(json.loads(line)["choice"]))
        for path in (tmp_path / FOLDER).iterdir()
        for line in path.read_bytes().splitlines()[1:]
    ]
    assert len(lines) >= 2 + 2 + 16 + 2
    store = RecordStore(tmp_path)
    assert store.verify().problems == ()
    assert list(store)
    measurer = FakeMeasurer()
    result = run(tmp_path, measurer, dense(), dense(128), options=Tune(trials=20))
    assert result.resumed == len(set(lines))
    assert result.trials == 20


def test_a_full_disk_is_a_clear_error_and_the_store_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from schedules.records import StoreError

    real, calls = os.fsync, Counter[str]()

    def full(descriptor: int) -> None:
        calls["fsync"] += 1
        if calls["fsync"] > 12:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        run(tmp_path, FakeMeasurer(), options=Tune(trials=200))
    assert caught.value.hint is not None
    assert "disk" in caught.value.hint
    monkeypatch.undo()
    assert RecordStore(tmp_path).verify().problems == ()
    assert run(tmp_path, FakeMeasurer(), options=Tune(trials=10)).resumed > 0


def test_the_synthetic_space_is_what_the_tests_think() -> None:
    (direct, _) = FakeKernels().spaces(dense().workload, SPEC)
    assert direct.size == len(ROWS) * len(VECTORS) * 4 * 3 < 512 < FakeKernels(True).spaces(
        dense().workload, SPEC
    )[0].size  # fmt: skip
