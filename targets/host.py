"""The machine this process runs on, as a target.

Facts come from the system's own files; the clock and the memory bandwidth are measured, and
`extra` says so. Where the system tells nothing (no Linux, unreadable files) the result is the
x86-64 baseline that every such machine runs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from targets.cpuinfo import CpuFacts, cpu_id, read_cpu
from targets.errors import TargetError
from targets.families import FAMILY_FACTS
from targets.measure import measure_copy_bandwidth, measure_x86_clock_hz
from targets.spec import CacheSpec, TargetSpec

HOST_NAME = "x86/host"

_BASELINE = frozenset({"sse", "sse2"})
_V2 = _BASELINE | {"sse3", "ssse3", "sse4.1", "sse4.2", "crc32", "cx16", "sahf", "popcnt"}
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
_ZEN3 = _V3 | {"adx", "aes", "pclmul", "sha", "sse4a", "vaes", "vpclmulqdq"}
_SKYLAKE_X = _V3 | {"adx", "aes", "pclmul", "avx512f", "avx512bw", "avx512cd", "avx512dq",
                    "avx512vl"}  # fmt: skip
_ICELAKE = _SKYLAKE_X | {"avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512bitalg", "avx512vnni",
                         "avx512vpopcntdq", "gfni", "sha", "vaes", "vpclmulqdq"}  # fmt: skip

#: LLVM's processors, best first, each with the vendor that it is for ("" for any) and the
#: features that LLVM takes for granted on it. The host gets the first one whose features it
#: really has: a hypervisor may hide some that the silicon has.
CPU_FEATURES: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        "sapphirerapids": (
            "GenuineIntel",
            _ICELAKE | {"avx512bf16", "avx512fp16", "avxvnni", "amx-tile", "amx-int8", "amx-bf16"},
        ),
        "znver4": ("AuthenticAMD", _ZEN3 | _ICELAKE | {"avx512bf16"}),
        "icelake-server": ("GenuineIntel", _ICELAKE),
        "cascadelake": ("GenuineIntel", _SKYLAKE_X | {"avx512vnni"}),
        "skylake-avx512": ("", _SKYLAKE_X),
        "znver3": ("AuthenticAMD", _ZEN3),
        "haswell": ("GenuineIntel", _V3 | {"pclmul"}),
        "x86-64-v3": ("", _V3),
        "x86-64-v2": ("", _V2),
        "x86-64": ("", _BASELINE),
    }
)

_SOURCES = (
    "/proc/cpuinfo, /proc/meminfo and /sys/devices/system/cpu of this machine",
    "Peak rates: estimated from the features, with two vector units of the datapath's width",
)

#: Assumed where the system gives no figure.
_FALLBACK_CLOCK_HZ = 2.5e9
_FALLBACK_BANDWIDTH = 10e9
_FALLBACK_CACHES = (CacheSpec(1, 32 << 10, 64, 8, 1), CacheSpec(2, 256 << 10, 64, 4, 1))
_FALLBACK_MEMORY_BYTES = 4 << 30


def is_x86() -> bool:
    """Whether this machine is a 64-bit x86."""
    return platform.machine().lower() in ("x86_64", "amd64")


@cache
def host_target() -> TargetSpec:
    """This machine as the target ``x86/host``; read and measured once a process.

    The first call takes about 0.1 s. `extra` says where the clock and bandwidth come from.

    Raises:
        TargetError: This machine is no 64-bit x86.
    """
    _require_x86()
    cpu = read_cpu()
    clock = measure_x86_clock_hz()
    last_cache = max((c.size_bytes for c in cpu.caches), default=0)
    bandwidth = measure_copy_bandwidth(min(max(2 * last_cache, 32 << 20), 128 << 20))
    return describe_host(cpu, measured_clock_hz=clock, measured_bandwidth=bandwidth)


def host_features() -> frozenset[str]:
    """The ISA features of this machine's processor, LLVM's names; empty on another ISA."""
    return (_host_cpu().features or _BASELINE) if is_x86() else frozenset()


def cpu_name() -> str:
    """The processor's name for people, with its micro-architecture where that is known."""
    if not is_x86():
        return platform.processor() or platform.machine() or "unknown processor"
    return _title(_host_cpu())


def missing_features(spec: TargetSpec) -> tuple[str, ...]:
    """The features that code for `spec` may use and this machine does not have, sorted."""
    return tuple(sorted(spec.features - host_features()))


