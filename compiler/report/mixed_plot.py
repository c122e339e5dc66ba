"""The curve of a search for precisions: the metric against latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .mixed_model import PrecisionSearch, rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLOURS = {"inside": "#4477aa", "outside": "#a0a0a0", "chosen": "#ee6677"}


def precision_curve(search: PrecisionSearch, figure: go.Figure) -> go.Figure:
    """Draw each plan that was tried as a dot, and the budget as a line.

    Args:
        search: What was tried.
        figure: An empty figure to draw on.
    """
    import plotly.graph_objects as go

    shown = zip(search.points, rows(search), strict=True)
    points = [(p, row) for p, row in shown if p.metric is not None and p.latency is not None]
    kinds: dict[str, list[Any]] = {"outside": [], "inside": [], "chosen": []}
    for point, row in points:
        kind = "chosen" if point.chosen else "inside" if point.inside else "outside"
        kinds[kind].append((point, row))
    for kind, members in kinds.items():
        if not members:
            continue
        figure.add_trace(
            go.Scatter(
                name=kind if kind == "chosen" else f"{kind} the budget",
                mode="markers",
                x=[p.latency.value for p, _ in members],
                y=[p.metric.value for p, _ in members],
                marker={"color": _COLOURS[kind], "size": 13 if kind == "chosen" else 9},
                text=[f"{row[0]}<br>{row[1]}" for _, row in members],
                hovertemplate="%{text}<br>%{x:.4g} ms, metric %{y:.6g}<extra></extra>",
            )
        )
    least = search.before.value - search.max_drop
    figure.add_hline(y=least, line={"dash": "dot", "color": "#8a8f98"})
    label = next((p.latency.label for p, _ in points if p.latency is not None), "measured")
    figure.update_xaxes(title=f"ms of one inference ({label})")
    figure.update_yaxes(title="metric (measured)")
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return figure


__all__ = ["precision_curve"]
