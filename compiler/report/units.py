"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from compiler.coverage import SHORT_ID, SOURCES

from .model import CoverageRow, Figure, KernelRow

MISSING = "–"


def milliseconds(value: float) -> str:
    """Milliseconds with about three significant digits: 0.0123, 1.234, 123.4."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    digits = next((d for d, least in enumerate((1000, 100, 10, 0.1)) if size >= least), 4)
    return f"{value:.{digits}f}"


def milliseconds_of(figure: Figure | None) -> str:
    """Milliseconds of a figure, without the unit."""
    return MISSING if figure is None else milliseconds(figure.value)


def scaled(value: float, unit: str, *, step: int = 1000) -> str:
    """A count with a decimal prefix, or a binary one for `step` 1024: 3.87 GFLOP, 1.5 MiB."""
    if not math.isfinite(value):
        return f"{value} {unit}"
    prefixes = ("", "k", "M", "G", "T", "P") if step == 1000 else ("", "Ki", "Mi", "Gi", "Ti", "Pi")
    sign, size = ("-", -value) if value < 0 else ("", value)
    index = 0
    while size >= step and index < len(prefixes) - 1:
        size /= step
        index += 1
    digits = 0 if index == 0 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{sign}{size:.{digits}f} {prefixes[index]}{unit}"


def flop(figure: Figure | None) -> str:
    """Arithmetic operations with a decimal prefix, without the unit."""
    return MISSING if figure is None else scaled(figure.value, "").rstrip()


def size(figure: Figure | None) -> str:
    """Bytes in binary units."""
    return MISSING if figure is None else scaled(figure.value, "B", step=1024)


#: Labels where there is little room.
SHORT = {"measured": "meas.", "counted": "count.", "simulated": "sim.", "estimated": "est.",
          "emulated": "emul."}  # fmt: skip


def ratio(figure: Figure | None) -> str:
    """A ratio and its label, as in ``0.31 est.``."""
    return MISSING if figure is None else f"{figure.value:.2f} {SHORT[figure.label]}"


def count(figure: Figure | None, divisor: float, digits: int) -> str:
    """A count in a fixed unit: FLOP over 1e6, bytes over 2**20."""
    return MISSING if figure is None else f"{figure.value / divisor:,.{digits}f}"


def total(figures: Iterable[Figure | None]) -> Figure | None:
    """Sum of the figures that are there; None if none is."""
    known = [figure for figure in figures if figure is not None]
    return replace(known[0], value=sum(f.value for f in known)) if known else None


def percent(figure: Figure | None) -> str:
    """A share with one digit after the point, none from 100 up."""
    if figure is None:
        return MISSING
    return f"{figure.value:.0f} %" if figure.value >= 99.95 else f"{figure.value:.1f} %"


def number(figure: Figure | None, digits: int = 1) -> str:
    """A plain number."""
    return MISSING if figure is None else f"{figure.value:,.{digits}f}"


def error(value: float) -> str:
    """A numerical error."""
    return f"{value:.2e}" if value else "0"


def operators(row: KernelRow) -> str:
    """The operators fused into a kernel: ``conv2d + add + relu``; its name if unknown."""
    return " + ".join(row.operators) if row.operators else row.name


def origin(row: CoverageRow) -> str:
    """Where schedules come from, in words: ``tuned record, same CPU``."""
    if row.source == "overhead":
        return "between kernels"
    words = SOURCES.get(row.source, row.source)
    return f"{words}, {row.tier}" if row.tier else words


def record(row: KernelRow) -> str:
    """The short ID and the tier of a kernel's record; why there is none, if it could have one."""
    if row.record:
        short = row.record[:SHORT_ID]
        return f"{short} ({row.tier})" if row.tier else short
    return row.miss


def kernels(count: int) -> str:
    """A number of kernels."""
    return "1 kernel" if count == 1 else f"{count} kernels"
