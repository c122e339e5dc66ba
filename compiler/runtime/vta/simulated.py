"""The simulator as a VTA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compiler.errors import DeviceError, DeviceTimeoutError
from compiler.runtime.vta.driver import Heap
from targets.errors import TargetError
from targets.vta.config import INSTRUCTION_BYTES

if TYPE_CHECKING:
    import numpy.typing as npt

    from targets.vta import Simulation, VtaConfig

    Bytes = npt.NDArray[np.uint8]

#: The first address that memory is given out at: VTA cannot use its first page.
_FIRST = 1 << 16


class SimulatedDriver:
    """A VTA whose programs the simulator runs.

    Args:
        config: The VTA to simulate.
        memory_bytes: Of its DRAM.
        checks: Look for broken rules in each program that has not been run before.
    """

    label = "simulated"

    def __init__(
        self, config: VtaConfig, *, memory_bytes: int = 1 << 30, checks: bool = True
    ) -> None:
        self.config = config
        self.name = f"the simulator of {config.name}"
        self.last: Simulation | None = None
        self._checks = checks
        self._checked: set[bytes] = set()
        self._heap = Heap(_FIRST, memory_bytes - _FIRST)
        # It grows with what is allocated, so that a small network does not take a gigabyte.
        self._dram = np.zeros(_FIRST, np.uint8)
        self._launched: tuple[int, int] | None = None

    def allocate(self, size: int, align: int = 4096) -> int:
        """Memory of the simulated DRAM; see `Driver`."""
        address = self._heap.take(size, align)
        if address is None:
            raise DeviceError(
                f"there is no room for {size} bytes in {self._heap.end} bytes of memory",
                where=self.name,
                hint="unload other models, or simulate more memory",
            )
        if address + size > self._dram.size:
            grown = np.zeros(address + size, np.uint8)
            grown[: self._dram.size] = self._dram
            self._dram = grown
        self._dram[address : address + size] = 0
        return address

    def free(self, address: int) -> None:
        """Give memory back; see `Driver`."""
        if not self._heap.give_back(address):
            raise DeviceError(f"nothing was allocated at {address:#x}", where=self.name)

    def write(self, address: int, data: Bytes) -> None:
        """Copy bytes in; see `Driver`."""
        self._require(address, data.size)
        self._dram[address : address + data.size] = data.reshape(-1)

    def read(self, address: int, size: int) -> Bytes:
        """Copy bytes out; see `Driver`."""
        self._require(address, size)
        return self._dram[address : address + size].copy()

    def flush(self, address: int, size: int) -> None:
        """The simulated DRAM has no cache before it."""
        self._require(address, size)

    def invalidate(self, address: int, size: int) -> None:
        """The simulated DRAM has no cache before it."""
        self._require(address, size)

    def launch(self, address: int, count: int) -> None:
        """Remember what to run; `wait` runs it."""
        self._require(address, count * INSTRUCTION_BYTES)
        self._launched = (address, count)

    def wait(self, timeout_s: float) -> None:
        """Run what was launched. The simulator is not in a hurry: `timeout_s` changes nothing."""
        from targets.vta.simulator import simulate_stream

        if self._launched is None:
            raise DeviceError("nothing was launched", where=self.name)
        (address, count), self._launched = self._launched, None
        stream = self._dram[address : address + count * INSTRUCTION_BYTES].copy()
        known = stream.tobytes()
        checks = self._checks and known not in self._checked
        result = simulate_stream(
            stream.reshape(-1, INSTRUCTION_BYTES), self._dram, self.config, address=address,
            functional=True, checks=checks,
        )  # fmt: skip
        self.last = result
        if checks:
            try:
                result.check()
            except TargetError as error:
                raise DeviceError(error.message, where=self.name, hint=error.hint) from error
            self._checked.add(known)
        if not result.finished:
            raise DeviceTimeoutError(
                f"the program never ends: it stopped after {result.cycles} cycles without FINISH",
                where=self.name,
                hint="make the program anew; `tilewright vta simulate` says what is wrong with it",
            )

    def cycles(self) -> int | None:
        """Simulated cycles of the last program."""
        return None if self.last is None else self.last.cycles

    def close(self) -> None:
        """Forget the memory."""
        self._dram = np.zeros(_FIRST, np.uint8)

    def _require(self, address: int, size: int) -> None:
        if not self._heap.holds(address, size):
            raise DeviceError(
                f"bytes {address:#x} to {address + size:#x} are not allocated", where=self.name
            )


__all__ = ["SimulatedDriver"]
