"""A store keeps what was added, and one bad file never costs another one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from schedules.records import Record, RecordError, RecordStore, RecordWarning, StoreError
from schedules.records import store as store_module
from schedules.records.strict import canonical
from tests.unit.records.samples import conv, cpu, dense, record

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def ids(store: RecordStore) -> set[str]:
    return {r.id for r in RecordStore(store.folder)}


def put(
    store: RecordStore, data: bytes, name: str | None = None, like: Record | None = None
) -> Path:
    """Bytes as a file among the records of `like`, by default under the ID that they have."""
    path = store.path_of(like or record())
    path = path.with_name(name or f"{hashlib.sha256(data).hexdigest()}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_an_empty_store(store: RecordStore) -> None:
    assert list(store) == []
    assert store.of(conv()) == ()
    assert store.best(conv()) is None
    assert store.prune() == ()
    assert store.verify().records == 0
    assert not store.folder.exists()


def test_add_and_find_again(store: RecordStore) -> None:
    one, other = record(), record(dense())
    assert store.add(one) == one.id
    assert store.add(one) == one.id
    store.add(other)
    again = RecordStore(store.folder)
    assert set(again) == {one, other}
    assert list(again.records("dense")) == [other]
    assert again.of(conv()) == (one,)
    assert again.of(conv(128)) == ()
    assert again.get(one.id[:8]) == one
    assert files(store.folder) == sorted(
        str(store.path_of(r).relative_to(store.folder)) for r in (one, other)
    )


def test_the_file_is_what_its_name_says(store: RecordStore) -> None:
    one = record()
    store.add(one)
    path = store.path_of(one)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    assert re.fullmatch(r"conv2d-[0-9a-f]{16}", path.parent.name)


def test_a_lookup_opens_no_other_file(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (10, 20, 30):
        store.add(record(dense(n=n)))
    opened = []
    read = store_module.read_bytes

    def counting(path: Path) -> bytes:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(store_module, "read_bytes", counting)
    assert len(RecordStore(store.folder).of(dense(n=20))) == 1
    assert len(opened) == 1


@pytest.mark.parametrize("prefix", ["", "abc", "ffff", "../..", "zzzz", "x" * 100])
def test_no_such_id(store: RecordStore, prefix: str) -> None:
    store.add(record())
    with pytest.raises(RecordError, match="no record"):
        store.get(prefix)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match="this is a file"):
        RecordStore(tmp_path / "file")


NEWER = canonical({"schema": 2, "workload": {}, "fields": "of the future"})
TVM_LINE = json.dumps([0, [[["b0"], [], [1], []], [1.0], {"kind": "llvm"}, []]]).encode()
ONE = record()
BAD = {
    "truncated": (ONE.to_bytes()[:100], ONE.id, "no JSON"),
    "empty": (b"", ONE.id, "no JSON"),
    "one digit": (
        ONE.to_bytes().replace(b"231200000.0", b"231200001.0"),
        ONE.id,
        "not what its name says",
    ),
    "other content": (record(ns=5.0).to_bytes(), ONE.id, "not what its name says"),
    "newer": (NEWER, None, "schema is 2"),
    "of TVM": (TVM_LINE, None, "no JSON object"),
    "pickle": (b"\x80\x04\x95\x00\x00.", None, "ASCII"),
    "nested": (b"[" * 100_000, None, "lists and objects"),
    "huge": (b" " * (1 << 20), None, "more than"),
    "foreign name": (ONE.to_bytes(), "best", "no record's ID"),
    "other workload": (record(dense()).to_bytes(), None, "it belongs into dense-"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_file_is_put_away_alone(store: RecordStore, kind: str) -> None:
    data, name, says = BAD[kind]
    good = record(ns=90_000.0)
    store.add(good)
    path = put(store, data, f"{name}.json" if name else None)
    again = RecordStore(store.folder)
    with pytest.warns(RecordWarning, match=says.replace("(", r"\(")):
        assert again.of(conv()) == (good,)
    (problem,) = again.problems
    assert says in problem.reason
    assert problem.path == path
    assert problem.moved_to is not None
    assert problem.moved_to.read_bytes() == data
    assert problem.moved_to.parent == store.folder / "quarantine"
    reason = problem.moved_to.with_suffix(".reason").read_text()
    assert says in reason
    assert path.parent.name in reason
    assert not path.exists()
    # The next reader meets nothing.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(RecordStore(store.folder)) == [good]


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_read_only_store_only_reports(store: RecordStore, kind: str) -> None:
    data, name, says = BAD[kind]
    good = record(ns=90_000.0)
    store.add(good)
    put(store, data, f"{name}.json" if name else None)
    before = files(store.folder)
    again = RecordStore(store.folder, read_only=True)
    with pytest.warns(RecordWarning, match=says.replace("(", r"\(")):
        assert list(again) == [good]
    assert [p.moved_to for p in again.problems] == [None]
    assert files(store.folder) == before
    with warnings.catch_warnings():  # once told is enough
        warnings.simplefilter("error")
        assert list(again) == [good]
    with pytest.raises(StoreError, match="only read"):
        again.add(good)
    with pytest.raises(StoreError, match="only read"):
        again.prune()
    assert again.verify().records == 1


def test_links_are_not_followed(store: RecordStore, tmp_path: Path) -> None:
    good = record(ns=90_000.0)
    store.add(good)
    secret = tmp_path / "secret"
    secret.write_bytes(record().to_bytes())
    store.path_of(record()).symlink_to(secret)
    other = RecordStore(tmp_path / "other")
    other.add(record(dense()))
    (store.folder / store.path_of(record(dense())).parent.name).symlink_to(
        other.path_of(record(dense())).parent
    )
    os.mkfifo(store.path_of(good).with_name("0" * 64 + ".json"))
    again = RecordStore(store.folder)
    with pytest.warns(RecordWarning):
        assert list(again) == [good]
    assert len(again.problems) == 3
    assert secret.read_bytes() == record().to_bytes()
    assert list(other) == [record(dense())]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RecordStore(store.folder).of(dense()) == ()


def test_nothing_is_written_through_a_link(store: RecordStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stale = elsewhere / "x.tmp"
    stale.write_text("somebody's")
    os.utime(stale, (0, 0))
    store.folder.mkdir()
    (store.folder / ".tmp").symlink_to(elsewhere)
    (store.folder / "quarantine").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="link"):
        store.add(record())
    put(store, b"bad")
    with pytest.warns(RecordWarning, match="no JSON"):
        assert RecordStore(store.folder).of(conv()) == ()
    store.verify()
    assert files(elsewhere) == ["x.tmp"]


def test_a_file_that_may_not_be_read_stays(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = record()
    store.add(one)

    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    again = RecordStore(store.folder)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "read_bytes", denied)
        with pytest.warns(RecordWarning, match="Permission denied"):
            assert list(again) == []
    assert ids(store) == {one.id}


def test_other_things_in_the_folder_are_left_alone(store: RecordStore) -> None:
    store.add(record())
    (store.folder / "README.md").write_text("ours")
    (store.folder / ".git").mkdir()
    (store.folder / ".git" / "config.json").write_text("{}")
    assert store.verify().problems == ()
    assert (store.folder / "README.md").exists()
    assert (store.folder / ".git" / "config.json").exists()


def test_adding_mends_a_damaged_file(store: RecordStore) -> None:
    one = record()
    store.add(one)
    store.path_of(one).write_bytes(b"damaged")
    again = RecordStore(store.folder)
    with pytest.warns(RecordWarning, match="no JSON"):
        assert again.add(one) == one.id
    assert list(again) == [one]
    assert ids(store) == {one.id}


def test_verify(store: RecordStore) -> None:
    one, misplaced = record(), record(dense())
    store.add(one)
    put(store, b"bad")
    put(store, NEWER)
    put(store, misplaced.to_bytes())
    (store.folder / "loose.json").write_text("{}")
    first = store.verify()
    assert first.records == 1
    assert len(first.problems) == 4
    assert first.quarantined == 4
    # The next time what is whole comes back, to where it belongs.
    second = store.verify()
    assert second.problems == ()
    assert second.restored == (misplaced.id,)
    assert second.records == 2
    assert second.quarantined == 3
    assert ids(store) == {one.id, misplaced.id}


def test_a_newer_record_comes_back_after_an_update(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(store, NEWER)
    store.verify()
    future = record()
    monkeypatch.setattr(Record, "from_bytes", classmethod(lambda cls, data: future))
    monkeypatch.setattr(Record, "id", path.stem)
    assert store.verify().restored == (path.stem,)


def test_changed_content_never_comes_back(store: RecordStore) -> None:
    """A record of its own, but not the one that its name promises."""
    put(store, record(ns=5.0).to_bytes(), f"{record().id}.json")
    assert len(store.verify().problems) == 1
    assert store.verify().restored == ()
    assert store.verify().records == 0


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "open", "mkdir"])
def test_a_full_disk(store: RecordStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    one = record()
    store.add(one)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StoreError) as caught:
            store.add(record(dense()))
    assert caught.value.exit_code == 7
    assert "No space left" in caught.value.message
    assert "disk is full" in str(caught.value.hint)
    assert ids(store) == {one.id}
    assert [f for f in files(store.folder) if f.endswith(".tmp")] == []
    store.add(record(dense()))
    assert len(ids(store)) == 2


def test_a_disk_that_fills_up_in_the_middle_of_a_file(store: RecordStore, tmp_path: Path) -> None:
    """The system's own limit on the size of files: a real write that fails half way."""
    one = record()
    store.add(one)
    program = (
        "import resource, sys\n"
        "from schedules.records import RecordStore, StoreError\n"
        "from tests.unit.records.samples import dense, record\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    RecordStore(sys.argv[1]).add(record(dense()))\n"
        "except StoreError as error:\n"
        "    print(error)\n"
    )
    done = run(program, str(store.folder))
    assert done.returncode == 0, done.stderr
    assert "cannot write the record: File too large" in done.stdout
    assert "ulimit" in done.stdout
    assert ids(store) == {one.id}
    assert [f for f in files(store.folder) if f.endswith(".tmp")] == []


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from schedules.records import RecordStore, StoreError\n"
        "from tests.unit.records.samples import dense, record\n"
        "folder, said = sys.argv[1], []\n"
        "try:\n"
        "    for n in range(1, 500):\n"
        "        said.append(RecordStore(folder).add(record(dense(n=n))))\n"
        "except StoreError as error:\n"
        "    print(error)\n"
        "store = RecordStore(folder)\n"
        "assert {r.id for r in store} == set(said) and len(said) > 10, len(said)\n"
        "assert store.problems == []\n"
    )
    script = 'mount -t tmpfs -o size=200k tmpfs "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, str(tmp_path)]
    try:
        able = subprocess.run([*command, "true"], check=False, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no unshare to mount a small disk with")
    if able.returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    done = subprocess.run(
        [*command, sys.executable, "-c", program, str(tmp_path / "records")],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert "the disk is full" in done.stdout


def test_a_full_disk_still_quarantines(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    good = record()
    store.add(good)
    put(store, b"bad")
    monkeypatch.setattr(Path, "write_text", full)
    again = RecordStore(store.folder)
    with pytest.warns(RecordWarning, match="no JSON"):
        assert list(again) == [good]
    assert again.problems[0].moved_to is not None


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def stopped(*_: object) -> None:
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stopped)
        with pytest.raises(stop):
            store.add(record())
    assert files(store.folder) == []


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


WRITER = (
    "import sys\n"
    "from schedules.records import RecordStore\n"
    "from tests.unit.records.samples import dense, record\n"
    "store = RecordStore(sys.argv[1])\n"
    "for i in range(int(sys.argv[2]), int(sys.argv[3])):\n"
    "    print(store.add(record(dense(n=1 + i % 7), ns=1000.0 + i)), flush=True)\n"
)


def start(store: RecordStore, first: int, last: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.folder), str(first), str(last)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_writer_loses_nothing(store: RecordStore) -> None:
    """kill -9 at any moment: what was said to be written is there, and all of it reads."""
    said: set[str] = set()
    for round_ in range(6):
        writer = start(store, 1000 * round_, 1000 * round_ + 1000)
        assert writer.stdout is not None
        said.add(writer.stdout.readline().strip())
        time.sleep(0.02 + 0.013 * round_)
        writer.kill()
        rest = writer.stdout.read().splitlines()
        assert writer.wait(timeout=30) == -9
        said.update(line for line in rest if len(line) == 64)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert said <= ids(store)
    found = store.verify()
    assert found.problems == ()
    assert found.records >= len(said) > 6


def test_stale_files_are_ignored_and_go(store: RecordStore) -> None:
    store.add(record())
    old, new = (store.folder / ".tmp" / f"{name}.1.2.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("half a rec")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    assert len(ids(store)) == 1
    RecordStore(store.folder).add(record(dense()))
    assert not old.exists()
    assert new.exists(), "its writer may be at work"
    os.utime(new, (hours_ago, hours_ago))
    assert store.verify().stale == 1
    assert files(store.folder / ".tmp") == []


def test_writers_at_once_lose_nothing(store: RecordStore) -> None:
    """Three processes, half of their records the same, and one more that prunes nothing away."""
    writers = [start(store, first, first + 60) for first in (0, 30, 60)]
    for _ in range(5):
        store.prune(keep=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(RecordStore(store.folder))
    said = {line.strip() for w in writers for line in (w.stdout or [])}
    assert [w.wait(timeout=60) for w in writers] == [0, 0, 0]
    assert len(said) == 120
    assert ids(store) == said


def test_a_folder_removed_meanwhile(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process prunes the last record of a workload just before ours is renamed."""
    one = record()
    replace, calls = os.replace, []

    def slow(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 1:
            Path(target).parent.rmdir()
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    assert store.add(one) == one.id
    assert len(calls) == 2
    assert ids(store) == {one.id}


def test_a_file_removed_meanwhile(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one = record()
    store.add(one)

    def gone(path: Path) -> bytes:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(store_module, "read_bytes", gone)
    again = RecordStore(store.folder)
    assert list(again) == []
    assert again.problems == []


def test_merge(store: RecordStore, tmp_path: Path) -> None:
    other = RecordStore(tmp_path / "other")
    mine, both, theirs = record(ns=1.0 + 1e5), record(ns=2.0 + 1e5), record(dense())
    for one in (mine, both):
        store.add(one)
    for one in (both, theirs):
        other.add(one)
    put(other, b"bad")
    before = files(other.folder)
    merged = store.merge(other.folder)
    assert merged.added == (theirs.id,)
    assert merged.known == 1
    assert ["no JSON" in p.reason for p in merged.problems] == [True]
    assert ids(store) == {mine.id, both.id, theirs.id}
    assert files(other.folder) == before
    assert store.merge(other).added == ()
    with pytest.raises(StoreError, match="no such folder"):
        store.merge(tmp_path / "none")


def test_prune_keeps_the_best_of_each_machine(store: RecordStore) -> None:
    here = [record(ns=ns) for ns in (30_000.0, 10_000.0, 20_000.0)]
    intel = cpu("Xeon", "GenuineIntel-6-143")
    there = [record(ns=ns, cpu=intel) for ns in (50_000.0, 40_000.0)]
    two = record(ns=9_000.0, threads=2)
    other = record(dense(), ns=90_000.0)
    for one in (*here, *there, two, other):
        store.add(one)
    assert set(store.prune(keep=2, dry_run=True)) == {here[0].id}
    assert len(ids(store)) == 7
    removed = store.prune(keep=1)
    assert set(removed) == {here[0].id, here[2].id, there[0].id}
    assert ids(store) == {here[1].id, there[1].id, two.id, other.id}


@pytest.mark.parametrize("keep_parents", [True, False])
def test_prune_and_parents(store: RecordStore, keep_parents: bool) -> None:
    first = record(ns=30_000.0)
    second = record(ns=20_000.0, parent=first.id)
    third = record(ns=10_000.0, parent=second.id)
    for one in (first, second, third):
        store.add(one)
    store.prune(keep=1, keep_parents=keep_parents)
    assert ids(store) == {third.id, *([second.id] if keep_parents else [])}


def test_pruned_folders_go(store: RecordStore) -> None:
    store.add(record())
    store.prune(keep=0)
    assert [p.name for p in store.folder.iterdir() if p.name != ".tmp"] == []


def test_best_is_that_of_the_newest_machine(store: RecordStore) -> None:
    old = record(ns=1_000.0, cpu=cpu("Xeon", "GenuineIntel-6-143"), date="2025-01-01T00:00:00Z")
    slow, fast = record(ns=30_000.0), record(ns=20_000.0)
    for one in (old, slow, fast):
        store.add(one)
    assert store.best(conv()) == fast
    assert store.best(conv(), threads=2) is None


def test_time_in_units_of_the_default_decides(store: RecordStore) -> None:
    """A slow day makes a good choice look slow; its default was slow on that day, too."""
    good = record(ns=60_000.0, baseline_ns=200_000.0)
    worse = record(ns=50_000.0, baseline_ns=100_000.0)
    for one in (good, worse):
        store.add(one)
    assert store.best(conv()) == good
    store.add(record(ns=45_000.0, baseline_ns=None))  # now there is only the latency itself
    best = store.best(conv())
    assert best is not None
    assert best.median_ns == 45_000.0


def test_a_record_goes_before_the_one_that_it_beat(store: RecordStore) -> None:
    """They were measured side by side, which says more than figures of two days."""
    first = record(ns=50_000.0)
    better = record(ns=70_000.0, parent=first.id)
    elsewhere = record(ns=90_000.0, parent=first.id, cpu=cpu("Xeon", "GenuineIntel-6-143"))
    for one in (first, better, elsewhere):
        store.add(one)
    assert store.best(conv()) == better
    other = record(ns=60_000.0)
    store.add(other)
    assert store.best(conv()) == other
    assert set(store.prune(keep=1, keep_parents=False)) == {first.id, better.id}
