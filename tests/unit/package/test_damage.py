"""Damage to any byte of a bundle ends in an error that says so: no crash, no silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.errors import BundleError
from compiler.package import Bundle, read_bundle
from tests.support.examples import some_of

_settings = settings(
    max_examples=some_of(200, 60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@pytest.fixture
def zip_bytes(zip_path: Path) -> bytes:
    return zip_path.read_bytes()


def check(path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    assert caught.value.hint


@_settings
@given(data=st.data())
def test_any_changed_byte_of_a_zip(zip_bytes: bytes, place: Path, data: st.DataObject) -> None:
    path = place / "net.tw"
    content = bytearray(zip_bytes)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    check(path)


@_settings
@given(data=st.data())
def test_any_changed_byte_of_a_folder(bundle: Bundle, place: Path, data: st.DataObject) -> None:
    path = place / "net"
    path.mkdir(exist_ok=True)
    members = bundle.members()
    for name, written in members.items():
        (path / name).write_bytes(written)
    member = path / data.draw(st.sampled_from(sorted(members)))
    content = bytearray(members[member.name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    member.write_bytes(bytes(content))
    check(path)


@_settings
@given(data=st.data())
def test_any_cut_or_filling(zip_bytes: bytes, place: Path, data: st.DataObject) -> None:
    path, content = place / "net.tw", zip_bytes
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start + 1, len(content)))
    filling = data.draw(st.sampled_from([b"", b"\0" * (end - start), b"PK\x05\x06"]))
    changed = content[:start] + filling + content[end:]
    if changed == content:
        return
    path.write_bytes(changed)
    check(path)


@_settings
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06"]))
def test_any_rubbish(place: Path, content: bytes, head: bytes) -> None:
    path = place / "rubbish.tw"
    path.write_bytes(head + content)
    check(path)


def test_every_single_byte_of_the_zips_own_structure(zip_bytes: bytes, place: Path) -> None:
    """Exhaustively where zip readers are lenient: the directory and the end."""
    path, content = place / "net.tw", zip_bytes
    start = content.index(b"PK\x01\x02")
    for at in range(start, len(content)):
        changed = bytearray(content)
        changed[at] ^= 0x41
        path.write_bytes(bytes(changed))
        check(path)
