"""The measurer that a user's options ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compiler.errors import InputError
from compiler.linker import find_linker
from compiler.tune.measure.builder import LocalBuilder
from compiler.tune.measure.confine import siblings, usable_cpus
from compiler.tune.measure.pipeline import PipelineMeasurer
from compiler.tune.measure.processes import KERNELS, WorkerServer
from compiler.tune.measure.runner import LocalRunner
from compiler.tune.measure.settings import Limits, Timing
from compiler.tune.measure.stages import Builder, Runner
from targets.spec import TargetSpec


def create_measurer(
    spec: TargetSpec,
    *,
    threads: int = 1,
    workers: int | None = None,
    tracker: str | None = None,
    device: str | None = None,
    dask: str | None = None,
    elsewhere: Callable[[WorkerServer], Runner] | None = None,
    timing: Timing | None = None,
    limits: Limits | None = None,
    kernels: str = KERNELS,
) -> PipelineMeasurer:
    """Build on this machine or over Dask, and run on this machine or on devices over RPC.

    Where both happen here, candidates run on the last CPUs and are built on other cores; where
    there is none left, nothing is built while candidates run.

    Args:
        spec: The target; its code must run where candidates run.
        threads: Threads that kernels run on.
        workers: Build workers of this machine; one for each CPU to build on by default.
        tracker: ``host:port`` of a TVM RPC tracker; None runs candidates here.
        device: Key of its devices.
        dask: Address of a Dask scheduler; None builds here.
        elsewhere: Makes what runs candidates in place of this machine and of `tracker`; it gets
            the server that forks workers.
        timing: How candidates are timed; `threads` replaces its own. `elsewhere` has its own.
        limits: What a candidate may cost to build and to run; `elsewhere` has its own for runs.
        kernels: Name of the module that makes the functions, see `compiler.tune.measure.work`.

    Raises:
        InputError: `threads` or `workers` cannot be had, or `tracker` comes without `device`.
        CompileError: No tracker, device, scheduler or worker answers; or there is no linker here
            for the target's machine.
        FileError: There is no room for temporary files.
    """
    cpus = usable_cpus()
    if workers is not None and workers < 1:
        raise InputError(f"{workers} build workers", where="tune", hint="give at least 1")
    if (tracker is None) != (device is None):
        raise InputError(
            "tracker and device go together", where="tune", hint="give both, or neither"
        )
    if dask is None:
        find_linker(spec)  # else every candidate would fail for the same reason
    timing = replace(timing or Timing(), threads=threads)
    here = tracker is None and elsewhere is None
    running = _running_cpus(cpus, threads) if here else []
    # Not on the other thread of a measuring core: the two would share its units and caches.
    busy = siblings(running)
    building = [cpu for cpu in cpus if cpu not in busy]
    server = WorkerServer(kernels)
    builder: Builder | None = None
    try:
        if dask is None:
            builder = LocalBuilder(
                server, spec, workers=workers or len(building or cpus), limits=limits,
                cpus=building,
            )  # fmt: skip
        else:
            from compiler.tune.measure.dask_builder import DaskBuilder

            builder = DaskBuilder(dask, spec, server.folder, limits=limits, kernels=kernels)
        runner: Runner
        if elsewhere is not None:
            runner = elsewhere(server)
        elif tracker is None or device is None:
            runner = LocalRunner(
                server, spec, timing=timing, limits=limits, cpus=running,
                shares_cores=not building and dask is None,
            )  # fmt: skip
        else:
            from compiler.tune.measure.rpc import RpcRunner

            runner = RpcRunner(
                server, spec, tracker=tracker, key=device, timing=timing, limits=limits
            )
    except BaseException:
        if builder is not None:
            builder.close()
        server.close()
        raise
    return PipelineMeasurer(builder, runner, server)


def _running_cpus(cpus: list[int], threads: int) -> list[int]:
    if not 1 <= threads <= len(cpus):
        raise InputError(
            f"threads is {threads}, and this process may use {len(cpus)} CPUs",
            where="tune",
            hint=f"give 1 to {len(cpus)}",
        )
    return cpus[len(cpus) - threads :]


__all__ = ["create_measurer"]
