"""What a VTA has to offer to run programs: memory, caches, a start button and a counter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from targets.vta import VtaConfig

    Bytes = npt.NDArray[np.uint8]


class Driver(Protocol):
    """One VTA.

    Addresses are physical, in bytes: what the hardware's instructions name. Between a write by
    the CPU and a launch stands a `flush`, between the end of a program and a read by the CPU
    an `invalidate`.

    Attributes:
        name: For messages.
        config: The widths and sizes that the hardware was built with.
        label: How its cycle counts come about: ``measured`` or ``simulated``.
    """

    name: str
    config: VtaConfig
    label: str

    def allocate(self, size: int, align: int = 4096) -> int:
        """Contiguous memory, zero.

        Args:
            size: Bytes.
            align: What its address is a multiple of, bytes.

        Returns:
            Its physical address.

        Raises:
            DeviceError: There is not as much.
        """

    def free(self, address: int) -> None:
        """Give memory back.

        Raises:
            DeviceError: Nothing was allocated at this address.
        """

    def write(self, address: int, data: Bytes) -> None:
        """Copy bytes into allocated memory.

        Raises:
            DeviceError: A part of it is not allocated.
        """

    def read(self, address: int, size: int) -> Bytes:
        """Copy bytes out of allocated memory.

        Raises:
            DeviceError: A part of it is not allocated.
        """

    def flush(self, address: int, size: int) -> None:
        """Make what the CPU wrote visible to the hardware."""

    def invalidate(self, address: int, size: int) -> None:
        """Make what the hardware wrote visible to the CPU."""

    def launch(self, address: int, count: int) -> None:
        """Start a program and return.

        Args:
            address: Of its first instruction.
            count: Instructions.
        """

    def wait(self, timeout_s: float) -> None:
        """Wait for the end of the program that was launched last.

        Raises:
            DeviceTimeoutError: It did not end in time.
            DeviceError: The program breaks the hardware's rules.
        """

    def cycles(self) -> int | None:
        """Cycles that the last program took; None if the hardware does not count them."""

    def close(self) -> None:
        """Give everything back."""


class Heap:
    """Places in one contiguous piece of memory: first fit.

    Args:
        start: Its address.
        size: Its bytes.
    """

    def __init__(self, start: int, size: int) -> None:
        self.start, self.end = start, start + size
        self._taken: dict[int, int] = {}

    def take(self, size: int, align: int) -> int | None:
        """An address with room for `size` bytes; None if there is none."""
        place = -(-self.start // align) * align
        for address, end in sorted(self._taken.items()):
            if place + size <= address:
                break
            place = max(place, -(-end // align) * align)
        if place + size > self.end:
            return None
        self._taken[place] = place + size
        return place

    def give_back(self, address: int) -> bool:
        """Whether something was taken at this address, which is free now."""
        return self._taken.pop(address, None) is not None

    def holds(self, address: int, size: int) -> bool:
        """Whether these bytes lie in one piece that was taken."""
        return any(a <= address and address + size <= end for a, end in self._taken.items())


__all__ = ["Driver", "Heap"]
