"""The report as one self-contained HTML page, and as a fragment for Jupyter.

Nothing on the page is fetched from anywhere: plotly's JavaScript, the style and the data
are inside it. Every text that comes from a model is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import BinaryIO

from compiler.coverage import SHORT_ID, choice_text
from compiler.package.atomic import write_file

from . import units
from .mixed_model import PrecisionSearch
from .mixed_model import rows as search_rows
from .model import Figure, KernelRow, ReportData
from .plots import all_plots, kind_colours
from .text import environment_line, gap_sentence, quantization_rows, summary_rows, where_row
from .vta_html import vta_card

_TITLES = {
    "plot-kernels": (
        "Where the time goes",
        "The kernels that take most time. Hatched: generic fallback.",
    ),
    "plot-kinds": ("Time by kind of operator", "Share of the end-to-end median."),
    "plot-roofline": (
        "Roofline",
        "Each dot is a kernel, its size its share of the time. Above: caches, or Winograd.",
    ),
    "plot-memory": (
        "Memory over the schedule",
        "Activation buffers alive while each kernel runs.",
    ),
    "plot-compile": ("Compile time", "Each stage and its steps."),
    "plot-precisions": (
        "Accuracy against latency",
        "Each dot is a plan that was tried. Dotted: what the metric may drop to.",
    ),
    "plot-vta-queues": (
        "VTA's queues",
        "What load, compute and store did when, each layer in a colour of its own.",
    ),
    "plot-vta-roofline": (
        "VTA's roofline",
        "Each dot is a layer, its size its share of the cycles.",
    ),
}
#: Places that take the page's width, and two rows of its grid.
_SHAPES = {
    "plot-vta-queues": " wide",
    "plot-kernels": " wide",
    "plot-memory": " wide",
    "plot-roofline": " tall",
}


def write_html(report: ReportData, path: Path) -> Path:
    """Write the page atomically: a reader sees the old file or the new one, never half of it.

    Raises:
        FileError: The folder is missing, not writable, or the disk is full.
    """
    page = html_page(report).encode("utf-8")
    write_file(path, lambda file: _write_all(file, page))
    return path


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def html_page(report: ReportData) -> str:
    """The whole page as a string, about 5 MB, most of it plotly."""
    from plotly.offline import get_plotlyjs

    template = resources.files(__package__).joinpath("templates/report.html")
    plots = all_plots(report)
    sections = "\n".join(_section(place) for place, _ in plots)
    data = ",\n".join(f'"{place}": {figure.to_json()}' for place, figure in plots)
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(f"{report.model} on {report.target}: latency report"),
        model=escape(report.model),
        target=escape(report.target),
        target_title=escape(report.target_title),
        subtitle=escape(f"{_place(report)} · {report.precision}"),
        date=escape(report.environment.date),
        tiles=_tiles(report),
        warning=_warning(report),
        plots=sections,
        kernels=_kernel_table(report),
        coverage=_coverage_card(report),
        compile_table=vta_card(report.vta) + _quantization_card(report) + _compile_table(report),
        environment=_definition_list(_environment_rows(report)),
        summary=_summary_table(report),
        notes="".join(f"<li>{escape(note)}</li>" for note in report.notes),
        # "</script>" in a model's name must not end the script that holds it.
        plot_data="{" + data.replace("</", "<\\/").replace("<!--", "<\\!--") + "}",
        plotly=get_plotlyjs(),
    )


def _chip(label: str) -> str:
    return f'<span class="chip {escape(label)}">{escape(label)}</span>'


def _place(report: ReportData) -> str:
    """Where the times come from."""
    if report.elsewhere is None:
        return f"{report.environment.cpu} · {environment_line(report)}"
    return where_row(report)[1]


def _tiles(report: ReportData) -> str:
    latency, memory = report.latency, report.memory
    found = report.elsewhere
    title, detail = "Latency, median", ""
    if latency.p10 is not None and latency.p90 is not None:
        detail = f"p10 {units.milliseconds(latency.p10.value)} · "
        detail += f"p90 {units.milliseconds(latency.p90.value)} · {latency.runs} warm runs"
    elif found is not None:
        title = "Latency, at least" if found.basis == "peaks" else "Latency"
        detail = found.whence
    tiles = [_tile(title, units.milliseconds(latency.median.value), "ms", detail, latency.median)]
    for figure in () if found is None else (found.instructions, found.cycles):
        if figure is not None:
            value, prefix = f"{units.scaled(figure.value, '')} ".split(" ")[:2]
            tiles.append(_tile(figure.unit.capitalize(), value, prefix, "an inference", figure))
    if (rate := report.gflops) is not None:
        flops = units.scaled(report.total_flops.value, "FLOP")
        tiles.append(_tile("Arithmetic rate", f"{rate.value:.1f}", "GFLOPS", flops, rate))
    if report.tunable:
        tiles.append(_tuned_tile(report))
    share = report.fallback_share
    fallbacks = len(report.fallbacks)
    tiles.append(
        _tile("In fallback kernels", f"{share.value:.1f}", "%",
              f"{fallbacks} of {len(report.kernels)} kernels", share)
    )  # fmt: skip
    peak = memory.planned_peak or memory.live_peak
    if peak is not None:
        value, unit = units.size(peak).split(" ")
        whole = memory.process_rss or (None if found is None else found.peak_memory)
        detail = "" if whole is None else f"process {units.size(whole)} resident ({whole.label})"
        tiles.append(_tile("Peak activations", value, unit, detail, peak))
    if report.sizes:
        first, *rest = report.sizes.items()
        value, unit = units.size(first[1]).split(" ")
        detail = " · ".join(f"{name} {units.size(figure)}" for name, figure in rest)
        tiles.append(_tile(first[0].capitalize(), value, unit, detail, first[1]))
    if report.accuracy is not None:
        a = report.accuracy
        tiles.append(
            _tile("Largest error", units.error(a.max_abs.value), "",
                  f"relative {units.error(a.max_rel.value)} · against {a.reference}", a.max_abs)
        )  # fmt: skip
    if report.compile_steps:
        total = report.compile_time
        slowest = max(report.compile_steps, key=lambda step: step.time.value)
        tiles.append(
            _tile("Compile time", f"{total.value / 1e3:.1f}", "s",
                  f"longest: {slowest.name}, {slowest.time.value / 1e3:.1f} s", total)
        )  # fmt: skip
    return "\n".join(tiles)


def _tuned_tile(report: ReportData) -> str:
    found = [row for row in report.coverage if row.source == "record"]
    share = Figure(sum(row.share.value for row in found), "%", report.label)
    kernels = sum(row.kernels for row in found)
    flops = Figure.estimated(sum(row.flops_share.value for row in found), "%")
    return _tile(
        "Time on tuned records", f"{share.value:.1f}", "%",
        f"{kernels} of {len(report.tunable)} kernels that can be tuned · "
        f"{units.percent(flops)} of FLOPs ({flops.label})", share,
    )  # fmt: skip


def _tile(title: str, value: str, unit: str, detail: str, figure: Figure) -> str:
    return (
        f'<div class="tile"><div class="tile-title">{escape(title)}</div>'
        f'<div class="tile-value">{escape(value)}<span class="unit">{escape(unit)}</span></div>'
        f'<div class="tile-detail">{escape(detail)}</div>{_chip(figure.label)}</div>'
    )


def _warning(report: ReportData) -> str:
    if report.elsewhere is not None and report.elsewhere.missing:
        return f'<p class="warning">{escape(report.elsewhere.missing)}</p>'
    if report.adds_up:
        return ""
    return f'<p class="warning">{escape(gap_sentence(report))}</p>'


def _section(place: str) -> str:
    title, detail = _TITLES[place]
    return (
        f'<section class="card{_SHAPES.get(place, "")}"><h2>{escape(title)}</h2>'
        f'<p class="detail">{escape(detail)}</p><div class="plot" id="{place}"></div></section>'
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of figures in the kernels' table.

    Attributes:
        title: Its title.
        figure: The figure of a kernel.
        show: As text.
    """

    title: str
    figure: Callable[[KernelRow], Figure | None]
    show: Callable[[Figure | None], str]


