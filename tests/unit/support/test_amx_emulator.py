"""The AMX emulator decodes what assemblers write and computes what the manual says."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.amx import Emulator, emulator_library

#: Encodings by GNU as 2.40; the text is its disassembler's.
GOLDEN = {
    "ldtilecfg [rsp]": "c4e278490424",
    "ldtilecfg [rsp+0x40]": "c4e27849442440",
    "ldtilecfg [rip+0x1234]": "c4e278490534120000",
    "ldtilecfg [r13+r9*4-0x80]": "c4827849448d80",
    "sttilecfg [rax+rcx*1]": "c4e279490408",
    "tilerelease": "c4e27849c0",
    "tilezero tmm0": "c4e27b49c0",
    "tilezero tmm7": "c4e27b49f8",
    "tileloadd tmm4,[rdi+rsi*1]": "c4e27b4b2437",
    "tileloadd tmm5,[r12+r13*1+0x400]": "c4827b4bac2c00040000",
    "tileloadd tmm6,[rax+rbx*2-0x8]": "c4e27b4b7458f8",
    "tileloaddt1 tmm3,[r15+r14*8]": "c482794b1cf7",
    "tilestored [rsp+rax*1+0x40],tmm2": "c4e27a4b540440",
    "tilestored [r8+rdx*1],tmm1": "c4c27a4b0c10",
    "tdpbssd tmm0,tmm4,tmm6": "c4e24b5ec4",
    "tdpbsud tmm1,tmm2,tmm3": "c4e2625eca",
    "tdpbusd tmm7,tmm5,tmm4": "c4e2595efd",
    "tdpbuud tmm2,tmm0,tmm1": "c4e2705ed0",
    "tdpbf16ps tmm3,tmm6,tmm7": "c4e2425cde",
}
RET = "c3"


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    emulator_library()
    return Emulator()


@pytest.mark.parametrize("text", GOLDEN)
def test_decodes_what_the_assembler_wrote(emulator: Emulator, text: str) -> None:
    code = bytes.fromhex(GOLDEN[text])
    assert emulator.decode(code) == (text, len(code))


@pytest.mark.skipif(shutil.which("as") is None, reason="no assembler")
def test_golden_bytes_are_the_assembler_s(tmp_path: Path) -> None:
    source, object_file = tmp_path / "a.s", tmp_path / "a.o"
    source.write_text(".intel_syntax noprefix\n" + "\n".join(GOLDEN) + "\n")
    made = subprocess.run(["as", source, "-o", object_file], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this assembler does not know AMX")
    text = subprocess.run(
        ["objdump", "-s", "-j", ".text", object_file], capture_output=True, text=True, check=True
    ).stdout
    found = "".join("".join(line.split()[1:5])[:32] for line in text.splitlines() if line[:1] == " "
                    and line.split()[0].isalnum())  # fmt: skip
    assert "".join(GOLDEN.values()) in found


@pytest.mark.parametrize(
    "code",
    [
        "c4e2c35ec4",  # W is set
        "c4e24f5ec4",  # 256 bits
        "c4e27b4b07",  # tileloadd without a SIB byte
        "c4e27b49c1",  # tilezero with an r/m field
        "c4e2405cc4",  # no such prefix
        "c4e3795ec4",  # another opcode map
        "0f0b",  # ud2
        "90",
    ],
)
def test_leaves_other_instructions_alone(emulator: Emulator, code: str) -> None:
    assert emulator.decode(bytes.fromhex(code)) == ("", 0)


def _run(code: str, *arguments: int) -> None:
    """Call machine code with integers in rdi, rsi, rdx, rcx."""
    raw = bytes.fromhex(code + RET)
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(raw)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * len(arguments))(address)(*arguments)


def _config(*shapes: tuple[int, int]) -> np.ndarray:
    """A configuration of tiles 0, 1, ... with these rows and bytes of a row."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    for i, (rows, size) in enumerate(shapes):
        config[16 + 2 * i] = size
        config[48 + i] = rows
    return config


