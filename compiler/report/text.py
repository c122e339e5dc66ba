"""The report on a terminal, with rich; readable without colour and at 100 columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from compiler.coverage import choice_text

from . import units
from .mixed_model import PrecisionSearch
from .mixed_model import rows as search_rows
from .model import Figure, KernelRow, Quantization, ReportData
from .vta_text import fill_host, fill_layers, queue_strips, vta_renderables

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from .vta_model import VtaReport

_TOP = 20
_WIDE = 120


def to_text(report: ReportData, *, width: int = 100, top: int = _TOP) -> str:
    """The report as plain text, no line longer than `width`."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, color_system=None, force_terminal=False, legacy_windows=False
    )
    for part in renderables(report, width=width, top=top):
        console.print(part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def renderables(
    report: ReportData, *, width: int = 100, top: int = _TOP
) -> Iterator[RenderableType]:
    """The report's parts in order, for a rich console.

    Args:
        report: What to show.
        width: Columns of the console.
        top: Kernels shown one by one.
    """
    from rich.text import Text

    yield Text(f"Latency report: {report.model} on {report.target}", style="bold")
    yield _environment(report)
    if report.vta is not None:
        yield from _vta(report.vta)
    yield _summary(report)
    yield _kernels(report, top, wide=width >= _WIDE)
    if not report.adds_up:
        yield Text(gap_sentence(report), style="yellow")
    yield _coverage(report)
    if report.tunable:
        yield _tuning(report, top)
    if any(row.fallback for row in report.kernels):
        yield _fallbacks(report)
    yield _kinds(report)
    if report.quantization is not None:
        yield _quantization(report.quantization)
    if report.compile_steps:
        yield _compile_steps(report)
    if report.elsewhere is not None and report.elsewhere.missing:
        yield Text("\n" + report.elsewhere.missing, style="yellow")
    if report.notes:
        yield Text("\n" + "\n".join(report.notes), style="dim")


def gap_sentence(report: ReportData) -> str:
    """What to say if the kernels do not add up to the whole."""
    calls = sum(row.calls.value for row in report.kernels)
    each = f" ({1e3 * report.gap.value / calls:.2f} µs for each kernel call)" if calls else ""
    return (
        "The kernels do not add up to the whole within 5 %. Of the median, "
        f"{units.percent(report.gap_share)}{each} is the virtual machine and gaps, "
        f"{units.percent(report.interruptions_share)} interruptions by other programs: where "
        "these are many, measure again on a quiet machine."
    )


def _grid() -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False, show_edge=False,
    )  # fmt: skip


def _plain(text: str) -> RenderableType:
    """Text that may hold square brackets, which rich would take for markup."""
    from rich.text import Text

    return Text(text)


def environment_line(report: ReportData) -> str:
    """Threads, core and load in one line."""
    here = report.environment
    parts = [f"{here.threads} thread" + ("s" if here.threads != 1 else "")]
    parts.append("not pinned" if here.pinned_core is None else f"pinned to core {here.pinned_core}")
    if here.load_1min is not None:
        parts.append(f"load {here.load_1min.value:.2f} ({here.load_1min.label})")
    return ", ".join(parts)


def where_row(report: ReportData) -> tuple[str, str]:
    """Where the times come from: what to call it, and the place."""
    found = report.elsewhere
    if found is None:
        return "measured on", f"{report.environment.cpu}; {environment_line(report)}"
    threads = report.environment.threads
    return "times", f"{found.whence}; {threads} thread" + ("s" if threads != 1 else "")


def _environment(report: ReportData) -> Table:
    here = report.environment
    grid = _grid()
    grid.add_row("target", _plain(f"{report.target_title}; {report.precision}"))
    grid.add_row(*map(_plain, where_row(report)))
    grid.add_row("system", _plain(f"{here.system}; {here.date}"))
    grid.add_row("versions", _plain(", ".join(f"{k} {v}" for k, v in here.versions.items())))
    for what, specs in (("inputs", report.inputs), ("outputs", report.outputs)):
        if specs:
            grid.add_row(what, _plain("; ".join(specs)))
    return grid


