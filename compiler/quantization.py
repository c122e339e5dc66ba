"""Quantization as a user asks for it: options, samples and metric, to a plan and its figures."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compiler.compress.plan import (
    FLOATS,
    WEIGHT_BITS,
    CompressionPlan,
    ModelIdentity,
    OperatorPlan,
    WeightPlan,
    model_identity,
)
from compiler.compress.recipe import Quantize
from compiler.errors import CalibrationError, InputError, TilewrightError
from compiler.report.mixed_model import PrecisionSearch, SearchPoint
from compiler.report.model import Figure, LayerRow
from compiler.report.model import Quantization as QuantizationReport

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.compress.calibrate import Calibration
    from compiler.mixed import Found
    from compiler.package import Bundle
    from compiler.source import Source
    from compiler.stages import Imported, KernelInfo, QuantizedElsewhere, StageLog
    from targets.spec import TargetSpec

    Array = npt.NDArray[np.generic]

#: What `compile(quantize=...)` takes.
QuantizeOption: TypeAlias = "str | Path | Quantize | CompressionPlan | None"
#: A user's metric: takes something that runs the model, gives a number.
Metric: TypeAlias = "Callable[[Callable[..., Any]], float]"
#: How the reason of an operator begins that the user keeps in float32.
KEPT = "kept in float32"
#: Largest error against PyTorch in float32 that is accepted by default: a check against
#: nonsense. Whether int8 is accurate enough only a metric can say.
QUANTIZED_TOLERANCE = 0.5


#: Ways to store weights with which a network is another function unless it is trained so.
_FEW_BITS = frozenset({"ternary", "binary"})


def quantized_tolerance(plan: CompressionPlan) -> float:
    """Largest error against the float32 model that is accepted where the user gives none.

    With weights of one or two bits the float32 model is what training started from, not what
    it made: its outputs tell nothing but numbers from what is none.
    """
    weights = (o.weight for o in plan.operators.values() if o.weight is not None)
    return math.inf if any(w.dtype in _FEW_BITS for w in weights) else QUANTIZED_TOLERANCE


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    Attributes:
        recipe: Options to make a plan by; None if there is one.
        plan: A plan that was given.
        calibration: Samples to make a plan of.
        evaluate: The user's metric, None for none.
        precision: Of the convolutions and products that are not compressed.
    """

    recipe: Quantize | None
    plan: CompressionPlan | None
    calibration: Iterable[Any] | None
    evaluate: Metric | None
    precision: str = "float32"