def _columns(report: ReportData) -> list[_Column]:
    found = [
        _Column("calls", lambda row: row.calls, lambda figure: units.number(figure, 0)),
        _Column("time, ms", lambda row: row.time, units.milliseconds_of),
        _Column("share", lambda row: row.share, units.percent),
        _Column("FLOP", lambda row: row.flops, units.flop),
        _Column("bytes", lambda row: row.bytes_moved, units.size),
        _Column("GFLOPS", lambda row: row.gflops, units.number),
        _Column("roofline", lambda row: row.roofline, units.percent),
    ]
    if any(row.instructions is not None for row in report.kernels):
        found[1:1] = [
            _Column("instructions", lambda row: row.instructions, units.flop),
            _Column("cycles", lambda row: row.cycles, units.flop),
        ]
    return found


def _kernel_table(report: ReportData) -> str:
    columns = _columns(report)
    titles = ("kernel", "kind", "rule", *(column.title for column in columns), "bound")
    head = "".join(
        f'<th scope="col"{"" if i in (0, 1, 2, len(titles) - 1) else " class=number"}>'
        f'<button type="button">{escape(title)}</button></th>'
        for i, title in enumerate(titles)
    )
    chips = "".join(
        f'<td class="number">{_chips(column.figure(row) for row in report.kernels)}</td>'
        for column in columns
    )
    bounds = _chips(row.roofline for row in report.kernels)
    colours = kind_colours(report)
    largest = max((row.share.value for row in report.kernels), default=0.0)
    body = "\n".join(
        _kernel_row(row, columns, colours[row.kind], largest) for row in report.kernels
    )
    foot = "".join(
        f"<tr><td>{escape(name)}</td><td></td><td></td>"
        + _foot(
            columns, {"time, ms": units.milliseconds(time.value), "share": units.percent(share)}
        )
        + "<td></td></tr>"
        for name, time, share in report.overheads
    )
    whole = "end to end" if report.label == "estimated" else "end to end, median"
    found = report.elsewhere
    totals = {
        "calls": f"{sum(row.calls.value for row in report.kernels):.0f}",
        "instructions": units.flop(None if found is None else found.instructions),
        "cycles": units.flop(None if found is None else found.cycles),
        "time, ms": units.milliseconds(report.latency.median.value),
        "share": "100 %",
        "FLOP": units.flop(report.total_flops),
        "GFLOPS": units.number(report.gflops),
    }
    foot += (
        f'<tr class="total"><td>{whole}</td><td></td><td></td>'
        f"{_foot(columns, totals)}<td></td></tr>"
    )
    return (
        f'<table class="sortable"><thead><tr>{head}</tr><tr class="labels"><td></td><td></td>'
        f"<td></td>{chips}<td>{bounds}</td></tr></thead>"
        f"<tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"
    )


