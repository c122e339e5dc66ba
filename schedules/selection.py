"""Which choice serves a kernel, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from schedules.space import Choice
from schedules.workload import Workload
from targets.spec import TargetSpec


@dataclass(frozen=True)
class Selection:
    """The answer of a selector for one workload.

    Attributes:
        choice: What to build; None for the template's default.
        tier: How well the record fits the target: ``same CPU``, ``same features`` or
            ``estimated``; empty for a default.
        record: ID of the record; empty for a default.
        why: Why no record serves the kernel; empty if one does.
        median_ns: What the record measured on the same CPU, in nanoseconds; None without one.
        float_ns: For a kernel of integers, the least that a record of the same operator and
            shapes in float32 measured on the same CPU.
    """

    choice: Choice | None = None
    tier: str = ""
    record: str = ""
    why: str = "no records were looked at"
    median_ns: float | None = None
    float_ns: float | None = None


#: Asked once for each workload of a model.
Selector: TypeAlias = Callable[[Workload, TargetSpec], Selection]


def defaults_only(_workload: Workload, _spec: TargetSpec) -> Selection:
    """The selector that looks at no records."""
    return Selection()
