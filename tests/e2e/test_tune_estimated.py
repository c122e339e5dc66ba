"""Tuning for a device that is not here: estimated, marked so, stopped and continued, used."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

import compiler
from compiler import Tune, tune_model
from compiler.cli.app import run_cli
from compiler.tune.events import Event, Improved
from schedules.records import RecordStore
from tests.support.boards import estimates

pytestmark = [pytest.mark.compile, pytest.mark.slow, estimates]
TARGET = "arm/cortex-a72"


def test_tuning_without_the_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    image = torch.randn(1, 8, 8, 8)
    store = tmp_path / "records"

    def stop(event: Event) -> None:
        if isinstance(event, Improved):
            assert event.label == "estimated"
            signal.raise_signal(signal.SIGINT)

    options = Tune(trials=8, records=store, batch=4, workers=2)
    first = tune_model(net, TARGET, example_inputs=(image,), tune=options, on_tune=stop)
    assert first.interrupted
    assert first.records

    second = tune_model(net, TARGET, example_inputs=(image,), tune=options)
    assert not second.interrupted
    assert second.resumed >= 1
    assert second.rejected == second.failed == 0
    assert all(task.label == "estimated" for task in second.tasks)

    bundle = compiler.compile(net, TARGET, example_inputs=(image,), records=store, measure=False)
    found = list(RecordStore(store))
    for record in found:
        assert record.measurement.label == "estimated"
        assert record.measurement.samples == ()
        assert record.check is not None
        assert record.provenance.runner.startswith("estimated: llvm-mca")
        assert "cortex-a72" in record.provenance.cpu.id
    tiers = {kernel.tier for kernel in bundle.kernels if kernel.record}
    assert tiers == {"estimated"}

    assert run_cli(["records", "list", "--records", str(store), "--json"]) == 0
    mine = [row for row in json.loads(capsys.readouterr().out) if row["origin"] == "yours"]
    assert {row["label"] for row in mine} == {"estimated"}
    assert run_cli(["records", "show", found[0].id[:12], "--records", str(store)]) == 0
    assert "estimated by a model, not measured" in " ".join(capsys.readouterr().out.split())
