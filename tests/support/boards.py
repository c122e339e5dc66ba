"""Boards on this machine that a stand-in for ssh reaches, also emulated ones."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

QEMU = shutil.which("qemu-aarch64")
ROOT = Path("/usr/aarch64-linux-gnu")
#: Why nothing can be emulated here; empty if it can.
CANNOT_EMULATE = (
    ""
    if QEMU is not None and (ROOT / "lib/libc.so.6").exists()
    else "needs Debian's qemu-user, libc6-arm64-cross and libstdc++6-arm64-cross"
)
_CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


class Boards:
    """Boards that ssh reaches while `patch` lasts.

    Args:
        folder: An empty one, for their homes.
        patch: For the environment.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "ssh"
        script = Path(__file__).with_name("ssh.py")
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {script} "$@"\n')
        program.chmod(0o755)
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        patch.setenv("BOARDS", str(folder))
        self.are({})

    def are(self, changes: Mapping[str, str]) -> None:
        """What is to be replaced in commands that boards run: nothing for this machine."""
        (self.folder / "board.json").write_text(json.dumps(dict(changes)))

    def emulate(self, cpu: str = "cortex-a72", *, also: Mapping[str, str] | None = None) -> None:
        """Boards are ARM from here on.

        Args:
            cpu: A processor of QEMU's.
            also: Further replacements.
        """
        cpuinfo = self.folder / "cpuinfo"
        cpuinfo.write_text(_CPUINFO)
        run = f"{QEMU} -cpu {cpu} -L {ROOT} ./run"
        self.are(
            {"uname -m": "echo aarch64", "/proc/cpuinfo": str(cpuinfo), "./run": run,
             "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "echo ondemand",
             **(also or {})}
        )  # fmt: skip

    def add(self, *names: str) -> None:
        """Switch boards on."""
        for name in names:
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / "down").unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """As if a board's plug were pulled."""
        (self.folder / name / "down").touch()


__all__ = ["CANNOT_EMULATE", "QEMU", "ROOT", "Boards"]
