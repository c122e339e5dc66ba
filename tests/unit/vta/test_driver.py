"""Drivers: the simulator, and boards played by files and a thread that runs the simulator."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.errors import DeviceError, DeviceTimeoutError, InputError
from compiler.runtime.vta.board import BOARDS, Board, BoardDriver, read_board
from compiler.runtime.vta.contiguous import CmaBuffer, DmaBuffer
from compiler.runtime.vta.driver import Heap
from compiler.runtime.vta.registers import (
    HLS_BLOCKS,
    ChiselRegisters,
    HlsRegisters,
    MappedWindow,
)
from compiler.runtime.vta.session import Session
from compiler.runtime.vta.simulated import SimulatedDriver
from targets.errors import TargetError
from targets.vta import Finish, Load, Memory, Program, Store, VtaConfig, encode, simulate_stream
from targets.vta.program import ProgramError
from targets.vta.relocate import alignment, relocate, relocations
from tests.unit.vta.golden import CONFIG, Case, cases

#: Programs that compute something from inputs, small ones.
CASES = [c for c in cases("programs") if c.name in ("28-two-layer-dense", "25-residual-add")]


def inputs_of(program: Program) -> dict[str, np.ndarray]:
    return {b.name: program.contents[b.name] for b in program.buffers if b.role == "input"}


def check(session: Session, case: Case) -> None:
    outputs = session.run(inputs_of(case.program))
    assert outputs
    for name, value in outputs.items():
        assert (value == case.arrays[f"expect_{name}"]).all()


def test_a_heap_gives_each_place_once() -> None:
    heap = Heap(0x1001, 0x4000)
    first, second = heap.take(0x800, 0x1000), heap.take(0x1000, 0x1000)
    assert (first, second) == (0x2000, 0x3000)
    assert heap.take(0x2000, 16) is None
    assert heap.holds(0x2100, 0x700)
    assert not heap.holds(0x2100, 0x701)
    assert heap.give_back(0x2000)
    assert not heap.give_back(0x2000)
    assert heap.take(0x1800, 16) == 0x1010


def test_relocation_moves_what_names_dram() -> None:
    code = [
        Load(memory=Memory.UOP, dram_base=5, y_size=1, x_size=2, x_stride=2),
        Load(memory=Memory.WGT, dram_base=7, y_size=1, x_size=2, x_stride=2, pop_next=True),
        Load(memory=Memory.INP, push_next=True),
        Store(memory=Memory.OUT, dram_base=(1 << 31) + 3, y_size=1, x_size=1, x_stride=1),
        Finish(),
    ]
    stream = np.frombuffer(b"".join(encode(x, CONFIG) for x in code), np.uint8).reshape(-1, 16)
    assert relocations(stream).tolist() == [0, 1, 3]
    moved = relocate(stream, CONFIG, 0x100000)
    wanted = [
        Load(memory=Memory.UOP, dram_base=5 + 0x40000, y_size=1, x_size=2, x_stride=2),
        Load(memory=Memory.WGT, dram_base=7 + 0x1000, y_size=1, x_size=2, x_stride=2,
             pop_next=True),
        code[2],
        Store(memory=Memory.OUT, dram_base=(1 << 31) + 3 + 0x10000, y_size=1, x_size=1,
              x_stride=1),
        Finish(),
    ]  # fmt: skip
    assert moved.tobytes() == b"".join(encode(x, CONFIG) for x in wanted)
    assert relocate(stream, CONFIG, 0).tobytes() == stream.tobytes()
    with pytest.raises(TargetError, match="multiple of 4096"):
        relocate(stream, CONFIG, 0x100)
    with pytest.raises(TargetError, match="too large"):
        relocate(stream, CONFIG, 1 << 36)
    assert alignment(VtaConfig(block=128, wgt_buffer_bytes=1 << 20, acc_buffer_bytes=1 << 18)) == (
        128 * 128
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_simulator_runs_golden_programs_anywhere(case: Case) -> None:
    driver = SimulatedDriver(CONFIG)
    driver.allocate(12345)
    session = Session(driver, case.program)
    other = Session(driver, case.program)
    for _ in range(2):
        check(session, case)
        assert session.cycles() == driver.cycles() != 0
    check(other, case)
    session.close()
    with pytest.raises(DeviceError, match="nothing was allocated"):
        session.close()


def test_arrays_have_to_fit() -> None:
    case = CASES[0]
    session = Session(SimulatedDriver(CONFIG), case.program)
    given = inputs_of(case.program)
    name = next(iter(given))
    with pytest.raises(InputError, match="is missing"):
        session.run({})
    with pytest.raises(InputError, match="is no input"):
        session.run({**given, "foreign": given[name]})
    with pytest.raises(InputError, match=f"buffer '{name}' is int"):
        session.run({**given, name: given[name].astype(np.int16)})


def test_a_program_for_another_configuration_is_refused() -> None:
    with pytest.raises(ProgramError, match="made for another VTA"):
        Session(SimulatedDriver(VtaConfig(inp_buffer_bytes=1 << 14)), CASES[0].program)


def test_the_simulator_refuses_what_breaks_rules_and_what_does_not_fit() -> None:
    case = next(c for c in cases("illegal") if "finish" in c.name)
    session = Session(SimulatedDriver(CONFIG), case.program)
    with pytest.raises(DeviceError, match="breaks"):
        session.run(inputs_of(case.program))
    unchecked = Session(SimulatedDriver(CONFIG, checks=False), case.program)
    with pytest.raises(DeviceTimeoutError, match="never ends"):
        unchecked.run(inputs_of(case.program))
    with pytest.raises(DeviceError, match="no room"):
        Session(SimulatedDriver(CONFIG, memory_bytes=1 << 17), CASES[0].program)
    driver = SimulatedDriver(CONFIG)
    with pytest.raises(DeviceError, match="not allocated"):
        driver.read(0x10000, 16)
    with pytest.raises(DeviceError, match="nothing was launched"):
        driver.wait(1.0)


class FakeBoard:
    """A board made of files: registers, contiguous memory, and a thread that is the hardware."""

    SIZE = 1 << 21
    ADDRESS = 0x1E000000

    def __init__(self, folder: Path, design: str, *, hangs: bool = False) -> None:
        self.design, self.hangs = design, hangs
        self.registers, self.dev, self.classes = folder / "mem", folder / "dev", folder / "class"
        self.registers.write_bytes(bytes(0x5000))
        self.sysfs = self.classes / "u-dma-buf" / "udmabuf0"
        self.sysfs.mkdir(parents=True)
        self.dev.mkdir()
        (self.dev / "udmabuf0").write_bytes(bytes(self.SIZE))
        (self.sysfs / "phys_addr").write_text(f"{self.ADDRESS:#x}\n")
        (self.sysfs / "size").write_text(f"{self.SIZE}\n")
        self.memory = np.memmap(self.dev / "udmabuf0", np.uint8, "r+")
        self.words = np.memmap(self.registers, np.uint32, "r+")
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        base = 0x1000 // 4  # where the registers begin in the file
        step = 0x1000 // 4
        while not self.stop.is_set():
            if self.words[base] & 1 and not self.hangs:
                self.words[base] &= ~np.uint32(1)
                if self.design == "chisel":
                    count, address = self.words[base + 2], self.words[base + 3]
                else:
                    count, address = self.words[base + 4], self.words[base + 6]
                    blocks = [int(self.words[base + i * step]) for i in (1, 2, 3)]
                    assert blocks == [0x81] * 3
                cycles = self._execute(int(address), int(count))
                if self.design == "chisel":
                    self.words[base + 1] = cycles
                    self.words[base] = 2
                else:
                    self.words[base + 2 * step + 6] = 1
            time.sleep(1e-3)

    def _execute(self, address: int, count: int) -> int:
        # The hardware sees all of memory; what is before the buffer is never touched.
        at = address - self.ADDRESS
        stream = self.memory[at : at + 16 * count].copy().reshape(-1, 16)
        dram = np.array(self.memory)
        result = simulate_stream(relocate_back(stream, self.ADDRESS), dram, CONFIG, address=at)
        result.check()
        self.memory[:] = dram
        return result.cycles

    def open(self) -> BoardDriver:
        memory = DmaBuffer("udmabuf0", self.dev, self.classes)
        if self.design == "chisel":
            registers: Any = ChiselRegisters(MappedWindow(self.registers, 0x1000))
        else:
            registers = HlsRegisters(
                {
                    b: MappedWindow(self.registers, 0x1000 * (i + 1))
                    for i, b in enumerate(HLS_BLOCKS)
                }
            )
        return BoardDriver(f"fake {self.design}", CONFIG, registers, memory)

    def close(self) -> None:
        self.stop.set()
        self.thread.join()


def relocate_back(stream: np.ndarray, base: int) -> np.ndarray:
    """The stream for a memory that begins at 0."""
    moved = stream.copy()
    words = moved.view("<u8")
    sizes = {0: 4, 1: 256, 2: 16, 3: 64, 4: 16}
    for i in relocations(stream):
        memory = int(words[i, 0] >> np.uint64(7)) & 7
        words[i, 0] -= np.uint64((base // sizes[memory]) << 26)
    return moved


@pytest.fixture(params=["chisel", "hls"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeBoard]:
    made = FakeBoard(tmp_path, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_board_runs_golden_programs(board: FakeBoard, case: Case) -> None:
    driver = board.open()
    session = Session(driver, case.program, timeout_s=20.0)
    check(session, case)
    expected = SimulatedDriver(CONFIG)
    check(Session(expected, case.program), case)
    assert session.cycles() == (expected.cycles() if board.design == "chisel" else None)
    # The caches: everything was written back before, the outputs dropped after.
    assert (board.sysfs / "sync_for_device").read_text() == "1\n"
    assert (board.sysfs / "sync_for_cpu").read_text() == "1\n"
    assert (board.sysfs / "sync_direction").read_text() == "2\n"
    size = next(b.size for b in reversed(case.program.buffers) if b.role == "output")
    assert int((board.sysfs / "sync_size").read_text()) == size
    session.close()
    driver.close()


def test_caches_that_the_hardware_keeps_coherent_are_left_alone(tmp_path: Path) -> None:
    board = FakeBoard(tmp_path, "chisel")
    (board.sysfs / "dma_coherent").write_text("1\n")
    driver = board.open()
    check(Session(driver, CASES[0].program, timeout_s=20.0), CASES[0])
    assert not (board.sysfs / "sync_for_device").exists()
    board.close()


@pytest.mark.parametrize("design", ["chisel", "hls"])
def test_a_board_that_does_not_answer(tmp_path: Path, design: str) -> None:
    board = FakeBoard(tmp_path, design, hangs=True)
    session = Session(board.open(), CASES[0].program, timeout_s=0.05)
    with pytest.raises(DeviceTimeoutError, match=r"did not answer within 0\.05 s") as caught:
        session.run(inputs_of(CASES[0].program))
    assert caught.value.exit_code == 9
    assert "bitstream" in str(caught.value)
    board.close()


def test_addresses_of_64_bits_take_two_words() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.written: dict[int, int] = {}

        def write(self, offset: int, value: int) -> None:
            self.written[offset] = value & 0xFFFFFFFF

        def read(self, offset: int) -> int:
            return self.written[offset]

        def close(self) -> None:
            pass

    window = Recorder()
    ChiselRegisters(window, 64).start(0x1_2345_6000, 7)
    assert window.written[0x08] == 7
    assert (window.written[0x0C], window.written[0x10]) == (0x23456000, 1)
    assert window.written[0x38] == 0
    assert 0x3C not in window.written
    assert window.written[0x00] == 1


def test_contiguous_memory_from_a_library() -> None:
    """PYNQ's library of contiguous memory, played by Python."""
    calls: list[tuple[object, ...]] = []
    block = (ctypes.c_uint8 * 8192)()

    class Library:
        def cma_alloc(self, size: int, cached: int) -> int | None:
            return ctypes.addressof(block) if size <= 8192 and cached else None

        def cma_get_phy_addr(self, _pointer: int) -> int:
            return 0x16800000

        def cma_flush_cache(self, pointer: int, address: int, size: int) -> None:
            calls.append(("flush", pointer - ctypes.addressof(block), address, size))

        def cma_invalidate_cache(self, pointer: int, address: int, size: int) -> None:
            calls.append(("invalidate", pointer - ctypes.addressof(block), address, size))

        def cma_free(self, _pointer: int) -> None:
            calls.append(("free",))

    memory = CmaBuffer(8192, Library())
    memory.data[3] = 9
    assert block[3] == 9
    memory.flush(16, 32)
    memory.invalidate(64, 16)
    memory.close()
    assert calls == [
        ("flush", 16, 0x16800010, 32), ("invalidate", 64, 0x16800040, 16), ("free",),
    ]  # fmt: skip
    with pytest.raises(DeviceError, match="no 16384 bytes"):
        CmaBuffer(16384, Library())
    with pytest.raises(DeviceError, match="cannot be loaded"):
        CmaBuffer(4096, "libof-nobody.so")


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be mapped"):
        MappedWindow(tmp_path / "none", 0x1000)
    with pytest.raises(DeviceError, match="modprobe u-dma-buf"):
        DmaBuffer("udmabuf9", tmp_path, tmp_path)


