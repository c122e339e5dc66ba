"""The measurer for one machine."""

from __future__ import annotations

from compiler.errors import InputError
from compiler.tune.measure.builder import LocalBuilder
from compiler.tune.measure.confine import usable_cpus
from compiler.tune.measure.pipeline import PipelineMeasurer
from compiler.tune.measure.processes import KERNELS, WorkerServer
from compiler.tune.measure.runner import LocalRunner
from compiler.tune.measure.settings import Limits, Timing
from targets.spec import TargetSpec


def local_measurer(
    spec: TargetSpec,
    *,
    threads: int = 1,
    timing: Timing | None = None,
    limits: Limits | None = None,
    workers: int | None = None,
    kernels: str = KERNELS,
) -> PipelineMeasurer:
    """Build and measure on this machine: on the last CPUs it runs, on the others it builds.

    With as many threads as CPUs nothing is built while candidates run.

    Args:
        spec: The target; its code must run on this CPU.
        threads: Threads that kernels run on.
        timing: How candidates are timed; `threads` replaces its own.
        limits: What a candidate may cost.
        workers: Build workers; as many as there are CPUs to build on by default.
        kernels: Name of the module that makes the functions, see `compiler.tune.measure.work`.

    Raises:
        InputError: `threads` or `workers` cannot be had.
        FileError: There is no room for temporary files.
    """
    from dataclasses import replace

    cpus = usable_cpus()
    if not 1 <= threads <= len(cpus):
        raise InputError(
            f"threads is {threads}, and this process may use {len(cpus)} CPUs",
            where="tune",
            hint=f"give 1 to {len(cpus)}",
        )
    if workers is not None and workers < 1:
        raise InputError(f"{workers} build workers", where="tune", hint="give at least 1")
    running = cpus[len(cpus) - threads :]
    building = cpus[: len(cpus) - threads]
    server = WorkerServer(kernels)
    builder = LocalBuilder(
        server, spec, workers=workers or len(building or cpus), limits=limits, cpus=building
    )
    runner = LocalRunner(
        server,
        spec,
        timing=replace(timing or Timing(), threads=threads),
        limits=limits,
        cpus=running,
        shares_cores=not building,
    )
    return PipelineMeasurer(builder, runner, server)


__all__ = ["local_measurer"]
