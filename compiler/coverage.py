"""How much of a model runs on tuning records, on defaults, by fixed rules and on fallbacks.

Sources and tiers are those of `compiler.stages.KernelInfo`. A kernel can be tuned if a record
serves it, or if it says why none does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from compiler.stages import KernelInfo

#: Sources in the order of tables, in words. ``unknown``: the compiler described no such
#: function, or the description is older than tuning.
SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "record": "tuned record",
        "default": "default, not tuned",
        "rule": "rule, nothing to tune",
        "fallback": "generic fallback",
        "unknown": "not known",
    }
)
#: Characters of a record's ID that tables show.
SHORT_ID = 10


@dataclass(frozen=True, slots=True)
class Group:
    """Kernels whose schedules come from the same place.

    Attributes:
        source: One of `SOURCES`.
        tier: How well the records fit; empty without one.
        members: Positions of the kernels in the sequence that was grouped.
    """

    source: str
    tier: str
    members: tuple[int, ...]

    def __str__(self) -> str:
        words = SOURCES.get(self.source, self.source)
        return f"{words}, {self.tier}" if self.tier else words


def group(kernels: Iterable[tuple[str, str]]) -> tuple[Group, ...]:
    """Group kernels, given as source and tier, in the order of `SOURCES`, then by tier."""
    found: dict[tuple[str, str], list[int]] = {}
    for position, key in enumerate(kernels):
        found.setdefault(key, []).append(position)
    order = list(SOURCES)

    def place(key: tuple[str, str]) -> tuple[int, str]:
        return (order.index(key[0]) if key[0] in order else len(order), key[1])

    return tuple(Group(*key, tuple(found[key])) for key in sorted(found, key=place))


def can_be_tuned(kernel: KernelInfo) -> bool:
    """Whether a search could choose something for the kernel, or a record did already."""
    return kernel.source in ("record", "default") or bool(kernel.miss)


def tuned_share(kernels: Sequence[KernelInfo]) -> float | None:
    """Share of the FLOPs of all kernels that can be tuned that run on records, 0 to 1.

    None if no kernel can be tuned.
    """
    tunable = [kernel for kernel in kernels if can_be_tuned(kernel)]
    total = math.fsum(flops(kernel) for kernel in tunable)
    if not total:
        return None
    return math.fsum(flops(kernel) for kernel in tunable if kernel.source == "record") / total


def misses(kernels: Sequence[KernelInfo]) -> tuple[KernelInfo, ...]:
    """Kernels that can be tuned and have no record, most FLOPs first."""
    found = [k for k in kernels if can_be_tuned(k) and k.source != "record"]
    return tuple(sorted(found, key=lambda kernel: -flops(kernel)))


def flops(kernel: KernelInfo) -> float:
    """Arithmetic operations of one inference."""
    return kernel.flops * kernel.calls


def choice_text(choice: Mapping[str, Any] | None) -> str:
    """A choice in words: ``direct: tile 6x16, unroll 4``; empty for None."""
    if choice is None:
        return ""
    decisions = ", ".join(
        f"{name} {_value(value)}" for name, value in choice.items() if name != "algorithm"
    )
    algorithm = str(choice.get("algorithm", ""))
    return f"{algorithm}: {decisions}" if algorithm and decisions else algorithm or decisions


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return "x".join(map(_value, value))
    return "none" if value is None else str(value)


__all__ = [
    "SHORT_ID",
    "SOURCES",
    "Group",
    "can_be_tuned",
    "choice_text",
    "flops",
    "group",
    "misses",
    "tuned_share",
]
