"""Sensitivity: how much noise each layer's choice makes in the model's outputs, simulated.

One layer at a time computes on rounded numbers, all others in float32, on a few calibration
samples. The noise of several layers about adds up, so these figures order what is tried; what
a plan costs in accuracy is only ever said by the user's metric on the compiled model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from compiler.compress.evaluate import Evaluator
from compiler.compress.plan import WEIGHT_LIMITS, CompressionPlan, TensorPlan, base
from compiler.compress.ranges import weight_scales
from compiler.compress.sites import PlainGraph, Site
from compiler.mixed.plans import FewerBits, Unit
from schedules.tvm_adapter import GenericConst

#: Calibration samples that are looked at.
SAMPLES = 4


def four_bits(
    graph: PlainGraph, plan: CompressionPlan, samples: Sequence[tuple[torch.Tensor, ...]]
) -> dict[str, FewerBits]:
    """Weights in four bits, by layer, of those that take them.

    Depthwise layers and those that are equalized against others are left out.
    """
    taken = {name for e in plan.equalizations for name in (e.first, e.second)}
    sites = graph.by_name()
    found: dict[str, FewerBits] = {}
    for name, operator in plan.operators.items():
        weight = operator.weight
        if weight is None or weight.dtype != "int8" or name in taken or weight.method == "adaround":
            continue
        site = sites[name]
        real = _weight_of(site)
        groups = int(getattr(site.value.attrs, "groups", 1) or 1)
        if real is None or (groups > 1 and real.shape[1] == 1) or operator.precision != "int8":
            continue
        scales = weight_scales(
            real, weight.axis, granularity="channel", method="mse",
            power_of_two=weight.power_of_two, bias=None,
            data_scale=plan.tensors[operator.inputs[0]].scale, limit=WEIGHT_LIMITS["int4"],
        )  # fmt: skip
        found[name] = FewerBits(
            replace(weight, dtype="int4", granularity="channel", scales=scales, method="mse")
        )
    return _with_corrections(graph, plan, found, samples)


def _with_corrections(
    graph: PlainGraph,
    plan: CompressionPlan,
    found: dict[str, FewerBits],
    samples: Sequence[tuple[torch.Tensor, ...]],
) -> dict[str, FewerBits]:
    """The mean error of each channel that rounding makes, as calibration corrects it."""
    if not plan.bias_corrections:
        return found
    evaluator = Evaluator(graph)
    totals: dict[str, Any] = {}
    rounded = {n: _rounded(graph.by_name()[n], f.weight) for n, f in found.items()}
    for sample in samples[:SAMPLES]:
        environment: dict[str, Any] = dict(zip(graph.inputs, sample, strict=True))
        with torch.inference_mode():
            for number, site in enumerate(graph.sites):
                value = environment[site.name] = evaluator.evaluate(site, environment)
                if site.name in rounded:
                    other = evaluator.evaluate(site, environment, {1: rounded[site.name]})
                    axis = value.ndim - 1 if site.kind == "matmul" else 1
                    others = tuple(i for i in range(value.ndim) if i != axis)
                    error = (value - other).double().mean(dim=others).numpy()
                    totals[site.name] = totals.get(site.name, 0.0) + error
                for name in evaluator.dying.get(number, ()):
                    environment.pop(name, None)
    count = len(samples[:SAMPLES])
    return {
        name: replace(bits, correction=tuple(map(float, (totals[name] / count).astype(np.float32))))
        for name, bits in found.items()
    }


def output_noise(
    graph: PlainGraph,
    plan: CompressionPlan,
    units: Sequence[Unit],
    fewer: Mapping[str, FewerBits],
    samples: Sequence[tuple[torch.Tensor, ...]],
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, float]]:
    """Noise power in the outputs over their power, for each unit and choice but float32.

    Args:
        graph: The plain graph.
        plan: The int8 plan.
        units: Its units.
        fewer: Weights in four bits.
        samples: Calibration samples; the first few are looked at.
        progress: Called with the number of units done and of all.
    """
    evaluator = Evaluator(graph)
    sites = {site.name: i for i, site in enumerate(graph.sites)}
    noise: dict[str, dict[str, float]] = {u.name: {} for u in units}
    samples = samples[:SAMPLES]
    for number, sample in enumerate(samples):
        exact: dict[str, Any] = dict(zip(graph.inputs, sample, strict=True))
        with torch.inference_mode():
            for site in graph.sites:
                exact[site.name] = evaluator.evaluate(site, exact)
            for done, unit in enumerate(units):
                for choice in ("bfloat16", "int8", "int4w"):
                    if choice == "int4w" and not all(n in fewer for n in unit.layers):
                        continue
                    found = _with_unit(graph, evaluator, exact, plan, unit, choice, fewer, sites)
                    share = noise[unit.name].get(choice, 0.0)
                    noise[unit.name][choice] = share + found / len(samples)
                progress(number * len(units) + done + 1, len(samples) * len(units))
    return noise


def _with_unit(
    graph: PlainGraph,
    evaluator: Evaluator,
    exact: Mapping[str, Any],
    plan: CompressionPlan,
    unit: Unit,
    choice: str,
    fewer: Mapping[str, FewerBits],
    sites: Mapping[str, int],
) -> float:
    changed: dict[str, Any] = {}
    for site in graph.sites[min(sites[n] for n in unit.layers) :]:
        layer = site.name in unit.layers
        if not layer and not any(name in changed for name in site.data):
            continue
        values = {name: changed.get(name, exact[name]) for name in site.data}
        replaced = None
        if layer:
            operator = plan.operators[site.name]
            if choice == "bfloat16":
                values = {n: v.bfloat16().float() for n, v in values.items()}
                real = _weight_of(site)
                if real is not None:
                    replaced = {1: torch.from_numpy(real).bfloat16().float()}
            else:
                for name in operator.inputs:
                    tensor = plan.tensors[name]
                    values[base(name)] = _fake(values[base(name)], tensor)
                if operator.weight is not None:
                    weight = fewer[site.name].weight if choice == "int4w" else operator.weight
                    replaced = {1: _rounded(site, weight)}
        changed[site.name] = evaluator.evaluate(site, values, replaced)
    total = power = 0.0
    for name in graph.outputs:
        want = exact[name]
        if not isinstance(want, torch.Tensor) or not want.is_floating_point():
            continue
        power += float((want.double() ** 2).sum())
        if name in changed:
            total += float(((changed[name].double() - want.double()) ** 2).sum())
    return total / power if power else 0.0


def _weight_of(site: Site) -> Any | None:
    weight = site.value.args[1] if len(site.value.args) > 1 else None
    return np.array(weight.value.numpy()) if isinstance(weight, GenericConst) else None


def _rounded(site: Site, weight: Any) -> torch.Tensor:
    real: Any = _weight_of(site)
    limit = WEIGHT_LIMITS.get(weight.dtype, 127)
    shape = [1] * real.ndim
    shape[weight.axis] = -1
    steps = np.asarray(weight.scales, np.float32).reshape(shape)
    value = np.clip(np.rint(real / steps), -limit, limit) * steps
    return torch.from_numpy(np.ascontiguousarray(value, np.float32))


def _fake(value: torch.Tensor, plan: TensorPlan) -> torch.Tensor:
    low, high = plan.limits
    stored = torch.round(value / plan.scale + plan.zero_point).clamp(low, high)
    return (stored - plan.zero_point) * plan.scale


__all__ = ["SAMPLES", "four_bits", "output_noise"]
