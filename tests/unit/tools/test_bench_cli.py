"""The benchmark's command line, with the measurement itself replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.tools.results import failed, measured
from tools.bench import __main__ as cli
from tools.bench.contenders import (
    CONTENDERS,
    DEFAULT_OWN,
    DEFAULT_PEERS,
    INT8,
    INT8_OWN,
    INT8_PEERS,
    OURS,
    OWN,
    TUNED,
    Contender,
)
from tools.bench.protocol import ContenderError
from tools.bench.results import NetResult, Settings


class _Recorder:
    """Stands for `run_net`: notes what it was asked for and gives made-up figures."""

    def __init__(self, *, ours_fails: bool = False) -> None:
        self.calls: list[tuple[str, list[str], Settings]] = []
        self.ours_fails = ours_fails

    def __call__(
        self, net: str, contenders: Sequence[Contender], settings: Settings, **_: Any
    ) -> NetResult:
        keys = [contender.key for contender in contenders]
        self.calls.append((net, keys, settings))
        ours_ms = None if self.ours_fails else [10.0, 11.0]
        entries = [
            failed(key, "no schedule")
            if key == OURS and self.ours_fails
            else measured(key, [10, 11], None)
            if key in OWN
            else measured(key, [20.0, 22.0], ours_ms)
            for key in keys
        ]
        return NetResult(net, ["float32 [1]"], 1, entries)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> _Recorder:
    fake = _Recorder()
    monkeypatch.setattr(cli, "run_net", fake)
    return fake


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.main, arguments)


def test_all_nets_and_peers_by_default(recorder: _Recorder, tmp_path: Path) -> None:
    done = _run("--write", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert [net for net, _, _ in recorder.calls] == list(cli.NETS)
    assert all(keys == [*DEFAULT_OWN, *DEFAULT_PEERS] for _, keys, _ in recorder.calls)
    assert recorder.calls[0][2].rounds == cli.DEFAULT_ROUNDS
    (data,) = tmp_path.glob("*-1t.json")
    assert len(json.loads(data.read_text())["nets"]) == len(cli.NETS)
    assert data.with_suffix(".md").read_text().startswith("# Latency beside other runtimes")
    assert not list(tmp_path.glob("*.part"))


def test_quick_measures_eager_only_and_writes_nothing(
    recorder: _Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    done = _run("--quick", "--nets", "vit_tiny,resnet18")
    assert done.exit_code == 0, done.output
    assert [(net, keys) for net, keys, _ in recorder.calls] == [
        ("vit_tiny", [TUNED, "torch"]),
        ("resnet18", [TUNED, "torch"]),
    ]
    assert recorder.calls[0][2].rounds == cli.QUICK_ROUNDS
    assert "x 2.00" in done.output
    assert not list(tmp_path.iterdir())


def test_all_peers_by_name(recorder: _Recorder) -> None:
    assert _run("--no-write", "--peers", "all", "--nets", "resnet18").exit_code == 0
    assert recorder.calls[0][1] == [*DEFAULT_OWN, *(k for k in CONTENDERS if k not in OWN)]


def test_one_of_ours_by_name(recorder: _Recorder) -> None:
    done = _run("--no-write", "--ours", OURS, "--peers", "torch", "--nets", "resnet18")
    assert done.exit_code == 0
    assert recorder.calls[0][1] == [OURS, "torch"]


def test_exit_code_says_that_ours_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run_net", _Recorder(ours_fails=True))
    done = _run("--no-write", "--nets", "resnet18")
    assert done.exit_code == 1
    assert "no schedule" in done.output


def test_a_network_that_cannot_be_built_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NetResult:
        raise ContenderError("resnet18 cannot be built: no such layer")

    monkeypatch.setattr(cli, "run_net", refuse)
    done = _run("--no-write", "--nets", "resnet18")
    assert done.exit_code == 1
    assert "no such layer" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nets", "resnet19"), "unknown: resnet19; known: resnet18"),
        (("--peers", "torch,tensorrt"), "unknown: tensorrt"),
        (("--ours", "torch"), "unknown: torch"),
        (("--write", "x", "--no-write"), "exclude each other"),
        (("--threads", "100000"), "CPUs may be used"),
        (("--core", "100000"), "CPU 100000 is not among"),
        (("--rounds", "1"), "--rounds"),
    ],
)
def test_wrong_use(recorder: _Recorder, arguments: tuple[str, ...], message: str) -> None:
    done = _run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert not recorder.calls


def test_an_unwritable_folder(recorder: _Recorder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _run("--write", str(tmp_path / "file" / "folder"), "--nets", "resnet18")
    assert done.exit_code == 1
    assert "cannot write to" in done.output


def test_the_nets_are_the_zoos() -> None:
    from tools.zoo.nets import BENCHMARKS

    assert set(cli.NETS) == set(BENCHMARKS)


def test_quantized_networks_have_contenders_and_files_of_their_own(
    recorder: _Recorder, tmp_path: Path
) -> None:
    done = _run("--int8", "--nets", "resnet18", "--write", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert [keys for _, keys, _ in recorder.calls] == [[*INT8_OWN, *INT8_PEERS]]
    (data,) = tmp_path.glob("*-1t-int8.json")
    document = json.loads(data.read_text())
    assert document["ours"] == INT8
    assert [limit["value"] for limit in document["limits"]] == [
        pytest.approx(v) for v in (2.0, 2.0, 1.0, 1.0)
    ]
    page = data.with_suffix(".md").read_text()
    assert "OpenVINO, NNCF int8 over Tilewright, int8" in page
