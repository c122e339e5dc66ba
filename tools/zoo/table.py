"""The zoo's results as a table on the terminal and as ``docs/zoo.md``."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.zoo.entries import TOLERANCE

_VERSIONS = ("torch", "apache-tvm", "timm", "torchvision", "transformers")


def summary(rows: list[dict[str, Any]]) -> str:
    """How many networks agree, in words."""
    good = sum(row["result"] == "agrees" for row in rows)
    share = 100 * good / len(rows) if rows else 0.0
    return f"{good} of {len(rows)} networks ({share:.1f} %) import, compile and agree with PyTorch"


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table for people."""
    table = Table(title=summary(rows))
    for heading, justify in (
        ("network", "left"),
        ("source", "left"),
        ("result", "left"),
        ("error", "right"),
        ("export s", "right"),
        ("import s", "right"),
        ("compile s", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        colour = "green" if row["result"] == "agrees" else "red"
        table.add_row(
            row["name"],
            row["source"],
            f"[{colour}]{_result(row)}",
            _error(row),
            _seconds(row, "export_ms"),
            _seconds(row, "import_ms"),
            _seconds(row, "compile_ms"),
        )
    console = Console()
    console.print(table)
    for row in rows:
        if row["result"] != "agrees":
            console.print(f"[red]{row['name']}[/]: {row.get('message', 'no message')}")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page ``docs/zoo.md``."""
    lines = [
        "# Networks that compile",
        "",
        (
            f"{summary(rows)}. Written by `python -m tools.zoo --write docs/zoo.md` "
            f"(`make zoo`) on {datetime.datetime.now(datetime.timezone.utc).date()}."
        ),
        "",
        f"- Machine: {cpu_name()}, Linux {platform.machine()}; one thread.",
        f"- Versions: {', '.join(_versions())}; Python {platform.python_version()}.",
        (
            "- *Error* is measured: the largest difference from PyTorch eager over all outputs, "
            "relative to the output's largest magnitude, on seeded random weights (normalisation "
            "statistics included) and inputs."
        ),
        (
            f"- A network *agrees* if the error is at most {TOLERANCE:g}, except where the table "
            "says another tolerance."
        ),
        (
            "- *Export* is `torch.export`, *import* decomposition and translation to Relax, "
            "*compile* lowering, scheduling, code generation and linking; seconds, measured once "
            "on a shared machine. *Kernels* counts generated functions, and how many of them met "
            "only the generic schedule."
        ),
        (
            "- Inputs are small so that the whole zoo runs in minutes; latency is measured by "
            "`tools/bench` at real sizes."
        ),
        "",
        (
            "| network | kind | from | inputs | parameters | result | error | export | import | "
            "compile | kernels |"
        ),
        "|---|---|---|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        kernels = f"{row['kernels']} ({row['fallback_kernels']})" if "kernels" in row else ""
        cells = (
            row["name"],
            row["kind"],
            row["source"],
            ", ".join(row.get("inputs", ())),
            f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else "",
            _result(row) + ("" if row["tolerance"] == TOLERANCE else f" (≤ {row['tolerance']:g})"),
            _error(row),
            _seconds(row, "export_ms"),
            _seconds(row, "import_ms"),
            _seconds(row, "compile_ms"),
            kernels,
        )
        lines.append(f"| {' | '.join(cells)} |")
    failed = [row for row in rows if row["result"] != "agrees"]
    if failed:
        lines += ["", "## Not yet", ""]
        for row in failed:
            reason = " ".join(str(row.get("message", "it differs")).split())
            lines.append(f"- **{row['name']}** ({row['result']}): {reason[:400]}")
    return "\n".join(lines) + "\n"


def cpu_name() -> str:
    """The processor's name as the kernel tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _versions() -> list[str]:
    here = {d.name: d.version for d in distributions()}
    return [f"{package} {here[package]}" for package in _VERSIONS if package in here]


def _result(row: dict[str, Any]) -> str:
    if row["result"] in ("agrees", "differs"):
        return str(row["result"])
    return f"fails at {row['result']}"


def _error(row: dict[str, Any]) -> str:
    return f"{row['error']:.1e}" if "error" in row else ""


def _seconds(row: dict[str, Any], key: str) -> str:
    return f"{row[key] / 1e3:.1f}" if key in row else ""


__all__ = ["cpu_name", "markdown", "show", "summary"]
