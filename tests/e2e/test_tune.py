"""Tuning as users do it: from Python and the shell, stopped and continued, required and refused."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compiler import Tune, compile, load, tune_model
from compiler.cli.app import run_cli
from compiler.errors import InputError, NotTunedError, TargetError
from compiler.report import Report
from compiler.tune.events import Event, Finished, Progress, Started
from compiler.tune.result import TuneResult
from schedules.records import RecordStore, StoreError

pytestmark = pytest.mark.compile

TRIALS = 4


@pytest.fixture(scope="module")
def tuned(
    model: nn.Module, image: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TuneResult, list[Event]]:
    """A store with records of every tunable kernel of the model, and how they came about."""
    folder = tmp_path_factory.mktemp("tuned") / "records"
    events: list[Event] = []
    options = Tune(trials=TRIALS, records=folder)
    result = tune_model(model, example_inputs=(image,), tune=options, on_tune=events.append)
    return folder, result, events


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of whoever runs the tests stay out of it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "tilewright" / "records"


def test_a_search_tells_what_it_does_and_keeps_records(
    tuned: tuple[Path, TuneResult, list[Event]],
) -> None:
    folder, result, events = tuned
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert any(isinstance(event, Progress) for event in events)
    assert 0 < result.trials <= TRIALS
    assert not result.interrupted
    assert result.stop
    assert {task.workload.split()[0] for task in result.tasks} == {"conv2d", "dense"}
    assert all(task.best_us and task.best_us > 0 for task in result.tasks)
    records = {record.id: record for record in RecordStore(folder)}
    assert set(result.records) <= set(records)
    assert {record.workload.operator for record in records.values()} == {"conv2d", "dense"}
    assert result.end_to_end_us is not None
    assert result.default_end_to_end_us is not None
    assert 0 < result.end_to_end_us <= result.default_end_to_end_us


def test_compile_uses_the_records_and_says_so(
    tuned: tuple[Path, TuneResult, list[Event]],
    model: nn.Module,
    image: torch.Tensor,
    tmp_path: Path,
) -> None:
    folder, _, _ = tuned
    bundle = compile(model, example_inputs=(image,), records=folder, require_tuned=1.0)
    again = load(bundle.save(tmp_path / "net.tw"))
    sources = {kernel.name: kernel.source for kernel in again.kernels}
    on_records = [kernel for kernel in again.kernels if kernel.source == "record"]
    assert {kernel.kind for kernel in on_records} == {"conv2d", "dense"}
    ids = {record.id for record in RecordStore(folder)}
    for kernel in on_records:
        assert kernel.record in ids
        assert (kernel.tier, kernel.miss) == ("same CPU", "")
        assert kernel.choice is not None
    assert "default" not in sources.values()
    report = Report.from_json(again.report.to_json())  # type: ignore[union-attr]
    rows = {row.source: row for row in report.coverage}
    assert rows["record"].kernels == 2
    assert rows["record"].flops_share.value > 90
    assert sum(row.share.value for row in report.coverage) == pytest.approx(100)
    assert sum(row.flops_share.value for row in report.coverage) == pytest.approx(100)
    assert not report.misses
    torch.testing.assert_close(again(image), model(image).detach(), rtol=1e-4, atol=1e-5)


def test_required_records_that_are_not_there(model: nn.Module, image: torch.Tensor) -> None:
    with pytest.raises(NotTunedError) as caught:
        compile(model, example_inputs=(image,), measure=False, require_tuned=0.9)
    error = caught.value
    assert error.exit_code == 8
    assert error.share == 0
    assert len(error.misses) == 2
    for part in ("0.0% of the FLOPs", "90.0% are required", "conv2d", "dense", "no record",
                 "tilewright tune MODEL --target x86/host"):  # fmt: skip
        assert part in str(error)
    assert compile(model, example_inputs=(image,), measure=False, require_tuned=0.0)


def test_no_records_at_all(
    tuned: tuple[Path, TuneResult, list[Event]],
    model: nn.Module,
    image: torch.Tensor,
    own_data_folder: Path,
) -> None:
    """`records=False` looks nowhere, not even into the user's own store."""
    own_data_folder.parent.mkdir(parents=True)
    own_data_folder.symlink_to(tuned[0])
    found = compile(model, example_inputs=(image,), measure=False)
    assert "record" in {kernel.source for kernel in found.kernels}
    without = compile(model, example_inputs=(image,), measure=False, records=False)
    assert {kernel.miss for kernel in without.kernels if kernel.source == "default"} == {
        "no records were looked at"
    }
    assert "record" not in {kernel.source for kernel in without.kernels}


