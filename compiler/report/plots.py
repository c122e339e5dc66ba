"""The report's plots as plotly figures. Colours that depend on the page's theme are set there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler.coverage import SOURCES

from . import units, vta_html
from .mixed_plot import precision_curve
from .model import KernelRow, ReportData

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: One colour for each kind of operator, told apart by colour-blind readers as well, and
#: legible on a white and on a dark page.
_PALETTE = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99",
    "#9970ab", "#a0a0a0",
)  # fmt: skip
_GAP_COLOUR = "#8a8f98"
_ACCENT = "#4477aa"
_BARS = 15


def kind_colours(report: ReportData) -> dict[str, str]:
    """A colour for each kind, the same in all plots and tables of a report."""
    return {row.kind: _PALETTE[min(i, len(_PALETTE) - 1)] for i, row in enumerate(report.kinds)}


def _figure(height: int, **layout: Any) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 10, "r": 16, "t": 10, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"align": "left"},
        **layout,
    )
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    return figure


def _shorten(text: str, limit: int = 38) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _bar_label(row: KernelRow, rank: int) -> str:
    """A label that no other bar has, or plotly would stack the two."""
    return f"{_shorten(units.operators(row))}  #{rank}"


def top_kernels(report: ReportData) -> go.Figure:
    """Bars of the kernels that take most time, coloured by kind; fallbacks are hatched."""
    import plotly.graph_objects as go

    rows = list(enumerate(report.kernels[:_BARS], start=1))
    colours = kind_colours(report)
    figure = _figure(110 + 24 * len(rows), bargap=0.25, showlegend=True)
    for kind in dict.fromkeys(row.kind for _, row in rows):
        members = [(rank, row) for rank, row in rows if row.kind == kind]
        figure.add_trace(
            go.Bar(
                name=kind,
                orientation="h",
                y=[_bar_label(row, rank) for rank, row in members],
                x=[row.time.value for _, row in members],
                marker={
                    "color": colours[kind],
                    "pattern": {"shape": ["/" if row.fallback else "" for _, row in members]},
                },
                text=[units.percent(row.share) for _, row in members],
                textposition="outside",
                cliponaxis=False,
                hovertext=[_hover(row) for _, row in members],
                hoverinfo="text",
            )
        )
    figure.update_yaxes(
        showgrid=False,
        categoryorder="array",
        categoryarray=[_bar_label(row, rank) for rank, row in rows][::-1],
    )
    label = report.latency.median.label
    longest = max((row.time.value for _, row in rows), default=0.0)
    figure.update_xaxes(title=f"ms of one inference ({label})", range=[0, longest * 1.12 or 1])
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return figure


def _hover(row: KernelRow) -> str:
    time = f"{units.milliseconds(row.time.value)} ms ({row.time.label})"
    lines = [
        f"<b>{_escape(row.name)}</b>",
        _escape(units.operators(row)),
        f"{row.kind}, rule {_escape(row.rule)}" + (" (generic fallback)" if row.fallback else ""),
        f"{row.calls.value:.0f} calls, {time}, {units.percent(row.share)}",
    ]
    if row.source in ("record", "default"):
        lines.append(_escape(f"{SOURCES[row.source]}: {units.record(row)}"))
    if row.flops is not None:
        work = f"{units.scaled(row.flops.value, 'FLOP')}, {units.size(row.bytes_moved)}"
        lines.append(f"{work} ({row.flops.label})")
    if row.instructions is not None and row.cycles is not None:
        lines.append(
            f"{units.scaled(row.instructions.value, 'instructions')} "
            f"({row.instructions.label}), {units.scaled(row.cycles.value, 'cycles')} "
            f"({row.cycles.label}), bound by {row.bound}"
        )
    if row.gflops is not None:
        lines.append(
            f"{row.gflops.value:.1f} GFLOPS, {units.percent(row.roofline)} of the roofline "
            f"({row.gflops.label})"
        )
    return "<br>".join(lines)


def _escape(text: str) -> str:
    # Plotly's labels know a few HTML tags; a name must not become one.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def time_by_kind(report: ReportData) -> go.Figure:
    """Bars of the share of each kind of operator, with what is no kernel as bars of their own."""
    import plotly.graph_objects as go

    colours = kind_colours(report)
    bars = [(row.kind, row.time.value, row.share.value) for row in report.kinds]
    bars += [(name, time.value, share.value) for name, time, share in report.overheads]
    names, times, shares = map(list, zip(*bars, strict=True))
    figure = _figure(_kinds_height(report), bargap=0.3, showlegend=False)
    figure.add_trace(
        go.Bar(
            orientation="h",
            y=names,
            x=shares,
            marker={"color": [colours.get(name, _GAP_COLOUR) for name in names]},
            hoverinfo="skip",
        )
    )
    # Not the bars' own text: beside a negative bar it would cover the name on the axis.
    figure.add_trace(
        go.Scatter(
            mode="text",
            y=names,
            x=[max(0.0, share) for share in shares],
            text=[
                f" {share:.1f} %  ({units.milliseconds(time)} ms)"
                for share, time in zip(shares, times, strict=True)
            ],
            textposition="middle right",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    figure.update_yaxes(showgrid=False, categoryorder="array", categoryarray=names[::-1])
    low, high = min([0.0, *shares]), max([1.0, *shares])
    figure.update_xaxes(
        title=f"% of the end-to-end median ({report.gap_share.label})",
        range=[low * 1.3, high * 1.45],
    )
    return figure


def bars_by_kind(reports: Sequence[tuple[str, ReportData]]) -> go.Figure | None:
    """A bar for each report, by name, made of the times of the kinds; estimated ones hatched."""
    import plotly.graph_objects as go

    if not reports:
        return None
    kinds = list(dict.fromkeys(row.kind for _, report in reports for row in report.kinds))
    figure = _figure(150 + 40 * len(reports), barmode="stack", bargap=0.3, showlegend=True)
    names = [f"{name} ({report.label})" for name, report in reports]
    shapes = ["" if report.label == "measured" else "/" for _, report in reports]
    for i, kind in enumerate(kinds):
        times = [
            next((row.time.value for row in report.kinds if row.kind == kind), 0.0)
            for _, report in reports
        ]
        figure.add_trace(
            go.Bar(
                name=kind,
                orientation="h",
                y=names,
                x=times,
                marker={
                    "color": _PALETTE[min(i, len(_PALETTE) - 1)],
                    "pattern": {"shape": shapes, "solidity": 0.2},
                },
                hovertext=[f"{_escape(kind)}: {units.milliseconds(time)} ms" for time in times],
                hoverinfo="text",
            )
        )
    figure.update_yaxes(showgrid=False, categoryorder="array", categoryarray=names[::-1])
    figure.update_xaxes(title="ms of one inference (hatched: estimated)", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return figure


def _roofline_points(report: ReportData) -> list[tuple[float, float, KernelRow]]:
    """FLOP per byte and GFLOPS of each kernel that does arithmetic."""
    return [
        (row.flops.value / row.bytes_moved.value, row.gflops.value, row)
        for row in report.kernels
        if row.flops and row.bytes_moved and row.bytes_moved.value > 0 and row.gflops
    ]


def _log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high`, with ticks at 1, 2 and 5 if it is short."""
    start, stop = math.log10(low), math.log10(high)
    steps = (1, 2, 5) if stop - start < 3 else (1,)
    ticks = [
        step * 10.0**decade
        for decade in range(math.floor(start), math.ceil(stop) + 1)
        for step in steps
        if low <= step * 10.0**decade <= high
    ]
    return {
        "type": "log",
        "range": [start, stop],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def roofline(report: ReportData) -> go.Figure | None:
    """Rate against arithmetic intensity, log-log, under the target's ceilings."""
    import plotly.graph_objects as go

    points = _roofline_points(report)
    if not points or not report.roof.gflops:
        return None
    bandwidth = report.roof.bandwidth.value
    intensities = [x for x, _, _ in points]
    peaks = [peak.value for peak in report.roof.gflops.values()]
    low = min([*intensities, min(peaks) / bandwidth]) / 2
    high = max([*intensities, max(peaks) / bandwidth]) * 4
    # As tall as its two neighbours, which stand one above the other.
    height = max(480, _kinds_height(report) + _compile_height(report) + 110)
    figure = _figure(height, showlegend=True, hovermode="closest")
    for dtype, peak in report.roof.gflops.items():
        ridge = peak.value / bandwidth
        figure.add_trace(
            go.Scatter(
                name=f"{dtype}: {peak.value:.0f} GFLOPS, {bandwidth:.0f} GB/s",
                mode="lines",
                x=[low, ridge, high],
                y=[low * bandwidth, peak.value, peak.value],
                line={"color": _GAP_COLOUR, "width": 2, "dash": "solid"},
                hoverinfo="name",
            )
        )
    highest = max(peaks)
    for level, rate in report.roof.caches.items():
        figure.add_trace(
            go.Scatter(
                name=f"{level}: {rate.value:.0f} GB/s",
                mode="lines",
                x=[low, highest / rate.value],
                y=[low * rate.value, highest],
                line={"color": _GAP_COLOUR, "width": 1, "dash": "dot"},
                hoverinfo="name",
            )
        )
    colours = kind_colours(report)
    for kind in dict.fromkeys(row.kind for _, _, row in points):
        members = [(x, y, row) for x, y, row in points if row.kind == kind]
        figure.add_trace(
            go.Scatter(
                name=kind,
                mode="markers",
                x=[x for x, _, _ in members],
                y=[y for _, y, _ in members],
                marker={
                    "color": colours[kind],
                    "size": [7 + 2.2 * max(0.0, r.share.value) ** 0.5 for _, _, r in members],
                    "opacity": 0.85,
                    "line": {"width": 1, "color": "rgba(255,255,255,0.6)"},
                },
                hovertext=[_hover(row) for _, _, row in members],
                hoverinfo="text",
            )
        )
    rates = [y for _, y, _ in points] + peaks
    figure.update_xaxes(title="FLOP per byte (estimated)", **_log_axis(low, high))
    figure.update_yaxes(
        title="GFLOPS, kernels and ceiling (estimated)", **_log_axis(min(rates) / 2, max(rates) * 2)
    )
    figure.update_layout(
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return figure


def memory_over_schedule(report: ReportData) -> go.Figure | None:
    """Activation bytes alive at each kernel call, with the planned peak as a line."""
    import plotly.graph_objects as go

    steps = report.memory.schedule
    if not steps:
        return None
    mebi = 2**20
    figure = _figure(300, showlegend=False, hovermode="x")
    figure.add_trace(
        go.Scatter(
            x=list(range(1, len(steps) + 1)),
            y=[step.live.value / mebi for step in steps],
            mode="lines",
            line={"shape": "hvh", "color": _ACCENT, "width": 1.5},
            fill="tozeroy",
            fillcolor="rgba(68,119,170,0.25)",
            hovertext=[f"{_escape(step.kernel)}<br>{units.size(step.live)}" for step in steps],
            hoverinfo="text",
        )
    )
    top = max(step.live.value for step in steps)
    if (planned := report.memory.planned_peak) is not None:
        top = max(top, planned.value)
        figure.add_hline(
            y=planned.value / mebi,
            line={"color": "#ee6677", "dash": "dash", "width": 1.5},
            annotation={
                "text": f"planned peak {units.size(planned)}",
                "xanchor": "right",
                "yanchor": "bottom",
                "font": {"color": "#ee6677"},
            },
        )
    label = steps[0].live.label
    figure.update_xaxes(title="kernel call, in order", dtick=1 if len(steps) <= 20 else None)
    figure.update_yaxes(title=f"MiB alive ({label})", range=[0, top / mebi * 1.15])
    return figure


def _stages(report: ReportData) -> list[str]:
    return list(dict.fromkeys(step.stage for step in report.compile_steps))


def _kinds_height(report: ReportData) -> int:
    return 110 + 30 * (len(report.kinds) + len(report.overheads))


def _compile_height(report: ReportData) -> int:
    return 120 + 30 * len(_stages(report))


def compile_time(report: ReportData) -> go.Figure | None:
    """One bar for each stage, made of its steps."""
    import plotly.graph_objects as go

    if not report.compile_steps:
        return None
    stages = _stages(report)
    figure = _figure(_compile_height(report), barmode="stack", bargap=0.3, showlegend=False)
    for i, step in enumerate(report.compile_steps):
        figure.add_trace(
            go.Bar(
                orientation="h",
                y=[step.stage],
                x=[step.time.value],
                marker={
                    "color": _PALETTE[i % (len(_PALETTE) - 1)],
                    "line": {"width": 1, "color": "rgba(255,255,255,0.5)"},
                },
                text=[_escape(step.name) if _wide(step.time.value, report) else ""],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                hovertext=f"<b>{_escape(step.name)}</b><br>{units.milliseconds(step.time.value)} ms"
                + (f"<br>{_escape(step.detail)}" if step.detail else ""),
                hoverinfo="text",
            )
        )
    figure.update_yaxes(showgrid=False, categoryorder="array", categoryarray=stages[::-1])
    figure.update_xaxes(title=f"ms ({report.compile_time.label})")
    return figure


def _wide(milliseconds: float, report: ReportData) -> bool:
    """Whether a step's part of its bar has room for its name."""
    totals: dict[str, float] = {}
    for step in report.compile_steps:
        totals[step.stage] = totals.get(step.stage, 0.0) + step.time.value
    return milliseconds > 0.16 * max(totals.values(), default=0.0)


def all_plots(report: ReportData) -> Sequence[tuple[str, go.Figure]]:
    """Every plot that this report has data for, with the id of its place on the page."""
    vta = report.vta
    search = None if report.quantization is None else report.quantization.search
    plots = [
        ("plot-precisions", None if search is None else precision_curve(search, _figure(340))),
        ("plot-vta-queues", None if vta is None else vta_html.queues(vta, _figure(260))),
        ("plot-vta-roofline", None if vta is None else vta_html.roofline(vta, _figure(380))),
        ("plot-kernels", top_kernels(report) if report.kernels else None),
        ("plot-kinds", time_by_kind(report) if report.kinds or report.overheads else None),
        ("plot-roofline", roofline(report)),
        ("plot-compile", compile_time(report)),
        ("plot-memory", memory_over_schedule(report)),
    ]
    return [(place, figure) for place, figure in plots if figure is not None]
