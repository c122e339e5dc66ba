"""Tuning on boards: emulated ones that a stand-in for ssh reaches, and all that goes wrong."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

import compiler
from compiler.api import tune_model
from compiler.cli.app import run_cli
from compiler.deploy.board import Board
from compiler.deploy.devices import add_device
from compiler.deploy.libraries import runtime_libraries
from compiler.deploy.measure import BoardRunner, usable_boards
from compiler.deploy.runner import build_runner
from compiler.errors import CompileError, DeployError, DeviceError, TilewrightError
from compiler.tune import events
from compiler.tune.measure.base import Failed, Measured, Rejected
from compiler.tune.measure.create import create_measurer
from compiler.tune.measure.settings import Limits
from compiler.tune.options import Tune
from schedules.records import RecordStore
from targets import get_target
from tests.support.boards import Boards, emulates
from tests.unit.tune.measure.kernels import MODULE, Task

pytestmark = [pytest.mark.compile, emulates]

SPEC = get_target("arm/rpi4")
RIGHT = {"do": "right"}


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boards:
    (tmp_path / "boards").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = Boards(tmp_path / "boards", monkeypatch)
    found.emulate()
    return found


def make(*names: str, spec=SPEC, patience_s: float = 30.0, margin_s: float = 30.0, run_s=10.0):
    known = {name: Board(f"pi@{name}") for name in names}
    limits = Limits(run_s=run_s)
    return create_measurer(
        spec,
        kernels=MODULE,
        workers=1,
        limits=limits,
        elsewhere=lambda server: BoardRunner(
            server, spec, known, patience_s=patience_s, margin_s=margin_s, limits=limits
        ),
    )


def measure(measurer, *choices):
    return measurer.measure(Task(), list(choices), cancel=threading.Event())


def test_candidates_are_checked_and_timed_on_a_board(boards: Boards):
    boards.add("one")
    with closing(make("one")) as measurer:
        assert measurer.cpu.name == "Cortex-A72"
        assert measurer.cpu.id in SPEC.extra["cpu_ids"]
        assert measurer.cpu.features == {"crc", "fp-armv8", "neon"}
        assert (measurer.runner, measurer.label) == ("rpc:Cortex-A72", "measured")
        copied, governor = measurer.notes()
        assert "copying the runner" in copied
        assert "ondemand" in governor
        assert len(servers(boards)) == 1
        right, wrong, crash, again = measure(
            measurer, RIGHT, {"do": "wrong"}, {"do": "segfault"}, RIGHT
        )
    for outcome in (right, again):
        assert isinstance(outcome, Measured), outcome
        assert len(outcome.samples_ns) >= 5
    assert isinstance(wrong, Rejected), wrong
    assert isinstance(crash, Failed), crash
    assert crash.kind == "crash"
    wait_for(lambda: not servers(boards))


def servers(boards: Boards) -> list[int]:
    """Processes that serve RPC in the home of one of these boards."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            home = (process / "cwd").readlink()
        except OSError:
            continue
        if b"--rpc" in words and home.is_relative_to(boards.folder):
            found.append(int(process.name))
    return found


