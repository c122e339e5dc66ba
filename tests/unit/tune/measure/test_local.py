"""Candidates on this machine: what is right is timed, everything else costs itself only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from compiler.errors import FileError, InputError
from compiler.tune.measure.base import Failed, Measured, Measurer, Rejected
from compiler.tune.measure.create import create_measurer
from compiler.tune.measure.settings import Limits
from targets import get_target
from tests.unit.tune.measure.kernels import MODULE, Task

pytestmark = pytest.mark.compile

SPEC = get_target("x86")
RIGHT = {"do": "right"}


@pytest.fixture(scope="module")
def measurer():
    limits = Limits(build_s=8.0, run_s=3.0)
    with closing(create_measurer(SPEC, kernels=MODULE, limits=limits)) as found:
        yield found


def measure(measurer, *choices, task=None, cancel=None):
    return measurer.measure(task or Task(), list(choices), cancel=cancel or threading.Event())


def test_right_candidates_are_timed(measurer):
    plain, packed = measure(measurer, RIGHT, {"do": "right", "packed": True})
    for outcome in (plain, packed):
        assert isinstance(outcome, Measured), outcome
        assert len(outcome.samples_ns) >= 5
        assert all(sample > 0 for sample in outcome.samples_ns)
        assert 0 <= outcome.max_relative_error <= outcome.tolerance == 1e-4
        assert outcome.build_s > 0
        assert outcome.run_s > 0


def test_it_is_a_measurer(measurer):
    assert isinstance(measurer, Measurer)
    assert measurer.runner == "local"
    assert measurer.cpu.cores >= 1


@pytest.mark.parametrize(
    "dtype",
    [
        "bfloat16",
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("int8", "uint8", "int32", "float64")),
    ],
)
def test_dtypes(measurer, dtype):
    task = Task(dtype=dtype)
    right, wrong = measure(measurer, RIGHT, {"do": "wrong"}, task=task)
    assert isinstance(right, Measured), right
    assert isinstance(wrong, Rejected), wrong


def test_a_wrong_result_is_rejected_with_its_error(measurer):
    wrong, right = measure(measurer, {"do": "wrong"}, RIGHT)
    assert isinstance(wrong, Rejected)
    assert "off by" in wrong.reason
    assert "0.0001 is allowed" in wrong.reason
    assert isinstance(right, Measured)


def test_one_wrong_integer_is_rejected(measurer):
    (wrong,) = measure(measurer, {"do": "wrong"}, task=Task(dtype="int32"))
    assert isinstance(wrong, Rejected)
    assert "1 of 4096 integers wrong, by up to 1" in wrong.reason


def test_an_output_that_is_not_written_is_rejected(measurer):
    (nothing,) = measure(measurer, {"do": "nothing"})
    assert isinstance(nothing, Rejected)
    assert "4096 of 4096 values that are infinite or no numbers" in nothing.reason


def test_a_write_behind_the_output_is_rejected(measurer):
    (overrun,) = measure(measurer, {"do": "overrun"})
    assert isinstance(overrun, Rejected)
    assert "behind the end" in overrun.reason


@pytest.mark.parametrize(
    ("do", "kind", "reason"),
    [
        pytest.param("abort", "crash", "SIGABRT", marks=pytest.mark.slow),
        ("segfault", "crash", "SIGSEGV"),
        pytest.param("illegal", "crash", "SIGILL", marks=pytest.mark.slow),
        ("endless", "timeout", "3 s"),
        ("refuse", "build", "this choice cannot be built"),
        ("crash the build", "crash", "SIGABRT"),
        ("hang the build", "timeout", "8 s"),
        ("hog memory", "build", "MemoryError"),
    ],
)
def test_a_dangerous_candidate_costs_itself_only(measurer, do, kind, reason):
    task = Task(n=1024)  # nothing is known of its speed
    measure(measurer, task=task)
    bad, right = measure(measurer, {"do": do}, RIGHT, task=task)
    assert isinstance(bad, Failed), bad
    assert bad.kind == kind
    assert reason in bad.reason
    assert isinstance(right, Measured), right


def test_a_slow_candidate_is_given_up_early(measurer):
    measure(measurer, RIGHT)
    (slow,) = measure(measurer, {"do": "slow"})
    assert isinstance(slow, Measured)
    assert len(slow.samples_ns) == 2
    assert min(slow.samples_ns) > 20e6


def test_a_reference_that_fails_is_said_of_every_candidate(measurer):
    outcomes = measure(measurer, RIGHT, RIGHT, task=Task(broken_reference=True))
    assert [o.kind for o in outcomes] == ["verify", "verify"]
    assert "SIGABRT" in outcomes[0].reason


def test_cancelling_ends_what_runs(measurer):
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    outcomes = measure(
        measurer, RIGHT, {"do": "hang the build"}, {"do": "hang the build"}, RIGHT, cancel=cancel
    )
    assert [getattr(o, "kind", "") for o in outcomes[1:]] == ["cancelled"] * 3
    (right,) = measure(measurer, RIGHT)
    assert isinstance(right, Measured)


def test_a_full_disk_stops_with_a_clear_error(measurer):
    with pytest.raises(FileError, match=r"(?s)No space left.*TMPDIR"):
        measure(measurer, RIGHT, {"do": "full disk"}, RIGHT)
    (right,) = measure(measurer, RIGHT)
    assert isinstance(right, Measured)


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    """LLVM aborts when it cannot write its object file; that is no fault of the candidate."""
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, str(tmp_path)]
    try:
        able = subprocess.run([*command, "true"], check=False, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no unshare to mount a small disk with")
    if able.returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    done = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(FULL_DISK_SCRIPT), MODULE],
        env={**environment(), "TMPDIR": str(tmp_path)},
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "candidates cannot be built in the temporary folder" in done.stdout


FULL_DISK_SCRIPT = """
    import os, sys, threading
    from contextlib import closing
    from pathlib import Path
    from compiler.errors import FileError
    from compiler.tune.measure.create import create_measurer
    from targets import get_target

    class Task:
        to_json = staticmethod(lambda: "{}")

    with closing(create_measurer(get_target("x86"), kernels=sys.argv[1])) as measurer:
        measurer.measure(Task(), [{"do": "right"}], cancel=threading.Event())
        junk = Path(os.environ["TMPDIR"], "junk").open("wb", buffering=0)
        try:
            while junk.write(b"x" * 4096):
                pass
        except OSError:
            pass
        try:
            measurer.measure(Task(), [{"do": "right"}], cancel=threading.Event())
        except FileError as error:
            print(error)
