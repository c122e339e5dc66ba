"""The latency report as users hold it: the data, and the ways to show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .html import notebook_html, write_html
from .model import ReportData
from .text import renderables, to_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True, slots=True)
class Report(ReportData):
    """The latency report of one compiled model on one machine.

    Its fields are those of `compiler.report.model.ReportData`. `print` shows it as text,
    `rich.print` in colour, and Jupyter as tables.
    """

    def to_text(self, *, width: int = 100, top: int = 20) -> str:
        """The report for a terminal, without colour.

        Args:
            width: Columns.
            top: Kernels shown one by one; the rest becomes one row.
        """
        return to_text(self, width=width, top=top)

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML page and return its path.

        Raises:
            FileError: It cannot be written.
        """
        return write_html(self, Path(path))

    def __str__(self) -> str:
        return self.to_text()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Let `rich.print(report)` show the report in colour at the terminal's width."""
        yield from renderables(self, width=options.max_width)

    def _repr_html_(self) -> str:
        """What Jupyter shows: tables and bars, without scripts."""
        return notebook_html(self)
