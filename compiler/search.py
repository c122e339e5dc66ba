"""The search for faster kernels of an imported model: tasks, measurer and record stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import InputError
from compiler.options import Records
from compiler.stages import Imported, StageLog
from targets import TargetError, TargetSpec, missing_features

if TYPE_CHECKING:
    from compiler.compress.plan import CompressionPlan
    from compiler.tune.events import Listener
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
        measurer = create_measurer(
            spec,
            threads=threads,
            workers=options.workers,
            tracker=options.tracker,
            device=options.device,
            dask=options.dask,
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


def check_measurable(spec: TargetSpec, options: Tune, threads: int) -> None:
    """Find out before the work whether candidates can be measured.

    Raises:
        TargetError: This machine cannot run the target's code, and no device is named.
        InputError: `threads` cannot be tuned for.
    """
    if threads != 1:
        raise InputError(
            f"kernels are tuned for one thread in this release, not for {threads}",
            where="threads",
            hint="tune with threads=1; a model for more threads is compiled with defaults",
        )
    lacking = missing_features(spec)
    if lacking and options.tracker is None:
        raise TargetError(
            "this processor cannot run the target's code, so that no candidate can be measured: "
            f"it lacks {', '.join(lacking)}",
            where=spec.name,
            hint="tune on such a processor, or name a device: tracker=, device= "
            "(--tracker, --device)",
        )


__all__ = ["check_measurable", "search_kernels"]