def _foot(columns: Sequence[_Column], texts: Mapping[str, str]) -> str:
    return "".join(_cell(texts.get(column.title, "")) for column in columns)


def _chips(figures: Iterable[Figure | None]) -> str:
    """The labels that occur."""
    return " ".join(_chip(label) for label in sorted({f.label for f in figures if f is not None}))


def _cell(text: str, key: float | None = None, extra: str = "") -> str:
    sort = "" if key is None else f' data-key="{key:g}"'
    return f'<td class="number"{sort}>{extra}{escape(text)}</td>'


def _kernel_row(
    row: KernelRow, columns: Sequence[_Column], colour: str, largest_share: float
) -> str:
    detail = [row.name] if row.operators else []
    if row.sources:
        detail.append("from " + ", ".join(row.sources[:4]) + (" …" if len(row.sources) > 4 else ""))
    if row.why:
        detail.append(row.why)
    if row.choice is not None:
        detail.append("choice: " + choice_text(row.choice))
    if row.record:
        detail.append(f"record {row.record[:SHORT_ID]}, {row.tier}")
    if row.miss:
        detail.append("not tuned: " + row.miss)
    if row.misses:
        counts = [f"{level} {units.flop(figure)}" for level, figure in row.misses.items()]
        detail.append("misses (simulated): " + ", ".join(counts))
    mark = ' <span class="chip fallback">fallback</span>' if row.fallback else ""
    if row.source in ("record", "default"):
        mark += f' <span class="chip {"source" if row.record else "fallback"}">'
        mark += f"{'tuned' if row.source == 'record' else 'default'}</span>"
    width = 100 * row.share.value / largest_share if largest_share > 0 else 0.0
    bar = f'<i class="bar" style="width:{width:.1f}%"></i>'
    cells = "".join(
        _cell(
            column.show(figure),
            None if figure is None else figure.value,
            bar if column.title == "share" else "",
        )
        for column in columns
        for figure in (column.figure(row),)
    )
    return (
        f"<tr><td><div>{escape(units.operators(row))}{mark}</div>"
        f'<div class="small">{"<br>".join(escape(line) for line in detail)}</div></td>'
        f'<td class="kind"><i class="dot" style="background:{colour}"></i>{escape(row.kind)}</td>'
        f"<td>{escape(row.rule)}</td>"
        f"{cells}"
        f"<td>{escape(row.bound)}</td></tr>"
    )


