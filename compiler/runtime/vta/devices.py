"""The device that a user names: the simulator, a board, or a driver of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from compiler.runtime.vta.board import BoardDriver, read_board
from compiler.runtime.vta.driver import Driver

if TYPE_CHECKING:
    from targets.vta import VtaConfig

#: What `load(device=...)` takes.
Device: TypeAlias = "str | Path | Driver | None"
SIMULATOR = "simulator"
#: Seconds after which a program of a driver of the user's own counts as hanging.
TIMEOUT_S = 10.0


def open_device(device: Device, config: VtaConfig) -> tuple[Driver | None, float]:
    """The driver of a device, None for the simulator, and the seconds a program may take.

    Args:
        device: ``"simulator"`` or None, the name of a board, the path of its TOML file, or a
            driver.
        config: What the programs were made for, which a board is taken to have.

    Raises:
        DeviceError: There is no such device, or it cannot be opened.
    """
    if device is None or device == SIMULATOR:
        return None, TIMEOUT_S
    if isinstance(device, (str, Path)):
        board = read_board(device)
        return BoardDriver.open(board, config), board.timeout_s
    return device, TIMEOUT_S


__all__ = ["SIMULATOR", "TIMEOUT_S", "Device", "open_device"]