def read_request(
    quantize: QuantizeOption,
    calibration: Iterable[Any] | None,
    evaluate: Metric | None,
    *,
    precision: str,
    dynamic: bool,
) -> Request | None:
    """Check the options against each other before any work is done.

    Raises:
        InputError: They contradict each other, or have no meaning.
        CalibrationError: There are no samples, or sizes vary.
        PlanError: The plan's file is damaged.
        FileError: It cannot be read.
    """
    if quantize is None:
        if calibration is not None:
            raise _nothing_to_quantize("calibration")
        # A model that was quantized elsewhere can be judged, too: `settle_request` looks.
        return None if evaluate is None else Request(None, None, None, evaluate, precision)
    recipe: Quantize | None = None
    plan: CompressionPlan | None = None
    if isinstance(quantize, CompressionPlan):
        plan = quantize
    else:
        parsed = Quantize.parse(quantize)
        recipe = parsed if isinstance(parsed, Quantize) else None
        plan = CompressionPlan.load(parsed) if isinstance(parsed, Path) else None
    if precision != "float32" and plan is not None:
        raise InputError(
            f"a plan says in which precision each operator computes, and precision={precision!r} "
            "was given, too",
            where="precision",
            hint="leave it out, or edit the plan",
        )
    if evaluate is not None and not callable(evaluate):
        raise InputError(
            f"evaluate is a {type(evaluate).__name__}, not a function",
            where="evaluate",
            hint="give a function that takes run(*inputs) and returns a number",
        )
    if dynamic and (recipe is None or recipe.needs_calibration):
        raise CalibrationError(
            "static quantization needs fixed sizes, and some are to vary",
            where="quantize",
            hint="leave out dynamic_shapes and dynamic_batch, or compress weights only: "
            'quantize="int8-weights"',
        )
    if recipe is not None and not recipe.needs_calibration and calibration is not None:
        raise InputError(
            f"weights={recipe.weights!r} with activations={recipe.activations!r} need no samples, "
            "and calibration was given",
            where="calibration",
            hint='leave it out, or give activations="int8/tensor"',
        )
    if recipe is not None and recipe.needs_calibration and calibration is None:
        raise CalibrationError(
            "there are no calibration samples, and the ranges of activations come from them",
            where="calibration",
            hint="give calibration=, some hundred inputs like those that the model will meet "
            "(--calibration FILE on the command line)",
        )
    if recipe is not None and recipe.max_drop is not None and evaluate is None:
        raise InputError(
            "max_drop was given, but no metric that could drop",
            where="evaluate",
            hint="give evaluate=, a function that takes run(*inputs) and returns a number, such "
            "as the share of right answers (--evaluate FILE.py:FUNCTION on the command line)",
        )
    if plan is not None and calibration is not None:
        raise InputError(
            "a plan has its ranges already, and calibration was given, too",
            where="calibration",
            hint='leave it out, or give quantize="int8" to make a new plan',
        )
    return Request(recipe, plan, calibration, evaluate, precision)


def settle_request(request: Request | None, imported: Imported, precision: str) -> Request | None:
    """What is to be done, now that the model is known.

    A model that was quantized elsewhere brings a plan of its own, unless another one is asked
    for.

    Raises:
        InputError: There is a metric, and nothing is to be quantized.
    """
    nothing = request is None or (request.recipe is None and request.plan is None)
    if imported.quantized is None:
        if nothing and request is not None:
            raise _nothing_to_quantize("evaluate")
        return request
    return request or Request(None, None, None, None, precision)


def _nothing_to_quantize(given: str) -> InputError:
    return InputError(
        f"{given} was given, but nothing is to be quantized",
        where=given,
        hint='add quantize="int8", or leave it out',
    )


def make_plan(
    request: Request,
    imported: Imported,
    target: TargetSpec,
    log: StageLog,
    progress: Callable[[str, str], None] | None = None,
) -> tuple[CompressionPlan, Calibration | None]:
    """The plan that was given, checked against the model, or a new one.

    Args:
        request: What was asked for.
        imported: The model.
        target: The scope of TVM's passes; it changes nothing.
        log: Receives what was done.
        progress: Called as ``progress("compress", text)`` as samples are seen.

    Raises:
        PlanError: The plan is for another model.
        CalibrationError: The samples do not do.
        InputError: An option names a layer that there is not.
    """
    plan, calibrated = _make_plan(request, imported, target, log, progress)
    if request.precision != "float32":
        plan = _on_16_bits(plan, request.precision)
        calibrated = None if calibrated is None else replace(calibrated, plan=plan)
    return plan, calibrated


def _on_16_bits(plan: CompressionPlan, precision: str) -> CompressionPlan:
    """A plan in which convolutions and products that are not compressed compute on 16 bits.

    What the user keeps in float32 stays there.
    """
    from compiler.compress.apply.facts import HEAVY

    return replace(
        plan,
        operators={
            name: replace(o, precision=precision)
            if o.kind in HEAVY and o.precision == "float32" and not o.why.startswith(KEPT)
            else o
            for name, o in plan.operators.items()
        },
    )


