"""From an int8 plan to one of fewer bits: which layers take them, and which stay in int8.

Post-training calibration gives ranges for 8 bits; training then starts from there with coarser
weights, or signs. As is usual, the first and the last layer stay in 8 bits: they hold few of the
weights and most of the damage (Rastegari et al. 2016; Zhou et al., DoReFa-Net, 2016).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from compiler.compress.plan import CompressionPlan, OperatorPlan, WeightPlan
from compiler.compress.recipe import Quantize
from compiler.errors import InputError
from compiler.train.steps import WEIGHT_STEPS, fresh_scales

#: What `int8_layers` takes for the first and the last layer with a weight.
ENDS = "ends"
_WHY = "in 8 bits by int8_layers"
_DEPTHWISE = "a depthwise kernel has few weights and stays in 8 bits"
_GROUPED = "a convolution in groups has no form on one bit"


def lower_bits(
    plan: CompressionPlan,
    recipe: Quantize,
    weights: Mapping[str, npt.NDArray[np.float32]],
    int8_layers: Iterable[str] | str = ENDS,
    grouped: Iterable[str] = (),
) -> CompressionPlan:
    """An int8 plan with the weights, and where asked for the activations, of a recipe.

    Args:
        plan: Static int8, with ranges of activations.
        recipe: Says how weights are stored, and whether activations are one bit.
        weights: Values of the weights in the plain graph, by operator.
        int8_layers: Module paths or operators that stay in int8; ``"ends"`` stands for the first
            and the last layer with a weight.
        grouped: Operators that are convolutions in groups: they have no form on one bit, and
            depthwise ones stay in int8 with any recipe.

    Raises:
        InputError: A name of `int8_layers` is none of a layer with a weight, or the recipe's
            weights have no form with integer activations.
    """
    form, binary = recipe.weight_form, recipe.scheme == "binary"
    if form.dtype == "int8" and not binary:
        return plan
    if form.dtype not in WEIGHT_STEPS or form.granularity == "group":
        raise InputError(
            f"weights as {recipe.weights!r} are not trained with integer activations",
            where="quantize",
            hint="give int4/channel, ternary/channel, binary/channel, or one of them /tensor",
        )
    names = list(weights)
    kept = _kept(names, [int8_layers] if isinstance(int8_layers, str) else [*int8_layers])
    in_groups = frozenset(grouped)
    operators = dict(plan.operators)
    for name in names:
        operator = operators[name]
        if name in kept:
            operators[name] = replace(operator, why=_WHY)
        elif name in in_groups and weights[name].shape[1] == 1:
            operators[name] = replace(operator, why=_DEPTHWISE)
        elif binary and name in in_groups:
            operators[name] = replace(operator, why=_GROUPED)
        else:
            operators[name] = _lowered(
                operator, form.dtype, form.granularity, weights[name], binary
            )
    corrections = {
        name: values
        for name, values in plan.bias_corrections.items()
        if operators[name].weight == plan.operators[name].weight
    }
    return replace(plan, operators=operators, bias_corrections=corrections, recipe=recipe.to_dict())


def _lowered(
    operator: OperatorPlan,
    dtype: str,
    granularity: str,
    weight: npt.NDArray[np.float32],
    binary: bool,
) -> OperatorPlan:
    if operator.weight is None:
        return operator
    scales: tuple[float, ...] = ()
    if dtype in ("int8", "int4"):
        axis = operator.weight.axis if granularity == "channel" else None
        scales = fresh_scales(weight.astype(np.float64), axis, WEIGHT_STEPS[dtype])
    plan = WeightPlan(
        parameter=operator.weight.parameter, dtype=dtype, granularity=granularity,
        axis=operator.weight.axis, scales=scales,
        method={"ternary": "twn", "binary": "mean"}.get(dtype, "mse"),
    )  # fmt: skip
    if not binary:
        return replace(operator, weight=plan, sqnr_db=None)
    return replace(operator, weight=plan, sqnr_db=None, precision="binary", sign_scale=1.0)


def _kept(names: list[str], layers: list[str]) -> frozenset[str]:
    kept: set[str] = set()
    for layer in layers:
        if layer == ENDS:
            kept.update((names[0], names[-1]))
            continue
        found = {n for n in names if _is_under(n, layer)}
        if not found:
            near = difflib.get_close_matches(layer, names, 3, 0.3) or names[:3]
            raise InputError(
                f"int8_layers names {layer!r}, but there is no layer with a weight of that name",
                where="quantize",
                hint=f"there are {', '.join(map(repr, near))}, for example",
            )
        kept |= found
    return frozenset(kept)


def _is_under(site: str, name: str) -> bool:
    path = site.partition(":")[0]
    return name in (site, path) or path.startswith(f"{name}.")


__all__ = ["ENDS", "lower_bits"]
