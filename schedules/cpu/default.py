"""Schedules with no search: every function of a module gets one, from the first rule that fits.

In the manner of TVM's dlight for GPUs. No function leaves unscheduled; one that met only the
generic fallback says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from schedules.cpu.annotations import CHOICE, IS_SCHEDULED
from schedules.cpu.rests import narrow_indices
from schedules.cpu.rules import RULES, NotApplicableError, Rule
from schedules.cpu.rules.base import leaf_blocks
from schedules.tvm_adapter import IRModule, Schedule, ScheduleError, s_tir, tirx
from targets.spec import TargetSpec

#: Names of TVM's compute definitions that end in a digit of their own.
NAMES_WITH_DIGITS = frozenset({"log2", "log10", "atan2", "expm1", "log1p"})
#: Last stages of our own definitions, which later become part of the epilogue.
STAGES = frozenset({"crop", "output_transform", "sums"})
#: What TVM calls by a name that says nothing.
ANONYMOUS = {"compute": "clip", "PadInput": "pad", "fast_exp": "exp", "fast_tanh": "tanh",
             "fast_erf": "erf"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScheduledFunction:
    """Which rule served a function, and what the function is.

    Attributes:
        name: Name of the function in the module.
        rule: Name of the rule.
        fallback: Whether it is the generic fallback.
        kind: Kind of operator.
        operators: Names of the computations fused in it, in order.
        flops: Arithmetic operations of one call, as TVM counts them in the unscheduled
            function; 0 where shapes are symbolic.
        remark: The rule's remark, or why every better rule refused.
    """

    name: str
    rule: str
    fallback: bool
    kind: str
    operators: tuple[str, ...]
    flops: float
    remark: str


def schedule_module(
    module: IRModule, spec: TargetSpec, rules: Sequence[Rule] = RULES
) -> tuple[IRModule, tuple[ScheduledFunction, ...]]:
    """Schedule every TIR function of `module` that has no schedule yet."""
    result = module.clone()
    decisions = []
    for variable, function in module.functions_items():
        if not isinstance(function, tirx.PrimFunc) or function.attrs.get(IS_SCHEDULED):
            continue
        scheduled, decision = schedule_function(function, variable.name_hint, spec, rules)
        result.update_func(variable, scheduled.with_attr(IS_SCHEDULED, True))
        decisions.append(decision)
    return result, tuple(decisions)


def schedule_function(
    function: tirx.PrimFunc, name: str, spec: TargetSpec, rules: Sequence[Rule] = RULES
) -> tuple[tirx.PrimFunc, ScheduledFunction]:
    """Schedule one function with the first rule that fits it."""
    refusals = []
    operators = operator_names(Schedule(function))
    flops = count_flops(function)
    has_choice = CHOICE in _annotations(function)
    for rule in rules:
        sch = Schedule(function)
        try:
            applied = rule.apply(sch, spec)
        except NotApplicableError as reason:
            refusals.append(f"{rule.name}: {reason}")
            continue
        except (ScheduleError, ValueError, TypeError, RuntimeError) as error:
            # TVM refuses a primitive with any of these, depending on where it finds out.
            refusals.append(f"{rule.name}: {_first_line(error)}")
            continue
        # A kernel that was defined for one rule is lost in any other.
        fallback = rule is rules[-1] or (has_choice and not rule.builds_choices)
        built = narrow_indices(sch.mod["main"]) if applied.any_index else sch.mod["main"]
        return built.with_attr("global_symbol", name), ScheduledFunction(
            name=name,
            rule=rule.name,
            fallback=fallback,
            kind=applied.kind,
            operators=operators or (name,),
            flops=flops,
            remark="; ".join(refusals) if fallback else applied.remark,
        )
    raise AssertionError(f"no rule fits {name}: {'; '.join(refusals)}")


def operator_names(sch: Schedule) -> tuple[str, ...]:
    """Readable names of the computations in a function, stages of our own left out."""
    names: list[str] = []
    try:
        blocks = leaf_blocks(sch)
    except NotApplicableError:
        return ()
    for block in blocks:
        node = sch.get(block)
        hint = str(node.name_hint).removeprefix("T_")
        if hint not in NAMES_WITH_DIGITS:
            hint = re.sub(r"(_?\d+)+$", "", hint)
        hint = "reduce" if hint.endswith("_red") else ANONYMOUS.get(hint, hint)
        role = dict(node.annotations.items()).get("tilewright.role")
        if role is None and hint not in STAGES:
            names.append(hint)
    return tuple(names)


def count_flops(function: tirx.PrimFunc) -> float:
    """Arithmetic operations of the function; 0 where TVM cannot count them."""
    try:
        return float(s_tir.analysis.estimate_tir_flops(IRModule({"main": function})))
    except (RuntimeError, ValueError, TypeError):
        return 0.0


def _annotations(function: tirx.PrimFunc) -> set[str]:
    """Names of all annotations on the function's blocks."""
    sch = Schedule(function)
    try:
        blocks = leaf_blocks(sch)
    except NotApplicableError:
        return set()
    return {str(key) for block in blocks for key in sch.get(block).annotations}


def _first_line(error: Exception) -> str:
    text = str(error)
    found = re.search(r"Error message: (.+)", text)
    return (found.group(1) if found else text.strip().split("\n")[0])[:200]
