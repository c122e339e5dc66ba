"""Benchmark results with made-up figures, for the tests of the writers."""

from __future__ import annotations

from tools.bench.contenders import CONTENDERS, OURS
from tools.bench.machine import Machine
from tools.bench.results import BenchResult, ContenderResult, NetResult, Settings
from tools.bench.stats import ratio_spread, spread


def measured(key: str, round_ms: list[float], ours_ms: list[float] | None) -> ContenderResult:
    return ContenderResult(
        key,
        CONTENDERS[key].label,
        "measured",
        latency_ms=spread(round_ms),
        ratio=ratio_spread(round_ms, ours_ms) if ours_ms is not None else None,
        round_ms=round_ms,
        max_abs_error=1.5e-6,
        max_rel_error=2.5e-7,
        prepare_seconds=12.345,
        facts={
            "version": "1.2.3",
            "precision": "f32",
            "threads": "threads = 1",
            "settings": "all | of them",
            "cpus": [1],
        },
        threads={"existing": 9, "busy": 1, "busiest_share": 0.999},
    )


def failed(key: str, error: str) -> ContenderResult:
    return ContenderResult(key, CONTENDERS[key].label, "failed", error)


def make_result(*nets: NetResult) -> BenchResult:
    return BenchResult(
        date="2026-11-22T10:00:00+00:00",
        revision="abc123",
        machine=Machine("Example CPU 9000", 2, ("avx2", "fma"), "Linux 6", "3.11.7"),
        settings=Settings(1, (1,), 3, "x86"),
        nets=list(nets),
    )


def two_nets() -> BenchResult:
    """Ours beside eager and ONNX Runtime, which failed on the second network."""
    ours = [10.0, 10.0, 10.0]
    first = NetResult(
        "resnet18",
        ["float32 [1, 3, 224, 224]"],
        11_689_512,
        [
            measured(OURS, ours, None),
            measured("torch", [20.0, 21.0, 19.0], ours),
            measured("ort", [12.0, 12.0, 12.0], ours),
        ],
        (0.5, 1.25),
        0.034,
    )
    second = NetResult(
        "minilm_l6",
        ["int64 [1, 128]"],
        22_600_000,
        [
            measured(OURS, ours, None),
            measured("torch", [5.0, 5.0, 5.0], ours),
            failed("ort", "ONNX export: RuntimeError:\nno such | operator"),
        ],
        (0.1, 1.0),
        0.0,
    )
    return make_result(first, second)
