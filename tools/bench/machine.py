"""The machine that figures come from: processor, load, and who else used the measured CPU."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from targets import cpu_name, host_features

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the results stand beside.

    Attributes:
        cpu: The processor's name.
        logical_cpus: CPUs that this process may use.
        isa: The widest instruction sets that matter here.
        system: Kernel and C library.
        python: Version of Python.
    """

    cpu: str
    logical_cpus: int
    isa: tuple[str, ...]
    system: str
    python: str


#: The instruction sets worth naming beside a figure; LLVM's names.
_FEATURES = (
    "avx2",
    "fma",
    "avx512f",
    "avx512vnni",
    "avx512bf16",
    "avxvnni",
    "amx-bf16",
    "amx-int8",
)


def this_machine() -> Machine:
    """What is known of the machine that this runs on."""
    features = host_features()
    return Machine(
        cpu=cpu_name(),
        logical_cpus=len(os.sched_getaffinity(0)),
        isa=tuple(name for name in _FEATURES if name in features),
        system=f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        python=platform.python_version(),
    )


def slug(cpu: str) -> str:
    """The processor's name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-")


def busy_seconds(cpus: tuple[int, ...], stat: str | None = None) -> float:
    """Seconds that these CPUs have worked since boot, what a hypervisor took away included."""
    text = Path("/proc/stat").read_text() if stat is None else stat
    total = 0
    for line in text.splitlines():
        name, *values = line.split()
        if name in {f"cpu{cpu}" for cpu in cpus}:
            ticks = [int(value) for value in values]
            # user nice system idle iowait irq softirq steal (guest is part of user already)
            total += sum(ticks[:3]) + sum(ticks[5:8])
    return total / _TICKS


def process_seconds(pid: int) -> float:
    """CPU seconds that a process has used; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The name in parentheses may hold blanks; what follows it does not.
    values = text.rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / _TICKS
