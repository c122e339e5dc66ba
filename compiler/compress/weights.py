"""Plans that need no samples: compressed weights, and rows quantized at run time.

Every convolution, product and looked-up table with a constant weight gets a plan for it, in
order; scales are left to be derived when the plan is applied. Nothing here looks at a target.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compiler.compress.apply.compressed import WEIGHTS, is_depthwise, usable
from compiler.compress.few_bits import ends_of
from compiler.compress.groups import Group, check_keep, is_under
from compiler.compress.plan import CompressionPlan, ModelIdentity, OperatorPlan, WeightPlan
from compiler.compress.recipe import Quantize
from compiler.compress.sites import PlainGraph, Site
from schedules.tvm_adapter import GenericConst

#: Weights of fewer elements stay as they are: nothing would be spared.
SMALL = 256
#: How scales are found, by the recipe's way to calibrate; other ways are those of activations.
METHODS = {"mse": "mse"}


def weight_plan(graph: PlainGraph, identity: ModelIdentity, recipe: Quantize) -> CompressionPlan:
    """A plan for weights alone, or for weights and rows quantized at run time.

    Raises:
        InputError: `recipe.keep` names no layer.
    """
    check_keep(graph, recipe.keep)
    few = recipe.weight_form.dtype in ("ternary", "binary")
    ends = _ends(graph) if few and recipe.ends != "same" else frozenset()
    operators = {
        site.name: _operator(graph, site, recipe, end=site.name in ends)
        for site in graph.sites
        if site.kind
    }
    return CompressionPlan(identity, recipe.to_dict(), {}, operators)


def _ends(graph: PlainGraph) -> frozenset[str]:
    """Names of the first and of the last operators with weights."""
    groups = tuple(Group(site) for site in graph.sites)
    first, last = ends_of(graph, groups)
    return frozenset((*first, *last))


def with_tables(plan: CompressionPlan, graph: PlainGraph, recipe: Quantize) -> CompressionPlan:
    """A plan in which tables that rows are looked up in are compressed, too.

    They take no part in arithmetic: what reads the rows decodes them.
    """
    for site in graph.sites:
        if site.kind == "take" and site.name in plan.operators:
            operator = _operator(graph, site, recipe)
            if operator.precision == "weight":
                plan = plan.with_operator(
                    site.name, precision="weight", weight=operator.weight, why=operator.why,
                    inputs=operator.inputs, output=operator.output, epilogue=(),
                )  # fmt: skip
    return plan


def _operator(
    graph: PlainGraph, site: Site, recipe: Quantize, *, end: bool = False
) -> OperatorPlan:
    weight, why = _weight(graph, site, recipe)
    if end and weight is not None:
        why = f"one of the first or last layers: {recipe.ends}"
        weight = replace(weight, dtype="int8", granularity="channel", method="mse")
        weight = None if recipe.ends == "float32" else weight
    precision = "float32" if weight is None else "weight"
    if weight is not None and recipe.scheme == "dynamic" and site.kind != "take":
        if site.kind == "matmul":
            precision = "dynamic"
        else:
            weight, precision = None, "float32"
            why = "rows are quantized at run time for products with matrices only"
    return OperatorPlan(
        kind=site.kind, precision=precision, inputs=site.data, output=site.name, weight=weight,
        why=why,
    )  # fmt: skip


def _weight(graph: PlainGraph, site: Site, recipe: Quantize) -> tuple[WeightPlan | None, str]:
    """How a weight is stored, or why it stays as it is; a remark where it is not as asked for."""
    if site.kind not in WEIGHTS:
        return None, ""
    place, inputs, outputs = WEIGHTS[site.kind]
    constant = site.value.args[place]
    if not isinstance(constant, GenericConst):
        return None, "it has no constant weight"
    shape = _shape(constant)
    for name in recipe.keep:
        if is_under(site.name, name):
            return None, f"kept in float32 by keep=[{name!r}]"
    if len(shape) < 2 or (site.kind in ("matmul", "take") and len(shape) != 2):
        return None, "its weight is no matrix"
    if site.kind == "take" and int(site.value.attrs.axis or 0) != 0:
        return None, "it looks up columns"
    if str(constant.ty.dtype.dtype) != "float32":
        return None, "its weight is not float32"
    size = 1
    for extent in shape:
        size *= extent
    if size < SMALL:
        return None, f"its {size} weights are too few to spare anything"
    form = recipe.weight_form
    dtype, granularity, group = form.dtype, form.granularity, form.group
    if site.kind == "take" and recipe.scheme in ("int8", "dynamic", "binary"):
        # Nothing is multiplied: 8 bits for all rows, finer ones as weights of float arithmetic.
        dtype = dtype if dtype == "int4" else "int8"
        granularity, group = ("group", 32) if dtype == "int4" else ("channel", 0)
    method = {"codebook": "k-means", "float16": "round"}.get(dtype)
    plan = WeightPlan(
        parameter=(graph.constants(constant) or site.name).partition("#")[0],
        dtype=dtype, granularity=granularity, axis=outputs, scales=(),
        method=method or METHODS.get(recipe.calibrate, "minmax"),
        group=group, bits=form.bits if dtype == "codebook" else 0,
    )  # fmt: skip
    return _settled(site, plan, shape, inputs)


def _settled(
    site: Site, plan: WeightPlan, shape: tuple[int, ...], inputs: int
) -> tuple[WeightPlan, str]:
    """The plan as the weight's shape allows it, and why it is not what was asked for."""
    channel = WeightPlan(plan.parameter, "int8", "channel", plan.axis, (), "mse")
    grouped = site.kind != "take" and int(getattr(site.value.attrs, "groups", 1) or 1) > 1
    if site.kind != "take" and is_depthwise(site):
        if plan.dtype in ("float16", "int8") and plan.granularity != "group":
            return plan, ""
        return channel, "a depthwise kernel has few weights: int8 with one scale a channel"
    if plan.dtype == "codebook":
        if grouped:
            return channel, "a convolution in groups has no codebook: int8"
        if plan.group and shape[plan.axis] % plan.group:
            tensor = WeightPlan(
                plan.parameter, "codebook", "tensor", plan.axis, (), plan.method, bits=plan.bits
            )
            return tensor, f"blocks of {plan.group} do not divide its outputs: one codebook"
        return plan, ""
    if plan.granularity == "group" and grouped and site.kind == "nn.conv2d_transpose":
        return channel, "a transposed convolution in groups: int8 with one scale a channel"
    found = usable(plan, shape, inputs)
    if found.dtype != plan.dtype or found.granularity != plan.granularity:
        return found, f"its {shape[inputs]} inputs do not fall into groups: int8"
    if found.group != plan.group:
        return found, f"groups of {found.group} divide its {shape[inputs]} inputs"
    return found, ""


def _shape(constant: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in constant.ty.shape.values)


__all__ = ["weight_plan", "with_tables"]
