"""`compile` and `load`: the only place where the order of the stages is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.accelerate import HostOption, recipe_for, split_target, with_records
from compiler.errors import (
    CompileError,
    InputError,
    TargetError,
    TilewrightError,
    VerificationError,
)
from compiler.estimate.device import run_on_device
from compiler.estimate.report import report_elsewhere
from compiler.options import (
    TOLERANCES,
    RecordsOption,
    check_precision,
    open_records,
    read_precision,
    read_required,
    require_tuned_share,
)
from compiler.package import Bundle, read_bundle
from compiler.package.atomic import PrivateFolder
from compiler.package.bundle import compare_arrays
from compiler.quantization import (
    Metric,
    QuantizeOption,
    Request,
    choose_precisions,
    describe,
    describe_search,
    float_model,
    golden_outputs,
    make_plan,
    metric_of,
    quantized_tolerance,
    read_request,
    settle_request,
    wants_search,
)
from compiler.report import Report, compare, with_vta
from compiler.report import measure as measure_report
from compiler.runtime.threads import check_threads, use_threads
from compiler.search import check_measurable, search_kernels, search_layers
from compiler.source import Source, read_source
from compiler.stages import Built, Imported, Lowered, StageLog
from targets import TargetSpec, get_target, missing_features, require_available

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from compiler.compress.plan import CompressionPlan
    from compiler.runtime.vta.devices import Device
    from compiler.tune.events import Listener
    from compiler.tune.options import Tune
    from compiler.tune.result import TuneResult

    Array = npt.NDArray[np.generic]
    Model = torch.nn.Module | torch.export.ExportedProgram | str | Path

#: Called with a stage's name and a step's as it begins.
Progress = Callable[[str, str], None]


def compile(  # noqa: A001 - the name users expect
    model: Model,
    target: str | Path | TargetSpec = "x86",
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    dynamic_batch: bool = False,
    name: str | None = None,
    threads: int = 1,
    measure: bool | None = None,
    estimate: bool | None = None,
    device: str | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
    tune: Tune | str | bool = False,
    records: RecordsOption = None,
    precision: str = "float32",
    require_tuned: float | None = None,
    on_tune: Listener | None = None,
    quantize: QuantizeOption = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Metric | None = None,
    host: HostOption = None,
) -> Bundle:
    """Compile a trained model.

    Heavy kernels are built as tuning records say: the user's own, then those that come with
    this release. A kernel without a fitting record is built by its default; the report says
    which, and why no record served it.

    Args:
        model: A module, an exported program, or the path of a ``.pt2`` file. A module is
            compiled for inference and left as it was.
        target: Name of a target (``x86`` is this machine), path of a TOML file that describes
            one, or a `TargetSpec`.
        example_inputs: Positional inputs as a tuple or named ones as a dict, torch or numpy.
            They fix dtypes and all sizes that are not dynamic, become the golden inputs of
            the bundle's self-test, and are what the report measures. Exported programs
            bring their own.
        dynamic_shapes: Sizes that vary, in the form that `torch.export.export` takes.
        dynamic_batch: Axis 0 of every input varies, under the name ``batch``.
        name: The model's name; by default its class's or file's.
        threads: Threads that the model is to run on.
        measure: Measure the latency report; by default where this machine can run the code.
            With False `Bundle.report` is None.
        estimate: Where this machine cannot run the code: count instructions in emulation for
            the report and estimate cycles from them, which takes some ten seconds. By default
            where all that is needed is installed; the report says what is missing otherwise,
            and gives the least times that the target's peaks allow. With True it must succeed.
        device: Measure on this board in place of this machine: a name among `tilewright
            devices`, or ``user@host``. By default the one that `tune` names.
        tolerance: Largest error against PyTorch on the example inputs that is accepted,
            relative to the largest magnitude of an output; by default 0.01, in bfloat16 0.05,
            quantized 0.5, which only tells nonsense: give `evaluate` to judge accuracy. With
            weights of one or two bits any finite number is accepted.
            Integer outputs are left out.
        progress: Called as ``progress(stage, step)`` when a step begins.
        tune: Search for faster kernels first, and keep them as records: a time such as
            ``"30m"``, a number of trials, a `Tune`, or True for its defaults. By default
            records are used, and nothing is searched for.
        records: Folder of the user's records, in place of ``tilewright/records`` in the user's
            data folder; False to look at no records at all, not even the shipped ones.
        precision: ``"float32"``, or ``"bfloat16"`` (``"bf16"``) for the inputs of heavy
            operators, whose sums stay float32.
        require_tuned: Share, 0 to 1, of the FLOPs of kernels that can be tuned that must run
            on records.
        on_tune: Called with each event of the search; see `compiler.tune.events`.
        quantize: ``"int8"``, a `Quantize` with options, or a plan (an object or the path of
            its ``.json`` file) made before. None leaves the model as it is.
        calibration: Inputs like those that the model will meet, some hundred, each as in
            `example_inputs`; batches of several are taken apart. Needed to make a plan.
        evaluate: A metric: called with something that runs the model, as ``run(*inputs)``, it
            returns a number. It is taken in PyTorch and quantized, for the report.
        host: Of a target ``vta``: the processor that its other operators are compiled for. By
            default this machine, where VTA is simulated; ``"board"`` for the one beside it.

    Raises:
        TargetError: The target is unknown, damaged or not available yet, or this machine
            cannot run its code and `measure` is True.
        InputError: The example inputs do not fit the model, `threads` cannot be had, or an
            option has no meaning; the metric fails or gives no number.
        CalibrationError: There are no calibration samples, or they do not do.
        PlanError: The plan is damaged, or for another model.
        TuneOptionError: `tune` has no meaning.
        StoreError: The records cannot be read, or a search could not write them.
        DeviceError: The device cannot be reached, or cannot run the model.
        DeployError: There is no such device, or no runtime for its machine.
        EmulationError: `estimate` is True, and a program that it needs is missing or fails.
        NotTunedError: Less than `require_tuned` runs on records; the kernels without one are
            named, with reasons.
        KeyboardInterrupt: The search was interrupted; its records are kept.
        ModelError: The model does not export, is empty, holds NaN weights or operators that
            are not supported.
        CompileError: A later stage failed.
        VerificationError: The compiled model's outputs are not PyTorch's.
    """
    from compiler.build import build
    from compiler.lower import lower
    from compiler.lower.vta.offload import require_shifts
    from compiler.tune.options import Tune

    search = Tune.parse(tune)
    precision = read_precision(precision)
    required = read_required(require_tuned)
    board = device or _device_of(search)
    spec = choose_target(target, measure=measure is True and board is None)
    check_precision(precision, spec)
    devices = split_target(spec, host)
    request = read_request(
        recipe_for(quantize, devices), calibration, evaluate,
        precision=precision,
        dynamic=dynamic_batch or dynamic_shapes is not None,
    )  # fmt: skip
    if devices.accelerator is not None:
        # From here on `spec` is the processor; the accelerator gets its share when lowering.
        spec = require_runnable(devices.code, measure=measure is True)
    if evaluate is not None and missing_features(spec):
        raise InputError(
            f"this machine cannot run code for {spec.name}, so that evaluate has nothing to run",
            where="evaluate",
            hint="leave it out, or compile where the code runs",
        )
    if search is not None and devices.accelerator is None:
        check_measurable(spec, search, threads)
    store = open_records(records, search)
    devices = with_records(devices, store.stores)
    runs_here = not missing_features(spec)
    if device is not None and (measure is False or devices.accelerator is not None):
        why = "measure is False" if measure is False else f"{spec.name} has an accelerator"
        raise InputError(
            f"a device to measure on was named, and {why}",
            where="device",
            hint="leave one of them out",
        )
    if measure is not False and devices.accelerator is None:
        device = board
    measure = False if device is not None else measure
    if estimate and runs_here and device is None:
        raise InputError(
            f"this machine runs code for {spec.name}: it is measured, not estimated",
            where="estimate",
            hint="leave it out, or use `tilewright estimate`",
        )
    estimates = not runs_here and (measure is None or estimate is True)
    measure = runs_here if measure is None else measure
    check_threads(threads)
    # Before any stage runs generated code: TVM's thread pool takes its size from the first call.
    use_threads(threads)
    log = _Log(progress)
    source, imported = _import(
        model, example_inputs, dynamic_shapes, name, log, dynamic_batch=dynamic_batch
    )
    with log.time("frontend", "reference outputs"):
        expected = source.reference()
    request = settle_request(request, imported, precision)
    plan, calibrated, golden = None, None, expected
    if request is not None:
        with _as_compile_error("compress", spec):
            plan, calibrated = make_plan(request, imported, spec, log, progress)
            if devices.accelerator is not None:
                require_shifts(plan, devices.target.name)
            if not runs_here:
                golden = golden_outputs(imported, spec, plan, source, log)

    def make_bundle(plan: CompressionPlan | None, log: StageLog) -> tuple[Lowered, Built, Bundle]:
        """Lower and build the model as a plan says, and load what comes of it."""
        with _as_compile_error("lower", spec):
            lowered = lower(
                imported, spec, log, select=store.selector(threads), precision=precision,
                plan=plan, accelerator=devices.accelerator,
            )  # fmt: skip
        with _workdir() as workdir:
            with _as_compile_error("build", spec):
                built = build(lowered, spec, log, workdir)
            with log.time("package", "golden pair"):
                bundle = Bundle.from_built(
                    built,
                    source.tensors(),
                    threads=threads,
                    reference=None if runs_here else golden,
                    precision=precision if plan is None else "int8",
                    plan=plan,
                    target=devices.target,
                )
        return lowered, built, bundle

    found = None
    if request is not None and calibrated is not None and wants_search(request):
        if devices.accelerator is not None:
            raise InputError(
                f"max_drop chooses among a processor's precisions, and {devices.target.name} "
                "computes int8",
                where="quantize",
                hint="leave max_drop out",
            )
        found = choose_precisions(
            request, calibrated, imported, source, spec, log,
            build=lambda plan, quiet: make_bundle(plan, quiet)[2],
            threads=threads, measured=measure, progress=progress,
        )  # fmt: skip
        plan = found.plan
    if tolerance is None:
        tolerance = TOLERANCES[precision] if plan is None else quantized_tolerance(plan)
    if search is not None:
        with _as_compile_error("tune", spec):
            if devices.accelerator is not None:
                result = search_layers(
                    imported, devices, search, store, log, plan=plan, listener=on_tune
                )
            else:
                result = search_kernels(
                    imported, spec, search, store, log,
                    precision=precision, threads=threads, listener=on_tune, plan=plan,
                )  # fmt: skip
        if result.interrupted:
            raise KeyboardInterrupt
    lowered, built, bundle = make_bundle(plan, log)
    require_tuned_share(lowered.kernels, required, target=spec, precision=precision, records=store)
    _check_error(bundle, expected, tolerance)
    metrics = _metrics(request, source, bundle, log, None if found is None else found.before)
    if measure:
        # Programs are not run while the host is measured: their time is simulated.
        with log.time("report", "measure"), bundle.executor.offloading(dry=True):
            bundle.report = measure_report(
                bundle.executor,
                bundle.golden.inputs,
                target=spec,
                kernels=bundle.kernels,
                name=bundle.name,
                stages=tuple(log.records),
                planned_activation_bytes=built.planned_activation_bytes,
                sizes=bundle.sizes,
                numerical_error=compare(bundle.golden.outputs, expected),
                threads=threads,
                precision=bundle.manifest.precision,
            )
        if bundle.vta is not None:
            with log.time("report", "simulate"):
                bundle.report = with_vta(bundle.report, bundle.vta, devices.target)
    elif (estimates or device is not None) and bundle.vta is None:
        run = None
        if device is not None:
            with log.time("report", "measure on the device"):
                run, _ = run_on_device(bundle, device)
        with log.time("report", "estimate"):
            bundle.report = report_elsewhere(
                bundle,
                estimate=estimate,
                run=run,
                stages=tuple(log.records),
                # In float the golden outputs are PyTorch's own.
                accuracy=None if plan is None else compare(bundle.golden.outputs, expected),
            )
    if isinstance(bundle.report, Report) and plan is not None:
        bundle.report = replace(
            bundle.report,
            quantization=describe(
                plan, calibrated, imported,
                parameter_bytes=bundle.parameter_bytes,
                golden_sha256=bundle.manifest.golden_sha256,
                metrics=metrics,
                search=None if found is None else describe_search(found),
                kernels=bundle.kernels,
            ),
        )  # fmt: skip
    bundle.set_stages(log.records)
    return bundle


def tune_model(
    model: Model,
    target: str | Path | TargetSpec = "x86",
    *,
    tune: Tune | str | bool = True,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    dynamic_batch: bool = False,
    name: str | None = None,
    threads: int = 1,
    records: RecordsOption = None,
    precision: str = "float32",
    progress: Progress | None = None,
    on_tune: Listener | None = None,
    quantize: QuantizeOption = None,
    calibration: Iterable[Any] | None = None,
) -> TuneResult:
    """Search for faster kernels for a model and keep them as records, without compiling it.

    Stopped by Ctrl-C it keeps all that was found, and called again it continues.

    Args:
        model: As in `compile`, like the other arguments.
        target: The device.
        tune: How long to search, at least a limit of time or of trials.
        example_inputs: They fix the sizes.
        dynamic_shapes: Sizes that vary; kernels that they reach cannot be tuned.
        dynamic_batch: As in `compile`.
        name: The model's name.
        threads: Threads that the kernels are to run on.
        records: Folder that the records go to.
        precision: As in `compile`.
        progress: Called as ``progress(stage, step)`` when a step begins.
        on_tune: Called with each event of the search.
        quantize: As in `compile`: the kernels of the quantized model are tuned. Records do
            not depend on the plan's scales, but on what it makes integers.
        calibration: As in `compile`; a plan needs none.

    Returns:
        What was done; `TuneResult.interrupted` says whether Ctrl-C ended it.

    Raises:
        TilewrightError: As `compile`.
    """
    from compiler.lower.vta.offload import require_shifts
    from compiler.tune.options import Tune

    search = Tune.parse(tune)
    if search is None:
        raise InputError(
            "there is nothing to do without a search",
            where="tune",
            hint='give a time such as "30m", a number of trials or a Tune(...)',
        )
    precision = read_precision(precision)
    spec = choose_target(target, measure=False)
    check_precision(precision, spec)
    devices = split_target(spec)
    request = read_request(
        recipe_for(quantize, devices), calibration, None,
        precision=precision, dynamic=dynamic_batch or dynamic_shapes is not None,
    )  # fmt: skip
    spec = devices.code
    if devices.accelerator is None:
        check_measurable(spec, search, threads)
    store = open_records(records, search)
    check_threads(threads)
    use_threads(threads)
    log = _Log(progress)
    _, imported = _import(
        model, example_inputs, dynamic_shapes, name, log, dynamic_batch=dynamic_batch
    )
    request, plan = settle_request(request, imported, precision), None
    if request is not None:
        with _as_compile_error("compress", spec):
            plan, _ = make_plan(request, imported, spec, log, progress)
            if devices.accelerator is not None:
                require_shifts(plan, devices.target.name)
    with _as_compile_error("tune", spec):
        if devices.accelerator is not None:
            return search_layers(imported, devices, search, store, log, plan=plan, listener=on_tune)
        return search_kernels(
            imported, spec, search, store, log,
            precision=precision, threads=threads, listener=on_tune, plan=plan,
        )  # fmt: skip


def load(path: str | Path, *, threads: int | None = None, device: Device = None) -> Bundle:
    """Read a bundle after checking it; none of its code is loaded before it is first run.

    Args:
        path: A zip file or a folder that `Bundle.save` wrote.
        threads: Threads to run on; by default as many as it was compiled for.
        device: Of a bundle for VTA, what its programs run on: ``"simulator"`` (or None), a
            board's name (``"pynq"``, ``"ultra96"``, ...) or TOML file, or a driver.

    Raises:
        BundleError: It is damaged, foreign, newer than this release or for another machine.
        FileError: It cannot be read.
        InputError: `threads` cannot be had.
    """
    return read_bundle(path, threads=threads, read_report=Report.from_json, device=device)


def choose_target(target: str | Path | TargetSpec, *, measure: bool) -> TargetSpec:
    """The target of that name or file, if this release and this machine can do what is asked.

    Args:
        target: As in `compile`.
        measure: Whether code for it is to be measured here.

    Raises:
        TargetError: It is unknown, damaged or not available yet, or this machine cannot run
            its code and a measurement was asked for.
    """
    spec = get_target(target)
    require_available(spec)
    return require_runnable(spec, measure=measure)


def require_runnable(spec: TargetSpec, *, measure: bool) -> TargetSpec:
    """The target, if this machine can do what is asked.

    Raises:
        TargetError: It cannot run the target's code, and a measurement was asked for.
    """
    lacking = missing_features(spec)
    if lacking and measure:
        raise TargetError(
            "this processor cannot run the target's code, so that nothing can be measured: it "
            f"lacks {', '.join(lacking)}",
            where=spec.name,
            hint="leave it out (no --measure) for a report that is estimated, or give "
            "measure=False (--no-measure) for none",
        )
    return spec


def _import(
    model: Any,
    example_inputs: Any,
    dynamic_shapes: Any,
    name: str | None,
    log: StageLog,
    *,
    dynamic_batch: bool,
) -> tuple[Source, Imported]:
    """The model as a Relax module, and where it came from."""
    from compiler.frontend import import_model

    source = read_source(model, example_inputs, name, log)
    imported = import_model(
        source.model,
        source.given,
        dynamic_shapes=dynamic_shapes,
        dynamic_batch=dynamic_batch,
        name=source.name,
        log=log,
    )
    return source, imported


def _device_of(search: Tune | None) -> str | None:
    """The board that a search measures on, if it is one."""
    if search is None or search.device is None or search.tracker is not None:
        return None
    return None if "," in search.device else search.device


def _metrics(
    request: Request | None, source: Source, bundle: Bundle, log: StageLog, before: float | None
) -> tuple[float, ...]:
    """The user's metric before, unless that is known, and after; nothing without one."""
    if request is None or request.evaluate is None:
        return ()
    if before is None:
        with log.time("compress", "metric in PyTorch"):
            before = metric_of(request.evaluate, float_model(source), "the float32 model")
    with log.time("compress", "metric quantized"):
        after = metric_of(request.evaluate, bundle, "the quantized model")
    return before, after