def _coverage_card(report: ReportData) -> str:
    """Shares by the source of the schedules, and the kernels that have no record, with reasons."""
    rows = report.coverage
    flops, share = _chips(r.flops_share for r in rows), _chips(r.share for r in rows)
    body = "".join(
        f"<tr><td>{escape(units.origin(r))}</td>"
        + (
            f"{_cell(str(r.kernels))}{_cell(units.percent(r.flops_share))}"
            if r.source != "overhead"
            else "<td></td><td></td>"
        )
        + f"{_cell(units.percent(r.share))}</tr>"
        for r in rows
    )
    misses = "".join(
        f"<tr><td>{escape(units.operators(r))}</td>{_cell(units.percent(r.share))}"
        f"<td>{escape(r.miss)}</td></tr>"
        for r in report.misses
    )
    if misses:
        misses = (
            '<h2 class="next">Could be tuned, no record</h2><table class="misses"><thead><tr>'
            f'<th>kernel</th><th class="number">share {share}</th><th>why</th></tr></thead>'
            f"<tbody>{misses}</tbody></table>"
        )
    return (
        '<section class="card wide"><h2>Where the schedules come from</h2>'
        '<p class="detail">Tuning records, analytic defaults, fixed rules and the generic '
        'fallback; each column adds up to 100 %.</p><div class="scroll">'
        '<table class="coverage"><thead><tr><th>source</th><th class="number">kernels</th>'
        f'<th class="number">FLOPs {flops}</th><th class="number">time {share}</th>'
        f"</tr></thead><tbody>{body}</tbody></table>{misses}</div></section>"
    )


def _quantization_card(report: ReportData) -> str:
    """What each layer became by quantization, and why; nothing for a model that is not."""
    found = report.quantization
    if found is None:
        return ""
    figures = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td><td>{_chip(label) if label else ''}"
        "</td></tr>"
        for name, value, label in quantization_rows(found)
    )
    layers = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{row.precision}</td><td>{escape(row.weight)}</td>"
        f"{_cell('' if row.sqnr is None else f'{row.sqnr.value:.1f}')}"
        f"{_cell('' if row.bytes_before is None else units.size(row.bytes_before))}"
        f"{_cell('' if row.bytes_after is None else units.size(row.bytes_after))}"
        f"<td>{escape(row.why)}</td></tr>"
        for row in found.layers
    )
    return (
        '<section class="card wide"><h2>Quantization</h2><div class="scroll">'
        f'<table><tbody>{figures}</tbody></table><h2 class="next">What each layer got</h2>'
        "<table><thead><tr><th>operator</th><th>precision</th><th>weight</th>"
        f'<th class="number">SQNR dB {_chip("simulated")}</th>'
        f'<th class="number">weight before {_chip("measured")}</th>'
        '<th class="number">after</th><th>why</th></tr></thead>'
        f"<tbody>{layers}</tbody></table></div>{_search_part(found.search)}</section>"
    )