def _make_plan(
    request: Request,
    imported: Imported,
    target: TargetSpec,
    log: StageLog,
    progress: Callable[[str, str], None] | None,
) -> tuple[CompressionPlan, Calibration | None]:
    from compiler.compress.calibrate import calibrate
    from compiler.compress.samples import check_static, read_samples
    from compiler.compress.weights import weight_plan, with_tables
    from compiler.lower.plain import plain_graph_of

    if request.recipe is None or request.recipe.needs_calibration:
        check_static(imported.inputs)
    identity = model_identity(
        imported.name, imported.parameters, [(s.name, s.shape, s.dtype) for s in imported.inputs]
    )
    if request.plan is not None:
        with log.time("compress", "read the plan") as detail:
            remark = request.plan.check_model(identity)
            if remark:
                warnings.warn(remark, UserWarning, stacklevel=4)
                detail.append(remark)
        return request.plan, None
    if request.recipe is None and imported.quantized is not None:
        return _plan_of_program(imported, imported.quantized, target, identity, log), None
    if request.recipe is None:
        raise InputError("there is neither a plan nor calibration", where="quantize")
    recipe = request.recipe
    if recipe.scheme in ("weight", "dynamic"):
        with log.time("compress", "plan of weights") as detail:
            plan = weight_plan(plain_graph_of(imported, target), identity, recipe)
            detail.append(_describe_weights(plan))
        return plan, None
    if request.calibration is None:
        raise InputError("there is neither a plan nor calibration", where="quantize")
    with log.time("compress", "plain graph"):
        graph = plain_graph_of(imported, target)
    with log.time("compress", "calibrate") as detail:
        samples = read_samples(request.calibration, imported.inputs, request.recipe.samples)

        def tell(count: int, text: str) -> None:
            if progress is not None:
                progress("compress", f"{count} {text}")

        result = calibrate(graph, identity, samples, request.recipe, tell)
        integers = len(result.plan.quantized())
        detail.append(
            f"{result.samples} samples; {integers} of {len(result.plan.operators)} operators int8"
        )
        detail.extend(result.notes)
    plan = with_tables(result.plan, graph, recipe)
    return plan, replace(result, plan=plan)


def _describe_weights(plan: CompressionPlan) -> str:
    """One line for the log."""
    counts = Counter(
        f"{o.weight.dtype} {o.precision}" for o in plan.operators.values() if o.weight is not None
    )
    if not counts:
        return "nothing is compressed: no operator has a weight of its own"
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))


def _plan_of_program(
    imported: Imported,
    quantized: QuantizedElsewhere,
    target: TargetSpec,
    identity: ModelIdentity,
    log: StageLog,
) -> CompressionPlan:
    from compiler.compress.imported import imported_plan
    from compiler.lower.plain import plain_graph_of

    with log.time("compress", "plan of the program") as detail:
        marked = plain_graph_of(replace(imported, module=quantized.module), target)
        found = imported_plan(
            plain_graph_of(imported, target), marked, quantized.weights, identity, quantized.source
        )
        compressed = [o for o in found.plan.operators.values() if o.precision not in FLOATS]
        detail.append(
            f"as {quantized.source} quantized it: {len(compressed)} of "
            f"{len(found.plan.operators)} operators"
        )
        detail.extend(found.notes)
    return found.plan


def metric_of(evaluate: Metric, run: Callable[..., Any], what: str) -> float:
    """The user's metric.

    Args:
        evaluate: The metric.
        run: Runs the model.
        what: Which model, for errors.

    Raises:
        InputError: It raises, or gives no finite number.
        TilewrightError: As `run` does.
    """
    try:
        value = evaluate(run)
    except TilewrightError:
        raise
    except Exception as error:
        raise InputError(
            f"the metric failed on {what}: {type(error).__name__}: {error}",
            where="evaluate",
            hint="call it with the model itself to see the whole error",
        ) from error
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the metric gave a {type(value).__name__} for {what}, not a number",
            where="evaluate",
            hint="return one number, such as the share of right answers",
        ) from error
    if not math.isfinite(number):
        raise InputError(
            f"the metric gave {number} for {what}",
            where="evaluate",
            hint="return a finite number; look at the samples that it is computed from",
        )
    return number


