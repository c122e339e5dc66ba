"""VTA on a board under Linux. Written against the published register maps; not tried on a board."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from compiler.errors import DeviceError, DeviceTimeoutError
from compiler.runtime.vta.contiguous import CmaBuffer, Contiguous, DmaBuffer
from compiler.runtime.vta.driver import Heap
from compiler.runtime.vta.registers import (
    BLOCK_BYTES,
    HLS_BLOCKS,
    ChiselRegisters,
    HlsRegisters,
    MappedWindow,
    Registers,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from targets.vta import VtaConfig

    Bytes = npt.NDArray[np.uint8]

_KINDS: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
#: Between two looks at the registers, seconds.
_PAUSE_S = 50e-6


@dataclass(frozen=True, slots=True)
class Board:
    """How VTA is reached on a board.

    Attributes:
        name: For messages.
        design: ``hls`` (four blocks of registers) or ``chisel`` (one).
        address: Of the first block; those of the HLS design follow each other.
        registers: The file that maps them, ``/dev/mem`` or a ``/dev/uioN`` (then `address` is
            counted from its begin).
        memory: Name of a u-dma-buf device, or ``cma``.
        memory_bytes: To take from ``cma``; a u-dma-buf device is taken as a whole.
        address_offset: What the hardware adds to a physical address of the CPU.
        address_bits: Of the Chisel design's memory bus.
        timeout_s: After which a program counts as hanging, seconds.
    """

    name: str
    design: str
    address: int
    registers: str = "/dev/mem"
    memory: str = "udmabuf0"
    memory_bytes: int = 64 << 20
    address_offset: int = 0
    address_bits: int = 32
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, _KINDS[str(item.type)]):
                self._fail(f"{item.name} is {value!r}", f"give a value of type {item.type}")
        if self.design not in ("hls", "chisel"):
            self._fail(f"design is {self.design!r}", "give hls or chisel")
        if self.address_bits not in (32, 64):
            self._fail(f"address_bits is {self.address_bits}", "give 32 or 64")
        if not self.timeout_s > 0:
            self._fail(f"timeout_s is {self.timeout_s}", "give seconds, such as 10")

    def _fail(self, message: str, hint: str) -> None:
        raise DeviceError(message, where=f"board {self.name}", hint=hint)


#: Published addresses (tvm-vta: pkg_config.py; de10nano_driver.cc for the offset of SDRAM).
BOARDS: Mapping[str, Board] = MappingProxyType(
    {
        "pynq": Board("pynq", "hls", 0x43C00000, memory="cma"),
        "ultra96": Board("ultra96", "hls", 0xA0000000, memory="cma"),
        "zcu104": Board("zcu104", "hls", 0xA0000000, memory="cma"),
        "de10nano": Board("de10nano", "chisel", 0xFF220000, address_offset=0x80000000),
    }
)


def read_board(text: str | Path) -> Board:
    """A board by name, or by a TOML file with the attributes of `Board`.

    A file may name a board to begin with: ``like = "ultra96"``.

    Raises:
        DeviceError: There is none of this name, or the file is no description of one.
    """
    if isinstance(text, str) and text in BOARDS:
        return BOARDS[text]
    path = Path(text)
    if path.suffix != ".toml":
        raise DeviceError(
            f"there is no device {str(text)!r}",
            where="device",
            hint=f"give simulator, {', '.join(BOARDS)}, or a board's .toml file",
        )
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DeviceError(f"it cannot be read: {error}", where=str(path)) from error
    like = data.pop("like", None)
    known = {item.name for item in fields(Board)}
    unknown = sorted(set(data) - known)
    if unknown or (like is not None and like not in BOARDS):
        what = f"unknown key {unknown[0]!r}" if unknown else f"like = {like!r} names no board"
        raise DeviceError(
            what, where=str(path), hint=f"keys: {', '.join(sorted(known))}; boards: "
            f"{', '.join(BOARDS)}",
        )  # fmt: skip
    try:
        data.setdefault("name", path.stem)
        return Board(**data) if like is None else replace(BOARDS[like], **data)
    except TypeError as error:
        raise DeviceError(
            f"it is incomplete: {error}", where=str(path), hint="give design and address"
        ) from error


def _memory(board: Board) -> Contiguous:
    if board.memory == "cma":
        return CmaBuffer(board.memory_bytes)
    return DmaBuffer(board.memory)


class BoardDriver:
    """VTA behind memory-mapped registers, with contiguous memory.

    Args:
        name: For messages.
        config: What the bitstream was built with.
        registers: The control registers.
        memory: Memory that programs are put into.
        address_offset: What the hardware adds to a physical address of the CPU.
        clock: Seconds, for timeouts.
        sleep: Waits so many seconds.
    """

    label = "measured"

    def __init__(
        self,
        name: str,
        config: VtaConfig,
        registers: Registers,
        memory: Contiguous,
        *,
        address_offset: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self.config = name, config
        self._registers, self._memory = registers, memory
        self._base = memory.address + address_offset
        self._heap = Heap(self._base, memory.data.size)
        self._clock, self._sleep = clock, sleep

    @classmethod
    def open(cls, board: Board, config: VtaConfig) -> BoardDriver:
        """Map a board's registers and memory.

        Raises:
            DeviceError: They cannot be mapped.
        """
        path = Path(board.registers)
        registers: Registers
        if board.design == "chisel":
            registers = ChiselRegisters(MappedWindow(path, board.address), board.address_bits)
        else:
            windows = {
                block: MappedWindow(path, board.address + i * BLOCK_BYTES)
                for i, block in enumerate(HLS_BLOCKS)
            }
            registers = HlsRegisters(windows)
        memory = _memory(board)
        return cls(board.name, config, registers, memory, address_offset=board.address_offset)

    def allocate(self, size: int, align: int = 4096) -> int:
        """Memory that the hardware reaches; see `Driver`."""
        address = self._heap.take(size, align)
        if address is None:
            raise DeviceError(
                f"there is no room for {size} bytes in {self._memory.data.size} bytes of "
                "contiguous memory",
                where=self.name,
                hint="make it larger (u-dma-buf's size, memory_bytes for CMA), or unload models",
            )
        begin = address - self._base
        self._memory.data[begin : begin + size] = 0
        return address

    def free(self, address: int) -> None:
        """Give memory back; see `Driver`."""
        if not self._heap.give_back(address):
            raise DeviceError(f"nothing was allocated at {address:#x}", where=self.name)

    def write(self, address: int, data: Bytes) -> None:
        """Copy bytes in; see `Driver`."""
        begin = self._place(address, data.size)
        self._memory.data[begin : begin + data.size] = data.reshape(-1)

    def read(self, address: int, size: int) -> Bytes:
        """Copy bytes out; see `Driver`."""
        begin = self._place(address, size)
        return self._memory.data[begin : begin + size].copy()

    def flush(self, address: int, size: int) -> None:
        """Write the CPU's caches back."""
        self._memory.flush(self._place(address, size), size)

    def invalidate(self, address: int, size: int) -> None:
        """Drop what the CPU's caches hold."""
        self._memory.invalidate(self._place(address, size), size)

    def launch(self, address: int, count: int) -> None:
        """Start a program; see `Driver`."""
        self._registers.start(address, count)

    def wait(self, timeout_s: float) -> None:
        """Look at the registers until the program has ended.

        Raises:
            DeviceTimeoutError: It did not in `timeout_s`.
        """
        end = self._clock() + timeout_s
        while not self._registers.finished():
            if self._clock() >= end:
                raise DeviceTimeoutError(
                    f"it did not answer within {timeout_s:g} s ({self._registers.state()})",
                    where=self.name,
                    hint="check that the bitstream is loaded, is of this configuration and at "
                    "these addresses; load it again to reset it",
                )
            self._sleep(_PAUSE_S)

    def cycles(self) -> int | None:
        """What the hardware counted."""
        return self._registers.cycles()

    def close(self) -> None:
        """Unmap registers and memory."""
        self._registers.close()
        self._memory.close()

    def _place(self, address: int, size: int) -> int:
        if not self._heap.holds(address, size):
            raise DeviceError(
                f"bytes {address:#x} to {address + size:#x} are not allocated", where=self.name
            )
        return address - self._base


__all__ = ["BOARDS", "Board", "BoardDriver", "read_board"]
