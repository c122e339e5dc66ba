"""Fixed data that looks like a measured network, so that texts and sums can be compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from compiler.report import Accuracy, Elsewhere, Environment, Figure, Report
from compiler.report.assemble import assemble
from compiler.report.profile import Profile
from compiler.stages import KernelInfo, StageRecord
from targets.spec import CacheSpec, TargetSpec

TARGET = TargetSpec(
    name="x86/test-core",
    family="x86",
    title="A core made up for tests, AVX2, 2 GHz",
    tvm=MappingProxyType({"kind": "llvm"}),
    features=frozenset({"avx2"}),
    cores=4,
    clock_hz=2e9,
    caches=(CacheSpec(1, 32768, 64, 8, 1),),
    memory_bytes=2**33,
    memory_bandwidth_bytes_per_s=20e9,
    peak_ops_per_cycle=MappingProxyType({"float32": 32.0}),
    vector_bits=256,
    vector_registers=16,
    available=True,
    status="",
)

ENVIRONMENT = Environment(
    cpu="Test Processor 9000",
    system="Linux 6.1 x86_64",
    threads=1,
    pinned_core=3,
    load_1min=Figure.measured(0.25, ""),
    date="2026-11-22T10:00:00+00:00",
    versions={"tilewright": "0.1.0", "python": "3.11.0", "apache-tvm": "0.27.0"},
)

KERNELS = (
    KernelInfo(
        "fused_conv2d_add_relu",
        "conv2d",
        ("conv2d", "add", "relu"),
        "conv2d",
        False,
        3.2e7,
        2e6,
        1e6,
        "float32",
        ("features.0", "features.3"),
        source="record",
        tier="same CPU",
        record="0123456789abcdef" * 4,
        choice={"algorithm": "direct", "tile": [6, 16], "unroll": 4, "pack": True},
        calls=2,
    ),
    KernelInfo(
        "fused_dense",
        "dense",
        ("matmul",),
        "matmul",
        False,
        4e6,
        8e6,
        4e3,
        "float32",
        source="default",
        choice={"algorithm": "packed"},
        miss="no record for this workload",
    ),
    KernelInfo(
        "cumsum",
        "other",
        ("cumsum",),
        "generic",
        True,
        0.0,
        1e5,
        1e5,
        "int64",
        why="no rule for a scan",
        source="fallback",
    ),
)

PROFILE = Profile(
    run_ms=(4.1, 4.0, 4.2, 3.9, 4.0),
    warmup=3,
    call_names=("fused_conv2d_add_relu", "cumsum", "fused_conv2d_add_relu", "fused_dense"),
    call_ms=(1.5, 0.25, 1.4, 0.75),
    replay_ms=(3.92, 3.9, 3.91, 4.3, 3.92),
    overhead_us=0.4,
    allocated_bytes=3_145_728,
    live_bytes=(1_048_576, 2_097_152, 3_145_728, 524_288),
)

STAGES = (
    StageRecord("frontend", "torch.export", 812.5),
    StageRecord("lower", "FuseOps", 93.25, "3 groups"),
    StageRecord("lower", "Schedule", 1250.0, "2 rules, 1 fallback"),
    StageRecord("build", "code generation", 2210.0),
)


def make_report(
    *,
    profile: Profile = PROFILE,
    kernels: tuple[KernelInfo, ...] = KERNELS,
    stages: tuple[StageRecord, ...] = STAGES,
    name: str = "tiny-net",
    planned: int = 3_000_000,
) -> Report:
    return assemble(
        profile,
        name=name,
        target=TARGET,
        environment=ENVIRONMENT,
        kernels=kernels,
        stages=stages,
        planned_activation_bytes=planned,
        process_rss=Figure.measured(300 * 2**20, "B"),
        sizes={"parameters": 8_400_000, "library": 123_456},
        accuracy=Accuracy(Figure.measured(3e-6, ""), Figure.measured(1.5e-7, ""), "PyTorch 2.13.0"),
        inputs=("x: float32[1, 3, 32, 32]",),
        outputs=("y: float32[1, 10]",),
        notes=("Times were made up.",),
    )


@dataclass(frozen=True)
class FakeCost:
    instructions: int
    core_cycles: float
    memory_cycles: float
    stall_cycles: float = 0.0
    misses: tuple[int, ...] = ()

    @property
    def cycles(self) -> float:
        return max(self.core_cycles + self.stall_cycles, self.memory_cycles)


#: One kernel bound by arithmetic, one by memory, one by its other instructions.
COSTS = {
    "fused_conv2d_add_relu": FakeCost(9_000_000, 2.9e6, 4e5, 1e5, (20_000, 1_500)),
    "fused_dense": FakeCost(1_200_000, 5e5, 1.5e6),
    "cumsum": FakeCost(400_000, 3e5, 2e4),
}
ELSEWHERE = Elsewhere(
    basis="estimate",
    estimator="llvm-mca 19, test-core",
    clock=Figure.estimated(2000, "MHz"),
    instructions=Figure.counted(10_600_000, "instructions"),
    cycles=Figure.estimated(4.8e6, "cycles"),
    time=Figure.estimated(2.4, "ms"),
)
ESTIMATED = Profile(
    run_ms=(2.4,),
    warmup=0,
    call_names=("fused_conv2d_add_relu", "fused_conv2d_add_relu", "fused_dense", "cumsum"),
    call_ms=(0.75, 0.75, 0.75, 0.15),
    replay_ms=(2.4,),
    overhead_us=0.0,
    allocated_bytes=0,
    live_bytes=(0,) * 4,
)


def make_estimated(
    elsewhere: Elsewhere = ELSEWHERE, profile: Profile = ESTIMATED, label: str = "estimated"
) -> Report:
    """A report of a device that is not this machine."""
    return assemble(
        profile,
        name="tiny-net",
        target=replace(TARGET, name="arm/test-core", family="arm"),
        environment=replace(ENVIRONMENT, pinned_core=None),
        kernels=KERNELS,
        stages=STAGES,
        planned_activation_bytes=3_000_000,
        process_rss=None,
        sizes={"parameters": 8_400_000, "runtime on the device": 5_000_000},
        accuracy=None,
        notes=("Times were made up.",),
        label=label,
        costs=COSTS,
        cache_bandwidths={"L1": 32e9, "L2": 16e9},
        elsewhere=elsewhere,
    )