def describe_host(
    cpu: CpuFacts,
    *,
    measured_clock_hz: float | None = None,
    measured_bandwidth: float | None = None,
) -> TargetSpec:
    """The target ``x86/host`` from what is known about a processor.

    Args:
        cpu: What the system says; every fact may be missing.
        measured_clock_hz: The clock as measured, hertz.
        measured_bandwidth: One core's copy bandwidth as measured, bytes per second.
    """
    features = cpu.features or _BASELINE
    mcpu = _choose_mcpu(cpu.vendor, features)
    tvm: dict[str, Any] = {"kind": "llvm", "mtriple": _triple(), "mcpu": mcpu}
    extra_features = sorted(features - CPU_FEATURES[mcpu][1])
    if extra_features:
        tvm["mattr"] = [f"+{name}" for name in extra_features]
    cores = cpu.cores or os.cpu_count() or 1
    tvm["num-cores"] = cores

    clock, clock_source = _first(
        (measured_clock_hz, "measured: a chain of additions on one core"),
        (cpu.max_clock_hz, "reported: the highest clock of cpufreq"),
        (cpu.reported_clock_hz, "reported: 'cpu MHz' in /proc/cpuinfo"),
        (_FALLBACK_CLOCK_HZ, "assumed: the system gives no clock"),
    )
    bandwidth, bandwidth_source = _first(
        (measured_bandwidth, "measured: one core copying a buffer larger than its caches"),
        (_FALLBACK_BANDWIDTH, "assumed: there was no memory to measure it with"),
    )
    vector_bits = 512 if "avx512f" in features else 256 if "avx" in features else 128
    datapath = _datapath_bits(cpu, vector_bits)
    status = "compiles and runs"
    sources: tuple[str, ...] = _SOURCES
    if not cpu.features:
        status = "compiles and runs, for the x86-64 baseline only: the system names no features"
        sources = ("the x86-64 baseline; this system names no features",)
    return TargetSpec(
        name=HOST_NAME,
        family="x86",
        title=f"this machine: {_title(cpu)}",
        tvm=tvm,
        features=features,
        cores=cores,
        clock_hz=clock,
        caches=cpu.caches or _FALLBACK_CACHES,
        memory_bytes=cpu.memory_bytes or _FALLBACK_MEMORY_BYTES,
        memory_bandwidth_bytes_per_s=bandwidth,
        peak_ops_per_cycle=_peaks(features, datapath),
        vector_bits=vector_bits,
        vector_registers=32 if "avx512f" in features else 16,
        available=FAMILY_FACTS["x86"].available,
        status=status,
        sources=sources,
        extra={
            "clock_source": clock_source,
            "memory_bandwidth_source": bandwidth_source,
            "cpu": cpu.model_name,
            "cpu_ids": [cpu_id(cpu)] if cpu.vendor else [],
        },
        vector_datapath_bits=0 if datapath == vector_bits else datapath,
    )


@cache
def _host_cpu() -> CpuFacts:
    return read_cpu(Path("/"))


def _require_x86() -> None:
    if not is_x86():
        raise TargetError(
            f"this machine is no 64-bit x86 but {platform.machine() or 'unknown'!r}",
            where=HOST_NAME,
            hint="name a concrete device, for example 'x86/generic-avx2'",
        )


def _triple() -> str:
    system = platform.system()
    ends = {"Darwin": "apple-darwin", "Windows": "pc-windows-msvc"}
    return f"x86_64-{ends.get(system, 'unknown-linux-gnu')}"


def _choose_mcpu(vendor: str, features: frozenset[str]) -> str:
    return next(
        name
        for name, (only_for, needed) in CPU_FEATURES.items()
        if only_for in ("", vendor) and needed <= features | _BASELINE
    )


def _micro_architecture(cpu: CpuFacts) -> str:
    """A name for people; makers often hide it behind a bare brand on virtual machines."""
    if cpu.vendor == "AuthenticAMD" and "avx512f" in cpu.features:
        return "Zen 4" if cpu.family == 0x19 else "Zen 5" if cpu.family == 0x1A else ""
    if cpu.vendor == "GenuineIntel" and "amx-tile" in cpu.features:
        return "Sapphire Rapids or later"
    return ""


def _title(cpu: CpuFacts) -> str:
    name = cpu.model_name or "x86-64 processor"
    architecture = _micro_architecture(cpu)
    return f"{name} ({architecture})" if architecture else name


def _datapath_bits(cpu: CpuFacts, vector_bits: int) -> int:
    """Width of the vector units: Zen 4 runs AVX-512 in two halves, Zen 1 ran AVX so."""
    if cpu.vendor == "AuthenticAMD" and cpu.family == 0x19:
        return min(vector_bits, 256)
    if cpu.family in (0x17, 0x18) and cpu.vendor in ("AuthenticAMD", "HygonGenuine"):
        return vector_bits if cpu.family == 0x17 and cpu.model >= 0x30 else 128
    return vector_bits


def _peaks(features: frozenset[str], datapath_bits: int) -> dict[str, float]:
    """Operations per cycle and core with two vector units of this width, a usual server core."""
    multiply_adds = 2 * datapath_bits // 32  # float32 lanes of both units
    f32 = 2.0 * multiply_adds if features >= {"fma"} else float(multiply_adds)
    peaks = {"float64": f32 / 2, "float32": f32}
    if "amx-int8" in features:
        peaks["int8"] = peaks["uint8"] = 2048.0
    elif features & {"avx512vnni", "avxvnni"}:
        peaks["int8"] = peaks["uint8"] = 4 * f32
    elif "avx2" in features:
        peaks["int8"] = peaks["uint8"] = 4 * f32 / 3  # multiply, widen, add: three instructions
    if "amx-bf16" in features:
        peaks["bfloat16"] = 1024.0
    elif "avx512bf16" in features:
        peaks["bfloat16"] = 2 * f32
    if "avx512fp16" in features:
        peaks["float16"] = 2 * f32
    return peaks


def _first(*choices: tuple[float | None, str]) -> tuple[float, str]:
    """The first choice that has a value, with where it came from."""
    return next((value, source) for value, source in choices if value)
