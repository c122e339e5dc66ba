"""Boards on this machine that a stand-in for ssh reaches, also emulated ones; emulation itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

QEMU, QEMU_32 = shutil.which("qemu-aarch64"), shutil.which("qemu-arm")
ROOT, ROOT_32 = Path("/usr/aarch64-linux-gnu"), Path("/usr/arm-linux-gnueabihf")
_MCA = shutil.which("llvm-mca-19") or shutil.which("llvm-mca")


#: Why code for ARM, code for 32-bit ARM, and estimates cannot be had here; empty if they can.
CANNOT_EMULATE = (
    ""
    if QEMU is not None and (ROOT / "lib/libc.so.6").exists()
    else "needs Debian's qemu-user, libc6-arm64-cross and libstdc++6-arm64-cross"
)
CANNOT_EMULATE_32 = (
    ""
    if QEMU_32 is not None and (ROOT_32 / "lib/libc.so.6").exists()
    else "needs Debian's qemu-user and libc6-armhf-cross"
)
CANNOT_COUNT_CYCLES = "" if _MCA is not None else "needs Debian's llvm-19"
CANNOT_ESTIMATE = CANNOT_EMULATE or CANNOT_COUNT_CYCLES


def _skip_if(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(reason), reason=reason or "all is there")


#: Marks of tests that need these.
emulates, emulates_32 = _skip_if(CANNOT_EMULATE), _skip_if(CANNOT_EMULATE_32)
counts_cycles, estimates = _skip_if(CANNOT_COUNT_CYCLES), _skip_if(CANNOT_ESTIMATE)
_CPUS_32 = ("cortex-a7",)
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


def emulate(folder: Path, cpu: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a deployment's program on an emulated processor.

    Args:
        folder: The deployment, for 64-bit ARM, or for 32-bit ARM if the processor is one.
        cpu: A processor of QEMU's.
        words: What the program takes.
    """
    program = [QEMU, "-cpu", cpu, "-L", ROOT]
    if cpu in _CPUS_32:
        program = [QEMU_32, "-cpu", cpu, "-L", ROOT_32]
    command = [*map(str, program), str(folder / "run"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def selftest(folder: Path, cpu: str) -> dict[str, Any]:
    """What a deployment's self-test says on an emulated processor; it must pass."""
    done = emulate(folder, cpu, str(folder), "--selftest", "--json")
    assert done.returncode == 0, (cpu, done.stdout, done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)["selftest"]
    return result


def lacks_an_instruction(folder: Path, cpu: str) -> bool:
    """Whether a deployment's self-test ends at an instruction that a processor does not have."""
    # In a shell, and in Python.
    endings = (128 + signal.SIGILL, -signal.SIGILL)
    return emulate(folder, cpu, str(folder), "--selftest").returncode in endings


__all__ = [
    "CANNOT_COUNT_CYCLES",
    "CANNOT_EMULATE",
    "CANNOT_EMULATE_32",
    "CANNOT_ESTIMATE",
    "QEMU",
    "ROOT",
    "Boards",
    "counts_cycles",
    "emulate",
    "emulates",
    "emulates_32",
    "estimates",
    "lacks_an_instruction",
    "selftest",
]