def wants_search(request: Request | None) -> bool:
    """Whether precisions are to be searched for."""
    return (
        request is not None and request.recipe is not None and request.recipe.max_drop is not None
    )


def choose_precisions(
    request: Request,
    calibration: Calibration,
    imported: Imported,
    source: Source,
    target: TargetSpec,
    log: StageLog,
    *,
    build: Callable[[CompressionPlan, StageLog], Bundle],
    threads: int,
    measured: bool,
    progress: Callable[[str, str], None] | None = None,
) -> Found:
    """The fastest plan whose metric drops by no more than was allowed.

    Args:
        request: What was asked for, with a budget.
        calibration: The int8 plan that the search starts from.
        imported: The model.
        source: The model as it came.
        target: What to compile for.
        log: Receives what was done.
        build: Compiles a plan.
        threads: Threads that the model is to run on.
        measured: Whether latencies are measured, else estimated.
        progress: Called as ``progress("compress", text)``.

    Raises:
        InputError: The metric fails, or the journal is another search's.
        FileError: The journal cannot be read or written.
        TilewrightError: As `build` does for the float32 model.
    """
    from compiler.lower.plain import plain_graph_of
    from compiler.mixed import Budget, Judge, search_precisions
    from compiler.mixed.journal import plan_digest
    from compiler.stages import StageLog
    from schedules.cpu.intrinsics.bf16 import native_lanes
    from targets import cpu_name
    from targets.host import host_features

    recipe, evaluate = request.recipe, request.evaluate
    if recipe is None or recipe.max_drop is None or evaluate is None:
        raise AssertionError
    metric = evaluate
    with log.time("compress", "metric in PyTorch"):
        before = metric_of(metric, float_model(source), "the float32 model")
    options = recipe.to_dict()
    for name in ("max_drop", "max_evaluations"):
        del options[name]
    identity = {
        "model": calibration.plan.model.values,
        "plan": plan_digest(calibration.plan),
        "options": options,
        "target": target.name,
        "cpu": cpu_name(),
        "features": sorted(host_features()),
        "metric": f"{getattr(metric, '__module__', '')}.{getattr(metric, '__qualname__', '')}",
        "before": before,
        "threads": threads,
        "measured": measured,
    }
    quiet = StageLog()  # the stages of models that are only tried are nobody's

    def judge(bundle: Bundle) -> float:
        return metric_of(metric, bundle, "a compiled model")

    with log.time("compress", "choose precisions") as detail:
        found = search_precisions(
            calibration,
            plain_graph_of(imported, target),
            Budget(before, float(recipe.max_drop), recipe.max_evaluations),
            Judge(lambda plan: build(plan, quiet), judge, target, threads, measured),
            bfloat16=bool(native_lanes(target)),
            journal=None if recipe.resume is None else Path(recipe.resume),
            identity=identity,
            tell=lambda text: progress("compress", text) if progress is not None else None,
        )
        detail.append(describe_search(found).summary())
    return found


def describe_search(found: Found) -> PrecisionSearch:
    """What a search tried, for the report."""
    return PrecisionSearch(
        max_drop=found.max_drop,
        before=Figure.measured(found.before, ""),
        points=tuple(
            SearchPoint(
                name=point.name,
                counts=point.counts,
                metric=None if point.metric is None else Figure.measured(point.metric, ""),
                latency=None
                if point.metric is None
                else Figure(point.milliseconds, "ms", point.label),
                inside=point.inside,
                chosen=i == found.chosen,
                note=point.note,
            )
            for i, point in enumerate(found.points)
        ),
        resumed=found.resumed,
        interrupted=found.interrupted,
    )


