"""Records to test with. None of their figures was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from schedules.records import Baseline, Check, Cpu, Measurement, Provenance, Record, target_facts
from schedules.workload import Workload
from targets import TargetSpec, get_target

VERSIONS = {"tilewright": "0.1", "tvm": "0.27", "tvm_ffi": "0.1.14", "llvm": "21.1"}
GENOA = "AuthenticAMD-25-17"
SAPPHIRE = "GenuineIntel-6-143"
DEFAULT = {"algorithm": "direct", "tile": [4, 16]}


def conv(channels: int = 64, **changes: Any) -> Workload:
    base = Workload(
        operator="conv2d",
        data=(1, 56, 56, channels),
        weight=(channels, channels, 3, 3),
        output=(1, 56, 56, channels),
        dtypes=("float32", "float32", "float32"),
        layout="NHWC",
        attributes={"strides": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1},
        epilogue=("add", "relu"),
    )
    return replace(base, **changes)


def dense(k: int = 512, n: int = 1000) -> Workload:
    f32 = ("float32", "float32", "float32")
    return Workload("dense", (1, k), (k, n), (1, n), f32, "row-major")


def cpu(name: str = "AMD EPYC", cpu_id: str = GENOA, **changes: Any) -> Cpu:
    base = Cpu(name, cpu_id, get_target("x86/zen4").features, vector_bits=512, cores=2)
    return replace(base, **changes)


def provenance(target: str | TargetSpec = "x86/zen4", **changes: Any) -> Provenance:
    base = Provenance(
        target=target_facts(get_target(target)),
        cpu=cpu(),
        threads=1,
        system="Linux 6.1 x86_64",
        versions=VERSIONS,
        runner="local",
        session="session-1",
        date="2026-11-22T07:00:00Z",
    )
    return replace(base, **changes)


def record(
    workload: Workload | None = None,
    *,
    ns: float = 100_000.0,
    baseline_ns: float | None = 200_000.0,
    target: str | TargetSpec = "x86/zen4",
    choice: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    return Record(
        workload=workload or conv(),
        choice=choice or {"algorithm": "direct", "tile": [6, 32]},
        structural_hash="1234",
        flops=2.312e8,
        measurement=Measurement.of([ns, ns + 1.0, ns - 1.0]),
        baseline=None if baseline_ns is None else Baseline(DEFAULT, baseline_ns),
        check=Check(1e-6, 1e-3),
        provenance=provenance(target, **changes),
    )
