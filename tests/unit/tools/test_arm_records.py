"""Shipping records that were estimated."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from schedules.records import RecordStore
from tests.unit.records.samples import cpu, dense, record
from tools.arm_records.__main__ import main

OLD, NEW = (cpu("cortex-a72, modelled", f"llvm-mca-19-cortex-a72-{n}") for n in (3, 4))


def test_the_best_by_the_newest_estimates_is_shipped(tmp_path: Path) -> None:
    found, shipped = RecordStore(tmp_path / "found"), RecordStore(tmp_path / "shipped")
    by_old = record(dense(), ns=80.0, cpu=OLD)
    alone = record(dense(64), ns=80.0, cpu=OLD)
    for one in (by_old, alone):
        shipped.add(one)
    best = record(dense(), ns=100.0, cpu=NEW, date="2026-11-22T08:00:00Z")
    beaten = record(
        dense(), ns=150.0, cpu=NEW, date="2026-11-22T09:00:00Z",
        choice={"algorithm": "direct", "tile": [4, 32]},
    )  # fmt: skip
    for one in (best, beaten):
        found.add(one)
    folders = [str(found.folder), "--into", str(shipped.folder)]
    result = CliRunner().invoke(main, ["ship", *folders])
    assert result.exit_code == 0, result.output
    assert {one.id for one in RecordStore(shipped.folder)} == {best.id, alone.id}
    assert "1 new, 1 beaten and removed, 2 in" in result.output
