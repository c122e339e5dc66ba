"""32-bit ARM without a board: a report with counted instructions, and tuning by estimates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compiler
from compiler import Tune, tune_model
from compiler.report.report import Report
from schedules.records import RecordStore
from tests.support.boards import counts_cycles, emulates_32

pytestmark = [pytest.mark.compile, pytest.mark.slow, emulates_32, counts_cycles]
TARGET = "arm/armv7"


def test_a_model_is_estimated_and_its_kernels_are_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 1)
    ).eval()
    images = (torch.randn(1, 8, 8, 8),)
    store = tmp_path / "records"
    tuned = tune_model(
        net, TARGET, example_inputs=images, tune=Tune(trials=3, records=store, batch=3, workers=2)
    )
    assert tuned.rejected == tuned.failed == 0
    records = list(RecordStore(store))
    assert records
    for record in records:
        assert record.measurement.label == "estimated"
        assert record.check is not None
        assert record.provenance.runner.endswith("swift for cortex-a7")

    bundle = compiler.compile(
        net, TARGET, example_inputs=images, records=store, measure=False, estimate=True
    )
    report = bundle.report
    assert isinstance(report, Report)
    elsewhere = report.elsewhere
    assert elsewhere is not None
    assert elsewhere.basis == "estimate"
    assert elsewhere.estimator.endswith("swift for cortex-a7")
    assert elsewhere.instructions is not None
    assert elsewhere.cycles is not None
    assert elsewhere.instructions.label == "counted"
    assert elsewhere.cycles.label == "estimated"
    # Cortex-A7 takes two instructions a cycle, and four cycles for a vector of float32.
    assert 0.5 < elsewhere.cycles.value / elsewhere.instructions.value < 4
    assert {kernel.tier for kernel in bundle.kernels if kernel.record} == {"estimated"}
