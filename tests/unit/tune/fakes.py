"""A synthetic template, tasks on it, and a measurer that computes latencies by a formula."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from compiler.tune.measure.base import Failed, Measured, Outcome
from compiler.tune.search import choice_key
from schedules.records import Cpu
from schedules.space import Choice, Decision, Space
from schedules.workload import Workload
from targets import TargetSpec, get_target

SPEC: TargetSpec = get_target("x86/zen4")
CPU = Cpu("A processor of the tests", "Tests-1-1", SPEC.features, SPEC.vector_bits, 2)
VERSIONS = {"tilewright": "0", "tvm": "0", "tvm_ffi": "0", "llvm": "0"}

ROWS = (1, 2, 3, 4, 6, 7, 8, 12)
VECTORS = (1, 2, 3, 4)
UNROLL = (1, 2, 4, 8)
ORDER = ("rows", "columns", "strip")
BLOCK = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class FakeTask:
    name: str
    workload: Workload
    calls: int
    flops: float
    bytes: float
    structural_hash: str = ""


def dense(m: int = 64, k: int = 256, n: int = 512, *, calls: int = 1, name: str = "") -> Any:
    workload = Workload(
        "dense", (m, k), (k, n), (m, n), ("float32", "float32", "float32"), "row-major"
    )
    size = 4.0 * (m * k + k * n + m * n)
    return FakeTask(name or f"dense_{m}x{k}x{n}", workload, calls, workload.flops, size)


@dataclass
class FakeKernels:
    """Two algorithms; `large` makes the first one's space too large to rank whole."""

    large: bool = False

    def spaces(self, workload: Workload, spec: TargetSpec) -> Sequence[Space]:
        if workload.operator != "dense":
            return ()
        decisions = [
            Decision("tile", tuple([r, v] for r in ROWS for v in VECTORS)),
            Decision("unroll", UNROLL),
            Decision("order", ORDER),
        ]
        default: Choice = {
            "algorithm": "direct",
            "tile": [4, 2],
            "unroll": 1,
            "order": "rows",
        }
        if self.large:
            decisions.append(Decision("block", BLOCK))
            default["block"] = 16
        blocked = Space(
            "blocked", (Decision("block", BLOCK),), {"algorithm": "blocked", "block": 32}
        )
        return (Space("direct", tuple(decisions), default), blocked)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        ideal = workload.flops / spec.peak_ops_per_cycle["float32"]
        if choice["algorithm"] == "blocked":
            return 4.0 * ideal
        rows, vectors = choice["tile"]
        if rows * vectors + vectors + 1 > spec.vector_registers:
            return math.inf
        return ideal * (1.2 + 4.0 / (rows * vectors))

    def least_flops(self, workload: Workload, spaces: Sequence[Space]) -> float:
        return workload.flops

    def function(self, task: FakeTask) -> Any:
        from schedules.tvm_adapter import te

        m, k = task.workload.data
        n = task.workload.output[-1]
        data = te.placeholder((m, k), name="data")
        weight = te.placeholder((k, n), name="weight")
        axis = te.reduce_axis((0, k), name="k")
        product = te.compute(
            (m, n), lambda i, j: te.sum(data[i, axis] * weight[axis, j], axis=axis), name="product"
        )
        return te.create_prim_func([data, weight, product])


def landscape(task: FakeTask, choice: Choice) -> float:
    """Latency in nanoseconds: best at 7x3 tiles, unrolled by 4, rows first, blocks of 64."""
    ideal = task.flops / (SPEC.peak_ops_per_cycle["float32"] * SPEC.clock_hz) * 1e9
    factor = 4.0
    if choice["algorithm"] == "direct":
        rows, vectors = choice["tile"]
        factor = 1.3 + 0.15 * abs(math.log2(rows / 7)) + 0.3 * abs(vectors - 3)
        factor += 0.1 * abs(math.log2(choice["unroll"] / 4)) + 0.2 * ORDER.index(choice["order"])
        factor += 0.12 * abs(math.log2(choice.get("block", 64) / 64))
    return ideal * factor


@dataclass
class FakeMeasurer:
    """Measures nothing: asks `answer`, or `landscape`, what the outcome is."""

    answer: Callable[[Any, Choice], Outcome | float] = landscape
    seconds: float = 0.0
    runner: str = "tests"
    cpu: Cpu = CPU
    asked: list[tuple[str, Choice]] = field(default_factory=list)
    batches: list[tuple[str, int]] = field(default_factory=list)
    after_batch: Callable[[int], None] = lambda count: None

    @property
    def candidates(self) -> list[tuple[str, str]]:
        """Each candidate once: a new best one is measured again beside the one that it beat."""
        return list(dict.fromkeys((name, choice_key(choice)) for name, choice in self.asked))

    def measure(
        self, task: Any, choices: Sequence[Choice], *, cancel: threading.Event
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for choice in choices:
            if cancel.is_set():
                outcomes.append(Failed("cancelled", "the run was ended"))
                continue
            if self.seconds:
                time.sleep(self.seconds)
            self.asked.append((task.name, dict(choice)))
            answer = self.answer(task, choice)
            if isinstance(answer, float):
                answer = Measured((answer, 0.99 * answer, 1.02 * answer), 1e-6, 1e-3, 0.5, 0.1)
            outcomes.append(answer)
        self.batches.append((task.name, len(choices)))
        self.after_batch(len(self.batches))
        return outcomes

    def close(self) -> None:
        pass
