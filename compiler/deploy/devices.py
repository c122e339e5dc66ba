"""The user's boards by name, kept in ``$XDG_CONFIG_HOME/tilewright/devices.json``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from compiler.deploy.board import Board
from compiler.errors import DeployError, FileError
from compiler.package.atomic import write_file

_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")


def devices_file() -> Path:
    """Where the boards are kept."""
    root = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(root) / "tilewright" / "devices.json"


def read_devices() -> dict[str, Board]:
    """The boards by name.

    Raises:
        FileError: The file cannot be read, or is damaged.
    """
    path = devices_file()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): Board(str(b["host"]), str(b["folder"])) for name, b in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"the list of devices cannot be read: {error}",
            where=str(path),
            hint="mend it, or remove the file and add the devices again",
        ) from error


def add_device(name: str, board: Board) -> None:
    """Keep a board under a name; one of that name is replaced.

    Raises:
        DeployError: The name will not do.
        FileError: The list cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise DeployError(
            f"{name!r} is no name of a device", where="devices",
            hint="give letters, digits, dots, dashes",
        )  # fmt: skip
    _write({**read_devices(), name: board})


def remove_device(name: str) -> None:
    """Forget a board.

    Raises:
        DeployError: There is none of this name.
        FileError: The list cannot be read or written.
    """
    devices = read_devices()
    find_device(name, devices)
    _write({key: board for key, board in devices.items() if key != name})


def find_device(name: str, devices: Mapping[str, Board] | None = None) -> Board:
    """The board of a name, or at an address (``user@host``).

    Raises:
        DeployError: There is none of this name.
        FileError: The list cannot be read.
    """
    known = read_devices() if devices is None else devices
    if name in known:
        return known[name]
    if "@" in name:
        return Board.parse(name)
    raise DeployError(
        f"there is no device {name!r}",
        where="devices",
        hint=f"known: {', '.join(known) or 'none'}; add one: tilewright devices add NAME user@host",
    )


def _write(devices: Mapping[str, Board]) -> None:
    path = devices_file()
    text = json.dumps(
        {name: {"host": b.host, "folder": b.folder} for name, b in sorted(devices.items())},
        indent=1,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"the folder cannot be made: {error.strerror}", where=str(path.parent)
        ) from error
    data = text.encode() + b"\n"

    def write(file: BinaryIO) -> None:
        file.write(data)

    write_file(path, write)


__all__ = ["add_device", "devices_file", "find_device", "read_devices", "remove_device"]