def test_records_serve_their_own_precision_only(
    tuned: tuple[Path, TuneResult, list[Event]],
    model: nn.Module,
    image: torch.Tensor,
    tmp_path: Path,
) -> None:
    bundle = compile(model, example_inputs=(image,), records=tuned[0], precision="bf16")
    assert bundle.manifest.precision == "bfloat16"
    heavy = [kernel for kernel in bundle.kernels if kernel.kind in ("conv2d", "dense")]
    assert {(kernel.dtype, kernel.source) for kernel in heavy} == {("bfloat16", "default")}
    report = bundle.report
    assert isinstance(report, Report)
    assert report.precision == "bfloat16"
    assert report.accuracy is not None
    assert 0 < report.accuracy.max_rel.value < 0.05
    assert load(bundle.save(tmp_path / "net.tw")).manifest.precision == "bfloat16"


def test_searching_and_compiling_in_one_call(
    model: nn.Module, image: torch.Tensor, own_data_folder: Path
) -> None:
    bundle = compile(model, example_inputs=(image,), tune="2", measure=False)
    assert "record" in {kernel.source for kernel in bundle.kernels}
    assert len(list(RecordStore(own_data_folder))) == 2
    (search,) = [stage for stage in bundle.manifest.stages if stage.name == "search"]
    assert search.stage == "tune"
    assert "trials" in search.detail


