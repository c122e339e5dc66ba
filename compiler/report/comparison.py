"""One model on several targets, side by side: data, text, JSON and a page."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from compiler.codec import encode
from compiler.package.atomic import write_file
from compiler.package.bundle import PARAMETERS_IN_MEMORY

from . import units
from .figure import LABELS, Figure
from .plots import bars_by_kind
from .report import Report

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA, SCHEMA_VERSION = "tilewright.comparison", 1


@dataclass(frozen=True, slots=True)
class ComparedTarget:
    """What came of one target.

    Attributes:
        target: Its name.
        title: The device in words; empty if there is no such target.
        report: Its report; None if it failed.
        bundle_bytes: Of the bundle; None if it failed.
        seconds: That compiling and measuring took.
        error: Why it failed; empty if it did not.
        exit_code: That the command line gives for such an error; 0 without one.
    """

    target: str
    title: str
    report: Report | None
    bundle_bytes: int | None
    seconds: float
    error: str = ""
    exit_code: int = 0

    @property
    def memory(self) -> Figure | None:
        """Activations at their peak, parameters and code, all in memory at once, bytes."""
        if self.report is None:
            return None
        sizes = self.report.sizes
        peak = self.report.memory.planned_peak or self.report.memory.live_peak
        parts = [0.0 if peak is None else peak.value]
        parameters = PARAMETERS_IN_MEMORY if PARAMETERS_IN_MEMORY in sizes else "parameters"
        parts += [sizes[name].value for name in (parameters, "library") if name in sizes]
        return Figure.estimated(sum(parts), "B")

    @property
    def latency(self) -> Figure | None:
        """Of one inference, ms; with an accelerator that of both."""
        if self.report is None:
            return None
        vta = self.report.vta
        return self.report.latency.median if vta is None else vta.total

    @property
    def instructions(self) -> Figure | None:
        """Of one inference, where they were counted."""
        found = None if self.report is None else self.report.elsewhere
        return None if found is None else found.instructions

    @property
    def cycles(self) -> Figure | None:
        """Of one inference, where they were estimated."""
        found = None if self.report is None else self.report.elsewhere
        return None if found is None else found.cycles

    @property
    def basis(self) -> str:
        """Where the latency comes from, in a word or two."""
        if self.report is None:
            return "failed"
        found = self.report.elsewhere
        if self.report.vta is not None:
            return "simulated"
        if found is None:
            return "measured here"
        words = {"device": f"measured on {found.device}", "peaks": "at least, by the data sheet"}
        return words.get(found.basis, "estimated")

    @property
    def tuned(self) -> Figure | None:
        """Share of FLOPs that run on tuning records, %."""
        if self.report is None:
            return None
        rows = [row for row in self.report.coverage if row.source == "record"]
        return Figure.estimated(sum(row.flops_share.value for row in rows), "%")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model on several targets.

    Attributes:
        model: Its name.
        rows: The targets, in the order that was asked for.
    """

    model: str
    rows: tuple[ComparedTarget, ...]

    @property
    def exit_code(self) -> int:
        """Of the first target that failed; 0 if none did."""
        return next((row.exit_code for row in self.rows if row.error), 0)

    def ratio(self, row: ComparedTarget) -> Figure | None:
        """A target's latency over the first one's that did not fail; the weaker label of both."""
        first = next((r.latency for r in self.rows if r.latency is not None), None)
        if first is None or row.latency is None or not first.value:
            return None
        label = max(first.label, row.latency.label, key=LABELS.index)
        return Figure(row.latency.value / first.value, "", label)

    def to_text(self, *, width: int = 120) -> str:
        """The table for a terminal, without colour."""
        from rich.console import Console

        buffer = io.StringIO()
        console = Console(
            file=buffer, width=width, color_system=None, force_terminal=False, legacy_windows=False
        )
        console.print(self.table())
        lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
        return "\n".join([*lines, *self.remarks()]) + "\n"

    def table(self) -> Table:
        """The table, for a rich console."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=f"{self.model} on {len(self.rows)} targets", title_justify="left",
            title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
            show_edge=False,
        )  # fmt: skip
        for name in ("target", "precision"):
            table.add_column(name, overflow="fold")
        for name in _HEADS[2:-1]:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column(_HEADS[-1], overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, self.cells(row)), style="yellow" if row.error else None)
        return table

    def cells(self, row: ComparedTarget) -> tuple[str, ...]:
        """The texts of a row, below `_HEADS`; text and HTML share them."""
        if row.report is None:
            return (row.target, *[""] * (len(_HEADS) - 2), "failed")
        ratio = self.ratio(row)
        runtime = row.report.sizes.get("runtime on the device")
        return (
            row.target,
            row.report.precision,
            units.MISSING
            if row.bundle_bytes is None
            else units.size(Figure.measured(row.bundle_bytes, "B")),
            units.size(runtime),
            units.size(row.memory),
            units.count(row.instructions, 1e6, 1),
            units.count(row.cycles, 1e6, 1),
            units.milliseconds_of(row.latency),
            units.ratio(ratio),
            units.percent(row.tuned),
            row.basis,
        )

    def remarks(self) -> list[str]:
        """What a reader of the table has to know, and why targets failed."""
        labels = {row.latency.label for row in self.rows if row.latency is not None}
        found = []
        if "estimated" in labels:
            found.append(
                "Estimated latencies are estimated cycles at the target's clock: they rank and "
                "compare, and a real device may differ by a factor of two."
            )
        if len(labels) > 1:
            found.append("Ratios between a measured and an estimated latency are rough.")
        found += [f"{row.target}: {row.error}" for row in self.rows if row.error]
        for row in self.rows:
            missing = row.report.elsewhere if row.report is not None else None
            if missing is not None and missing.missing:
                found.append(f"{row.target}: {missing.missing}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, without the whole reports."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "model": self.model,
            "targets": [self._row(row) for row in self.rows],
        }

    def to_json(self) -> str:
        """The figures as a JSON document."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def _row(self, row: ComparedTarget) -> dict[str, Any]:
        figures: Mapping[str, Figure | None] = {
            "latency": row.latency, "ratio": self.ratio(row), "instructions": row.instructions,
            "cycles": row.cycles, "memory": row.memory, "tuned_flops": row.tuned,
        }  # fmt: skip
        report = row.report
        return {
            "target": row.target,
            "title": row.title,
            "error": row.error or None,
            "basis": row.basis,
            "precision": None if report is None else report.precision,
            "bundle_bytes": row.bundle_bytes,
            "seconds": row.seconds,
            **{name: encode(figure, non_finite=True) for name, figure in figures.items()},
            "sizes": {} if report is None else encode(report.sizes),
            "planned_peak": None if report is None else encode(report.memory.planned_peak),
            "estimator": "" if report is None or not report.elsewhere
            else report.elsewhere.estimator,
            "kinds": [] if report is None else encode(report.kinds, non_finite=True),
        }  # fmt: skip

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML page and return its path.

        Raises:
            FileError: It cannot be written.
        """
        page = self.html_page().encode("utf-8")
        target = Path(path)

        def write(file: Any) -> None:
            file.write(page)

        write_file(target, write)
        return target

    def html_page(self) -> str:
        """The page as a string, about 5 MB, most of it plotly."""
        from plotly.offline import get_plotlyjs

        template = resources.files(__package__).joinpath("templates/comparison.html")
        figure = bars_by_kind([(r.target, r.report) for r in self.rows if r.report is not None])
        head = "".join(f"<th>{escape(name)}</th>" for name in _HEADS)
        body = "".join(
            f"<tr{' class=failed' if row.error else ''}>"
            + "".join(f"<td>{escape(text)}</td>" for text in self.cells(row))
            + "</tr>"
            for row in self.rows
        )
        data = "null" if figure is None else figure.to_json()
        return Template(template.read_text(encoding="utf-8")).substitute(
            title=escape(f"{self.model} on {len(self.rows)} targets"),
            table=f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
            remarks="".join(f"<li>{escape(text)}</li>" for text in self.remarks()),
            plot_data=data.replace("</", "<\\/").replace("<!--", "<\\!--"),
            plotly=get_plotlyjs(),
        )

    def __str__(self) -> str:
        return self.to_text()


_HEADS: Sequence[str] = (
    "target", "precision", "bundle\nmeas.", "runtime\nmeas.", "memory\nest.", "M instr\ncount.",
    "M cycles\nest.", "latency\nms", "ratio", "tuned\nest.", "latency is",
)  # fmt: skip


__all__ = ["ComparedTarget", "Comparison"]