def float_model(source: Source) -> Callable[..., Any]:
    """Runs the model in PyTorch as a bundle does: NumPy or PyTorch in, the same out."""
    import numpy as np
    import torch
    from torch.utils import _pytree as pytree

    from compiler.frontend.export import inference_mode

    program = isinstance(source.model, torch.export.ExportedProgram)
    call = source.model.module() if program else source.model

    def run(*inputs: Any, **named: Any) -> Any:
        arrays = any(isinstance(v, np.ndarray) for v in (*inputs, *named.values()))
        args, kwargs = pytree.tree_map_only(np.ndarray, torch.from_numpy, (inputs, named))
        with torch.no_grad(), nullcontext() if program else inference_mode(source.model):
            result = call(*args, **kwargs)
        leaves = [v for v in pytree.tree_leaves(result) if isinstance(v, torch.Tensor)]
        values = tuple(v.numpy() if arrays else v for v in leaves)
        return values[0] if len(values) == 1 else values

    return run


def golden_outputs(
    imported: Imported,
    target: TargetSpec,
    plan: CompressionPlan,
    source: Source,
    log: StageLog,
) -> tuple[Array, ...]:
    """The NumPy reference's outputs for the example inputs, for code that cannot run here."""
    from compiler.lower.plain import reference_outputs
    from compiler.runtime.tensors import torch_to_numpy

    with log.time("compress", "reference outputs"):
        inputs = [torch_to_numpy(value) for value in source.tensors()]
        return reference_outputs(imported, target, plan, inputs)


def describe(
    plan: CompressionPlan,
    calibration: Calibration | None,
    imported: Imported,
    *,
    parameter_bytes: int,
    golden_sha256: str,
    metrics: Sequence[float],
    search: PrecisionSearch | None = None,
    kernels: Sequence[KernelInfo] = (),
) -> QuantizationReport:
    """The section of the report.

    Args:
        plan: What was applied.
        calibration: How it was made, None if it was given.
        imported: The model before.
        parameter_bytes: Of the compiled model.
        golden_sha256: Hash of the golden outputs.
        metrics: The user's metric before and after; empty without one.
        search: What was tried to find the precisions.
        kernels: What was built; those that float32 would beat are named with their layers.
    """
    slower = {source: k.slower for k in kernels if k.slower for source in k.sources}
    before = sum(array.nbytes for array in imported.parameters.values())
    return QuantizationReport(
        recipe=plan.recipe,
        samples=None if calibration is None else calibration.samples,
        layers=tuple(
            _layer(name, op, imported, slower.get(name.partition(":")[0], ""))
            for name, op in plan.operators.items()
        ),
        bytes_before=Figure.measured(before, "B"),
        bytes_after=Figure.measured(parameter_bytes, "B"),
        metric_before=Figure.measured(metrics[0], "") if metrics else None,
        metric_after=Figure.measured(metrics[1], "") if metrics else None,
        golden_sha256=golden_sha256,
        search=search,
    )


def _layer(name: str, operator: OperatorPlan, imported: Imported, slower: str = "") -> LayerRow:
    weight = operator.weight
    array = imported.parameters.get(weight.parameter) if weight is not None else None
    noise = operator.sqnr_db
    return LayerRow(
        name=name,
        kind=operator.kind,
        precision=operator.precision,
        weight="" if weight is None else f"{weight.dtype}/{weight.granularity}",
        method="" if weight is None else weight.method,
        why="; ".join(filter(None, [operator.why, slower])),
        sqnr=None if noise is None else Figure(noise, "dB", "simulated"),
        bytes_before=None if array is None else Figure.measured(array.nbytes, "B"),
        bytes_after=None if array is None else Figure.measured(_stored_bytes(weight, array), "B"),
    )


def _stored_bytes(weight: WeightPlan | None, array: Array) -> int:
    """Bytes of a weight's codes."""
    if weight is None:
        return array.nbytes
    return -(-array.size * (weight.bits or WEIGHT_BITS[weight.dtype]) // 8)


__all__ = [
    "QUANTIZED_TOLERANCE",
    "Metric",
    "QuantizeOption",
    "Request",
    "choose_precisions",
    "describe",
    "describe_search",
    "float_model",
    "golden_outputs",
    "make_plan",
    "metric_of",
    "quantized_tolerance",
    "read_request",
    "settle_request",
    "wants_search",
]
