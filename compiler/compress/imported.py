"""A plan from what a model that was quantized elsewhere says of itself.

`compiler.frontend.quantized` leaves the float32 model, markers behind the activations that the
program rounds, and how its weights were stored. Here that becomes a plan: a layer whose input
has a range and whose weight is symmetric computes on integers, with the program's own scales
and zero points; what the program computes in float32 stays there. Moves of elements pass
ranges on in both directions, which is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compiler.compress.apply import MOVES
from compiler.compress.groups import WEIGHT_AXIS, Group, find_groups
from compiler.compress.operators import attributes_of
from compiler.compress.plan import (
    LIMITS,
    WEIGHT_LIMIT,
    CompressionPlan,
    ModelIdentity,
    OperatorPlan,
    TensorPlan,
    WeightPlan,
)
from compiler.compress.sites import PlainGraph, Site
from compiler.compress.weight_codes import IMPORTED
from compiler.errors import PlanError
from compiler.stages import ImportedWeight

#: The marker's operator, without ``relax.``.
MARKER = "tilewright.imported_range"
#: How ranges and scales that came with the model are named in plan and report.
METHOD = IMPORTED
_DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class _Range:
    """What a marker says: scale and zero point, or that they are found at run time."""

    dtype: str
    scale: float
    zero_point: int
    dynamic: bool


@dataclass(frozen=True, slots=True)
class ImportedPlan:
    """A plan and what it does not do as the program does.

    Attributes:
        plan: The plan.
        notes: Differences from the program, for the log.
    """

    plan: CompressionPlan
    notes: tuple[str, ...]


def imported_plan(
    graph: PlainGraph,
    marked: PlainGraph,
    weights: Mapping[str, ImportedWeight],
    identity: ModelIdentity,
    source: str,
) -> ImportedPlan:
    """The plan of a model that was quantized elsewhere.

    Args:
        graph: Its plain graph.
        marked: The same graph with markers.
        weights: How weights were stored, by parameter.
        identity: What model it is.
        source: What quantized it.

    Raises:
        PlanError: The two graphs are not the same.
    """
    return _Importer(graph, weights, source).plan(_read_markers(graph, marked), identity)


def _read_markers(graph: PlainGraph, marked: PlainGraph) -> dict[str, list[_Range]]:
    """The ranges of each tensor, by its name in the graph without markers."""
    plain = dict(zip(marked.inputs, graph.inputs, strict=True))
    rest = iter(graph.sites)
    found: dict[str, list[_Range]] = {}
    for site in marked.sites:
        if site.kind == MARKER:
            name = plain[site.name] = plain[site.data[0]]
            a = attributes_of(site.value)
            entry = _Range(
                a["dtype"], float(np.float32(a["scale"])), int(a["zero_point"]), bool(a["dynamic"])
            )
            if entry not in found.setdefault(name, []):
                found[name].append(entry)
            continue
        other = next(rest, None)
        if other is None or other.kind != site.kind:
            raise PlanError(
                f"{site.name!r} has no counterpart in the model without its quantization",
                where="plan",
                hint="this is a bug of Tilewright: please report it",
            )
        plain[site.name] = other.name
    return found


class _Importer:
    def __init__(
        self, graph: PlainGraph, weights: Mapping[str, ImportedWeight], source: str
    ) -> None:
        self.graph, self.weights, self.source = graph, weights, source
        self.ranges: dict[str, _Range] = {}
        self.dynamic: set[str] = set()
        self.notes: list[str] = []

    def plan(self, found: Mapping[str, list[_Range]], identity: ModelIdentity) -> ImportedPlan:
        """Make it."""
        self._collect(found)
        self._spread()
        ends = frozenset(self.ranges)
        groups = self._settle([*find_groups(self.graph, (), ends=ends)])
        operators = {g.name: self._operator(g) for g in groups if g.site.kind}
        used = {
            name
            for g in groups
            if operators.get(g.name) is not None and operators[g.name].precision == "int8"
            for name in (*g.inputs, g.output)
        }
        tensors = {name: _tensor(self.ranges[name]) for name in self.ranges if name in used}
        dropped = len(self.ranges) - len(tensors)
        if dropped:
            self.notes.append(
                f"{dropped} activations that the program rounds are read by float32 operators "
                "alone, and are not rounded"
            )
        plan = CompressionPlan(identity, {"imported_from": self.source}, tensors, operators)
        return ImportedPlan(plan, tuple(self.notes))

    def _collect(self, found: Mapping[str, list[_Range]]) -> None:
        for name, entries in found.items():
            static = [e for e in entries if not e.dynamic]
            if static:
                self.ranges[name] = static[0]
            else:
                self.dynamic.add(name)
            if len(static) > 1:
                self.notes.append(
                    f"{name} is rounded to {len(static)} ranges in the program, and to the first "
                    "of them here"
                )

    def _spread(self) -> None:
        """Ranges pass through what only moves elements, and through ReLU."""
        readers = self.graph.readers()
        for site in self.graph.sites:
            if site.kind in MOVES and _one(site) and site.name not in self.ranges:
                if site.data[0] in self.ranges:
                    self.ranges[site.name] = self.ranges[site.data[0]]
                elif site.data[0] in self.dynamic:
                    self.dynamic.add(site.name)
        for site in reversed(self.graph.sites):
            if (
                site.kind in MOVES
                and _one(site)
                and site.name in self.ranges
                and site.data[0] not in self.ranges
                and site.data[0] not in self.graph.outputs
                and len(readers[site.data[0]]) == 1
            ):
                self.ranges[site.data[0]] = self.ranges[site.name]

    def _settle(self, groups: list[Group]) -> list[Group]:
        """Integers only where all ranges that they need are known."""
        result: list[Group] = []
        for group in groups:
            why = self._why_not(group) if group.integer else group.why
            if group.integer and why:
                result += [Group(s, (), integer=False, why=why) for s in group.members()]
            else:
                result.append(group)
        return result

    def _why_not(self, group: Group) -> str:
        if group.weighted:
            weight = self._weight(group)
            if weight is None:
                return "its weight is float32 in the program"
            if not weight.symmetric:
                return "its weight is asymmetric: it is computed in float32, from the same values"
            if weight.granularity == "channel" and weight.axis != 0:
                return "its weight has scales along its inputs: it is computed in float32"
            if weight.granularity == "group" or group.inputs[0] in self.dynamic:
                return ""
        unknown = [name for name in group.inputs if name not in self.ranges]
        if unknown and not (group.weighted and group.inputs[0] not in self.dynamic):
            return f"it reads {unknown[0]}, which is float32 in the program"
        if not group.weighted and group.output not in self.ranges:
            return "its result is float32 in the program"
        return ""

    def _weight(self, group: Group) -> ImportedWeight | None:
        return self.weights.get(self._parameter(group))

    def _parameter(self, group: Group) -> str:
        name = self.graph.constants(group.weight) or group.name
        return name.partition("#")[0]

    def _operator(self, group: Group) -> OperatorPlan:
        precision, weight, why = "float32", None, group.why
        if group.integer:
            precision = "int8"
            found = self._weight(group) if group.weighted else None
            if found is not None:
                precision = self._precision(group, found)
                weight = self._weight_plan(group, found)
                why = f"as {self.source} quantized it"
        # Only static integers compute what comes behind a layer together with it.
        whole = precision == "int8"
        return OperatorPlan(
            kind=group.site.kind,
            precision=precision,
            inputs=group.inputs,
            output=group.output if whole or not group.integer else group.name,
            epilogue=tuple(s.name for s in group.epilogue) if whole else (),
            weight=weight,
            why=why,
        )

    def _precision(self, group: Group, weight: ImportedWeight) -> str:
        source = group.inputs[0]
        if source in self.ranges and weight.granularity != "group":
            return "int8"
        if source in self.dynamic and weight.granularity != "group":
            return _DYNAMIC
        if source in self.ranges or source in self.dynamic:
            self.notes.append(
                f"{group.name} has a scale for {weight.group} inputs each: its activations stay "
                "float32, which the program rounds"
            )
        return "weight"

    def _weight_plan(self, group: Group, found: ImportedWeight) -> WeightPlan:
        grouped = found.granularity == "group"
        return WeightPlan(
            parameter=self._parameter(group),
            dtype=found.dtype,
            granularity=found.granularity,
            axis=WEIGHT_AXIS[group.site.kind],
            scales=() if grouped else found.scales,
            method=METHOD,
            group=found.group,
            low=min(found.low, -WEIGHT_LIMIT),
        )


def _one(site: Site) -> bool:
    return len(site.data) == 1


def _tensor(found: _Range) -> TensorPlan:
    low, high = LIMITS[found.dtype]
    limits = [(v - found.zero_point) * found.scale for v in (low, high)]
    return TensorPlan(
        found.dtype, found.scale, found.zero_point, METHOD,
        minimum=float(np.float32(limits[0])), maximum=float(np.float32(limits[1])),
    )  # fmt: skip


__all__ = ["METHOD", "ImportedPlan", "imported_plan"]
