"""`tilewright records`: what it shows, what it changes, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compiler.cli.app import run_cli
from schedules.records import Record, RecordStore, selector
from tests.unit.records.samples import conv, dense, record

SLOW, FAST, OTHER = record(ns=30_000.0), record(ns=20_000.0), record(dense(), ns=5_000.0)
SHIPPED = record(ns=10_000.0)
COMMANDS = ("list", "show", "verify", "merge", "prune", "export")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordStore:
    """The user's store, with three records; one more comes with the release."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(selector, "_SHIPPED", tmp_path / "shipped")  # all of them take seconds
    RecordStore(tmp_path / "shipped/family").add(SHIPPED)
    found = RecordStore(tmp_path / "home/tilewright/records")
    for one in (SLOW, FAST, OTHER):
        found.add(one)
    return found


def ids(store: RecordStore) -> set[str]:
    return {r.id for r in RecordStore(store.folder)}


def words(capsys: pytest.CaptureFixture[str]) -> str:
    """What was shown, without the line breaks that long paths cause."""
    return " ".join(capsys.readouterr().out.split())


def mine(document: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in document if row["origin"] == "yours"]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run_cli(["records", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_list(store: RecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(capsys, "list")
    assert [r["id"] for r in document if r["origin"] == "shipped"] == [SHIPPED.id]
    rows = mine(document)
    assert [row["id"] for row in rows] == [FAST.id, SLOW.id, OTHER.id]
    assert rows[0]["median_ns"] == 20_000.0
    assert rows[0]["share_of_default"] == 0.1
    assert rows[0]["path"] == str(store.path_of(FAST))
    best = mine(answer(capsys, "list", "--best"))
    assert [row["id"] for row in best] == [FAST.id, OTHER.id]
    assert [row["id"] for row in mine(answer(capsys, "list", "--operator", "dense"))] == [OTHER.id]
    assert run_cli(["records", "list"]) == 0
    assert FAST.id[:12] in capsys.readouterr().out


def test_another_folder(
    store: RecordStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mine(answer(capsys, "list", "--records", str(tmp_path / "none"))) == []
    assert not (tmp_path / "none").exists()


def test_show(store: RecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = answer(capsys, "show", FAST.id[:10])
    assert found["id"] == FAST.id
    assert Record.from_bytes(store.path_of(FAST).read_bytes()).to_json() == found["record"]
    assert run_cli(["records", "show", FAST.id[:10], OTHER.id]) == 0
    out = capsys.readouterr().out
    for says in (FAST.id, OTHER.id, "AMD EPYC", "[6, 32]", "20.000 µs (measured 3 times)"):
        assert says in out


@pytest.mark.parametrize("prefix", ["12", "00000000", "../../x", "zzzz"])
def test_show_what_is_not_there(
    store: RecordStore, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = answer(capsys, "show", prefix, code=7)["error"]
    assert "no record has an ID" in error["message"]
    assert "records list" in error["hint"]


def test_verify(store: RecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["records", "verify"]) == 0
    assert "3 records are whole, 0 left out" in words(capsys)
    store.path_of(SLOW).write_text("damaged")
    (found, *_) = answer(capsys, "verify", code=8)
    assert found["records"] == 2
    assert "no JSON" in found["problems"][0]["reason"]
    assert Path(found["problems"][0]["moved_to"]).read_text() == "damaged"
    assert run_cli(["records", "verify"]) == 0
    assert "1 in the quarantine" in words(capsys)


def test_a_damaged_record_is_told_of(
    store: RecordStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.path_of(SLOW).write_text("damaged")
    assert run_cli(["records", "list"]) == 0
    out, err = capsys.readouterr()
    assert "no JSON" in err
    assert FAST.id[:12] in out


def test_export_and_merge(
    store: RecordStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    done = answer(capsys, "export", str(shared), "--best")
    assert set(done["exported"]) == {FAST.id, OTHER.id}
    (shared / "loose.json").write_text("{}")
    merged = answer(capsys, "merge", str(shared), "--records", str(other))
    assert set(merged["sources"][0]["added"]) == {FAST.id, OTHER.id}
    assert "outside" in merged["sources"][0]["problems"][0]["reason"]
    assert ids(RecordStore(other)) == {FAST.id, OTHER.id}
    assert run_cli(["records", "merge", str(shared), "--records", str(other)]) == 0
    out, err = capsys.readouterr()
    assert "0 new, 2 known already, 1 left out" in " ".join(out.split())
    assert "loose.json" in err


def test_export_some(
    store: RecordStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "one")
    assert answer(capsys, "export", folder, SLOW.id[:12])["exported"] == [SLOW.id]
    assert answer(capsys, "export", folder, "--operator", "dense")["exported"] == [OTHER.id]
    assert answer(capsys, "export", folder, "--target", "x86/haswell")["exported"] == []
    assert ids(RecordStore(tmp_path / "one")) == {SLOW.id, OTHER.id}


def test_prune(store: RecordStore, capsys: pytest.CaptureFixture[str]) -> None:
    would = answer(capsys, "prune", "--dry-run")
    assert would["removed"] == [SLOW.id]
    assert would["records"] == 2
    assert ids(store) == {SLOW.id, FAST.id, OTHER.id}
    child = record(conv(), ns=10_000.0, parent=SLOW.id)
    store.add(child)
    assert answer(capsys, "prune")["removed"] == [FAST.id]
    assert answer(capsys, "prune", "--drop-parents")["removed"] == [SLOW.id]
    assert run_cli(["records", "prune", "--keep", "3"]) == 0
    assert "0 removed, 2 stay" in words(capsys)
    assert ids(store) == {child.id, OTHER.id}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["merge", "none"], 7, "no such folder"),
        (["merge"], 2, "Missing argument"),
        (["prune", "--keep", "0"], 2, "--keep"),
        (["list", "--records", "file"], 7, "this is a file"),
        (["export", "file"], 7, "this is a file"),
        (["export", "out", "1234"], 7, "no record has an ID"),
    ],
)
def test_errors(
    store: RecordStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    assert run_cli(["records", *arguments]) == code
    out, err = capsys.readouterr()
    assert says in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["records", *command.split(), "--help"]) == 0
    assert "Usage: tilewright records" in capsys.readouterr().out


def test_nothing_heavy_is_imported(store: RecordStore) -> None:
    program = (
        "import sys\nfrom compiler.cli.app import run_cli\n"
        "code = run_cli(['records', 'list'])\n"
        "heavy = {'tvm', 'tvm_ffi', 'torch', 'plotly', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
