"""Plans with another precision here and there: changes of a finished int8 plan, as data.

A layer that goes back to floats gives up its weight's plan and its epilogue. What stands
between layers computes on integers only while that spares conversions, so adding, pooling and
the like follow their neighbours. Layers that were equalized against each other change together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from compiler.compress.apply.facts import HEAVY
from compiler.compress.plan import (
    FLOATS,
    CompressionPlan,
    Equalization,
    OperatorPlan,
    TensorPlan,
    WeightPlan,
    base,
)

#: Choices for a layer, from the one that costs least accuracy to the one that costs most.
CHOICES = ("float32", "bfloat16", "int8", "int4w")


@dataclass(frozen=True, slots=True)
class Unit:
    """Operators that change their precision together.

    Attributes:
        name: Name of its first layer.
        layers: Convolutions and products, by their names in the plan.
        others: Operators that have to become floats when the layers do.
    """

    name: str
    layers: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FewerBits:
    """A layer's weight in four bits.

    Attributes:
        weight: How it is stored.
        correction: Mean error of each channel that the rounding makes; empty for none.
    """

    weight: WeightPlan
    correction: tuple[float, ...] = ()


def find_units(plan: CompressionPlan) -> tuple[Unit, ...]:
    """The units of a plan, in order: every layer on integers is in one."""
    parent = {name: name for name in plan.operators}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for pair in plan.equalizations:
        if pair.first in parent and pair.second in parent:
            parent[root(pair.second)] = root(pair.first)
    members: dict[str, list[str]] = {}
    for name in plan.operators:
        members.setdefault(root(name), []).append(name)
    units = []
    for names in members.values():
        layers = tuple(n for n in names if _is_layer(plan.operators[n]))
        if layers:
            others = tuple(n for n in names if n not in layers)
            units.append(Unit(layers[0], layers, others))
    order = {name: i for i, name in enumerate(plan.operators)}
    return tuple(sorted(units, key=lambda u: order[u.name]))


def _is_layer(operator: OperatorPlan) -> bool:
    return operator.kind in HEAVY and operator.precision == "int8"


def assign(
    plan: CompressionPlan,
    units: Iterable[Unit],
    choices: Mapping[str, str],
    fewer: Mapping[str, FewerBits],
    why: Mapping[str, str] | None = None,
) -> CompressionPlan:
    """The plan in which each unit has its choice.

    Args:
        plan: The int8 plan.
        units: Its units.
        choices: One of `CHOICES` for each unit, by name.
        fewer: Weights in four bits, by layer.
        why: What the plan is to say of each unit.
    """
    operators = dict(plan.operators)
    corrections = dict(plan.bias_corrections)
    gone: set[str] = set()
    for unit in units:
        choice = choices[unit.name]
        for name in unit.layers:
            operator = operators[name]
            reason = operator.why if why is None else why.get(unit.name, operator.why)
            if choice in FLOATS:
                operators[name] = _real(name, operator, choice, reason)
                corrections.pop(name, None)
            elif choice == "int4w" and name in fewer:
                operators[name] = replace(operator, weight=fewer[name].weight, why=reason)
                corrections.pop(name, None)
                if fewer[name].correction and name in plan.bias_corrections:
                    corrections[name] = fewer[name].correction
            else:
                operators[name] = replace(operator, why=reason)
        if choice in FLOATS:
            gone.update((*unit.layers, *unit.others))
            for name in unit.others:
                if operators[name].precision not in FLOATS:
                    operators[name] = _real(name, operators[name], "float32", f"as {unit.name}")
                    corrections.pop(name, None)
    equalizations = tuple(e for e in plan.equalizations if e.first not in gone)
    operators = _settled(operators, plan)
    corrections = {n: v for n, v in corrections.items() if operators[n].precision not in FLOATS}
    return _cleaned(plan, operators, corrections, equalizations)


def _real(name: str, operator: OperatorPlan, precision: str, why: str) -> OperatorPlan:
    return replace(
        operator, precision=precision, weight=None, epilogue=(), output=name, why=why,
        sqnr_db=None,
    )  # fmt: skip


def _settled(operators: dict[str, OperatorPlan], plan: CompressionPlan) -> dict[str, OperatorPlan]:
    """Operators between layers become floats where integers spare no conversion."""
    before = {base(o.output): n for n, o in plan.operators.items()}
    changed = True
    while changed:
        changed = False
        read = {base(n) for o in operators.values() if _integer(o) for n in o.inputs}
        for name, operator in operators.items():
            if not _integer(operator) or operator.kind in HEAVY:
                continue
            makers = [before.get(base(n)) for n in operator.inputs]
            lost = [m for m in makers if m is not None and not _integer(operators[m])]
            was_read = any(
                base(operator.output) in map(base, o.inputs)
                for o in plan.operators.values()
                if _integer(o)
            )
            if lost or (was_read and base(operator.output) not in read):
                why = f"it reads {lost[0]}, in floats" if lost else "what reads it is in floats"
                operators[name] = _real(name, operator, "float32", why)
                changed = True
                break
    return operators


def _integer(operator: OperatorPlan) -> bool:
    return operator.precision == "int8"


def _cleaned(
    plan: CompressionPlan,
    operators: Mapping[str, OperatorPlan],
    corrections: Mapping[str, tuple[float, ...]],
    equalizations: tuple[Equalization, ...],
) -> CompressionPlan:
    """A plan of these, without tensors that no integers read any more."""
    integers = [o for o in operators.values() if _integer(o)]
    read = {base(n) for o in integers for n in o.inputs}
    made = {base(o.output) for o in integers if o.kind not in HEAVY}
    left = {n: t for n, t in plan.tensors.items() if base(n) in read | made}
    roots: dict[str, str] = {}  # of those whose root is gone: the first that is left
    tensors: dict[str, TensorPlan] = {}
    for name, tensor in left.items():
        root = tensor.shared_with
        if root and root not in left:
            root = roots.get(root, "")
            roots.setdefault(tensor.shared_with, name)
        tensors[name] = replace(tensor, shared_with=root)
    return replace(
        plan, operators=operators, tensors=tensors, bias_corrections=corrections,
        equalizations=equalizations,
    )  # fmt: skip


__all__ = ["CHOICES", "FewerBits", "Unit", "assign", "find_units"]