# ldtilecfg [rdi]; tileloadd tmm1, [rsi+r8]; tileloadd tmm2, [rdx+r8]; tilezero tmm0;
# (a multiplication of tmm0 by tmm1 and tmm2); tilestored [rcx+r8], tmm0; tilerelease
_LOAD = "49c7c040000000c4e2784907c4a27b4b0c06c4a27b4b1402c4e27b49c0"
_STORE = "c4a27a4b0401c4e27849c0"
_TDP = {"tdpbssd": "c4e26b5ec1", "tdpbsud": "c4e26a5ec1", "tdpbusd": "c4e2695ec1",
        "tdpbuud": "c4e2685ec1", "tdpbf16ps": "c4e26a5cc1"}  # fmt: skip


def _multiply(name: str, left: np.ndarray, right: np.ndarray, dtype: type) -> np.ndarray:
    """One multiplication of tiles given as 64-byte rows."""
    rows, depth = left.shape[0], right.shape[0]
    config = _config((rows, 64), (rows, depth * 4), (depth, 64))
    buffers = [np.zeros((16, 64), np.uint8) for _ in range(3)]
    buffers[0][:rows, : depth * 4] = left.view(np.uint8)
    buffers[1][:depth] = right.view(np.uint8)
    _run(_LOAD + _TDP[name] + _STORE, config.ctypes.data, *(b.ctypes.data for b in buffers))
    return buffers[2].view(dtype)[:rows]


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        ("tdpbssd", np.int8, np.int8),
        ("tdpbsud", np.int8, np.uint8),
        ("tdpbusd", np.uint8, np.int8),
        ("tdpbuud", np.uint8, np.uint8),
    ],
)
@pytest.mark.parametrize(("rows", "depth"), [(16, 16), (7, 3), (1, 1)])
def test_byte_products(emulator: Emulator, name: str, a: type, b: type, rows: int, depth: int):
    rng = np.random.default_rng(rows)
    emulator.install()
    left = rng.integers(np.iinfo(a).min, np.iinfo(a).max + 1, (rows, 4 * depth), dtype=a)
    right = rng.integers(np.iinfo(b).min, np.iinfo(b).max + 1, (depth, 16, 4), dtype=b)
    got = _multiply(name, left, right.reshape(depth, 64), np.int32)
    plain = right.transpose(0, 2, 1).reshape(4 * depth, 16)
    assert np.array_equal(got, left.astype(np.int32) @ plain.astype(np.int32))


