"""Calibration: run samples through the plain graph in float32 and make a plan of what is seen.

Two passes. The first streams all samples through the graph into observers; only ranges and
histograms stay. The second runs a few samples, kept for it, through the float32 graph and
through a simulation of the quantized one side by side, operator by operator, for the
correction of biases and the figures by layer. Neither holds all activations of a network at
once, and the result depends on nothing but model, samples, their order and the options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compiler.compress.equalize import divide_outputs, equalize, multiply_inputs
from compiler.compress.evaluate import Evaluator
from compiler.compress.few_bits import (
    FewBits,
    ends_of,
    evaluate_signs,
    real_weight,
    without_signs,
)
from compiler.compress.groups import SHARING, WEIGHT_AXIS, Group, find_groups
from compiler.compress.observers import Observer
from compiler.compress.plan import (
    NARROW,
    WEIGHT_LIMITS,
    CompressionPlan,
    Equalization,
    ModelIdentity,
    OperatorPlan,
    Smoothing,
    TensorPlan,
    WeightPlan,
    base,
)
from compiler.compress.ranges import (
    activation_plan,
    choose_range,
    fake_quantize_weight,
    symmetric_plan,
    weight_scales,
    wide_plan,
)
from compiler.compress.recipe import FEW_SAMPLES, Quantize
from compiler.compress.rounding import find_roundings
from compiler.compress.sites import PlainGraph
from compiler.compress.smooth import candidates, find_smoothings
from compiler.compress.turned import turn
from compiler.compress.widths import Widths, find_widths
from compiler.errors import CalibrationError
from schedules.tvm_adapter import GenericConst

Array = npt.NDArray[Any]
#: Called with the number of samples seen so far, and what is done with them.
Progress = Callable[[int, str], None]

#: Samples that are kept for the second pass, and the most bytes of them.
PROBES = 16
#: Room for values beyond those seen in tensors of 16 bits, and by how much a masked score is
#: less than all others.
HEADROOM, MASKED = 2.0, 24.0
PROBE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Calibration:
    """A plan and how it came about.

    Attributes:
        plan: The plan.
        samples: Samples that were looked at.
        probes: Samples behind the figures by layer.
        notes: Remarks for the log.
        kept: The samples behind the figures by layer.
    """

    plan: CompressionPlan
    samples: int
    probes: int
    notes: tuple[str, ...] = ()
    kept: tuple[tuple[torch.Tensor, ...], ...] = ()


def calibrate(
    graph: PlainGraph,
    identity: ModelIdentity,
    samples: Iterable[tuple[Array, ...]],
    recipe: Quantize,
    progress: Progress | None = None,
) -> Calibration:
    """Make a plan for a model.

    Args:
        graph: Its plain graph.
        identity: What model it is.
        samples: Inputs, as `compiler.compress.samples.read_samples` gives them.
        recipe: The options.
        progress: Called as samples are seen.

    Raises:
        CalibrationError: There are too few samples, or activations that give no range.
        InputError: `recipe.keep` names no layer.
    """
    groups = find_groups(graph, recipe.keep)
    if recipe.ends == "float32" and recipe.weight_form.dtype in ("ternary", "binary"):
        first, last = ends_of(graph, groups)
        groups = find_groups(graph, (*recipe.keep, *first, *last))
    work = _Calibrator(graph, groups, recipe, progress or (lambda _count, _text: None))
    work.equalize()
    work.observe(samples)
    tensors = work.tensors()
    weights = work.weights(tensors)
    work.roundings(weights)
    corrections = work.corrections(weights) if recipe.correct_bias else {}
    noise = work.noise(tensors, weights, corrections)
    operators = {
        g.name: work.few_bits.operator(
            OperatorPlan(
                kind=g.site.kind,
                precision="int8" if g.integer else "float32",
                inputs=work.widths.reads.get(g.name, g.inputs),
                output=g.output,
                epilogue=tuple(s.name for s in g.epilogue),
                weight=weights.get(g.name),
                why=g.why,
                sqnr_db=noise.get(g.output) if g.integer else None,
            ),
            g.name,
        )
        for g in groups
        if g.site.kind
    }
    plan = CompressionPlan(
        identity,
        recipe.to_dict(),
        without_signs(tensors, operators, graph.outputs),
        operators,
        work.equalizations,
        {name: tuple(map(float, v)) for name, v in corrections.items()},
        work.smoothings,
        work.turned,
    )
    return Calibration(plan, work.count, len(work.probes), tuple(work.notes), tuple(work.probes))


@dataclass(slots=True)
class _Calibrator:
    graph: PlainGraph
    groups: tuple[Group, ...]
    recipe: Quantize
    progress: Progress
    observers: dict[str, Observer] = field(default_factory=dict)
    probes: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    count: int = 0
    notes: list[str] = field(default_factory=list)
    equalizations: tuple[Equalization, ...] = ()
    real_weights: dict[str, Array] = field(default_factory=dict)
    real_biases: dict[str, Array] = field(default_factory=dict)
    evaluator: Evaluator = field(init=False)
    few_bits: FewBits = field(init=False)
    widths: Widths = field(init=False)
    smoothings: tuple[Smoothing, ...] = ()
    factors: dict[str, Array] = field(default_factory=dict)
    smoothed: dict[str, Observer] = field(default_factory=dict)
    turned: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.graph)
        self.few_bits = FewBits.choose(self.graph, self.groups, self.recipe)
        self.widths = find_widths(self.groups)
        for group in self.groups:
            if group.weight is not None:
                self.real_weights[group.name] = np.asarray(group.weight.value.numpy())
            if group.bias is not None:
                constant = next(a for a in group.bias.value.args if isinstance(a, GenericConst))
                self.real_biases[group.name] = np.asarray(constant.value.numpy())

    def equalize(self) -> None:
        """Equalize neighbouring layers and go on with their new weights."""
        if not self.recipe.equalize:
            return
        by_name = {g.name: g for g in self.groups}
        self.equalizations = equalize(self.graph, self.groups)
        for pair in self.equalizations:
            factors = np.asarray(pair.factors, np.float64)
            first, second = by_name[pair.first], by_name[pair.second]
            self._set_weight(first, divide_outputs(self._weight(first), factors, first))
            self._set_weight(second, multiply_inputs(self._weight(second), factors, second))
            if first.bias is not None:
                bias = self.real_biases[first.name].astype(np.float64)
                channels = bias.shape if bias.size > 1 else (-1, *([1] * (bias.ndim - 1)))
                self._set_bias(first, bias / factors.reshape(channels))
        self.notes.append(f"{len(self.equalizations)} pairs of layers equalized")

    def _weight(self, group: Group) -> npt.NDArray[np.float64]:
        return self.real_weights[group.name].astype(np.float64)

    def _set_weight(self, group: Group, value: Array) -> None:
        self.real_weights[group.name] = value.astype(np.float32)
        tensor = torch.from_numpy(self.real_weights[group.name])
        self.evaluator.replaced[group.name] = {1: tensor}

    def _set_bias(self, group: Group, value: Array) -> None:
        if group.bias is None:
            return
        self.real_biases[group.name] = value.astype(np.float32)
        position = next(
            i for i, a in enumerate(group.bias.value.args) if isinstance(a, GenericConst)
        )
        tensor = torch.from_numpy(self.real_biases[group.name])
        self.evaluator.replaced[group.bias.name] = {position: tensor}

    def observe(self, samples: Iterable[tuple[Array, ...]]) -> None:
        """Stream the samples through the graph.

        Raises:
            CalibrationError: There are fewer than two samples, or activations without a range.
        """
        wanted = {base(name) for name in self.widths.names()}
        self.observers = {name: Observer() for name in sorted(wanted)}
        held = 0

        def visit(name: str, value: torch.Tensor) -> None:
            observer = self.observers.get(name)
            if observer is None:
                return
            array = value.numpy()
            for form in (name, name + NARROW):
                if form in self.factors:
                    self.smoothed[form].update(array / self.factors[form].astype(np.float32))
            if not np.isfinite(array).all():
                raise CalibrationError(
                    f"it holds {'NaN' if np.isnan(array).any() else 'infinities'} for sample "
                    f"{self.count}",
                    where=f"activation {name!r}",
                    hint="look at the sample and at the layers before; a layer that overflows "
                    "by design can be kept in float32: Quantize(keep=[...])",
                )
            observer.update(array)
            self.few_bits.see(name, array)

        for sample in self._smooth(iter(samples)):
            tensors = tuple(torch.from_numpy(np.array(a)) for a in sample)
            self.evaluator.run(tensors, visit)
            size = sum(a.nbytes for a in sample)
            if len(self.probes) < PROBES and held + size <= PROBE_BYTES:
                self.probes.append(tensors)
                held += size
            self.count += 1
            self.progress(self.count, "samples seen")
        self._check_observed()
        self.notes += self.few_bits.settle({n: o.minimum for n, o in self.observers.items()})

    def _smooth(self, samples: Iterator[tuple[Array, ...]]) -> Iterator[tuple[Array, ...]]:
        """All samples, of which the first are looked at once before to find factors."""
        found = candidates(self.groups, self.widths, frozenset(self.few_bits.chosen))
        if not self.recipe.smoothing or not found:
            return samples
        first = list(islice(samples, PROBES))
        self.smoothings = find_smoothings(
            self.evaluator,
            found,
            self.real_weights,
            [tuple(torch.from_numpy(np.array(a)) for a in sample) for sample in first],
            self.recipe.smoothing,
        )
        for smoothing in self.smoothings:
            self.factors[smoothing.tensor] = np.asarray(smoothing.factors, np.float64)
            self.smoothed[smoothing.tensor] = Observer()
        self.notes.append(f"{len(self.smoothings)} activations smoothed")
        return chain(first, samples)

    def _observer(self, name: str) -> Observer:
        """What has seen a tensor as it is stored."""
        return self.smoothed.get(name) or self.observers[base(name)]

    def _read_factors(self) -> dict[str, Array]:
        """By operator, what the channels of its input are divided by."""
        return {n: self.factors[s.tensor] for s in self.smoothings for n in s.readers}

    def _stepped(self, group: Group) -> Array:
        """The weight of a layer as it is stored, but for scale and rounding."""
        weight = self.real_weights[group.name]
        factors = self._read_factors().get(group.name)
        return weight if factors is None else (weight * factors[:, None]).astype(np.float32)

    def _check_observed(self) -> None:
        if self.count < 2:
            given = "is no sample" if self.count == 0 else "is one sample only"
            raise CalibrationError(
                f"there {given}, and the ranges of activations come from samples",
                where="calibration",
                hint="give some hundred inputs like those that the model will meet",
            )
        if self.count < FEW_SAMPLES:
            self.notes.append(f"only {self.count} samples: ranges may be too narrow")
        masks = {mask for _, mask in self.widths.masks.values()}
        for name, observer in self.observers.items():
            if observer.samples and observer.constant and name not in masks:
                raise CalibrationError(
                    f"it is {observer.minimum:g} everywhere in all {self.count} samples",
                    where=f"activation {name!r}",
                    hint="samples that are all the same give no ranges; if the layer is meant "
                    "so, keep what reads it in float32: Quantize(keep=[...])",
                )

    def tensors(self) -> dict[str, TensorPlan]:
        """Scales and zero points of all activations that integers read."""
        recipe = self.recipe
        ranges: dict[str, tuple[float, float]] = {}
        plans: dict[str, TensorPlan] = {}
        for members in self._sharing():
            first = next(iter(members))
            if first in self.widths.wide or first in self.widths.weights:
                plans.update(self._special(members))
                continue
            for name in members:
                ranges[name] = choose_range(
                    self._observer(name), recipe.calibrate, recipe.percentile,
                    recipe.power_of_two,
                )  # fmt: skip
            low = min(ranges[name][0] / factor for name, factor in members.items())
            high = max(ranges[name][1] / factor for name, factor in members.items())
            make = activation_plan
            if self.widths.symmetric & set(members):
                make = symmetric_plan
            for name, factor in members.items():
                plan = make(
                    low * factor, high * factor, method=recipe.calibrate,
                    power_of_two=recipe.power_of_two, seen=self._seen(name),
                )  # fmt: skip
                plans[name] = _shared(plan, plans.get(first), first, factor)
        self._mask_scores(plans)
        return {name: plans[name] for name in self._in_order(plans)}

    def _seen(self, name: str) -> tuple[float, float]:
        observer = self._observer(name)
        return observer.minimum, observer.maximum

    def _special(self, members: Mapping[str, float]) -> dict[str, TensorPlan]:
        """Tensors in 16 bits, with room for twice what was seen, and results of softmax."""
        first = next(iter(members))
        if first in self.widths.weights:
            scale = float(np.float32(1 / 255))
            least, greatest = (float(np.float32(v)) for v in self._seen(first))
            return {first: TensorPlan("uint8", scale, 0, "softmax", False, least, greatest)}
        reach = HEADROOM * max(
            abs(v) / factor for name, factor in members.items() for v in self._seen(name)
        )
        plans: dict[str, TensorPlan] = {}
        for name, factor in members.items():
            plan = wide_plan(
                reach * factor, power_of_two=self.recipe.power_of_two, seen=self._seen(name)
            )
            plans[name] = _shared(plan, plans.get(first), first, factor)
        return plans

    def _mask_scores(self, plans: dict[str, TensorPlan]) -> None:
        """One scale for scores, their mask and their sum: a mask of -inf or so saturates.

        The reach is such that what saturates is less than any score by `MASKED` and more: its
        exponential is 0.
        """
        for result, (scores, mask) in self.widths.masks.items():
            largest = max(abs(v) for v in self._seen(scores))
            added = max(abs(v) for v in self._seen(mask))
            reach = HEADROOM * largest + (min(largest + MASKED, added))
            for name in (scores, mask, result):
                plan = wide_plan(
                    reach, power_of_two=self.recipe.power_of_two, seen=self._seen(name)
                )
                plans[name] = _shared(plan, plans[scores] if name != scores else None, scores, 1.0)

    def _in_order(self, names: Iterable[str]) -> list[str]:
        order = [*self.graph.inputs, *(s.name for s in self.graph.sites)]
        known = set(names)
        return [n for name in dict.fromkeys(order) for n in (name, name + NARROW) if n in known]

    def _sharing(self) -> list[dict[str, float]]:
        """Sets of tensors that have one range but for a factor each, in order.

        Most have one member. The factors are against the first one, and 1 but for what is
        multiplied by a number: that changes only what stored values mean.
        """
        order = {name: i for i, name in enumerate(self._in_order(self.widths.names()))}
        sets: dict[str, dict[str, float]] = {name: {name: 1.0} for name in order}

        def join(one: str, other: str, factor: float) -> None:
            """Let `other` be `factor` times `one`."""
            a, b = sets[one], sets[other]
            if a is b:
                return
            factor = factor * a[one] / b[other]
            merged = {**a, **{name: value * factor for name, value in b.items()}}
            names = sorted(merged, key=lambda name: order[name])
            joined = {name: merged[name] / merged[names[0]] for name in names}
            for name in names:
                sets[name] = joined

        for group in self.groups:
            if not group.integer or group.output not in order:
                continue
            factor = None if self.recipe.power_of_two else group.factor
            if group.site.kind in SHARING:
                factor = 1.0
            if factor is None:
                continue
            for name in self.widths.reads[group.name]:
                join(name, group.output, factor)
        return list({id(sets[name]): sets[name] for name in order}.values())

    def weights(self, tensors: Mapping[str, TensorPlan]) -> dict[str, WeightPlan]:
        """Scales of all weights of integer operators."""
        recipe = self.recipe
        method = "mse" if recipe.calibrate == "mse" else "minmax"
        result = {}
        for group in self.groups:
            if not (group.integer and group.weighted):
                continue
            if group.name in self.few_bits.chosen:
                result[group.name] = self.few_bits.weight(group, self._parameter(group))
                continue
            axis = WEIGHT_AXIS[group.site.kind]
            bias = self.real_biases.get(group.name)
            dtype = self._weight_dtype(group)
            result[group.name] = WeightPlan(
                parameter=self._parameter(group),
                dtype=dtype,
                granularity=recipe.weight_granularity,
                axis=axis,
                scales=weight_scales(
                    self._stepped(group), axis,
                    granularity=recipe.weight_granularity, method=method,
                    power_of_two=recipe.power_of_two,
                    bias=None if bias is None else bias.astype(np.float64).reshape(-1),
                    data_scale=tensors[self.widths.reads[group.name][0]].scale,
                    limit=WEIGHT_LIMITS[dtype],
                ),
                method=method,
                power_of_two=recipe.power_of_two,
            )  # fmt: skip
        return result

    def _weight_dtype(self, group: Group) -> str:
        """int8 or int4; a depthwise kernel has few weights and stays int8."""
        dtype = self.recipe.weight_form.dtype
        if dtype not in WEIGHT_LIMITS:
            return "int8"
        groups = int(getattr(group.site.value.attrs, "groups", 1) or 1)
        inner = group.weight.ty.shape.values[1] if group.weight is not None else 0
        return "int8" if groups > 1 and inner == 1 else dtype

    def _parameter(self, group: Group) -> str:
        name = self.graph.constants(group.weight) or group.name
        return name.partition("#")[0]

    def corrections(self, weights: Mapping[str, WeightPlan]) -> dict[str, Array]:
        """Mean error of each channel that the rounding of weights alone makes.

        Weights of one or two bits are left out: they are trained as they are rounded, and then
        their error is no error.
        """
        totals: dict[str, Array] = {}
        rounded = {
            name: value
            for name, value in self._rounded(weights).items()
            if name not in self.few_bits.chosen
        }
        for number, probe in enumerate(self.probes):
            environment: dict[str, Any] = dict(zip(self.graph.inputs, probe, strict=True))
            with torch.inference_mode():
                for index, site in enumerate(self.graph.sites):
                    value = self.evaluator.evaluate(site, environment)
                    if site.name in rounded:
                        other = self.evaluator.evaluate(site, environment, {1: rounded[site.name]})
                        axis = value.ndim - 1 if site.kind == "matmul" else 1
                        others = tuple(i for i in range(value.ndim) if i != axis)
                        error = (value - other).double().mean(dim=others).numpy()
                        totals[site.name] = totals.get(site.name, 0.0) + error
                    environment[site.name] = value
                    for name in self.evaluator.dying.get(index, ()):
                        environment.pop(name, None)
            self.progress(number + 1, "samples for bias correction")
        return {
            name: (total / len(self.probes)).astype(np.float32) for name, total in totals.items()
        }

    def roundings(self, weights: Mapping[str, WeightPlan]) -> None:
        """Find which weights are better rounded the other way."""
        if self.recipe.rounding == "nearest":
            return
        layers = {}
        for group in self.groups:
            plan = weights.get(group.name)
            if plan is None or plan.dtype not in WEIGHT_LIMITS:
                continue
            exact = self._stepped(group).astype(np.float64) / _steps(plan, group)
            layers[group.name] = (group, exact, WEIGHT_LIMITS[plan.dtype])
        self.turned, done = find_roundings(
            self.evaluator, layers, self.probes, self.progress, self._read_factors()
        )
        self.notes.append(
            f"{len(self.turned)} of {len(layers)} layers rounded by their sums"
            + ("" if done else ", then interrupted: the others are rounded to the nearest")
        )

    def _rounded(self, weights: Mapping[str, WeightPlan]) -> dict[str, torch.Tensor]:
        """Weights as the stored ones give them back, in the units of the float model."""
        found = {}
        smooth = self._read_factors()
        for group in self.groups:
            plan = weights.get(group.name)
            if plan is None:
                continue
            if group.name in self.few_bits.chosen:
                value = real_weight(self.real_weights[group.name], plan)
            elif group.name in self.turned:
                limit = WEIGHT_LIMITS[plan.dtype]
                exact = self._stepped(group).astype(np.float64) / _steps(plan, group)
                near = np.clip(np.rint(exact), -limit, limit)
                value = turn(near, exact, self.turned[group.name], limit) * _steps(plan, group)
            else:
                value = fake_quantize_weight(
                    self._stepped(group), plan.axis, plan.scales, WEIGHT_LIMITS[plan.dtype]
                )
            if group.name in smooth:
                value = value / smooth[group.name][:, None]
            found[group.name] = torch.from_numpy(np.asarray(value, np.float32))
        return found

    def _form(
        self, name: str, value: torch.Tensor, tensors: Mapping[str, TensorPlan]
    ) -> torch.Tensor:
        """A tensor as one of its forms gives it back."""
        if name not in self.factors:
            return _fake(value, tensors[name])
        factors = torch.from_numpy(self.factors[name].astype(np.float32))
        return _fake(value / factors, tensors[name]) * factors

    def noise(
        self,
        tensors: Mapping[str, TensorPlan],
        weights: Mapping[str, WeightPlan],
        corrections: Mapping[str, Array],
    ) -> dict[str, float]:
        """Signal to noise in decibels of each integer operator's result, simulated.

        The model as a whole is quantized: a layer's noise includes that of the layers before.
        """
        rounded = self._rounded(weights)
        makers = {g.output: g for g in self.groups}
        owners = {s.name: g for g in self.groups for s in g.members()}
        power: dict[str, float] = {}
        error: dict[str, float] = {}
        for number, probe in enumerate(self.probes):
            real: dict[str, Any] = dict(zip(self.graph.inputs, probe, strict=True))
            rough = dict(real)
            stored: dict[str, Any] = {}  # quantized copies of what is made in float32
            with torch.inference_mode():
                for index, site in enumerate(self.graph.sites):
                    group = owners[site.name]
                    head = group.integer and site is group.site
                    real[site.name] = self.evaluator.evaluate(site, real)
                    if head:
                        for read in self.widths.reads[group.name]:
                            name = base(read)
                            maker = makers.get(name)
                            made = maker is not None and maker.integer and read == name
                            value = rough[name]
                            stored[name] = value if made else self._form(read, value, tensors)
                    replaced = {1: rounded[site.name]} if head and site.name in rounded else None
                    environment = {**rough, **stored} if head else rough
                    scale = self.few_bits.sign_scale(site.name)
                    if scale is not None:
                        data = environment[group.inputs[0]]
                        value = evaluate_signs(site, data, rounded[site.name], scale)
                    else:
                        value = self.evaluator.evaluate(site, environment, replaced)
                    if head and site.name in corrections:
                        value = value + _channels(corrections[site.name], value, site.kind)
                    if group.integer and site.name == group.output:
                        if site.name in tensors:
                            value = self._form(site.name, value, tensors)
                        wanted = _stored_part(real[site.name], tensors.get(site.name)).double()
                        power[site.name] = power.get(site.name, 0.0) + float((wanted**2).sum())
                        error[site.name] = error.get(site.name, 0.0) + float(
                            ((value.double() - wanted) ** 2).sum()
                        )
                    rough[site.name] = value
                    for name in self.evaluator.dying.get(index, ()):
                        for values in (real, rough, stored):
                            values.pop(name, None)
            self.progress(number + 1, "samples compared with the quantized model")
        return {
            name: round(10.0 * math.log10(power[name] / error[name]), 2)
            for name in power
            # What a mask hides is no signal.
            if power[name] > 0.0 and error[name] > 0.0 and name not in self.widths.masks
        }


def _steps(plan: WeightPlan, group: Group) -> Array:
    """The scales of a weight, along its axis of output channels."""
    shape = [1] * len(group.site.value.args[1].ty.shape.values)
    shape[plan.axis] = -1
    return np.asarray(plan.scales, np.float64).reshape(shape)


def _channels(values: Array, like: torch.Tensor, kind: str) -> torch.Tensor:
    shape = [1] * like.ndim
    shape[-1 if kind == "matmul" else 1] = -1
    return torch.from_numpy(values.reshape(shape))


def _shared(plan: TensorPlan, root: TensorPlan | None, name: str, factor: float) -> TensorPlan:
    """The plan of a tensor whose range is that of another one but for a factor."""
    if root is None:
        return plan
    if factor != 1.0:
        return replace(plan, scale=float(np.float32(root.scale * factor)), method="scaled")
    same = replace(plan, scale=root.scale, zero_point=root.zero_point)
    return replace(same, method="shared", shared_with=name)


def _stored_part(value: torch.Tensor, plan: TensorPlan | None) -> torch.Tensor:
    """What of a tensor can be stored at all: masked scores are less than anything."""
    return value if plan is None or plan.dtype != "int16" else value.clamp(*plan.real_limits)


def _fake(value: torch.Tensor, plan: TensorPlan) -> torch.Tensor:
    """A tensor as its stored integers give it back."""
    low, high = plan.limits
    if plan.method == "softmax":  # relative to the largest of the row
        stored = torch.round(value / value.amax(-1, keepdim=True) * high)
        return stored / stored.sum(-1, keepdim=True)
    stored = torch.round(value / plan.scale + plan.zero_point).clamp(low, high)
    return (stored - plan.zero_point) * plan.scale


__all__ = ["Calibration", "Progress", "calibrate"]
