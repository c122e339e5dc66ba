"""Journals: what is read back, what is skipped, and who may write at once."""

import multiprocessing
from pathlib import Path

import pytest

from compiler.tune.journal import Entry, Journal, Machine, journals, read_entries
from compiler.tune.measure.base import Failed, Measured, Rejected
from schedules.records import StoreError
from tests.unit.tune.fakes import dense

MACHINE = Machine({"cpu": ["a", "b"], "features": ["avx2"]})
WORKLOAD = dense().workload


def entry(number: int) -> Entry:
    choice = {"algorithm": "direct", "tile": [number, 1]}
    return Entry(choice, Measured((100.0 + number,), 1e-6, 1e-3), "s")


def test_every_outcome_comes_back(tmp_path: Path) -> None:
    written = [
        entry(1),
        Entry({"algorithm": "x"}, Rejected("3 values differ"), "s"),
        Entry({"algorithm": "y"}, Failed("timeout", "5 s"), "s"),
    ]
    journal = Journal(tmp_path, WORKLOAD, MACHINE)
    journal.append(written)
    assert journal.read() == []
    assert Journal(tmp_path, WORKLOAD, MACHINE).read() == written
    assert read_entries(journal.path, 2) == written[1:]
    assert Journal(tmp_path, WORKLOAD, MACHINE, read_old=False).read() == []


def test_others_lines_are_read_as_they_come(tmp_path: Path) -> None:
    one, other = (Journal(tmp_path, WORKLOAD, MACHINE) for _ in range(2))
    one.append([entry(1)])
    assert other.read() == [entry(1)]
    other.append([entry(2)])
    assert one.read() == [entry(2)]
    assert one.read() == []


def test_a_torn_line_costs_itself_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path, WORKLOAD, MACHINE)
    journal.append([entry(1)])
    with journal.path.open("ab") as file:
        file.write(b'{"choice":{"algori')
    again = Journal(tmp_path, WORKLOAD, MACHINE)
    assert again.read() == [entry(1)]
    assert again.damaged == 0  # perhaps another process is writing it just now
    again.append([entry(2)])
    last = Journal(tmp_path, WORKLOAD, MACHINE)
    assert last.read() == [entry(1), entry(2)]
    assert last.damaged == 1


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"choice":1,"outcome":"build","reason":"","session":""}',
        b'{"choice":{},"outcome":"measured","samples_ns":[],"error":0,"tolerance":0,"session":""}',
        b'{"choice":{},"outcome":"measured","samples_ns":[NaN],"error":0,"tolerance":1,"session":""}',
        b'{"choice":{},"outcome":"measured","samples_ns":[-1],"error":0,"tolerance":1,"session":""}',
        b'{"choice":{},"outcome":"cancelled","reason":"","session":""}',
        b'{"choice":{},"outcome":"os.system","reason":"","session":""}',
    ],
)
def test_lines_without_sense_are_counted(tmp_path: Path, line: bytes) -> None:
    journal = Journal(tmp_path, WORKLOAD, MACHINE)
    journal.append([entry(1)])
    with journal.path.open("ab") as file:
        file.write(line + b"\n")
    journal.append([entry(2)])
    again = Journal(tmp_path, WORKLOAD, MACHINE)
    assert again.read() == [entry(1), entry(2)]
    assert again.damaged == 1


def test_journals_of_a_machine_are_found_by_operator(tmp_path: Path) -> None:
    Journal(tmp_path, WORKLOAD, MACHINE).append([entry(1)])
    Journal(tmp_path, dense(2).workload, Machine({"cpu": ["c", "d"]})).append([entry(1)])
    (tmp_path / "sessions" / "dense-0000.jsonl").write_bytes(b"\x00")
    assert [w for w, _ in journals(tmp_path, "dense", MACHINE)] == [WORKLOAD]
    assert list(journals(tmp_path, "conv2d", MACHINE)) == []
    assert list(journals(tmp_path / "nowhere", "dense", MACHINE)) == []


def _write(store: Path, first: int) -> None:
    journal = Journal(store, WORKLOAD, MACHINE)
    for number in range(first, first + 50):
        journal.append([entry(number)])


def test_many_writers_at_once_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, 1000 * i)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    journal = Journal(tmp_path, WORKLOAD, MACHINE)
    found = [e.choice["tile"][0] for e in journal.read()]
    assert sorted(found) == sorted(1000 * i + n for i in range(4) for n in range(50))
    assert journal.damaged == 0


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("a file")
    with pytest.raises(StoreError, match="journal"):
        Journal(tmp_path, WORKLOAD, MACHINE).append([entry(1)])
