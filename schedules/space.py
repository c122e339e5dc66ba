"""Decisions that a kernel's schedule leaves open, and the choices between them.

A choice is plain data (`Choice`): names of decisions and the values chosen. Rules turn it
into code; records keep it; the search proposes it. It can say nothing that a template does
not offer, so a record from a stranger cannot make a compiler run a stranger's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from schedules.workload import Extent, Json, Workload
from targets.spec import TargetSpec

#: Name of a decision -> chosen value, both JSON; ``algorithm`` is always among them.
Choice: TypeAlias = dict[str, Json]


@dataclass(frozen=True)
class Decision:
    """One decision and its options, JSON values, in their natural order."""

    name: str
    options: tuple[Json, ...]


@dataclass(frozen=True)
class Space:
    """All choices for one algorithm of one workload on one target.

    Attributes:
        algorithm: Name of the algorithm, the value of every choice's ``algorithm``.
        decisions: What is left open beside the algorithm.
        default: The choice that the analytic model makes without a search.
    """

    algorithm: str
    decisions: tuple[Decision, ...]
    default: Choice

    def refusal(self, choice: Mapping[str, Json]) -> str | None:
        """Why `choice` is none of this space's, or None if it is one."""
        if choice.get("algorithm") != self.algorithm:
            return f"the algorithm is {choice.get('algorithm')!r}, not {self.algorithm!r}"
        names = {"algorithm", *(d.name for d in self.decisions)}
        if set(choice) != names:
            return f"missing or unknown decisions: {', '.join(sorted(set(choice) ^ names))}"
        for decision in self.decisions:
            if choice[decision.name] not in decision.options:
                return f"{decision.name} cannot be {choice[decision.name]!r}"
        return None

    @property
    def size(self) -> int:
        """Number of choices."""
        count = 1
        for decision in self.decisions:
            count *= len(decision.options)
        return count


class Template(Protocol):
    """How one operator can be computed on a family of targets.

    `spaces` is empty where the template does not fit; the first space's default is the
    kernel without a search.
    """

    operators: frozenset[str]
    algorithms: frozenset[str]
    #: Names of `schedules.encodings` that its kernels read; the empty one is a plain weight's.
    encodings: frozenset[str]

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """The spaces of all algorithms that this target can run, the default's first."""

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """Cycles of one core by the analytic model: ranks choices before they are measured."""

    def compute(self, workload: Workload, choice: Choice, spec: TargetSpec, *tensors: Any) -> Any:
        """The tensor expression on ``te`` tensors: the data, and the packed weight's operands."""

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """Shape and dtype of each operand of the weight that `compute` takes."""

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """The weight as `compute` takes it: NumPy arrays in the plain layout, packed."""