def summary_rows(report: ReportData) -> list[tuple[str, str, str]]:
    """Name, value and label of each figure of the summary; text and HTML share them."""
    latency, memory = report.latency, report.memory
    whose = "latency" if report.vta is None else "host"
    label = latency.median.label
    middle = f"{units.milliseconds(latency.median.value)} ms"
    if latency.p10 is None or latency.p90 is None:
        bound = report.elsewhere is not None and report.elsewhere.basis == "peaks"
        rows = [(f"{whose}, at least" if bound else whose, middle, label)]
    else:
        low, high = map(units.milliseconds, (latency.p10.value, latency.p90.value))
        rows = [
            (f"{whose}, median", middle, label),
            (f"{whose}, p10 … p90", f"{low} … {high} ms ({latency.runs} warm runs)", label),
        ]
    rows += elsewhere_rows(report)
    if (rate := report.gflops) is not None:
        flops = units.scaled(report.total_flops.value, "FLOP")
        rows.append(("arithmetic", f"{flops}, {rate.value:.1f} GFLOPS", rate.label))
    rows += coverage_summary(report)
    rows.append(
        ("in fallback kernels", units.percent(report.fallback_share), report.fallback_share.label)
    )
    for what, figure in (
        ("activations, planned peak", memory.planned_peak),
        ("activations, live peak", memory.live_peak),
        ("activations, storage allocated", memory.allocated),
        ("process, resident", memory.process_rss),
        *((f"size, {name}", figure) for name, figure in report.sizes.items()),
    ):
        if figure is not None:
            rows.append((what, units.size(figure), figure.label))
    if report.accuracy is not None:
        a = report.accuracy
        rows.append(
            (
                f"error against {a.reference}",
                f"{units.error(a.max_abs.value)} absolute, {units.error(a.max_rel.value)} relative",
                a.max_abs.label,
            )
        )
    if report.compile_steps:
        total = report.compile_time
        rows.append(("compile time", f"{total.value / 1e3:.2f} s", total.label))
    return rows


def elsewhere_rows(report: ReportData) -> list[tuple[str, str, str]]:
    """What was counted and estimated of a device that is not this machine, and its memory."""
    found = report.elsewhere
    if found is None:
        return []
    rows = []
    if found.instructions is not None:
        count = units.scaled(found.instructions.value, "").rstrip()
        rows.append(("instructions", f"{count} an inference", found.instructions.label))
    if found.cycles is not None:
        cycles = units.scaled(found.cycles.value, "").rstrip()
        rows.append(("cycles", f"{cycles} ({found.estimator})", found.cycles.label))
    if found.basis == "device" and found.time is not None:
        clock = f"at {found.clock.value / 1e3:.2f} GHz"
        time = f"{units.milliseconds(found.time.value)} ms {clock}"
        rows.append(("latency without the device", time, found.time.label))
    if found.peak_memory is not None:
        rows.append(
            ("process on the device, peak", units.size(found.peak_memory), found.peak_memory.label)
        )
    return rows


def coverage_summary(report: ReportData) -> list[tuple[str, str, str]]:
    """What share runs on tuning records, and how many kernels that could have one have none."""
    found = [row for row in report.coverage if row.source == "record"]
    if not found and not report.tunable:
        return []
    kernels = sum(row.kernels for row in found)
    flops = sum(row.flops_share.value for row in found)
    time = Figure(sum(row.share.value for row in found), "%", report.label)
    of = f"{kernels} of {len(report.tunable)} kernels that can be tuned"
    rows = [
        ("on tuned records", f"{units.percent(time)} of time, {of}", time.label),
        (
            "on tuned records, arithmetic",
            f"{units.percent(Figure.estimated(flops, '%'))} of all FLOPs",
            "estimated",
        ),
    ]
    if report.misses:
        missed = Figure(sum(row.share.value for row in report.misses), "%", report.label)
        text = f"{units.percent(missed)} of time, {units.kernels(len(report.misses))}"
        rows.append(("could be tuned, no record", text, missed.label))
    return rows


