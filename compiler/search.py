"""The search for faster kernels of an imported model: tasks, measurer and record stores."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from compiler.errors import InputError
from compiler.options import Records
from compiler.stages import Imported, StageLog
from targets import TargetError, TargetSpec, missing_features

if TYPE_CHECKING:
    from compiler.accelerate import Devices
    from compiler.compress.plan import CompressionPlan
    from compiler.deploy.board import Board
    from compiler.deploy.measure import BoardRunner
    from compiler.tune.events import Listener
    from compiler.tune.measure.processes import WorkerServer
    from compiler.tune.options import Tune
    from compiler.tune.result import TuneResult


def search_kernels(
    imported: Imported,
    spec: TargetSpec,
    options: Tune,
    records: Records,
    log: StageLog,
    *,
    precision: str,
    threads: int,
    listener: Listener | None,
    plan: CompressionPlan | None = None,
) -> TuneResult:
    """Tune the kernels of a model, and keep what is found in the writable store.

    Args:
        imported: The model.
        spec: The target.
        options: Limits, and where candidates are built and run.
        records: Stores to start from, and the one to write.
        log: Receives what was done.
        precision: Of the heavy operators' inputs.
        threads: Threads that the kernels run on.
        listener: Is told what happens; None for nobody.
        plan: What runs on integers.

    Raises:
        TargetError: This machine cannot run the target's code, and no device is named.
        InputError: There is no store to write to, or `threads` cannot be tuned for.
        StoreError: Records cannot be read or written.
        PlanError: The plan does not fit the model.
        TilewrightError: Nothing can be measured at all.
    """
    from compiler.lower.tasks import extract_tasks
    from compiler.tune.events import ignore
    from compiler.tune.measure.create import create_measurer
    from compiler.tune.session import tune

    if records.writable is None:
        raise InputError("a search needs a place for its records", where="records")
    check_measurable(spec, options, threads)
    tasks = extract_tasks(imported, spec, log, precision=precision, plan=plan)
    with log.time("tune", "search") as detail:
        boards = _boards(options)
        if options.device is None and is_foreign(spec):
            from compiler.estimate.measurer import create_estimator

            measurer = create_estimator(
                spec, threads=threads, workers=options.workers, dask=options.dask
            )
        else:
            measurer = create_measurer(
                spec,
                threads=threads,
                workers=options.workers,
                tracker=options.tracker,
                device=options.device if options.tracker is not None else None,
                dask=options.dask,
                elsewhere=None if boards is None else partial(_on_boards, spec, boards),
            )
        try:
            result = tune(
                tasks,
                spec,
                options,
                records.writable,
                measurer=measurer,
                progress=listener or ignore,
                others=records.stores[1:],
            )
        finally:
            measurer.close()
        detail.append(f"{result.trials} trials, {len(result.records)} records, {result.stop}")
    return result


def _boards(options: Tune) -> dict[str, Board] | None:
    """The boards that a search names, by their names; None if it names none.

    Raises:
        DeployError: There is no such device.
        FileError: The list of devices cannot be read.
    """
    from compiler.deploy.devices import find_device, read_devices

    if options.device is None or options.tracker is not None:
        return None
    known = read_devices()
    names = dict.fromkeys(name for name in options.device.replace(" ", "").split(",") if name)
    if not names:
        raise InputError(
            f"{options.device!r} names no device",
            where="device",
            hint="give names of `tilewright devices`, or user@host",
        )
    return {name: find_device(name, known) for name in names}


def _on_boards(spec: TargetSpec, boards: dict[str, Board], server: WorkerServer) -> BoardRunner:
    from compiler.deploy.measure import BoardRunner

    return BoardRunner(server, spec, boards)


def search_layers(
    imported: Imported,
    devices: Devices,
    options: Tune,
    records: Records,
    log: StageLog,
    *,
    plan: CompressionPlan | None,
    listener: Listener | None,
) -> TuneResult:
    """Tune what of a model runs on VTA, by simulated cycles; the host's kernels are not tuned.

    Args:
        imported: The model.
        devices: The VTA and its host.
        options: Limits; builders and devices are for processors.
        records: Stores to start from, and the one to write.
        log: Receives what was done.
        plan: Integers with scales that are powers of two.
        listener: Is told what happens; None for nobody.

    Raises:
        InputError: There is no store to write to, a device is named, or nothing runs on VTA.
        StoreError: Records cannot be read or written.
        PlanError: The plan does not fit the model.
    """
    from compiler.tune.events import ignore
    from compiler.tune.vta import extract_layers, find_regions, tune_layers

    name = devices.target.name
    if records.writable is None:
        raise InputError("a search needs a place for its records", where="records")
    if options.device is not None or options.dask is not None:
        raise InputError(
            f"layers for {name} are simulated here, and a device or a scheduler was named",
            where="tune",
            hint="leave tracker, device and dask out",
        )
    if devices.accelerator is None or plan is None:
        raise InputError(f"nothing of the model runs on {name}", where="tune")
    regions = find_regions(imported, devices.code, devices.accelerator, plan, log)
    layers = extract_layers(regions, devices.target)
    if not layers:
        raise InputError(f"nothing of the model runs on {name}", where="tune")
    with log.time("tune", "search") as detail:
        result = tune_layers(
            layers, devices.target, options, records.writable, progress=listener or ignore,
            others=records.stores[1:],
        )  # fmt: skip
        detail.append(f"{result.trials} trials, {len(result.records)} records, {result.stop}")
    return result


def check_measurable(spec: TargetSpec, options: Tune, threads: int) -> None:
    """Find out before the work whether candidates can be measured.

    For other machines they are emulated and their cost is estimated, if no device is named.

    Raises:
        TargetError: This machine cannot run the target's code, and no device is named.
        EmulationError: What emulation or estimating needs is missing.
        CompileError: There is no linker for the target's machine.
        InputError: `threads` cannot be tuned for.
        DeployError: There is no device of that name.
    """
    if threads != 1:
        raise InputError(
            f"kernels are tuned for one thread in this release, not for {threads}",
            where="threads",
            hint="tune with threads=1; a model for more threads is compiled with defaults",
        )
    lacking = missing_features(spec)
    if options.device is not None:
        _boards(options)
    elif is_foreign(spec):
        from compiler.estimate.measurer import check_estimable

        check_estimable(spec)
    elif lacking:
        raise TargetError(
            "this processor cannot run the target's code, so that no candidate can be measured: "
            f"it lacks {', '.join(lacking)}",
            where=spec.name,
            hint="tune on such a processor, or name a device of `tilewright devices`: device= "
            "(--device)",
        )


def is_foreign(spec: TargetSpec) -> bool:
    """Whether a target is another machine than this one, whose code is emulated here."""
    return spec.machine != os.uname().machine


__all__ = ["check_measurable", "is_foreign", "search_kernels", "search_layers"]