class _Log(StageLog):
    """A stage log that tells somebody when a step begins."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress

    @contextmanager
    def time(self, stage: str, name: str) -> Iterator[list[str]]:
        if self._progress is not None:
            self._progress(stage, name)
        with super().time(stage, name) as detail:
            yield detail


def _check_error(bundle: Bundle, expected: Sequence[Array], tolerance: float) -> None:
    """Refuse a compiled model that computes something else than PyTorch.

    Raises:
        VerificationError: The message names the output and the error.
    """
    for spec, got, want in zip(bundle.outputs, bundle.golden.outputs, expected, strict=True):
        if got.shape != want.shape or got.dtype != want.dtype:
            raise VerificationError(
                f"it is {got.dtype}{list(got.shape)}, but PyTorch's is "
                f"{want.dtype}{list(want.shape)}",
                where=f"{bundle.name}: output {spec.name!r}",
                hint="this is a bug of Tilewright: please report it",
            )
        largest, relative = compare_arrays(got, want)
        if got.dtype.kind not in "biu" and not relative <= tolerance:
            raise VerificationError(
                f"it differs from PyTorch's by {largest:.3g}, {relative:.3g} of its largest "
                f"magnitude, and {tolerance:g} is accepted",
                where=f"{bundle.name}: output {spec.name!r}",
                hint="give a larger tolerance if that is accurate enough; otherwise this is a "
                "bug of Tilewright: please report it",
            )


@contextmanager
def _as_compile_error(stage: str, target: TargetSpec) -> Iterator[None]:
    """Errors of TVM, which knows neither stage nor hint, as ours.

    Raises:
        CompileError: Something else than one of our own errors came out of the stage.
    """
    try:
        yield
    except TilewrightError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CompileError(
            f"{type(error).__name__}: {' '.join(lines[:3])}",
            stage=stage,
            target=target.name,
            hint="this is a bug of Tilewright: please report it, with the traceback that "
            "--debug shows",
        ) from error


@contextmanager
def _workdir() -> Iterator[Path]:
    """A private folder for the build stage, gone afterwards, also after Ctrl-C."""
    folder = PrivateFolder()
    try:
        yield folder.path
    finally:
        folder.remove()


__all__ = ["Progress", "choose_target", "compile", "load"]