def quantization_rows(found: Quantization) -> list[tuple[str, str, str]]:
    """Name, value and label of the figures of quantization; text and HTML share them."""
    integers = sum(row.precision == "int8" for row in found.layers)
    before, after = found.bytes_before, found.bytes_after
    share = Figure.measured(100 * after.value / before.value if before.value else 0.0, "%")
    rows = [
        ("operators on int8", f"{integers} of {len(found.layers)}", "measured"),
        (
            "parameters",
            f"{units.size(after)} from {units.size(before)} ({units.percent(share)})",
            after.label,
        ),
    ]
    if found.metric_before is not None and found.metric_after is not None:
        old, new = found.metric_before.value, found.metric_after.value
        rows.append(
            (
                "metric, before and after",
                f"{old:.6g} and {new:.6g} ({new - old:+.4g})",
                found.metric_after.label,
            )
        )
    else:
        rows.append(("metric, before and after", "no metric was given (evaluate)", ""))
    if found.samples is not None:
        rows.append(("calibration samples", f"{found.samples}", "measured"))
    rows.append(("SHA-256 of the golden outputs", found.golden_sha256, "measured"))
    return rows


def _quantization(found: Quantization) -> RenderableType:
    from rich.console import Group

    figures = _table("Quantization")
    figures.add_column("figure")
    figures.add_column("value", overflow="fold")
    figures.add_column("label", style="dim")
    for name, value, label in quantization_rows(found):
        figures.add_row(_plain(name), _plain(value), label)
    layers = _table("What each layer got (SQNR simulated)")
    layers.add_column("operator", overflow="fold")
    layers.add_column("precision")
    layers.add_column("weight")
    layers.add_column("SQNR dB", justify="right")
    layers.add_column("why", overflow="fold")
    for row in found.layers:
        noise = "" if row.sqnr is None else f"{row.sqnr.value:.1f}"
        layers.add_row(_plain(row.name), row.precision, row.weight, noise, _plain(row.why))
    if found.search is None:
        return Group(figures, layers)
    return Group(figures, layers, _search(found.search))


def _search(search: PrecisionSearch) -> Table:
    """The plans that were tried, accuracy against latency."""
    label = next((p.latency.label for p in search.points if p.latency is not None), "measured")
    table = _table(f"Precisions that were tried: {search.summary()}")
    table.add_column("plan", overflow="fold")
    table.add_column("layers", overflow="fold")
    table.add_column("metric\nmeas.", justify="right")
    table.add_column("change", justify="right")
    table.add_column(f"ms\n{units.SHORT[label]}", justify="right")
    table.add_column("budget", overflow="fold")
    for row in search_rows(search):
        table.add_row(*map(_plain, row))
    return table


def _vta(found: VtaReport) -> Iterator[RenderableType]:
    """What runs on VTA: figures, layers, the queues over time, and what stays on the host."""
    from rich.text import Text

    yield from vta_renderables(found, _table("On VTA"))
    yield fill_layers(found, _table("Layers on VTA (cycles, shares and bytes simulated)"))
    yield Text("\nQueues over one image (simulated; the fuller the busier)", style="bold")
    yield Text("\n".join(queue_strips(found)))
    if found.host:
        yield fill_host(found, _table("On the host, and why"))
    yield Text(f"Energy: {found.energy_source}.", style="dim")


def _summary(report: ReportData) -> Table:
    table = _table("Summary")
    table.add_column("figure")
    table.add_column("value", overflow="fold")
    table.add_column("label", style="dim")
    for name, value, label in summary_rows(report):
        table.add_row(_plain(name), _plain(value), label)
    return table


def _header(title: str, figures: Sequence[Figure | None]) -> str:
    """A column's title with the labels of the figures below it."""
    labels = sorted({units.SHORT[figure.label] for figure in figures if figure is not None})
    return "\n".join([title, "/".join(labels)])