def _search_part(search: PrecisionSearch | None) -> str:
    """The plans that were tried for the precisions: a table, and accuracy against latency."""
    if search is None:
        return ""
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(layers)}</td>{_cell(metric)}{_cell(change)}"
        f"{_cell(time)}<td>{escape(remark)}</td></tr>"
        for name, layers, metric, change, time, remark in search_rows(search)
    )
    label = next((p.latency.label for p in search.points if p.latency is not None), "measured")
    return (
        f'<h2 class="next">Precisions that were tried</h2><p>{escape(search.summary())}</p>'
        '<div class="scroll"><table><thead><tr><th>plan</th><th>layers</th>'
        f'<th class="number">metric {_chip("measured")}</th><th class="number">change</th>'
        f'<th class="number">ms {_chip(label)}</th><th>budget</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _compile_table(report: ReportData) -> str:
    if not report.compile_steps:
        return ""
    rows = "".join(
        f"<tr><td>{escape(s.stage)}</td><td>{escape(s.name)}</td>"
        f"{_cell(units.milliseconds(s.time.value))}<td>{escape(s.detail)}</td></tr>"
        for s in report.compile_steps
    )
    return (
        '<section class="card wide"><h2>Compile steps</h2><div class="scroll"><table><thead><tr>'
        "<th>stage</th><th>step</th>"
        f'<th class="number">ms {_chip(report.compile_time.label)}</th><th>detail</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _environment_rows(report: ReportData) -> list[tuple[str, str]]:
    here = report.environment
    rows = [
        ("target", f"{report.target}: {report.target_title}"),
        ("precision", report.precision),
        *(
            [("processor", here.cpu), ("run", environment_line(report))]
            if report.elsewhere is None
            else [where_row(report), ("written on", here.cpu)]
        ),
        ("system", here.system),
        ("date", here.date),
        ("versions", ", ".join(f"{k} {v}" for k, v in here.versions.items())),
    ]
    rows += [("input", spec) for spec in report.inputs]
    rows += [("output", spec) for spec in report.outputs]
    return rows


def _definition_list(rows: list[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    return f"<dl>{items}</dl>"


def _summary_table(report: ReportData) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{escape(value)}</td>'
        f"<td>{_chip(label)}</td></tr>"
        for name, value, label in summary_rows(report)
    )
    return f"<table><tbody>{rows}</tbody></table>"


_MARKS = {"fallback": " (fallback)", "record": " (tuned)", "default": " (default)"}


def notebook_html(report: ReportData, *, top: int = 10) -> str:
    """A fragment for Jupyter: no scripts and no style sheet, so that any notebook shows it."""
    summary = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td>'
        f'<td style="text-align:left">{escape(value)}</td>'
        f'<td style="text-align:left;opacity:.65">{escape(label)}</td></tr>'
        for name, value, label in summary_rows(report)
    )
    rows = [
        (units.operators(r) + _MARKS.get(r.source, ""), r.kind, r.time, r.share)
        for r in report.kernels[:top]
    ]
    if rest := report.kernels[top:]:
        time = Figure(sum(r.time.value for r in rest), "ms", rest[0].time.label)
        share = Figure(sum(r.share.value for r in rest), "%", rest[0].share.label)
        rows.append((f"{len(rest)} more", "", time, share))
    rows += [(name, "", time, share) for name, time, share in report.overheads]
    kernels = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td>'
        f'<td style="text-align:left">{escape(kind)}</td>'
        f"<td>{units.milliseconds(time.value)}</td><td>{units.percent(share)}</td>"
        '<td style="text-align:left;min-width:10em"><div style="background:#4477aa;height:.7em;'
        f'width:{max(0.0, min(100.0, share.value)):.1f}%"></div></td></tr>'
        for name, kind, time, share in rows
    )
    label = report.latency.median.label
    return (
        f"<div><h4>{escape(report.model)} on {escape(report.target)}</h4>"
        f"<p>{escape(_place(report).replace(' · ', ', '))}, {escape(report.precision)}</p>"
        f"<table>{summary}</table><table><thead><tr>"
        '<th style="text-align:left">kernel</th><th style="text-align:left">kind</th>'
        f"<th>ms ({label})</th><th>share ({label})</th><th></th></tr></thead>"
        f"<tbody>{kernels}</tbody></table></div>"
    )