def _bfloat16(values: list[float] | np.ndarray) -> np.ndarray:
    """Bits of floats that bfloat16 holds exactly."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16_sums_even_and_odd_elements_apart(emulator: Emulator) -> None:
    emulator.install()
    # 1 + 2^-24 is lost in one sum, and 2^-24 + 2^-24 is not: the order shows in the result.
    left = np.zeros((1, 32), np.uint16)
    left[0, :4] = _bfloat16([1.0, 2.0**-24, 2.0**-24, 2.0**-24])
    right = np.full((16, 32), _bfloat16([1.0])[0], np.uint16)
    got = _multiply("tdpbf16ps", left, right, np.float32)
    even = np.float32(1.0) + np.float32(2.0**-24)
    odd = np.float32(2.0**-24) + np.float32(2.0**-24)
    assert even == 1.0
    assert got[0, 0] == np.float32(even + odd) > 1.0


def test_bfloat16_treats_denormals_as_zero(emulator: Emulator) -> None:
    emulator.install()
    left = np.zeros((2, 32), np.uint16)
    left[0, 0] = 1  # the smallest denormal, times a large number
    left[1, 0] = _bfloat16([2.0**-100])[0]  # a product too small for a normal number
    right = np.zeros((16, 32), np.uint16)
    right[0, 0::2] = _bfloat16([2.0**100])[0]
    right[0, 2] = _bfloat16([2.0**-40])[0]
    got = _multiply("tdpbf16ps", left, right, np.float32)
    assert got[0, 0] == 0.0
    assert got[1, 0] == 1.0
    assert got[1, 1] == 0.0


def test_partial_tiles_leave_memory_alone(emulator: Emulator) -> None:
    emulator.install()
    config = _config((3, 20))
    source = np.arange(16 * 64, dtype=np.uint8).reshape(16, 64)
    target = np.full((16, 64), 255, np.uint8)
    # r8 = 64; ldtilecfg [rdi]; tileloadd tmm0, [rsi+r8]; tilestored [rdx+r8], tmm0; tilerelease
    _run("49c7c040000000 c4e2784907 c4a27b4b0406 c4a27a4b0402 c4e27849c0",
         config.ctypes.data, source.ctypes.data, target.ctypes.data)  # fmt: skip
    assert np.array_equal(target[:3, :20], source[:3, :20])
    assert (target[3:] == 255).all()
    assert (target[:, 20:] == 255).all()
    assert not emulator.is_configured()


#: Machine code (the configuration's address in rdi) and what the emulator says about it.
FAULTS = {
    "nothing configured": (
        "c4e27b49c0", {}, "#UD at tilezero tmm0: the tiles are not configured"
    ),
    "tile not configured": (
        "c4e2784907 c4e27b49f8", {"shapes": [(16, 64)]},
        "#UD at tilezero tmm7: tmm7 is not configured",
    ),
    "palette": ("c4e2784907", {"byte": (0, 2)}, "#GP at ldtilecfg [rdi]: palette 2"),
    "reserved": ("c4e2784907", {"byte": (5, 1)}, "a reserved byte is not zero"),
    "too many rows": ("c4e2784907", {"shapes": [(17, 64)]}, "tile 0 has 17 rows of 64 bytes"),
    "too wide": ("c4e2784907", {"shapes": [(16, 65)]}, "tile 0 has 16 rows of 65 bytes"),
    "rows without columns": ("c4e2784907", {"shapes": [(4, 0)]}, "tile 0 has 4 rows of 0 bytes"),
    "shapes": (
        "c4e2784907 c4e2695ec1", {"shapes": [(16, 64), (16, 64), (15, 64)]},
        "#UD at tdpbusd tmm0,tmm1,tmm2: shapes 16x64, 16x64, 15x64",
    ),
    "a tile twice": (
        "c4e2784907 c4e2715ec1", {"shapes": [(16, 64), (16, 64)]}, "a tile is named twice"
    ),
    "odd bytes": (
        "c4e2784907 c4e2695ec1", {"shapes": [(16, 64), (16, 62), (15, 64)]},
        "tmm1 has rows of 62 bytes",
    ),
    "bad address": (
        "4831f6 c4e2784907 c4e27b4b0436", {"shapes": [(16, 64)]},
        "page fault at tileloadd tmm0,[rsi+rsi*1]: address 0x0",
    ),
}  # fmt: skip

_CHILD = """
import sys
from tests.support.amx import Emulator
from tests.unit.support.test_amx_emulator import FAULTS, _config, _run
code, changes, _ = FAULTS[sys.argv[1]]
emulator = Emulator()
config = _config(*changes.get("shapes", []))
if "byte" in changes:
    config[changes["byte"][0]] = changes["byte"][1]
_run(code, config.ctypes.data)
"""


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_the_instruction(name: str) -> None:
    emulator_library()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, name], capture_output=True, text=True, check=False
    )
    assert FAULTS[name][2] in done.stderr
    assert done.returncode == -4  # SIGILL, as on hardware


def test_other_illegal_instructions_still_kill() -> None:
    emulator_library()
    script = (
        "from tests.support.amx import Emulator\n"
        "from tests.unit.support.test_amx_emulator import _run\n"
        "Emulator()\n_run('0f0b')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -4
