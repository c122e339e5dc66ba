"""A file appears whole or not at all: full disks, missing rights, Ctrl-C."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from compiler.errors import FileError
from compiler.package import Bundle, atomic, read_bundle
from compiler.package.atomic import PrivateFolder, check_destination, write_file, write_folder
from compiler.stages import TensorSpec


def listing(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def failing(number: int, after: bytes = b"some bytes") -> object:
    def fill(file: BinaryIO) -> None:
        file.write(after)
        raise OSError(number, os.strerror(number))

    return fill


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "check the path and the disk"),
    ],
)
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, number: int, hint: str) -> None:
    path = tmp_path / "net.tw"
    path.write_text("the old one")
    with pytest.raises(FileError) as caught:
        write_file(path, failing(number))  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert hint in str(caught.value)
    assert listing(tmp_path) == ["net.tw"]
    assert path.read_text() == "the old one"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupt_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    def fill(file: BinaryIO) -> None:
        file.write(b"half of it")
        raise stop

    with pytest.raises(stop):
        write_file(tmp_path / "net.tw", fill)
    assert listing(tmp_path) == []


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("folder", "call"), [(False, "fsync"), (False, "replace"), (True, "fsync")]
)
def test_a_full_disk_found_late(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool, call: str
) -> None:
    """Some file systems report a full disk only when data are forced out, or at the rename."""
    path = bundle.save(tmp_path / "net.tw", folder=folder)
    before = read_bundle(path).manifest
    monkeypatch.setattr(os, call, full)
    with pytest.raises(FileError, match="No space left") as caught:
        bundle.save(path, folder=folder)
    monkeypatch.undo()
    assert "free some space" in str(caught.value)
    assert listing(tmp_path) == ["net.tw"]
    assert read_bundle(path).manifest == before


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_folder_comes_back_if_the_exchange_fails(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing_call: int,
    stop: BaseException,
) -> None:
    """The old one away, the new one in, the old one back if that fails."""
    path = bundle.save(tmp_path / "net", folder=True)
    before = read_bundle(path).manifest
    calls: list[Path] = []
    original = Path.rename

    def rename(self: Path, to: Path) -> Path:
        calls.append(self)
        if len(calls) == failing_call:
            raise stop
        return original(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(FileError if isinstance(stop, OSError) else KeyboardInterrupt):
        bundle.save(path, folder=True)
    monkeypatch.undo()
    assert len(calls) == {1: 1, 2: 3}[failing_call]
    assert listing(tmp_path) == ["net"]
    assert read_bundle(path).manifest == before


def test_a_folder_that_cannot_come_back_is_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle.save(tmp_path / "net", folder=True)
    before = read_bundle(path).manifest
    original = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda self, to: full() if to == path else original(self, to)
    )
    with pytest.raises(FileError, match="nor put the old one back") as caught:
        bundle.save(path, folder=True)
    monkeypatch.undo()
    (kept,) = listing(tmp_path)
    assert kept in str(caught.value)
    assert read_bundle(tmp_path / kept).manifest == before


_FULL_DISK = """
import sys
from pathlib import Path
from compiler.errors import FileError
from compiler.package import read_bundle

bundle = read_bundle(sys.argv[1])
disk = Path(sys.argv[2])
for folder in (False, True):
    try:
        bundle.save(disk / "net.tw", folder=folder)
    except FileError as error:
        assert "the disk is full" in str(error), error
    else:
        raise SystemExit("the bundle was written to a disk it does not fit on")
    assert list(disk.iterdir()) == [], list(disk.iterdir())
print("refused")
"""


def test_a_disk_that_is_really_full(bundle: Bundle, tmp_path: Path) -> None:
    """On a file system of 16 kB, made in a namespace of its own."""
    bundle.parameters["weight"] = np.zeros((4096, 2), np.float32)
    bundle.manifest = replace(
        bundle.manifest,
        parameters=(TensorSpec("weight", (4096, 2), "float32"), *bundle.manifest.parameters[1:]),
    )
    path = bundle.save(tmp_path / "net.tw")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    try:
        probe = subprocess.run(
            [*mount, f"mount -t tmpfs -o size=16k none {disk}"], check=False, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("this system has no unshare")
    if probe.returncode:
        pytest.skip("this system lets no user mount a tmpfs")
    script = tmp_path / "fill.py"
    script.write_text(_FULL_DISK)
    run = f"mount -t tmpfs -o size=16k none {disk} && exec {sys.executable} {script} {path} {disk}"
    done = subprocess.run(
        [*mount, run],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


def test_paths_that_cannot_be_written(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("not a bundle")
    for path, folder, says in (
        (tmp_path / "none" / "net.tw", False, "create the folder first"),
        (tmp_path / "none" / "net.tw", True, "create the folder first"),
        (tmp_path / "file" / "net.tw", False, "is a file"),
        (tmp_path / "folder", False, "is a folder"),
        (tmp_path / "folder", True, "is no bundle"),
        (tmp_path / "file", True, "a file is there"),
        (tmp_path / ("x" * 300), False, "shorter path"),
        (tmp_path / ("x" * 300), True, "shorter path"),
        (Path("/"), False, "no name"),
    ):
        with pytest.raises(FileError) as caught:
            bundle.save(path, folder=folder)
        assert says in str(caught.value)
    assert listing(tmp_path) == ["file", "folder"]
    assert (tmp_path / "folder" / "precious").read_text() == "not a bundle"


def test_no_right_to_write(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every folder is writable, so the system call is made to refuse."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(atomic.os, "open", refuse)
    with pytest.raises(FileError, match="Permission denied") as caught:
        bundle.save(tmp_path / "net.tw")
    assert "change its permissions" in str(caught.value)
    with pytest.raises(FileError, match="Permission denied"):
        check_destination(tmp_path / "net.tw")


def test_permissions_follow_the_umask(bundle: Bundle, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        path = bundle.save(tmp_path / "net.tw")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_at_the_path_is_replaced_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "net.tw").symlink_to(tmp_path / "elsewhere")
    path = bundle.save(tmp_path / "net.tw")
    assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "untouched"


def test_check_destination_leaves_no_trace(tmp_path: Path) -> None:
    check_destination(tmp_path / "net.tw")
    assert listing(tmp_path) == []
    with pytest.raises(FileError, match="No such file"):
        check_destination(tmp_path / "none" / "net.tw")
    with pytest.raises(FileError, match="is a folder"):
        check_destination(tmp_path)


def test_write_folder_replaces_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "net"
    write_folder(path, {"a": b"1", "b": b"2"}, replace_if="a")
    write_folder(path, {"c": b"3"}, replace_if="a")
    assert listing(path) == ["c"]
    assert listing(tmp_path) == ["net"]


def test_a_private_folder_is_private_and_goes_with_its_object() -> None:
    folder = PrivateFolder()
    path = folder.path
    assert path.stat().st_mode & 0o777 == 0o700
    folder.put("module.so", b"code")
    del folder
    assert not path.exists()


@pytest.mark.parametrize("end", ["", "raise KeyboardInterrupt", "sys.exit(3)"])
def test_a_private_folder_goes_when_the_process_ends(end: str, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom compiler.package.atomic import PrivateFolder\n"
        f"keep = PrivateFolder()\nkeep.put('a', b'1')\n{end}\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=False, env=env, capture_output=True)
    assert listing(tmp_path) == []


def test_no_room_for_a_private_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(atomic.tempfile, "mkdtemp", full)
    with pytest.raises(FileError, match="temporary folder"):
        PrivateFolder()
    monkeypatch.undo()
    folder = PrivateFolder()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="temporary file"):
        folder.put("module.so", b"code")