def test_boards_by_name_and_by_file(tmp_path: Path) -> None:
    assert read_board("pynq") is BOARDS["pynq"]
    path = tmp_path / "mine.toml"
    path.write_text('like = "ultra96"\nmemory = "udmabuf0"\ntimeout_s = 2\n')
    found = read_board(path)
    assert (found.name, found.address, found.memory) == ("mine", 0xA0000000, "udmabuf0")
    path.write_text('design = "chisel"\naddress = 0x43c00000\nregisters = "/dev/uio0"\n')
    assert read_board(str(path)).registers == "/dev/uio0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('design = "chisel"', "incomplete"),
        ('like = "zedboard"', "names no board"),
        ('like = "pynq"\nspeed = 3', "unknown key 'speed'"),
        ('like = "pynq"\ndesign = "vhdl"', "design is 'vhdl'"),
        ('like = "pynq"\naddress = "here"', "address is 'here'"),
        ('like = "pynq"\ntimeout_s = -1.0', "timeout_s is"),
        ('like = "pynq"\naddress_bits = 48', "address_bits is 48"),
        ("like = ", "cannot be read"),
    ],
)
def test_descriptions_of_boards_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(DeviceError, match=message):
        read_board(path)


def test_unknown_boards_are_named() -> None:
    with pytest.raises(DeviceError, match="no device 'zedboard'"):
        read_board("zedboard")
    with pytest.raises(DeviceError, match=r"cannot be mapped|no contiguous memory"):
        BoardDriver.open(Board("here", "chisel", 0, registers="/dev/null"), CONFIG)