"""


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_no_kernels_are_left_behind(measurer):
    measure(measurer, RIGHT, {"do": "wrong"}, {"do": "abort"}, {"do": "refuse"})
    folder = measurer._builder._server.folder
    kept = len(measurer._references)  # one shared object for each task's reference
    assert len(list(folder.glob("kernel-*"))) == kept


def test_threads_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="may use"):
        create_measurer(SPEC, threads=10_000, kernels=MODULE)


def test_several_threads():
    threads = min(2, len(os.sched_getaffinity(0)))
    with closing(create_measurer(SPEC, threads=threads, workers=1, kernels=MODULE)) as measurer:
        right, wrong = measure(measurer, RIGHT, {"do": "wrong"})
    assert isinstance(right, Measured)
    assert isinstance(wrong, Rejected)


SCRIPT = """
    import sys, threading
    from contextlib import closing
    from compiler.tune.measure.create import create_measurer
    from targets import get_target

    class Task:  # as the workers' own, but TVM is not imported here
        to_json = staticmethod(lambda: "{}")

    with closing(create_measurer(get_target("x86"), kernels=sys.argv[2])) as measurer:
        choice = {"do": "leave files", "tell": sys.argv[1]}
        measurer.measure(Task(), [choice], cancel=threading.Event())
"""


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_nothing_is_left_after_a_signal(tmp_path, number):
    """Neither worker processes nor their files outlive the tuner, however it ends."""
    told = tmp_path / "told"
    tuner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(told), MODULE],
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        wait_until(told.exists, 60)
        wait_until(lambda: len(told.read_text().split()) == 3, 10)
        worker, server, name = told.read_text().split()
        assert Path(name).exists()
        tuner.send_signal(number)
        stderr = tuner.communicate(timeout=20)[1]
    finally:
        tuner.kill()
        tuner.wait()
    if number == signal.SIGINT:
        assert b"KeyboardInterrupt" in stderr
    for pid in (worker, server):
        wait_until(lambda pid=pid: not alive(int(pid)), 10)
    wait_until(lambda: not Path(name).parent.exists(), 10)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
