"""What the subcommands show to people: rich tables and sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.cli.output import size_text
from compiler.codec import encode
from compiler.coverage import SHORT_ID, choice_text, flops, group, misses, tuned_share
from compiler.stages import KernelInfo

if TYPE_CHECKING:
    from compiler.package import Bundle, Contents, Manifest, Verification
    from targets import TargetSpec


def statistics(name: str, array: Any) -> dict[str, Any]:
    """Name, dtype, shape and range of an output, as JSON takes it."""
    import numpy as np

    values = np.asarray(array, np.float64)
    finite = values[np.isfinite(values)]
    return {
        "name": name,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "minimum": float(finite.min()) if finite.size else None,
        "maximum": float(finite.max()) if finite.size else None,
        "mean": float(finite.mean()) if finite.size else None,
        "not_finite": int(values.size - finite.size),
    }


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table


def outputs_table(outputs: Mapping[str, Any]) -> Any:
    """What a run gave, one row an output."""
    table = _table("Outputs", "output", "dtype", "shape", ">min", ">max", ">mean", ">not finite")
    for name, array in outputs.items():
        row = statistics(name, array)
        numbers = (row["minimum"], row["maximum"], row["mean"])
        table.add_row(
            name,
            row["dtype"],
            "x".join(map(str, row["shape"])) or "scalar",
            *("" if value is None else f"{value:.6g}" for value in numbers),
            str(row["not_finite"]),
        )
    return table


def verification_text(result: Verification) -> str:
    """How the self-test went, in a sentence."""
    return (
        f"self-test passed: {result.outputs} outputs, largest error {result.max_abs_error:.3g} "
        f"({result.max_rel_error:.3g} relative, {result.tolerance:g} allowed; measured)"
    )


def summary(bundle: Bundle, path: Path, size: int) -> Any:
    """What `compile` wrote, and for what."""
    table = _table("Bundle", "", "")
    table.show_header = False
    table.add_row("written to", f"{path} ({size_text(size)})")
    for spec in bundle.inputs:
        table.add_row("input", str(spec))
    for spec in bundle.outputs:
        table.add_row("output", str(spec))
    table.add_row("target", f"{bundle.target.name}: {bundle.target.title}")
    total = sum(stage.milliseconds for stage in bundle.manifest.stages if stage.stage != "report")
    table.add_row("compiled in", f"{total / 1e3:.1f} s")
    return table


def inspect_tables(contents: Contents, problem: str | None) -> list[Any]:
    """A bundle's facts, members and stages; `problem` says why it does not run here."""
    manifest = contents.manifest
    facts = _table(f"{contents.path} ({contents.kind})", "", "")
    facts.show_header = False
    rows: list[tuple[str, str]] = [("model", manifest.name), ("compiled", manifest.created)]
    rows += [("input", str(spec)) for spec in manifest.inputs]
    rows += [("output", str(spec)) for spec in manifest.outputs]
    rows += [
        ("target", f"{manifest.target.name}: {manifest.target.title}"),
        ("needs", ", ".join(manifest.required_features) or "nothing special"),
        ("system", str(manifest.platform)),
        ("runs here", "yes" if problem is None else f"no: {problem}"),
        ("threads", str(manifest.threads)),
        ("precision", manifest.precision),
        ("kernels", str(len(manifest.kernels))),
        ("parameters", _parameters_text(manifest)),
        (
            "golden outputs",
            f"from the {manifest.golden_source} model"
            if manifest.golden_source == "compiled"
            else "from PyTorch",
        ),
        ("toolchain", ", ".join(f"{k} {v}" for k, v in sorted(manifest.toolchain.items()))),
    ]
    for row in rows:
        facts.add_row(*row)
    coverage = coverage_table(manifest.kernels)
    members = _table("Members", "member", ">bytes", ">packed", "SHA-256")
    for name, member in contents.members.items():
        members.add_row(
            name,
            f"{member.size_bytes:,}",
            f"{contents.packed_bytes[name]:,}",
            member.sha256[:16] + "…",
        )
    stages = _table("Stages", "stage", ">ms")
    totals: dict[str, float] = {}
    for stage in manifest.stages:
        totals[stage.stage] = totals.get(stage.stage, 0.0) + stage.milliseconds
    for name, milliseconds in totals.items():
        stages.add_row(name, f"{milliseconds:,.0f}")
    return [facts, coverage, members, stages]