@pytest.mark.slow
def test_an_interrupted_search_ends_the_compilation(
    model: nn.Module, image: torch.Tensor, own_data_folder: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.trials:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        compile(model, example_inputs=(image,), tune="100", measure=False, on_tune=stop)
    assert list(RecordStore(own_data_folder))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"tune": "abc"}, ValueError, "no duration and no number of trials"),
        ({"tune": 3}, ValueError, "tune must be"),
        ({"precision": "float8"}, InputError, "unknown precision 'float8'"),
        ({"require_tuned": 90}, InputError, "not a share between 0 and 1"),
        ({"require_tuned": True}, InputError, "not a share between 0 and 1"),
        ({"records": __file__}, StoreError, "this is a file"),
        ({"tune": "2", "records": __file__}, StoreError, "this is a file"),
        ({"tune": "2", "records": "/proc/records"}, StoreError, "keep tuning records there"),
        ({"tune": "2", "records": False}, InputError, "a place for its records"),
        ({"tune": Tune(trials=2, records="a"), "records": "b"}, InputError, "two folders"),
        (
            {"tune": "2", "target": "x86/sapphirerapids"},
            TargetError,
            "no candidate can be measured",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_work(
    options: dict[str, Any], error: type[Exception], says: str, image: torch.Tensor, tmp_path: Path
) -> None:
    class Untouched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the model ran before the options were looked at")

    with pytest.raises(error, match=says):
        compile(Untouched(), example_inputs=(image,), measure=False, **options)
    if "precision" not in options and "require_tuned" not in options and "tune" in options:
        del_target = {k: v for k, v in options.items() if k != "measure"}
        with pytest.raises(error, match=says):
            tune_model(Untouched(), example_inputs=(image,), **del_target)


def test_a_search_that_is_none(image: torch.Tensor, model: nn.Module) -> None:
    with pytest.raises(InputError, match="nothing to do without a search"):
        tune_model(model, example_inputs=(image,), tune=False)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run_cli([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_from_the_shell(
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Required records are missing; the command that the error names makes them."""
    monkeypatch.chdir(tmp_path)
    net = [f"{model_file}:make", "-i", "1x3x8x8"]
    asked = ["--records", "my records", "--require-tuned", "0.9", "-o", "net.tw", "--no-measure"]
    error = run_json(capsys, "compile", *net, *asked, code=8)["error"]
    assert error["type"] == "NotTunedError"
    command = error["hint"].split("`")[1]
    assert command == (
        f"tilewright tune {model_file}:make --input 1x3x8x8 --target x86/host "
        "--records 'my records'"
    )
    assert not Path("net.tw").exists()

    done = run_json(capsys, *shlex.split(command)[1:], "--trials", "2")
    assert done["store"] == "my records"
    assert done["trials"] == 2
    assert done["interrupted"] is False
    assert len(done["records"]) == 2
    assert done["labels"]["best_us"] == "measured"

    assert run_json(capsys, "compile", *net, *asked)["bundle"] == "net.tw"
    coverage = run_json(capsys, "inspect", "net.tw")["coverage"]
    assert coverage["tuned_flops_share"] == 1
    assert coverage["misses"] == []
    assert run_cli(["inspect", "net.tw", "--kernels"]) == 0
    assert "same CPU" in capsys.readouterr().out


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = ["tune", f"{model_file}:make", "-i", "1x3x8x8", "--records", str(tmp_path / "records")]
    assert run_cli([*tune, "--trials", "2"]) == 0
    capsys.readouterr()
    assert run_cli([*tune, "--trials", "1"]) == 0
    out, err = capsys.readouterr()
    for part in ("conv2d", "trials of earlier runs were not measured again", "use it: tilewright"):
        assert part in out
    assert "trials of earlier runs" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["compile", "x.py:f", "--tune", "abc"], 2, "no duration and no number of trials"),
        (["compile", "x.py:f", "--precision", "float8"], 2, "--precision"),
        (["compile", "x.py:f", "--require-tuned", "90"], 2, "--require-tuned"),
        (["compile", "x.py:f", "--no-records", "--records", "r"], 2, "--no-records excludes"),
        (["compile", "x.py:f", "--no-records", "--tune", "1m"], 2, "--no-records excludes"),
        (["compile", "x.py:f", "--tune", "1m", "--records", "file"], 7, "this is a file"),
        (["compile", "x.py:f", "--records", "file"], 7, "this is a file"),
        (["tune", "x.py:f", "--minutes", "0"], 2, "--minutes"),
        (["tune", "x.py:f", "--trials", "0"], 2, "--trials"),
        (["tune", "x.py:f", "--trials", "1000000000"], 2, "trials must be"),
        (["tune", "x.py:f", "--device", "rpi5"], 9, "there is no device 'rpi5'"),
        (["tune", "x.py:f", "--tracker", "nowhere", "--device", "rpi5"], 2, "tracker must be"),
        (["tune", "x.py:f", "--records", "file"], 7, "this is a file"),
        (["tune", "x.py:f", "--records", "/proc/r"], 7, "keep tuning records there"),
        (["tune", "x.py:f", "--target", "cuda/sm_80"], 3, "not available"),
        (["tune", "x.py:f", "--target", "x86/sapphirerapids"], 3, "it lacks"),
        (["tune", "x.py:f", "--threads", "2"], 5, "one thread"),
        (["tune", "none.py:f", "--trials", "2", "--records", "r"], 4, "none.py"),
    ],
)
def test_commands_that_make_no_sense(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no records")
    assert run_cli(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_and_continued(
    model_file: Path, tmp_path: Path, stop: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records"
    net = [f"{model_file}:make", "-i", "1x3x64x64"]
    arguments = ["tune", *net, "--minutes", "5", "--records", str(records)]
    program = f"from compiler.cli import main; main({arguments!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(records.glob("*/*.json"))) >= 2:
            break
        time.sleep(0.1)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + stop, err
    assert "the same command continues" in err
    assert "Traceback" not in err
    if stop is signal.SIGINT:  # SIGTERM may also arrive while something is told or closed
        assert "interrupted after" in out
    store = RecordStore(records)
    assert len(list(store)) >= 2
    assert not store.problems

    done = run_json(capsys, "tune", *net, "--trials", "1", "--records", str(records))
    assert done["resumed"] >= 2
    assert done["trials"] == 1
