"""What a report says of VTA on the HTML page: a card, the picture of the queues, the roofline."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from . import units
from .vta_model import VtaLayerRow, VtaReport, VtaSpan
from .vta_text import vta_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

_QUEUES = ("load", "compute", "store")
_PALETTE = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99",
    "#9970ab",
)  # fmt: skip
_NOBODY = "#8a8f98"


def vta_card(found: VtaReport | None) -> str:
    """Figures, layers, programs and reasons; nothing for a report without VTA."""
    if found is None:
        return ""
    figures = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td>"
        f"<td>{''.join(_chip(part) for part in label.split(', ') if part)}</td></tr>"
        for name, value, label in vta_rows(found)
    )
    layers = "".join(_layer(row) for row in found.layers)
    programs = "".join(
        f"<tr><td>{escape(p.name)}</td>{_number(p.layers)}{_number(p.cycles.value)}"
        f"{_number(p.instructions)}{_number(p.relocations)}{_number(p.uops)}"
        f'<td class="number">{units.size(p.size)}</td><td class="number">{units.size(p.weights)}'
        f'</td><td class="number">{units.size(p.dram)}</td></tr>'
        for p in found.programs
    )
    host = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{escape(row.kind)}</td><td>{escape(row.why)}</td></tr>"
        for row in found.host
    )
    return (
        '<section class="card wide"><h2>On VTA</h2><div class="scroll">'
        f"<table><tbody>{figures}</tbody></table>"
        f'<p class="detail">Energy: {escape(found.energy_source)}. Cycles are simulated with a '
        "memory that answers after a modelled 16 cycles; no board was measured.</p>"
        '<h2 class="next">Layers</h2><table><thead><tr><th>layer</th><th>operator</th>'
        f'<th class="number">cycles {_chip("simulated")}</th><th class="number">share</th>'
        '<th class="number">MACs used</th><th class="number">matrix unit</th>'
        '<th class="number">vector unit</th><th class="number">read</th>'
        '<th class="number">written</th><th class="number">weights</th><th>bound by</th></tr>'
        f"</thead><tbody>{layers}</tbody></table>"
        '<h2 class="next">Programs</h2><table><thead><tr><th>program</th>'
        '<th class="number">layers</th><th class="number">cycles</th>'
        '<th class="number">instructions</th><th class="number">relocations</th>'
        '<th class="number">micro-ops</th><th class="number">size</th>'
        '<th class="number">weights</th><th class="number">DRAM</th></tr></thead>'
        f"<tbody>{programs}</tbody></table>"
        '<h2 class="next">On the host</h2><table><thead><tr><th>operator</th><th>kind</th>'
        f"<th>why</th></tr></thead><tbody>{host}</tbody></table></div></section>"
    )


def _layer(row: VtaLayerRow) -> str:
    return (
        f"<tr><td>{escape(row.name)}</td><td>{escape(row.operator)}{' + add' * bool(row.added)}"
        f"</td>{_number(row.cycles.value)}"
        f'<td class="number">{units.percent(row.share)}</td>'
        f'<td class="number">{units.percent(row.utilization)}</td>'
        f"{_number(row.gemm.value)}{_number(row.alu.value)}"
        f'<td class="number">{units.size(row.loaded)}</td>'
        f'<td class="number">{units.size(row.stored)}</td>'
        f'<td class="number">{units.size(row.weights)}</td><td>{escape(row.bound)}</td></tr>'
    )


def _chip(label: str) -> str:
    return f'<span class="chip {escape(label)}">{escape(label)}</span>'


def _number(value: float) -> str:
    return f'<td class="number">{value:,.0f}</td>'


def queues(found: VtaReport, figure: go.Figure) -> go.Figure:
    """The three queues over time, each piece in the colour of its layer."""
    import plotly.graph_objects as go

    names = [row.name for row in found.layers]
    by_layer: dict[int, list[VtaSpan]] = {}
    for span in found.spans:
        by_layer.setdefault(span.layer, []).append(span)
    for layer, spans in sorted(by_layer.items()):
        name = names[layer] if layer >= 0 else "no layer"
        figure.add_trace(
            go.Bar(
                orientation="h",
                name=escape(name),
                y=[span.queue for span in spans],
                base=[span.begin for span in spans],
                x=[span.end - span.begin for span in spans],
                marker={"color": _PALETTE[layer % len(_PALETTE)] if layer >= 0 else _NOBODY},
                hovertext=[
                    f"<b>{escape(name)}</b><br>{span.queue}: {span.begin:,} to {span.end:,}"
                    for span in spans
                ],
                hoverinfo="text",
            )
        )
    figure.update_layout(barmode="overlay", bargap=0.15, showlegend=False)
    figure.update_yaxes(categoryorder="array", categoryarray=_QUEUES[::-1], showgrid=False)
    figure.update_xaxes(title=f"cycles ({found.cycles.label}), one image")
    return figure


def roofline(found: VtaReport, figure: go.Figure) -> go.Figure:
    """Layers under VTA's peak and its memory bus: operations a byte, and operations a second."""
    import plotly.graph_objects as go

    points: list[tuple[float, float, VtaLayerRow]] = []
    for row in found.layers:
        moved, cycles = row.loaded.value + row.stored.value, row.cycles.value
        if row.macs.value and moved and cycles:
            seconds = cycles / (found.clock.value * 1e6)
            points.append((2 * row.macs.value / moved, 2e-9 * row.macs.value / seconds, row))
    peak, band = found.peak.value, found.bandwidth.value
    left = min([p[0] for p in points], default=1.0) / 2
    right = max([p[0] for p in points] + [peak / band]) * 2
    line: dict[str, Any] = {"color": _NOBODY, "width": 1.5}
    ridge = peak / band
    figure.add_trace(
        go.Scatter(x=[left, ridge, right], y=[left * band, peak, peak], mode="lines", line=line,
                   hoverinfo="skip", showlegend=False)
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[p[0] for p in points],
            y=[p[1] for p in points],
            mode="markers",
            marker={
                "size": [8 + 40 * (p[2].share.value / 100) ** 0.5 for p in points],
                "color": _PALETTE[0],
                "opacity": 0.75,
            },
            hovertext=[
                f"<b>{escape(p[2].name)}</b><br>{p[1]:.1f} GOPS, {p[0]:.1f} operations a byte"
                for p in points
            ],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.update_xaxes(type="log", title="operations a byte of DRAM (estimated)")
    figure.update_yaxes(type="log", title=f"GOPS ({found.cycles.label})")
    return figure


__all__ = ["queues", "roofline", "vta_card"]
