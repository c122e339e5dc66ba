"""What a search for each layer's precision tried, as part of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .figure import Figure


@dataclass(frozen=True, slots=True)
class SearchPoint:
    """One plan that was compiled and judged.

    Attributes:
        name: What it was.
        counts: How many layers had each precision.
        metric: The user's metric; None if it could not be built.
        latency: Of one inference; None if it could not be built.
        inside: Whether the metric was inside the budget.
        chosen: Whether it is the plan of this model.
        note: Why it could not be built, or empty.
    """

    name: str
    counts: Mapping[str, int]
    metric: Figure | None
    latency: Figure | None
    inside: bool
    chosen: bool
    note: str


@dataclass(frozen=True, slots=True)
class PrecisionSearch:
    """A search for the fastest precisions within a loss of accuracy.

    Attributes:
        max_drop: What the metric may lose.
        before: The metric in PyTorch.
        points: What was tried, in order.
        resumed: How many points came from an earlier run.
        interrupted: Whether it was stopped.
    """

    max_drop: float
    before: Figure
    points: tuple[SearchPoint, ...]
    resumed: int
    interrupted: bool

    def summary(self) -> str:
        """One line."""
        inside = sum(p.inside for p in self.points)
        text = f"{len(self.points)} plans tried, {inside} within a drop of {self.max_drop:g}"
        if self.resumed:
            text += f"; {self.resumed} from an earlier run"
        return text + ("; interrupted" if self.interrupted else "")


def rows(search: PrecisionSearch) -> list[tuple[str, str, str, str, str, str]]:
    """Plan, layers, metric, change, time and remark of each point; text and HTML share them."""
    return [
        (
            point.name,
            ", ".join(f"{count} {name}" for name, count in point.counts.items()),
            "" if point.metric is None else f"{point.metric.value:.6g}",
            "" if point.metric is None else f"{point.metric.value - search.before.value:+.4g}",
            "" if point.latency is None else f"{point.latency.value:.4g}",
            "chosen" if point.chosen else point.note or ("inside" if point.inside else "outside"),
        )
        for point in search.points
    ]


__all__ = ["PrecisionSearch", "SearchPoint", "rows"]
