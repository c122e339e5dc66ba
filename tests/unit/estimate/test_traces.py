"""Blocks in a row, caches and their misses, and how it all adds up."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.estimate.counting import Block, cache_option, read_blocks
from compiler.estimate.memory import Lines, Traffic, combined_cycles, lines_of, stall_cycles
from compiler.estimate.traces import traces
from compiler.native import COUNTER_SOURCES
from targets import get_target

SPEC = get_target("arm/neoverse-n1")


def block(address: int, count: int, size: int = 8) -> Block:
    return Block(address, size // 4, count, bytes([address % 251]) * size)


def test_blocks_in_a_row_are_one_trace() -> None:
    blocks = [block(0x108, 100), block(0x100, 100), block(0x110, 100, 4)]
    (found,) = traces(blocks)
    assert found.blocks == (1, 0, 2)
    assert (found.count, found.instructions) == (100, 5)
    assert found.code == blocks[1].code + blocks[0].code + blocks[2].code


def test_every_run_of_every_block_is_in_one_trace() -> None:
    draw = random.Random(3)
    blocks = [block(0x100 + 8 * i, draw.choice([1, 90, 100, 1000])) for i in range(40)]
    blocks += [block(0x104 + 8 * i, draw.choice([5, 100]), 12) for i in range(0, 40, 5)]
    runs = [0] * len(blocks)
    for trace in traces(blocks):
        assert trace.count > 0
        for i in trace.blocks:
            runs[i] += trace.count
    assert runs == [b.count for b in blocks]


def test_a_loop_does_not_run_into_what_follows_it() -> None:
    found = traces([block(0x100, 1000), block(0x108, 10)])
    assert sorted(trace.blocks for trace in found) == [(0,), (1,)]


@pytest.mark.parametrize("jump", ["eb20", "7520", "e920000000", "0f8520000000"])
def test_jumps_of_x86_are_followed(jump: str) -> None:
    code = b"\x90" + bytes.fromhex(jump)
    end = 0x100 + len(code)
    blocks = [
        Block(0x100, 2, 100, code),
        Block(end, 1, 3, b"\x90"),
        Block(end + 0x20, 1, 99, b"\x90\x90"),
    ]
    joined = {trace.blocks for trace in traces(blocks, jumps=True)}
    assert joined == {(0, 2), (1,), (0,)}
    assert {trace.blocks for trace in traces(blocks)} == {(0,), (1,), (2,)}
    # What lies behind goes first if it runs as often.
    often = [blocks[0], replace(blocks[1], count=100), blocks[2]]
    assert (0, 1) in {trace.blocks for trace in traces(often, jumps=True)}


def test_a_loop_is_no_jump_to_another_block() -> None:
    loop = Block(0x100, 2, 100, b"\x90\x75\xfd")  # to its own beginning
    (found,) = traces([loop], jumps=True)
    assert (found.blocks, found.count) == ((0,), 100)


def test_an_instruction_that_a_page_cuts_is_put_together() -> None:
    first = Block(0xFF8, 3, 50, bytes(range(8)))  # its last instruction begins at 0xffd
    second = Block(0xFFD, 2, 50, bytes(range(100, 107)))
    (found,) = traces([first, second])
    assert found.code == bytes([0, 1, 2, 3, 4, *range(100, 107)])


def test_counts_with_misses_are_read() -> None:
    text = "1000 2 5 aabb 7 3 2 1 1 0 1\n2000 1 1 cc 0 0 0 0 0 0 0\nend\n"
    first, second = read_blocks(text)
    assert first == Block(0x1000, 2, 5, b"\xaa\xbb", 7, (3, 1), (2, 0), (1, 1))
    traffic = Traffic.of([first, second])
    assert traffic == Traffic(7, (3, 1), (2, 0), (1, 1))
    assert Traffic.of([Block(0, 1, 1, b"")]) == Traffic(0, (), (), ())


def test_lines_are_told_by_where_they_came_from() -> None:
    near, far, memory = lines_of(Traffic(50, (20, 9, 4), (11, 5, 2), (10, 6, 3)), SPEC)
    assert near == Lines(level=2, read=7, written=4, unseen=5)
    assert far == Lines(level=3, read=2, written=3, unseen=2)
    assert memory == Lines(level=0, read=1, written=3, unseen=2)
    assert lines_of(Traffic(0, (), ()), SPEC) == []


def test_misses_cost_more_from_further_away_and_unforeseen() -> None:
    near = stall_cycles(Traffic(1000, (100, 0, 0), (100, 0, 0), (100, 0, 0)), SPEC)
    far = stall_cycles(Traffic(1000, (100, 100, 0), (90, 90, 0), (100, 100, 0)), SPEC)
    memory = stall_cycles(Traffic(1000, (100, 100, 100), (100, 100, 100)), SPEC)
    unseen = stall_cycles(Traffic(1000, (100, 100, 100), (0, 0, 0)), SPEC)
    assert 0 < near < far < memory < unseen
    assert stall_cycles(Traffic(0, (), ()), SPEC) == 0
    # A processor of two levels: what misses the second one comes from memory.
    two = get_target("arm/cortex-a72")
    assert stall_cycles(Traffic(9, (9, 9), (9, 9)), two) > stall_cycles(
        Traffic(9, (9, 0), (9, 0)), two
    )


def test_all_figures_add_up() -> None:
    assert combined_cycles(100.0, 60.0, 0.0) == pytest.approx(99.0)
    assert combined_cycles(100.0, 60.0, 5.0) == pytest.approx(104.0)
    assert combined_cycles(100.0, 60.0, 5.0, in_order=True) == 105.0


def test_the_targets_caches_are_what_is_simulated() -> None:
    assert cache_option(get_target("arm/cortex-a72")) == ",caches=32768:64:2/2097152:64:16"


class _Misses(ctypes.Structure):
    _fields_ = [
        ("accesses", ctypes.c_uint64),
        ("misses", ctypes.c_uint64 * 3),
        ("ahead", ctypes.c_uint64 * 3),
        ("stored", ctypes.c_uint64 * 3),
    ]


class _Pace(ctypes.Structure):
    _fields_ = [("line", ctypes.c_uint64), ("stride", ctypes.c_int64)]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("caches") / "caches.so"
    source = next(path for path in COUNTER_SOURCES if path.name == "caches.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def touch(simulator: ctypes.CDLL, addresses: list[int], size: int = 4, store: int = 0) -> _Misses:
    misses, pace = _Misses(), _Pace()
    for address in addresses:
        simulator.caches_access(
            ctypes.c_uint64(address), size, store, ctypes.byref(pace), ctypes.byref(misses)
        )
    return misses


class _Cache:
    """The same, simple: least recently used lines of each set."""

    def __init__(self, size: int, line: int, ways: int) -> None:
        self.line, self.ways = line, ways
        self.sets: list[OrderedDict[int, None]] = [
            OrderedDict() for _ in range(size // line // ways)
        ]

    def misses(self, line: int) -> bool:
        found = self.sets[line % len(self.sets)]
        missed = found.pop(line, 0) == 0
        found[line] = None
        if len(found) > self.ways:
            found.popitem(last=False)
        return missed


def test_the_simulator_agrees_with_a_simple_one(simulator: ctypes.CDLL) -> None:
    assert simulator.caches_set_up(b"1024:64:2/8192:64:4") == 1
    first, second = _Cache(1024, 64, 2), _Cache(8192, 64, 4)
    draw = random.Random(0)
    addresses = [draw.randrange(1 << 14) & ~3 for _ in range(5000)]
    found = touch(simulator, addresses)
    missed = [0, 0]
    for address in addresses:
        if first.misses(address // 64):
            missed[0] += 1
            missed[1] += second.misses(address // 64)
    assert found.accesses == len(addresses)
    assert list(found.misses)[:2] == missed
    assert missed[0] > missed[1] > 0


def test_an_access_may_take_two_lines(simulator: ctypes.CDLL) -> None:
    assert simulator.caches_set_up(b"1024:64:2") == 1
    wide = touch(simulator, [60], 16)
    assert (wide.misses[0], wide.accesses) == (2, 2)  # two pieces of 8 bytes
    simulator.caches_clear()
    assert touch(simulator, [60], 4).misses[0] == 1


def test_what_is_written_to_is_told(simulator: ctypes.CDLL) -> None:
    assert simulator.caches_set_up(b"1024:64:2/8192:64:4") == 1
    lines = [64 * i for i in range(8)]
    assert list(touch(simulator, lines, store=1).stored) == [8, 8, 0]
    assert list(touch(simulator, [1 << 20], store=0).stored) == [0, 0, 0]
    assert list(touch(simulator, lines, store=1).stored) == [0, 0, 0]


def test_what_was_used_before_is_not_in_the_first_level(simulator: ctypes.CDLL) -> None:
    assert simulator.caches_set_up(b"1024:64:2/2048:64:4/8192:64:4") == 1
    kept = [1 << 16 | 64 * i for i in range(16)]
    touch(simulator, kept)
    # 32 lines where the second level has room for 16 more; the rest is in the third.
    simulator.caches_place(ctypes.c_uint64(0), ctypes.c_uint64(64 * 32))
    assert list(touch(simulator, kept).misses) == [0, 0, 0]
    assert list(touch(simulator, [64 * i for i in range(32)]).misses)[::2] == [32, 0]


def test_what_goes_in_strides_is_seen_coming(simulator: ctypes.CDLL) -> None:
    assert simulator.caches_set_up(b"1024:64:2") == 1
    rows = touch(simulator, [i * 4 for i in range(16 * 200)])
    assert rows.misses[0] == 200
    assert rows.ahead[0] >= 195
    columns = touch(simulator, [1 << 24 | i * 1024 for i in range(200)])
    assert columns.ahead[0] >= 195
    draw = random.Random(1)
    nowhere = touch(simulator, [draw.randrange(1 << 30) for _ in range(200)])
    assert nowhere.ahead[0] <= 20


@pytest.mark.parametrize(
    "text", [b"", b"1024", b"1024:64", b"1024:48:2", b"64:64:2", b"1024:64:2;", b"a:64:2"]
)
def test_caches_that_cannot_be_are_refused(simulator: ctypes.CDLL, text: bytes) -> None:
    assert simulator.caches_set_up(text) == 0


def test_the_plugin_is_compiled_without_warnings(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    sources = [path for path in COUNTER_SOURCES if path.suffix == ".c"]
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror",
         "-o", tmp_path / "counter.so", *sources],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_jump_into_the_block_itself_is_not_followed() -> None:
    whole = Block(0x1000, 20, 5, b"\x90" * 30 + b"\xeb\xf0")  # back to its middle
    loop = Block(0x1010, 10, 5, b"\x90" * 14 + b"\x75\xf0")
    found = traces((whole, loop), jumps=True)
    assert sum(len(trace.code) for trace in found) == 48