def _parameters_text(manifest: Manifest) -> str:
    text = f"{len(manifest.parameters)}, {size_text(manifest.parameter_bytes)}"
    if manifest.prepared:
        text += (
            f"; {len(manifest.prepared)} are packed when the model is loaded: "
            f"{size_text(manifest.loaded_parameter_bytes)} in memory"
        )
    return text


def coverage_document(kernels: Sequence[KernelInfo]) -> dict[str, Any]:
    """What share of the work runs on tuning records, defaults, rules and fallbacks, for JSON."""
    total = math.fsum(map(flops, kernels))
    share = tuned_share(kernels)
    return {
        "tuned_flops_share": share,
        "label": "estimated",
        "sources": [
            {
                "source": part.source,
                "tier": part.tier,
                "kernels": len(part.members),
                "flops_share": math.fsum(flops(kernels[i]) for i in part.members) / total
                if total
                else 0.0,
            }
            for part in group(map(_origin, kernels))
        ],
        "misses": [
            {"kernel": kernel.name, "operators": list(kernel.operators), "why": kernel.miss}
            for kernel in misses(kernels)
        ],
    }


def coverage_table(kernels: Sequence[KernelInfo]) -> Any:
    """Where the schedules come from, with shares of FLOPs."""
    table = _table(
        "Where the schedules come from", "source", ">kernels", ">FLOPs of an inference (estimated)"
    )
    document = coverage_document(kernels)
    for part, row in zip(group(map(_origin, kernels)), document["sources"], strict=True):
        table.add_row(str(part), str(row["kernels"]), f"{row['flops_share']:.1%}")
    return table


def _origin(kernel: KernelInfo) -> tuple[str, str]:
    return ("fallback" if kernel.fallback else kernel.source, kernel.tier)


def kernels_table(contents: Contents) -> Any:
    """Every kernel of a bundle."""
    table = _table(
        "Kernels", "kernel", "kind", "rule", ">calls", ">MFLOP", "operators", "from", "remark"
    )
    for kernel in contents.manifest.kernels:
        record = kernel.record[:SHORT_ID] + (f", {kernel.tier}" if kernel.tier else "")
        remarks = (kernel.why, record, kernel.miss, choice_text(kernel.choice))
        table.add_row(
            kernel.name,
            kernel.kind,
            kernel.rule,
            str(kernel.calls),
            f"{kernel.flops / 1e6:,.2f}",
            ", ".join(kernel.operators),
            _origin(kernel)[0],
            "; ".join(remark for remark in remarks if remark),
        )
    return table


def targets_table(found: tuple[TargetSpec, ...]) -> Any:
    """All targets and what works."""
    table = _table("Targets", "target", "works", "device", "status")
    for spec in found:
        table.add_row(spec.name, "yes" if spec.available else "no", spec.title, spec.status)
    return table


def target_table(spec: TargetSpec) -> Any:
    """All facts of one target."""
    table = _table(spec.name, "", "")
    table.show_header = False
    table.add_row("device", spec.title)
    table.add_row("works", f"{'yes' if spec.available else 'no'}: {spec.status}")
    table.add_row("cores", str(spec.cores))
    table.add_row("clock", f"{spec.clock_hz / 1e9:.2f} GHz")
    for cache in spec.caches:
        table.add_row(
            f"L{cache.level} cache",
            f"{cache.size_bytes / 1024:,.0f} KiB, {cache.ways} ways, {cache.line_bytes} B lines, "
            f"shared by {cache.shared_by_cores}",
        )
    table.add_row(
        "memory",
        f"{spec.memory_bytes / 2**30:.1f} GiB, {spec.memory_bandwidth_bytes_per_s / 1e9:.1f} GB/s",
    )
    for dtype, rate in sorted(spec.peak_ops_per_cycle.items()):
        peak = rate * spec.clock_hz / 1e9
        table.add_row(f"peak {dtype}", f"{peak:,.1f} GOPS a core (estimated: {rate:g} a cycle)")
    table.add_row("vectors", f"{spec.vector_bits} bits, {spec.vector_registers} registers")
    table.add_row("features", ", ".join(sorted(spec.features)) or "none")
    table.add_row("TVM target", json.dumps(encode(spec.tvm), sort_keys=True))
    for key, value in spec.extra.items():
        table.add_row(key, str(value))
    for source in spec.sources:
        table.add_row("source", source)
    return table


__all__ = [
    "coverage_document",
    "coverage_table",
    "inspect_tables",
    "kernels_table",
    "outputs_table",
    "statistics",
    "summary",
    "target_table",
    "targets_table",
    "verification_text",
]
