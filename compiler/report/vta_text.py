"""What a report says of VTA, on a terminal; the figures are shared with HTML and `inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import units
from .vta_model import VtaQueueRow, VtaReport, VtaSpan

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

#: Columns of the picture of the queues.
_COLUMNS = 72
_SHADES = " ░▒▓█"


def vta_rows(found: VtaReport) -> list[tuple[str, str, str]]:
    """Name, value and label of the figures of VTA; text and HTML share them."""
    time = found.time
    weights = units.size(units.total(p.weights for p in found.programs))
    size = units.size(units.total(p.size for p in found.programs))
    macs = units.scaled(found.macs.value, "MAC")
    instructions = sum(p.instructions for p in found.programs)
    runs = f" ({found.images} images, one after another)" if found.images > 1 else ""
    return [
        ("VTA", f"{found.cycles.value:,.0f} cycles{runs}", found.cycles.label),
        (
            "VTA at its clock",
            f"{units.milliseconds(time.value)} ms at {found.clock.value:g} MHz",
            time.label,
        ),
        (
            "host, packing and copies included",
            f"{units.milliseconds(found.host_time.value)} ms on this machine's processor",
            found.host_time.label,
        ),
        (
            "both, one after the other",
            f"{units.milliseconds(found.total.value)} ms",
            f"{found.total.label}, {found.host_time.label}",
        ),
        (
            "matrix unit",
            f"{units.percent(found.utilization)} of {found.peak.value:g} GOPS, {macs}",
            found.utilization.label,
        ),
        *((f"queue {q.queue}", _queue(q), q.busy.label) for q in found.queues),
        (
            "moved",
            ", ".join(f"{name} {units.size(figure)}" for name, figure in found.memories.items()),
            "simulated",
        ),
        (
            "programs",
            f"{len(found.programs)}, {instructions:,} instructions, {size} ({weights} constants)",
            "measured",
        ),
        ("energy of VTA", f"{found.energy.value:.3g} mJ an inference", found.energy.label),
        ("device", f"{found.device}; layers placed for {found.board_host}", ""),
    ]  # fmt: skip


def _queue(row: VtaQueueRow) -> str:
    return (
        f"{units.percent(row.share)} busy, waited {row.tokens.value:,.0f} cycles for others, "
        f"{row.instructions.value:,.0f} for instructions"
    )


def vta_renderables(found: VtaReport, table: Table) -> Iterator[RenderableType]:
    """The section's parts in order, for a rich console.

    Args:
        found: What to show.
        table: An empty table in the report's style, its title set.
    """
    from rich.text import Text

    table.add_column("figure")
    table.add_column("value", overflow="fold")
    table.add_column("label", style="dim")
    for row in vta_rows(found):
        table.add_row(*map(Text, row))
    yield table


def fill_layers(found: VtaReport, table: Table) -> Table:
    """A row for each layer on VTA."""
    from rich.text import Text

    table.add_column("layer", overflow="fold")
    table.add_column("operator", overflow="fold", max_width=12)
    for name in ("cycles", "share", "MACs used", "read KiB", "written KiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound by")
    for row in found.layers:
        table.add_row(
            Text(row.name), Text(row.operator + (" + add" if row.added else "")),
            f"{row.cycles.value:,.0f}", units.percent(row.share), units.percent(row.utilization),
            f"{row.loaded.value / 1024:,.0f}", f"{row.stored.value / 1024:,.0f}", row.bound,
        )  # fmt: skip
    return table


def fill_host(found: VtaReport, table: Table) -> Table:
    """A row for each operator that stays on the host."""
    from rich.text import Text

    table.add_column("operator", overflow="fold")
    table.add_column("why", overflow="fold")
    for row in found.host:
        table.add_row(Text(row.name), Text(row.why))
    return table


def queue_strips(found: VtaReport) -> list[str]:
    """The three queues over time, a character for a stretch: the fuller the busier."""
    end = max((span.end for span in found.spans), default=0)
    lines = []
    for queue in (q.queue for q in found.queues):
        busy = [0.0] * _COLUMNS
        for span in found.spans:
            if span.queue == queue:
                _spread(busy, span, end)
        strip = "".join(_SHADES[min(4, round(4 * min(1.0, b)))] for b in busy)
        lines.append(f"{queue:>8} │{strip}│")
    return lines


def _spread(busy: list[float], span: VtaSpan, end: int) -> None:
    """Add a span to the columns that it covers, in shares of a column."""
    width = end / len(busy)
    first, last = int(span.begin / width), min(len(busy) - 1, int((span.end - 1) / width))
    for column in range(first, last + 1):
        covered = min(span.end, (column + 1) * width) - max(span.begin, column * width)
        busy[column] += max(0.0, covered) / width


__all__ = ["fill_host", "fill_layers", "queue_strips", "vta_renderables", "vta_rows"]
