"""What Linux says about an x86 processor: `/proc/cpuinfo`, `/proc/meminfo` and sysfs.

`read_cpu` takes the root of the file system, so tests give it a folder with another machine's
files. Nothing here fails on a missing or odd file: an unknown fact is 0, "" or empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from targets.spec import CacheSpec

#: Linux's names of the features that compilers use without being asked, and LLVM's names.
LINUX_TO_LLVM: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sse2": ("sse", "sse2"),
        "pni": ("sse3",),
        "ssse3": ("ssse3",),
        "sse4_1": ("sse4.1",),
        "sse4_2": ("sse4.2", "crc32"),
        "sse4a": ("sse4a",),
        "cx16": ("cx16",),
        "lahf_lm": ("sahf",),
        "popcnt": ("popcnt",),
        "movbe": ("movbe",),
        "abm": ("lzcnt",),
        "bmi1": ("bmi",),
        "bmi2": ("bmi2",),
        "adx": ("adx",),
        "aes": ("aes",),
        "pclmulqdq": ("pclmul",),
        "sha_ni": ("sha",),
        "avx": ("avx",),
        "f16c": ("f16c",),
        "fma": ("fma",),
        "avx2": ("avx2",),
        "avx_vnni": ("avxvnni",),
        "avx512f": ("avx512f",),
        "avx512bw": ("avx512bw",),
        "avx512cd": ("avx512cd",),
        "avx512dq": ("avx512dq",),
        "avx512vl": ("avx512vl",),
        "avx512ifma": ("avx512ifma",),
        "avx512vbmi": ("avx512vbmi",),
        "avx512_vbmi2": ("avx512vbmi2",),
        "avx512_bitalg": ("avx512bitalg",),
        "avx512_vpopcntdq": ("avx512vpopcntdq",),
        "avx512_vnni": ("avx512vnni",),
        "avx512_bf16": ("avx512bf16",),
        "avx512_fp16": ("avx512fp16",),
        "gfni": ("gfni",),
        "vaes": ("vaes",),
        "vpclmulqdq": ("vpclmulqdq",),
        "amx_tile": ("amx-tile",),
        "amx_int8": ("amx-int8",),
        "amx_bf16": ("amx-bf16",),
        "amx_fp16": ("amx-fp16",),
    }
)


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """An x86 processor as the system describes it.

    Attributes:
        model_name: The maker's text, "" if unknown.
        vendor: ``GenuineIntel``, ``AuthenticAMD``, … or "".
        family: The CPUID family, 0 if unknown.
        model: The CPUID model, 0 if unknown.
        features: LLVM's names; empty if the system tells nothing.
        cores: Physical cores this process's machine has, 0 if unknown.
        max_clock_hz: Highest clock that cpufreq allows, 0 if unknown.
        reported_clock_hz: The ``cpu MHz`` line; on a virtual machine the clock of the time
            stamp counter. 0 if unknown.
        caches: Data and unified caches of the first core.
        memory_bytes: Main memory, 0 if unknown.
    """

    model_name: str
    vendor: str
    family: int
    model: int
    features: frozenset[str]
    cores: int
    max_clock_hz: float
    reported_clock_hz: float
    caches: tuple[CacheSpec, ...]
    memory_bytes: int


def cpu_id(facts: CpuFacts) -> str:
    """``vendor-family-model`` in decimal, as ``GenuineIntel-6-143``; "" if the system hides it.

    Virtual machines often hide a processor's name, and never this.
    """
    return f"{facts.vendor}-{facts.family}-{facts.model}" if facts.vendor else ""


def read_cpu(root: Path = Path("/")) -> CpuFacts:
    """Read what the system under `root` says about its processor and memory."""
    blocks = _cpuinfo_blocks(_read(root / "proc/cpuinfo"))
    first: Mapping[str, str] = blocks[0] if blocks else {}
    flags = set(first.get("flags", "").split())
    sysfs = root / "sys/devices/system/cpu/cpu0"
    threads_a_core = _threads_a_core(first)
    kilohertz = _number(_read(sysfs / "cpufreq/cpuinfo_max_freq"))
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return CpuFacts(
        model_name=" ".join(first.get("model name", "").split()),
        vendor=first.get("vendor_id", ""),
        family=int(_number(first.get("cpu family", ""))),
        model=int(_number(first.get("model", ""))),
        features=frozenset(n for flag in flags for n in LINUX_TO_LLVM.get(flag, ())),
        cores=_physical_cores(blocks),
        max_clock_hz=kilohertz * 1e3,
        reported_clock_hz=_number(first.get("cpu MHz", "")) * 1e6,
        caches=_caches(sysfs / "cache", threads_a_core),
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(text: str) -> float:
    try:
        return max(0.0, float(text.strip()))
    except ValueError:
        return 0.0


def _cpuinfo_blocks(text: str) -> list[dict[str, str]]:
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        lines = (line.partition(":") for line in block.splitlines() if ":" in line)
        entries = {key.strip(): value.strip() for key, _, value in lines}
        if "processor" in entries:
            blocks.append(entries)
    return blocks


def _physical_cores(blocks: list[dict[str, str]]) -> int:
    """Distinct (socket, core) pairs; logical processors where the system gives no core ids."""
    pairs = {(b.get("physical id", "0"), b["core id"]) for b in blocks if "core id" in b}
    return len(pairs) or len(blocks)


def _threads_a_core(block: Mapping[str, str]) -> int:
    siblings, cores = _number(block.get("siblings", "")), _number(block.get("cpu cores", ""))
    return max(1, round(siblings / cores)) if cores else 1


def _caches(folder: Path, threads_a_core: int) -> tuple[CacheSpec, ...]:
    found: dict[int, CacheSpec] = {}
    for index in sorted(folder.glob("index*")):
        size = _size_bytes(_read(index / "size"))
        level = int(_number(_read(index / "level")))
        if _read(index / "type").strip() not in ("Data", "Unified") or not size or not level:
            continue
        threads = _listed(_read(index / "shared_cpu_list"))
        found[level] = CacheSpec(
            level=level,
            size_bytes=size,
            line_bytes=int(_number(_read(index / "coherency_line_size"))) or 64,
            ways=int(_number(_read(index / "ways_of_associativity"))),
            shared_by_cores=max(1, threads // threads_a_core),
        )
    return tuple(found[level] for level in sorted(found))


def _size_bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+)([KMG]?)\s*", text)
    return int(match[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]] if match else 0


def _listed(text: str) -> int:
    """How many processors a list such as ``0-3,8`` names."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return sum(int(high or low) - int(low) + 1 for low, high in ranges)
