"""Measures candidates without their device: in emulation, by a model of the processor.

It takes the place of a device in a search. What a candidate costs is estimated, and records of it
say so.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from compiler.deploy.runner import build_kernel_program
from compiler.errors import InputError
from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.counting import (
    Block,
    cache_option,
    counter_plugin,
    emulator,
    read_blocks,
)
from compiler.estimate.memory import REVISION, Traffic, combined_cycles, stall_cycles
from compiler.linker import find_linker
from compiler.tune.measure.base import Failed, FailureKind, Measured, Outcome, Rejected
from compiler.tune.measure.channel import Message
from compiler.tune.measure.confine import usable_cpus
from compiler.tune.measure.create import create_measurer
from compiler.tune.measure.pipeline import PipelineMeasurer
from compiler.tune.measure.processes import KERNELS, Worker, WorkerLostError, WorkerServer
from compiler.tune.measure.runner import ReferenceFailedError
from compiler.tune.measure.settings import Limits
from compiler.tune.measure.stages import Cancelled
from compiler.tune.measure.work import write_spec
from schedules.records import Cpu
from schedules.records.record import Label
from schedules.space import Choice
from targets.spec import TargetSpec

#: Emulation is slower than a processor, by an uncertain factor.
LIMITS = Limits(run_s=60.0, memory_bytes=4 << 30)
#: Tasks whose inputs and reference outputs are kept at hand by each worker.
_TASKS_KEPT = 3
#: Beyond the candidate's own limit: packing weights, comparing.
_MARGIN_S = 60.0
#: The reference kernel is simple and slow.
_REFERENCE_S = 600.0
#: A candidate may take this many times as long in emulation as the fastest one did, and these
#: seconds more.
_PATIENCE, _LEAST_S = 20.0, 10.0


@dataclass(frozen=True, slots=True)
class KernelEstimate:
    """What one call of a kernel costs.

    Attributes:
        instructions: Counted.
        core_cycles: Of the pipelines, if all data is in the first cache; estimated.
        traffic: Accesses to memory, counted, and misses, simulated.
        stall_cycles: That reading and writing adds; estimated.
        cycles: All together; estimated.
    """

    instructions: int
    core_cycles: float
    traffic: Traffic
    stall_cycles: float
    cycles: float


@dataclass(frozen=True, slots=True)
class Counted:
    """What ran in one call of a candidate whose outputs were the reference's.

    Attributes:
        blocks: The blocks of code, with simulated misses.
        max_relative_error: Of its outputs, against the reference's.
        tolerance: The largest one accepted.
        seconds: That emulation took; they say nothing about the kernel.
    """

    blocks: tuple[Block, ...]
    max_relative_error: float
    tolerance: float
    seconds: float


def estimate_blocks(
    blocks: Sequence[Block], costs: BlockCosts, processor: TargetSpec
) -> KernelEstimate:
    """What code costs that was counted with simulated caches.

    Args:
        blocks: What ran, with their misses.
        costs: Cycles of blocks.
        processor: Whose caches were simulated.

    Raises:
        EmulationError: llvm-mca fails.
    """
    found = costs.costs(blocks)
    core = sum(cost.cycles for cost in found)
    bound = sum(cost.bound for cost in found)
    instructions = sum(block.count * block.instructions for block in blocks)
    traffic = Traffic.of(blocks)
    stalls = stall_cycles(traffic, processor)
    return KernelEstimate(
        instructions, core, traffic, stalls,
        combined_cycles(core, bound, stalls, in_order=costs.model.in_order),
    )  # fmt: skip


def check_estimable(spec: TargetSpec) -> None:
    """Find out before the work whether candidates for a target can be emulated and estimated.

    Raises:
        EmulationError: QEMU, llvm-mca or a C compiler is missing.
        CompileError: There is no linker for the target's machine.
        DeployError: There is no C compiler for the target's machine.
    """
    command = emulator(spec)
    cost_model(spec)
    find_linker(spec)
    counter_plugin(command[0])
    build_kernel_program(spec.machine)


class EstimatedRunner:
    """Runs candidates in emulation, several at once.

    Args:
        server: Where workers are forked; the caller closes it after this.
        spec: The target that candidates were built for.
        processor: The processor that is modelled; by default the target.
        workers: Emulators at once.
        limits: What a run may cost.

    Attributes:
        name: Of what gives the figures, for records.

    Raises:
        EmulationError: QEMU, llvm-mca or a C compiler is missing.
        DeployError: There is no C compiler for the target's machine.
    """

    shares_cores = False
    label: Label = "estimated"

    def __init__(
        self,
        server: WorkerServer,
        spec: TargetSpec,
        *,
        processor: TargetSpec | None = None,
        workers: int = 1,
        limits: Limits | None = None,
    ) -> None:
        self._server = server
        self._spec = write_spec(spec)
        self._processor = processor or spec
        self._limits = limits or LIMITS
        self._costs = BlockCosts(cost_model(self._processor))
        self._command = [*emulator(spec), str(build_kernel_program(spec.machine))]
        self._plugin = f"{counter_plugin(self._command[0])}{cache_option(self._processor)}"
        self.name = f"estimated: {self._costs.model}"
        self._numbers = itertools.count()
        self._mine = threading.local()
        self._all: list[OrderedDict[str, Worker]] = []
        self._preparing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._best_s: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tilewright-emulate")

    @property
    def cpu(self) -> Cpu:
        """The processor as it is modelled."""
        spec, model = self._processor, self._costs.model
        modelled = f"{model.processor}{model.width or ''}"
        return Cpu(
            f"{model.stands_for or model.processor}, modelled",
            f"llvm-mca-{model.version}-{modelled}-{REVISION}",
            spec.features, spec.vector_bits, spec.cores,
        )  # fmt: skip

    def run(
        self, task: str, reference: Path, choice: Choice, library: Path, cancelled: Cancelled
    ) -> Future[Outcome]:
        """See `Runner`; a sample is the estimated latency at the target's clock."""
        return self._threads.submit(self._run, task, reference, choice, library, cancelled)

    def count(
        self,
        task: str,
        reference: Path,
        choice: Choice,
        library: Path,
        cancelled: Cancelled = lambda: False,
    ) -> Counted | Rejected | Failed:
        """Run a candidate in the calling thread, and say what ran; arguments as those of `run`.

        Raises:
            TilewrightError: No worker starts.
        """
        if cancelled():
            return Failed("cancelled", "cancelled")
        start = perf_counter()
        best_s = self._best_s.get(task)
        limit_s = self._limits.run_s
        if best_s is not None:
            limit_s = min(limit_s, _LEAST_S + _PATIENCE * best_s)
        job: Message = {
            "order": "measure", "library": str(library), "choice": choice, "run_s": limit_s,
        }  # fmt: skip
        try:
            worker = self._worker(task, reference, cancelled)
            answer = worker.request(job, timeout_s=limit_s + _MARGIN_S, cancelled=cancelled)
        except WorkerLostError as lost:
            self._workers().pop(task, None)
            return Failed(lost.kind, lost.reason, run_s=perf_counter() - start)
        except ReferenceFailedError as error:
            return Failed("verify", f"the reference kernel: {error}")
        if "blocks" not in answer:
            return _without_figures(answer, perf_counter() - start)
        self._best_s[task] = min(best_s or float("inf"), float(answer["seconds"]))
        try:
            blocks = read_blocks(str(answer["blocks"]))
        except ValueError as error:
            return Failed("verify", f"no figures: {error}", run_s=perf_counter() - start)
        seconds = perf_counter() - start
        return Counted(blocks, float(answer["error"]), float(answer["tolerance"]), seconds)

    def check(self) -> None:
        """Workers of this machine are started anew when they end."""

    def _run(
        self, task: str, reference: Path, choice: Choice, library: Path, cancelled: Cancelled
    ) -> Outcome:
        start = perf_counter()
        counted = self.count(task, reference, choice, library, cancelled)
        if not isinstance(counted, Counted):
            return counted
        # That llvm-mca fails is no fault of a candidate's: it ends the search, and all is kept.
        found = estimate_blocks(counted.blocks, self._costs, self._processor)
        latency_ns = found.cycles / self._processor.clock_hz * 1e9
        return Measured(
            (latency_ns,), counted.max_relative_error, counted.tolerance,
            run_s=perf_counter() - start,
        )  # fmt: skip

    def _workers(self) -> OrderedDict[str, Worker]:
        """The workers of this thread, by task."""
        workers: OrderedDict[str, Worker] | None = getattr(self._mine, "workers", None)
        if workers is None:
            workers = self._mine.workers = OrderedDict()
            self._all.append(workers)
        return workers

    def _worker(self, task: str, reference: Path, cancelled: Cancelled) -> Worker:
        workers = self._workers()
        if task in workers:
            workers.move_to_end(task)
            return workers[task]
        while len(workers) >= _TASKS_KEPT:
            workers.popitem(last=False)[1].end()
        number = next(self._numbers)
        digest = hashlib.sha256(task.encode()).hexdigest()[:16]
        worker = self._server.fork(
            "emulate",
            {"task": task, "spec": self._spec, "reference": str(reference),
             "seed": zlib.crc32(task.encode()), "command": self._command, "plugin": self._plugin,
             "folder": str(self._server.folder / f"emulate-{number}"),
             "expected": str(self._server.folder / f"expected-{digest}.npz")},
            memory_bytes=self._limits.memory_bytes,
        )  # fmt: skip
        order: Message = {"order": "prepare", "run_s": _REFERENCE_S}
        with self._preparing[task]:  # whoever comes second reads what the first one kept
            answer = worker.request(order, timeout_s=_REFERENCE_S + _MARGIN_S, cancelled=cancelled)
        if "done" not in answer:
            worker.end()
            raise ReferenceFailedError(str(answer.get("reason", answer.get("rejected"))))
        workers[task] = worker
        return worker

    def close(self) -> None:
        """End the workers; runs that wait are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for workers in self._all:
            for worker in workers.values():
                worker.end()
        self._all.clear()


def _without_figures(answer: Message, run_s: float) -> Rejected | Failed:
    if "rejected" in answer:
        return Rejected(str(answer["rejected"]), run_s=run_s)
    kind: FailureKind = "timeout" if answer.get("failed") == "timeout" else "crash"
    return Failed(kind, str(answer.get("reason", "no reason given")), run_s=run_s)


def create_estimator(
    spec: TargetSpec,
    *,
    processor: TargetSpec | None = None,
    threads: int = 1,
    workers: int | None = None,
    dask: str | None = None,
    limits: Limits | None = None,
    kernels: str = KERNELS,
) -> PipelineMeasurer:
    """Build candidates for another machine, and estimate what they cost there.

    Args:
        spec: The target.
        processor: The processor that is modelled; by default the target.
        threads: Threads that kernels run on: 1.
        workers: Build workers, and as many emulators; one for each CPU by default.
        dask: Address of a Dask scheduler; None builds here.
        limits: What a candidate may cost.
        kernels: Name of the module that makes the functions, see `compiler.tune.measure.work`.

    Raises:
        InputError: `threads` or `workers` cannot be had.
        EmulationError: QEMU, llvm-mca or a C compiler is missing.
        CompileError: There is no linker for the target's machine, or no worker answers.
        DeployError: There is no C compiler for the target's machine.
        FileError: There is no room for temporary files.
    """
    if threads != 1:
        raise InputError(
            f"kernels are emulated on one thread, not on {threads}", where="tune", hint="threads=1"
        )
    if workers is not None and workers < 1:
        raise InputError(f"{workers} build workers", where="tune", hint="give at least 1")
    check_estimable(spec)
    count = workers or len(usable_cpus())

    def emulators(server: WorkerServer) -> EstimatedRunner:
        return EstimatedRunner(server, spec, processor=processor, workers=count, limits=limits)

    return create_measurer(
        spec, workers=count, dask=dask, limits=limits, kernels=kernels, elsewhere=emulators
    )


__all__ = [
    "Counted",
    "EstimatedRunner",
    "KernelEstimate",
    "check_estimable",
    "create_estimator",
    "estimate_blocks",
]