def _kernels(report: ReportData, top: int, wide: bool) -> Table:
    """One row for each kernel; what there is no room for is left to the page and the JSON."""
    rows = report.kernels
    counted = any(row.instructions is not None for row in rows)
    table = _table("Kernels, most time first (! met only the generic fallback)")
    table.add_column("operators", overflow="fold")
    if wide:
        table.add_column("kind", overflow="fold", max_width=16)
    if wide or not counted:
        table.add_column("rule", overflow="fold", max_width=14)
    table.add_column("from")
    texts = [""] * (3 if wide else 1 if counted else 2)
    columns = _columns(counted, wide)
    for column in columns:
        figures = [column.figure(row) for row in rows]
        table.add_column(_header(column.title, figures), justify="right", no_wrap=True)
    if counted:
        table.add_column("bound")
    end = [""] if counted else []
    for row in rows[:top]:
        table.add_row(
            _plain(("! " if row.fallback else "") + units.operators(row)),
            *([_plain(row.kind)] if wide else []),
            *([_plain(row.rule)] if wide or not counted else []),
            row.source,
            *(column.show(column.figure(row)) for column in columns),
            *([row.bound] if counted else []),
            style="yellow" if row.fallback else None,
        )
    if rest := rows[top:]:
        table.add_row(
            f"… {len(rest)} more", *texts,
            *(c.show(units.total(map(c.figure, rest))) if c.adds else "" for c in columns),
            *end, style="dim",
        )  # fmt: skip
    table.add_section()
    for name, time, share in report.overheads:
        between = {"time, ms": units.milliseconds(time.value), "share": units.percent(share)}
        table.add_row(name, *texts, *(between.get(c.title, "") for c in columns), *end)
    table.add_row(
        "end to end" + ("" if report.label == "estimated" else ", median"), *texts,
        *("" if c.total is None else c.total(report) for c in columns), *end,
        style="bold",
    )  # fmt: skip
    return table


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the kernels' table: a figure of each, and of the whole inference.

    Attributes:
        title: Its title.
        figure: The figure of a kernel.
        show: As text.
        total: The text of the last row; None for an empty one.
        adds: Whether the kernels' figures add up to something.
    """

    title: str
    figure: Callable[[KernelRow], Figure | None]
    show: Callable[[Figure | None], str]
    total: Callable[[ReportData], str] | None = None
    adds: bool = True


def _columns(counted: bool, wide: bool) -> list[_Column]:
    """The columns of figures; with counted instructions there is less room for others."""

    def in_millions(figure: Figure | None) -> str:
        return units.count(figure, 1e6, 1)

    def whole(attribute: str) -> Callable[[ReportData], str]:
        return lambda report: in_millions(getattr(report.elsewhere, attribute, None))

    calls = _Column(
        "calls", lambda row: row.calls, lambda figure: units.number(figure, 0),
        lambda report: f"{sum(row.calls.value for row in report.kernels):.0f}",
    )  # fmt: skip
    cost = [
        _Column("M instr", lambda row: row.instructions, in_millions, whole("instructions")),
        _Column("M cycles", lambda row: row.cycles, in_millions, whole("cycles")),
    ]
    time = [
        _Column(
            "time, ms", lambda row: row.time, units.milliseconds_of,
            lambda report: units.milliseconds(report.latency.median.value),
        ),
        _Column("share", lambda row: row.share, units.percent, lambda _report: "100 %"),
    ]  # fmt: skip
    flops = _Column(
        "MFLOP", lambda row: row.flops, in_millions,
        lambda report: in_millions(report.total_flops) if report.total_flops.value else "",
    )  # fmt: skip
    moved = _Column(
        "MiB", lambda row: row.bytes_moved, lambda figure: units.count(figure, 2**20, 2)
    )
    rates = [
        _Column(
            "GFLOPS", lambda row: row.gflops, units.number,
            lambda report: "" if report.gflops is None else units.number(report.gflops),
            adds=False,
        ),
        _Column("roof", lambda row: row.roofline, units.percent, adds=False),
    ]  # fmt: skip
    if not counted:
        return [calls, *time, flops, moved, *rates]
    return [calls, *cost, *time, flops, moved, *rates] if wide else [calls, *cost, *time, rates[1]]


def _coverage(report: ReportData) -> Table:
    table = _table("Where the schedules come from")
    table.add_column("source", overflow="fold")
    table.add_column("kernels", justify="right")
    rows = report.coverage
    for title, figures in (
        ("FLOPs", [r.flops_share for r in rows]),
        ("time", [r.share for r in rows]),
    ):
        table.add_column(_header(title, figures), justify="right", no_wrap=True)
    for row in rows:
        is_kernel = row.source != "overhead"
        table.add_row(
            units.origin(row),
            str(row.kernels) if is_kernel else "",
            units.percent(row.flops_share) if is_kernel else "",
            units.percent(row.share),
        )
    return table


def _tuning(report: ReportData, top: int) -> Table:
    """Kernels that can be tuned: their record or why there is none, and their choice."""
    rows = report.tunable
    table = _table("Tuning, most time first (! has no record)")
    table.add_column("operators", overflow="fold")
    table.add_column(_header("share", [r.share for r in rows]), justify="right", no_wrap=True)
    table.add_column("record, or why none; choice", overflow="fold", min_width=16)
    for row in rows[:top]:
        lines = [units.record(row) or units.MISSING, choice_text(row.choice)]
        table.add_row(
            _plain(("! " if row.miss else "") + units.operators(row)),
            units.percent(row.share),
            _plain("\n".join(line for line in lines if line)),
            style="yellow" if row.miss else None,
        )
    if rest := rows[top:]:
        share = Figure(sum(row.share.value for row in rest), "%", report.label)
        missed = sum(1 for row in rest if row.miss)
        table.add_row(
            f"… {len(rest)} more", units.percent(share), f"{missed} without a record", style="dim"
        )
    return table


def _fallbacks(report: ReportData) -> Table:
    share = report.fallback_share
    table = _table(f"Met only the generic fallback: {units.percent(share)} of time ({share.label})")
    table.add_column("operators", overflow="fold")
    table.add_column(f"time, ms ({report.latency.median.label})", justify="right")
    table.add_column("share", justify="right")
    table.add_column("why", overflow="fold")
    for row in report.fallbacks:
        table.add_row(
            _plain(units.operators(row)), units.milliseconds(row.time.value),
            units.percent(row.share), _plain(row.why or units.MISSING),
        )  # fmt: skip
    return table


def _kinds(report: ReportData) -> Table:
    label = report.latency.median.label
    table = _table("Time by kind of operator")
    table.add_column("kind")
    table.add_column(f"calls\n({label})", justify="right")
    table.add_column(f"time, ms\n({label})", justify="right")
    table.add_column(f"share\n({label})", justify="right")
    table.add_column("")
    for kind in report.kinds:
        table.add_row(
            _plain(kind.kind), f"{kind.calls.value:.0f}", units.milliseconds(kind.time.value),
            units.percent(kind.share), _bar(kind.share.value),
        )  # fmt: skip
    for name, time, share in report.overheads:
        table.add_row(
            name, "", units.milliseconds(time.value), units.percent(share), _bar(share.value)
        )
    return table


def _bar(share: float, width: int = 40) -> str:
    return "█" * max(0, min(width, round(share / 100 * width)))


def _compile_steps(report: ReportData) -> Table:
    label = report.compile_time.label
    table = _table(f"Compile time: {report.compile_time.value / 1e3:.2f} s")
    table.add_column("stage")
    table.add_column("step")
    table.add_column(f"time, ms ({label})", justify="right")
    table.add_column("detail", overflow="fold")
    for stage, steps in groupby(report.compile_steps, key=lambda step: step.stage):
        for i, step in enumerate(steps):
            table.add_row(
                stage if i == 0 else "", _plain(step.name), units.milliseconds(step.time.value),
                _plain(step.detail),
            )  # fmt: skip
    return table
