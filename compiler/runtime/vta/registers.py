"""The control registers of the two published VTA designs, and the memory they are mapped to.

The **Chisel** design has one block of 32-bit registers (tvm-vta, ``VCR.scala``; the DE10-Nano's
driver writes the same): 0x00 control (bit 0 launch, bit 1 finished), 0x04 cycles, 0x08 number of
instructions, from 0x0c on the base addresses of instructions, micro-ops, inputs, weights,
accumulators and outputs, one word each, or two where addresses have 64 bits.

The **HLS** design for Zynq boards has a block for each of fetch, load, compute and store
(tvm-vta, ``pkg_config.py`` and the Pynq driver): 0x00 control (1 start, 0x81 start again whenever
done), from 0x10 on the arguments, 8 bytes apart. It does not count cycles.

Base addresses of the memories are 0: our instructions name physical addresses.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compiler.errors import DeviceError

START, AUTORESTART, HLS_DONE = 0x01, 0x81, 0x01
CHISEL_FINISHED = 0x02
#: Bytes that each block of registers takes.
BLOCK_BYTES = 0x1000
#: Blocks of the HLS design, in the order of their published addresses.
HLS_BLOCKS = ("fetch", "load", "compute", "store")


class Window(Protocol):
    """Registers of 32 bits."""

    def write(self, offset: int, value: int) -> None:
        """Write one register.

        Args:
            offset: Bytes from the window's begin, a multiple of 4.
            value: 32 bits.
        """

    def read(self, offset: int) -> int:
        """Read one register."""

    def close(self) -> None:
        """Unmap it."""


class MappedWindow:
    """Registers that a file maps: ``/dev/mem`` at a physical address, or ``/dev/uioN`` at 0.

    Args:
        path: The file.
        address: Where the registers begin in it, bytes.
        size: Bytes.

    Raises:
        DeviceError: It cannot be opened or mapped.
    """

    def __init__(self, path: Path, address: int, size: int = BLOCK_BYTES) -> None:
        page = mmap.PAGESIZE
        begin = address // page * page
        try:
            file = os.open(path, os.O_RDWR | getattr(os, "O_SYNC", 0))
            try:
                self._map = mmap.mmap(file, address - begin + size, offset=begin)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"the registers at {address:#x} cannot be mapped: {error}",
                where=str(path),
                hint="run as root (or as a member of the device's group), and check that the "
                "bitstream is loaded and the address is the board's",
            ) from error
        # One access of 32 bits each: what copies byte by byte would write a register four times.
        self._words = (ctypes.c_uint32 * (size // 4)).from_buffer(self._map, address - begin)

    def write(self, offset: int, value: int) -> None:
        """Write one register."""
        self._words[offset // 4] = value & 0xFFFFFFFF

    def read(self, offset: int) -> int:
        """Read one register."""
        return int(self._words[offset // 4])

    def close(self) -> None:
        """Unmap it."""
        del self._words
        self._map.close()


class Registers(Protocol):
    """The control registers of one design."""

    def start(self, address: int, count: int) -> None:
        """Start a program at a physical address, of so many instructions."""

    def finished(self) -> bool:
        """Whether the program has run FINISH."""

    def cycles(self) -> int | None:
        """What it took; None if nobody counts."""

    def state(self) -> str:
        """The registers that say how far it is, for messages."""

    def close(self) -> None:
        """Unmap them."""


@dataclass(slots=True)
class ChiselRegisters:
    """The Chisel design's block.

    Attributes:
        window: Its registers.
        address_bits: Of the memory bus, 32 or 64.
    """

    window: Window
    address_bits: int = 32

    CONTROL, CYCLES, COUNT, POINTERS = 0x00, 0x04, 0x08, 0x0C

    def start(self, address: int, count: int) -> None:
        """See `Registers`; the memories' base addresses are set to 0 first."""
        words = 1 if self.address_bits == 32 else 2
        self.window.write(self.CYCLES, 0)
        self.window.write(self.COUNT, count)
        for i in range(6 * words):
            self.window.write(self.POINTERS + 4 * i, 0)
        for i in range(words):
            self.window.write(self.POINTERS + 4 * i, address >> (32 * i))
        self.window.write(self.CONTROL, START)

    def finished(self) -> bool:
        """See `Registers`."""
        return bool(self.window.read(self.CONTROL) & CHISEL_FINISHED)

    def cycles(self) -> int | None:
        """What the counter says."""
        return self.window.read(self.CYCLES)

    def state(self) -> str:
        """Control and counter."""
        return (
            f"control {self.window.read(self.CONTROL):#x}, "
            f"{self.window.read(self.CYCLES)} cycles counted"
        )

    def close(self) -> None:
        """Unmap it."""
        self.window.close()


@dataclass(slots=True)
class HlsRegisters:
    """The HLS design's four blocks.

    Attributes:
        windows: Registers of each of `HLS_BLOCKS`.
    """

    windows: Mapping[str, Window]

    CONTROL = 0x00
    COUNT, INSTRUCTIONS = 0x10, 0x18
    INPUTS, WEIGHTS = 0x10, 0x18
    DONE, UOPS, BIASES = 0x18, 0x20, 0x28
    OUTPUTS = 0x10

    def start(self, address: int, count: int) -> None:
        """See `Registers`; fetch runs once, the other stages as long as they have work."""
        fetch, load, compute, store = (self.windows[name] for name in HLS_BLOCKS)
        fetch.write(self.COUNT, count)
        fetch.write(self.INSTRUCTIONS, address)
        load.write(self.INPUTS, 0)
        load.write(self.WEIGHTS, 0)
        compute.write(self.UOPS, 0)
        compute.write(self.BIASES, 0)
        store.write(self.OUTPUTS, 0)
        fetch.write(self.CONTROL, START)
        for window in (load, compute, store):
            window.write(self.CONTROL, AUTORESTART)

    def finished(self) -> bool:
        """See `Registers`."""
        return self.windows["compute"].read(self.DONE) == HLS_DONE

    def cycles(self) -> int | None:
        """None: the design has no counter."""
        return None

    def state(self) -> str:
        """The control words of the blocks."""
        words = (f"{n} {self.windows[n].read(self.CONTROL):#x}" for n in HLS_BLOCKS)
        return "control " + ", ".join(words)

    def close(self) -> None:
        """Unmap them."""
        for window in self.windows.values():
            window.close()


__all__ = [
    "BLOCK_BYTES",
    "HLS_BLOCKS",
    "ChiselRegisters",
    "HlsRegisters",
    "MappedWindow",
    "Registers",
    "Window",
]