def wait_for(done, seconds: float = 20.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_candidate_that_never_ends_is_ended_on_the_board(boards: Boards):
    boards.add("one")
    with closing(make("one", run_s=1.0, margin_s=2.0)) as measurer:
        endless, right = measure(measurer, {"do": "endless"}, RIGHT)
    assert isinstance(endless, Failed)
    assert isinstance(right, Measured), right


@pytest.mark.slow
def test_a_board_that_drops_out_and_comes_back(boards: Boards):
    """The other one does all the work meanwhile."""
    boards.add("one", "two")
    with closing(make("one", "two")) as measurer:
        measurer.notes()
        timer = threading.Timer(0.3, boards.drop, ("one",))
        timer.start()
        outcomes = measure(measurer, *[RIGHT] * 8)
        timer.join()
        assert all(isinstance(o, Measured) for o in outcomes), outcomes
        outcomes = measure(measurer, *[RIGHT] * 4)
        assert all(isinstance(o, Measured) for o in outcomes), outcomes
        assert any(note.startswith("one does not answer") for note in measurer.notes())
        boards.add("one")
        wait_for(lambda: "one answers again" in measurer.notes())


def test_the_last_board_drops_out(boards: Boards):
    """The search stops with what it has; another run goes on when the board is back."""
    boards.add("one")
    with closing(make("one", patience_s=0.5)) as measurer:
        assert isinstance(measure(measurer, RIGHT)[0], Measured)
        boards.drop("one")
        outcomes = measure(measurer, RIGHT, RIGHT)
        assert [o.kind for o in outcomes] == ["cancelled"] * 2
        assert "No route to host" in outcomes[0].reason
        with pytest.raises(CompileError, match="no device one answers any more") as caught:
            measure(measurer, RIGHT)
        assert "what was measured is kept" in str(caught.value)
    boards.add("one")
    with closing(make("one")) as measurer:
        assert isinstance(measure(measurer, RIGHT)[0], Measured)


def test_waiting_for_a_board_can_be_interrupted(boards: Boards):
    boards.add("one")
    cancel = threading.Event()
    with closing(make("one")) as measurer:
        boards.drop("one")
        timer = threading.Timer(1.0, cancel.set)
        timer.start()
        outcomes = measurer.measure(Task(), [RIGHT], cancel=cancel)
        timer.join()
    assert [o.kind for o in outcomes] == ["cancelled"]


SMALL_DISK = {"df -Pk": "printf 'a\\nb 1 2 30000\\n%.0s'"}


@pytest.mark.parametrize(
    ("name", "target", "changes", "says", "hint"),
    [
        ("gone", "arm/rpi4", {}, "cannot be reached: ssh: connect to host gone", "that it is on"),
        ("stranger", "arm/rpi4", {}, "refuses the connection: .*Permission denied", "ssh-copy-id"),
        ("one", "arm/rpi4", {"uname -m": "echo x86_64"}, "it is a x86_64, and the", "this board"),
        ("one", "arm/rpi5", {}, "its processor lacks .*dotprod", "older core"),
        ("one", "arm/rpi4", {"/proc/meminfo": "/dev/null"}, "cannot be understood", "Linux"),
        ("one", "arm/rpi4", SMALL_DISK, "30 MB? of space|31 MB of space", "free some"),
        (
            "one",
            "arm/rpi4",
            {"tar -xf": "sh -c 'echo tar: No space left on device >&2; exit 2' --"},
            "there is no room on it",
            "free some space",
        ),
        ("one", "arm/rpi4", {"--tied": "--tide"}, "a command failed there", "it was"),
    ],
)
def test_boards_that_will_not_do(
    boards: Boards, name: str, target: str, changes: dict[str, str], says: str, hint: str
):
    boards.add("one")
    boards.emulate(also=changes)
    spec = get_target(target)
    with pytest.raises(DeviceError, match=says) as caught:
        usable_boards(spec, {name: Board(f"pi@{name}")}, print)
    assert hint in str(caught.value)
    assert not servers(boards)


def test_too_little_memory(boards: Boards, tmp_path: Path):
    boards.add("one")
    (tmp_path / "meminfo").write_text("MemTotal: 16384 kB\n")
    boards.emulate(also={"/proc/meminfo": str(tmp_path / "meminfo")})
    with pytest.raises(DeviceError, match="17 MB of memory"):
        usable_boards(SPEC, {"one": Board("pi@one")}, print)


def test_a_command_whose_board_drops_out(boards: Boards):
    boards.add("one")
    timer = threading.Timer(0.3, boards.drop, ("one",))
    timer.start()
    with pytest.raises(DeviceError, match=r"cannot be reached: .*Broken pipe"):
        Board("pi@one").run("sleep 20")
    timer.join()


@pytest.mark.slow
def test_a_board_that_will_not_do_is_left_out(boards: Boards):
    boards.add("one")
    with closing(make("one")):
        pass
    with closing(make("gone", "one")) as measurer:
        notes = measurer.notes()
        assert any(note.startswith("gone is left out: it cannot be") for note in notes)
        assert not any("copying" in note for note in notes)  # it is there
        assert isinstance(measure(measurer, RIGHT)[0], Measured)


def test_programs_that_are_missing_here(boards: Boards, monkeypatch, tmp_path: Path):
    boards.add("one")
    known = {"one": Board("pi@one")}
    libraries = runtime_libraries("aarch64")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # nothing was built before
    monkeypatch.setattr("compiler.deploy.runner._ZIG_TARGETS", {})
    monkeypatch.setenv("TILEWRIGHT_CROSS_LINKER", "gcc")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").symlink_to(boards.folder / "bin" / "ssh")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(DeployError, match="there is no C compiler for aarch64") as caught:
        build_runner("aarch64", libraries)
    assert "pip install ziglang" in str(caught.value)
    with pytest.raises(CompileError, match="no linker for aarch64") as linker:
        create_measurer(SPEC, elsewhere=lambda server: BoardRunner(server, SPEC, known))
    assert "pip install ziglang" in str(linker.value)
    (programs / "ssh").unlink()
    with pytest.raises(DeployError, match="there is no ssh program"):
        usable_boards(SPEC, known, print)


def test_options():
    assert Tune(device="rpi4").device == "rpi4"
    with pytest.raises(TilewrightError, match="none is named"):
        Tune(tracker="127.0.0.1:9190")
    with pytest.raises(DeployError, match="there is no device 'nobody'"):
        tune_model(torch.nn.Linear(4, 4), "arm", tune=Tune(device="nobody", trials=1))


@pytest.mark.slow
def test_records_of_a_board(boards: Boards, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """From a device of the user's list to a bundle that is built of its records."""
    boards.add("one")
    add_device("mine", Board("pi@one"))
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n"
        "    return torch.nn.Conv2d(4, 8, 3).eval(), (torch.zeros(1, 4, 8, 8),)\n"
    )
    model, store = f"{tmp_path}/net.py:make", str(tmp_path / "records")
    words = [model, "--target", "arm", "--records", store]
    assert run_cli(["tune", *words, "--device", "mine", "--trials", "3"]) == 0
    assert "figures will vary" in capsys.readouterr().err
    (record, *_) = RecordStore(Path(store)).records()
    assert record.measurement.label == "measured"
    assert record.provenance.cpu.name == "Cortex-A72"
    assert record.provenance.runner == "rpc:Cortex-A72"
    bundle = str(tmp_path / "net.tw")
    assert run_cli(["compile", *words, "-o", bundle, "--require-tuned", "1"]) == 0
    boards.drop("one")
    assert run_cli(["tune", *words, "--device", "mine", "--trials", "9"]) == 9


@pytest.mark.slow
def test_a_model_is_tuned_and_measured_on_a_board(boards: Boards, tmp_path: Path):
    boards.add("one")
    add_device("mine", Board("pi@one"))
    told: list[object] = []
    bundle = compiler.compile(
        torch.nn.Linear(8, 4).eval(),
        "arm",
        example_inputs=(torch.zeros(1, 8),),
        tune=Tune(device="mine", trials=1, records=tmp_path / "records"),
        on_tune=told.append,
        estimate=False,
    )
    assert bundle.report is not None
    assert {row.time.label for row in bundle.report.kernels} == {"measured"}
    notes = [event.text for event in told if isinstance(event, events.Note)]
    assert any("copying the runner" in note for note in notes)
