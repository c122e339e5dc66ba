"""The machine that figures come from: processor, load, and who else used the measured CPU."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the results stand beside.

    Attributes:
        cpu: The processor's name, with the family's code name where a virtual machine hides it.
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


_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
)


def this_machine(cpuinfo: str | None = None) -> Machine:
    """Read it from ``/proc/cpuinfo``, or from a text in the same form."""
    text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    fields = dict(re.findall(r"^([^\t:]+?)\s*: ?(.*)$", text, re.MULTILINE))
    flags = set(fields.get("flags", "").split())
    name = fields.get("model name", platform.processor() or platform.machine())
    if fields.get("cpu family"):
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return Machine(
        cpu=" ".join(name.split()),
        logical_cpus=len(os.sched_getaffinity(0)),
        isa=tuple(flag for flag in _FLAGS if flag in flags),
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
