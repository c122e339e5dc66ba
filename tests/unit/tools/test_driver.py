"""The driver, with contenders that fail in every way beside ones that do not."""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from tests.unit.tools.fake_contenders import HERE
from tools.bench import driver
from tools.bench.contenders import OURS, Contender
from tools.bench.driver import Timeouts, largest_errors, run_net, turn_size
from tools.bench.order import order_of
from tools.bench.protocol import ContenderError
from tools.bench.results import Settings

BUILDER = "tests.unit.tools.fake_nets:build"


def _contender(key: str, name: str, *, needs_onnx: bool = False) -> Contender:
    return Contender(key, name, f"{HERE}:{name}", needs_onnx=needs_onnx)


def _settings(rounds: int) -> Settings:
    return Settings(1, (max(os.sched_getaffinity(0)),), rounds, "x86")


def _quiet(_: str) -> None:
    return None


def test_contenders_run_in_turn_and_are_compared(tmp_path: Path) -> None:
    contenders = [_contender(OURS, "Good"), _contender("torch", "Slow")]
    result = run_net(
        "tiny", contenders, _settings(5), workdir=tmp_path, say=_quiet, builder=BUILDER
    )
    ours, peer = result.contenders
    assert (ours.status, peer.status) == ("measured", "measured")
    assert ours.ratio is None
    assert peer.ratio is not None
    assert peer.ratio.count == 5
    assert len(ours.round_ms) == len(peer.round_ms) == 5
    assert ours.max_abs_error == 0.0
    assert result.parameters == 15
    assert result.inputs == ["float32 [2, 4]"]
    assert ours.threads["busy"] == 1
    # What really ran, by the contenders' own notes: never both mixed, in the planned order.
    lines = (tmp_path / "tiny" / "runs.txt").read_text().splitlines()
    turns = [name for name, _ in groupby(json.loads(line)[0] for line in lines)]
    planned = [name for i in range(5) for name in order_of(["Good", "Slow"], i)]
    assert turns == [name for name, _ in groupby(["Good", "Slow", *planned])]


def test_every_failure_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    names = ["Good", "Slow", "Unprepared", "Wrong", "NotFinite", "OtherShape"]
    names += ["Hangs", "Dies", "Raises"]
    keys = [OURS, *names[1:]]
    result = run_net(
        "tiny",
        [_contender(key, name) for key, name in zip(keys, names, strict=True)],
        _settings(6),
        workdir=tmp_path,
        say=_quiet,
        timeouts=Timeouts(run=2.0),
        builder=BUILDER,
    )
    assert [c.key for c in result.contenders] == keys
    status = {c.key: c.status for c in result.contenders}
    assert [key for key in keys if status[key] == "measured"] == [OURS, "Slow"]
    error = {c.key: c.error for c in result.contenders}
    assert "aten::frobnicate" in error["Unprepared"]
    assert "differ from PyTorch's by 1" in error["Wrong"]
    assert "not finite" in error["NotFinite"]
    assert "outputs are [(1, 3)], PyTorch's [(2, 3)]" in error["OtherShape"]
    assert "run: no answer within 2 s" in error["Hangs"]
    assert "SIGABRT" in error["Dies"]
    assert "free(): invalid pointer" in error["Dies"]
    assert "MemoryError: arena is full" in error["Raises"]
    assert all(error[key].startswith("round ") for key in ("Hangs", "Dies", "Raises"))
    slow = result.of("Slow")
    assert slow is not None
    assert slow.ratio is not None
    assert slow.ratio.count == 6


def test_what_is_missing_fails_only_those_who_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ours there are times but no ratios; without an exporter some have neither."""

    def refuse(name: str) -> Path:
        raise ContenderError(f"packages of {name}.txt cannot be installed: no network")

    monkeypatch.setattr(driver.environments, "ensure", refuse)
    contenders = [
        _contender(OURS, "Unprepared"),
        _contender("torch", "Good"),
        _contender("ort", "Slow", needs_onnx=True),
    ]
    result = run_net(
        "tiny", contenders, _settings(2), workdir=tmp_path, say=_quiet, builder=BUILDER
    )
    _, peer, other = result.contenders
    assert peer.status == "measured"
    assert peer.latency_ms is not None
    assert peer.ratio is None
    assert other.error.startswith("ONNX export: packages of export.txt cannot be")


def test_a_network_that_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match="broken cannot be built: ValueError: no such layer"):
        run_net("broken", [], _settings(2), workdir=tmp_path, say=_quiet, builder=BUILDER)


def test_the_driver_leaves_the_measured_cpu_and_comes_back() -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    with driver.away_from((cpu,)):
        inside = os.sched_getaffinity(0)
    assert os.sched_getaffinity(0) == before
    assert inside == (before - {cpu} or before)


@pytest.mark.parametrize(
    ("milliseconds", "size"), [(500.0, (1, 2)), (20.0, (1, 3)), (5.0, (3, 12)), (0.01, (5, 20))]
)
def test_turn_size(milliseconds: float, size: tuple[int, int]) -> None:
    assert turn_size(milliseconds) == size


def test_largest_errors() -> None:
    want = [np.array([10.0, -20.0], np.float32), np.array([1, 2])]
    got = [np.array([10.5, -20.0], np.float32), np.array([1, 3])]
    assert largest_errors(got, want) == (1.0, 0.5)
    assert largest_errors([np.zeros(2)], [np.zeros(2)]) == (0.0, 0.0)
    with pytest.raises(ContenderError, match="its outputs are"):
        largest_errors(got[:1], want)
    with pytest.raises(ContenderError, match="not finite"):
        largest_errors([np.array([np.inf])], [np.array([1.0])])
