"""A program on a device: its memory is filled once, then it runs as often as one likes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import DeviceError, InputError
from compiler.runtime.vta.driver import Driver
from targets.vta.program import Buffer, Program, require_config
from targets.vta.relocate import alignment, relocate

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Session:
    """One program in a device's memory.

    Args:
        driver: The device.
        program: The program.
        timeout_s: After which it counts as hanging, seconds.

    Raises:
        ProgramError: It was made for another configuration.
        DeviceError: The device has too little memory.
    """

    def __init__(self, driver: Driver, program: Program, timeout_s: float = 10.0) -> None:
        require_config(program.config, driver.config, where=driver.name)
        self._driver, self._program, self._timeout_s = driver, program, timeout_s
        self._lock = threading.Lock()
        size = program.dram_bytes
        self._base = driver.allocate(size, alignment(driver.config))
        image = program.image()
        moved = relocate(program.instructions, driver.config, self._base)
        begin = program.instruction_address
        image[begin : begin + moved.size] = moved.reshape(-1)
        driver.write(self._base, image)
        driver.flush(self._base, size)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the program once.

        Args:
            inputs: Packed contents of buffers of the role ``input``, by name.

        Returns:
            The buffers of the role ``output``, by name.

        Raises:
            InputError: An array does not fit its buffer, or one is missing.
            DeviceError: The device does not answer, or refuses the program.
        """
        program, driver = self._program, self._driver
        wanted = {b.name for b in program.buffers if b.role == "input"}
        if set(inputs) != wanted:
            odd = sorted(set(inputs) ^ wanted)
            raise InputError(
                f"buffer {odd[0]!r} is " + ("missing" if odd[0] in wanted else "no input"),
                where=driver.name,
            )
        with self._lock:
            for name, value in inputs.items():
                self._write(program.buffer(name), value)
            driver.launch(self._base + program.instruction_address, len(program.instructions))
            driver.wait(self._timeout_s)
            return {b.name: self._read(b) for b in program.buffers if b.role == "output"}

    def cycles(self) -> int | None:
        """Cycles of the last run; None if the device does not count them."""
        return self._driver.cycles()

    def close(self) -> None:
        """Give the memory back."""
        self._driver.free(self._base)

    def _write(self, item: Buffer, value: Array) -> None:
        if value.dtype != np.dtype(item.dtype) or value.shape != item.shape:
            raise InputError(
                f"buffer {item.name!r} is {item.dtype} {item.shape}, not {value.dtype} "
                f"{value.shape}",
                where=self._driver.name,
            )
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        self._driver.write(self._base + item.address, data)
        self._driver.flush(self._base + item.address, item.size)

    def _read(self, item: Buffer) -> Array:
        self._driver.invalidate(self._base + item.address, item.size)
        data = self._driver.read(self._base + item.address, item.size)
        if data.size != item.size:
            raise DeviceError(f"buffer {item.name!r} is cut off", where=self._driver.name)
        return data.view(item.dtype).reshape(item.shape)


__all__ = ["Session"]
