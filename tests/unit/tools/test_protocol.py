"""The driver's side of the protocol, against processes that do not keep to it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.tools.fake_contenders import HERE
from tools.bench.driver import ROOT, worker_environment
from tools.bench.protocol import ContenderError, Worker


def _python(tmp_path: Path, code: str) -> Worker:
    return Worker([sys.executable, "-c", code], log=tmp_path / "log", env=os.environ, cwd=tmp_path)


def _fake(tmp_path: Path, name: str) -> Worker:
    cpu = max(os.sched_getaffinity(0))
    return Worker(
        [sys.executable, "-m", "tools.bench.worker", f"{HERE}:{name}", "--cpus", str(cpu)],
        log=tmp_path / "log",
        env=worker_environment(1, tmp_path),
        cwd=ROOT,
    )


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_hanging_worker_is_ended_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    worker = _python(tmp_path, code)
    deadline = time.monotonic() + 20
    while not ((tmp_path / "child").exists() and (tmp_path / "child").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(ContenderError, match=r"run: no answer within 0\.3 s \(signal SIGKILL\)"):
        worker.ask({"do": "run"}, timeout=0.3)
    assert not _alive(worker.pid)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 20  # the kernel takes its time to end it on a busy machine
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    worker = _python(tmp_path, "import sys; print('out of luck', file=sys.stderr); sys.exit(7)")
    with pytest.raises(ContenderError, match=r"(?s)ended \(exit code 7\).*out of luck"):
        worker.ask({"do": "prepare"}, timeout=20)
    with pytest.raises(ContenderError, match="its process has ended"):
        worker.ask({"do": "run"}, timeout=20)


def test_a_signal_is_named(tmp_path: Path) -> None:
    worker = _python(tmp_path, "import os; os.abort()")
    with pytest.raises(ContenderError, match="signal SIGABRT"):
        worker.ask({"do": "prepare"}, timeout=20)


@pytest.mark.parametrize("answer", ["Traceback", "[1, 2]", '{"ok": true'])
def test_an_answer_that_is_no_object(tmp_path: Path, answer: str) -> None:
    worker = _python(tmp_path, f"print({answer!r}, flush=True); input(); input()")
    with pytest.raises(ContenderError, match="no JSON object"):
        worker.ask({"do": "prepare"}, timeout=20)
    assert not _alive(worker.pid)


def test_a_long_answer_in_pieces(tmp_path: Path) -> None:
    code = (
        "import json, sys, time\n"
        "text = json.dumps({'ok': True, 'ns': list(range(50000))}) + chr(10)\n"
        "for i in range(0, len(text), 65000):\n"
        "    sys.stdout.write(text[i:i + 65000]); sys.stdout.flush(); time.sleep(0.01)\n"
        "input(); input()"
    )
    worker = _python(tmp_path, code)
    assert worker.ask({"do": "run"}, timeout=20)["ns"] == list(range(50000))
    worker.kill()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match="cannot start"):
        Worker([str(tmp_path / "python")], log=tmp_path / "log", env={}, cwd=tmp_path)


def test_a_contender_that_cannot_be_imported(tmp_path: Path) -> None:
    worker = _fake(tmp_path, "NoSuchClass")
    with pytest.raises(ContenderError, match="cannot be imported: AttributeError"):
        worker.ask({"do": "prepare", "case": "."}, timeout=60)
    worker.quit()


def test_a_failure_leaves_the_worker_alive(tmp_path: Path) -> None:
    worker = _fake(tmp_path, "Unprepared")
    for _ in range(2):
        with pytest.raises(ContenderError, match="RuntimeError: no such operator: aten::frob"):
            worker.ask({"do": "prepare", "case": str(tmp_path)}, timeout=60)
    assert "frobnicate" in (tmp_path / "log").read_text()
    worker.quit()
    assert not _alive(worker.pid)


def test_an_answer_that_cannot_be_encoded(tmp_path: Path) -> None:
    worker = _fake(tmp_path, "Babbles")
    with pytest.raises(ContenderError, match=r"(?s)process ended.*not JSON serializable"):
        worker.ask({"do": "prepare", "case": str(tmp_path)}, timeout=60)


def test_the_worker_is_pinned_and_only_one_thread_works(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "reference.npz", np.zeros(3))
    worker = _fake(tmp_path, "Good")
    facts = worker.ask({"do": "prepare", "case": str(tmp_path)}, timeout=60)["facts"]
    assert facts["cpus"] == [max(os.sched_getaffinity(0))]
    times = worker.ask({"do": "run", "warm": 2, "count": 5}, timeout=60)["ns"]
    assert len(times) == 5
    assert min(times) >= 2e6
    threads = worker.ask({"do": "threads"}, timeout=60)
    assert threads["busy"] == 1
    assert threads["busiest_share"] > 0.9
    worker.quit()
