"""Program files and listings: round trips, and every way in which they can be wrong."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets import TargetError
from targets.vta import Buffer, Program, VtaConfig, read_program, write_program
from targets.vta.listing import format_program, parse_listing
from targets.vta.program import VERSION, ProgramError, parse_program, program_bytes
from tests.support.examples import some_of
from tests.unit.vta.golden import cases

SMALL = next(c for c in cases("programs") if c.name == "01-gemm-single").program
DATA = program_bytes(SMALL)


def resigned(header: dict[str, object] | bytes, version: int = VERSION) -> bytes:
    """A file with another header and a checksum that fits."""
    _, _, length = struct.unpack_from("<8sII", DATA)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = DATA[:8] + struct.pack("<II", version, len(text)) + text + DATA[16 + length : -32]
    return body + hashlib.sha256(body).digest()


def header() -> dict[str, object]:
    length = struct.unpack_from("<8sII", DATA)[2]
    result: dict[str, object] = json.loads(DATA[16 : 16 + length])
    return result


def test_file_round_trip(tmp_path: Path) -> None:
    write_program(SMALL, tmp_path / "a.vta")
    again = read_program(tmp_path / "a.vta")
    assert program_bytes(again) == DATA
    np.testing.assert_array_equal(again.image(), SMALL.image())
    assert again.config == SMALL.config


@pytest.mark.parametrize("length", range(0, len(DATA), 37))
def test_truncated(length: int) -> None:
    with pytest.raises(ProgramError, match="the file is cut off") as caught:
        parse_program(DATA[:length], where="x.vta")
    assert caught.value.where == "x.vta"
    assert caught.value.hint


@settings(max_examples=some_of(200, 50), deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int) -> None:
    data = bytearray(DATA)
    data[at] ^= change
    with pytest.raises(TargetError):
        parse_program(bytes(data), where="x.vta")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04" + bytes(99), "this is no VTA program file"),
        (bytes(64), "this is no VTA program file"),
        (resigned(header(), version=2), "version 2 of the format; this release reads 1"),
        (resigned(b"{"), "the header is damaged"),
        (resigned({}), "the header is damaged: KeyError: 'config'"),
        (resigned({**header(), "instructions": 7}), "bytes too many"),
        (resigned({**header(), "instructions": 9}), "cut off: it has"),
        (resigned({**header(), "config": {"block": 12}}), "block is 12, which is no power of two"),
        (resigned({**header(), "config": {"blok": 16}}), "no 'blok'"),
        (resigned({**header(), "dram_bytes": 1000}), "but DRAM has 1000 bytes"),
        (resigned({**header(), "instruction_address": 4096}), "overlaps"),
        (DATA + b"x", "1 bytes too many"),
    ],
)
def test_foreign_or_damaged(data: bytes, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        parse_program(data, where="x.vta")


def test_a_program_for_another_configuration(tmp_path: Path) -> None:
    write_program(SMALL, tmp_path / "a.vta")
    other = VtaConfig("mine", block=32, wgt_buffer_bytes=1 << 19)
    with pytest.raises(ProgramError, match="another VTA") as caught:
        read_program(tmp_path / "a.vta", other)
    assert "block 16, not 32" in caught.value.message
    assert "wgt_buffer_bytes 262144, not 524288" in caught.value.message
    # The clock and the name are no part of what programs depend on.
    fast = VtaConfig("fast", clock_hz=333e6)
    assert read_program(tmp_path / "a.vta", fast).config == fast


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="cannot be read"):
        read_program(tmp_path / "none.vta")


def buffer(**values: object) -> Buffer:
    given: dict[str, object] = {
        "name": "b", "role": "input", "address": 8192, "dtype": "int8", "shape": (16,), **values
    }  # fmt: skip
    return Buffer(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("buffers", "says"),
    [
        ([buffer(name="a b")], "'a b' is no name"),
        ([buffer(role="parameter")], "has the role 'parameter'"),
        ([buffer(dtype="float32")], "has dtype 'float32'"),
        ([buffer(shape=(0,))], "shape"),
        ([buffer(address=-1)], "address -1"),
        ([buffer(), buffer(address=9000)], "two buffers have one name"),
        ([buffer(), buffer(name="c", address=8200)], "buffer 'c' at 8200 overlaps buffer 'b'"),
        ([buffer(address=4096)], "overlaps"),
        ([buffer(address=1 << 20)], "but DRAM has 65536 bytes"),
    ],
)
def test_impossible_programs(buffers: list[Buffer], says: str) -> None:
    with pytest.raises(ProgramError, match=says):
        Program(VtaConfig(), SMALL.instructions, 4096, 65536, tuple(buffers))


def test_impossible_contents() -> None:
    with pytest.raises(ProgramError, match="content for a buffer 'none'"):
        SMALL.with_contents({"none": np.zeros(1, np.int8)})
    with pytest.raises(ProgramError, match="buffer 'inp' is int8"):
        SMALL.with_contents({"inp": np.zeros(1, np.int8)})
    with pytest.raises(ProgramError, match="no multiple of 16"):
        Program(VtaConfig(), SMALL.instructions, 4100, 65536, ())
    with pytest.raises(ProgramError, match="instructions must be bytes"):
        Program(VtaConfig(), np.zeros((3, 8), np.uint8), 4096, 65536, ())


def test_listing_without_contents_still_has_the_code() -> None:
    program = next(c for c in cases("programs") if c.name == "03-gemm-multi-uop").program
    text = format_program(program, contents=False)
    assert ".content" not in text
    assert ".uops uop\ndst=0 src=0 wgt=0  # 0\ndst=0 src=1 wgt=1  # 1\n" in text
    assert "FINISH  # 14" in text


LISTING = """\
.config vta/pynq
.dram 0x8000
.buffer data input 4096 int8 2x16
.buffer uop uop 8192 uint32 2
.content data
ff00
.skip 14
01
.uops uop
dst=1 src=2
dst=3
.code 0x4000
FINISH
"""


def test_a_listing_by_hand() -> None:
    program = parse_listing(LISTING, where="a.s", find_config=lambda name: VtaConfig(name))
    assert program.config.name == "vta/pynq"
    assert program.contents["data"].tolist() == [[-1, *[0] * 15], [1, *[0] * 15]]
    assert program.contents["uop"].tolist() == [1 | 2 << 11, 3]
    assert program.instruction_address == 0x4000
    again = parse_listing(format_program(program), where="b.s")
    assert program_bytes(again) == program_bytes(program)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (".dram 0x8000", "", "there is no .dram"),
        (".code 0x4000\nFINISH", "", "there is no .code"),
        (".config vta/pynq", "", "there is no .config before this line"),
        (".config vta/pynq", ".config block=12", "block is 12"),
        (".config vta/pynq", ".config clock_hz=fast", "clock_hz needs a number"),
        ("FINISH", "FINISHED", "a.s:13: 'FINISHED' is no instruction"),
        ("FINISH", "GEMM iter_in=99999", "a.s:13: GEMM's field iter_in is 99999"),
        ("dst=3", "dst=4096", "a.s:11: UOP's field dst is 4096"),
        ("dst=3", "dest=3", "a.s:11: a micro-op has no 'dest'"),
        ("dst=3", "dst=3\ndst=4", "buffer 'uop' has 8 bytes, its content 12"),
        ("ff00", "fg", "a.s:6: 'fg' are no hexadecimal bytes"),
        (".content data", ".content date", "there is no buffer 'date'"),
        (".content data", ".contents data", "is no directive"),
        (".content data", "", "comes before .code"),
        ("int8 2x16", "int8 2*16", "'2\\*16' is no number"),
        ("int8 2x16", "int7 2x16", "has dtype 'int7'"),
        (".buffer uop uop", ".buffer data uop", "buffer 'data' is given twice"),
        (".code 0x4000", ".code 0x4000\n.code 1", ".code is given twice"),
        (".dram 0x8000", ".dram -5", "out of range"),
    ],
)
def test_a_wrong_listing(old: str, new: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        parse_listing(LISTING.replace(old, new), where="a.s", find_config=VtaConfig)
