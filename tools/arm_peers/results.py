"""The figures on disk, and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.bench.markdown import number, table

OURS = "tilewright"
PEERS = ("ncnn", "mnn", "litert")
CONTENDERS = (OURS, *PEERS)
NETS = ("resnet18", "mobilenet_v2")
PRECISIONS = ("float32", "int8")
CORES = ("cortex-a72", "neoverse-n1")
LABELS = {
    OURS: "Tilewright", "ncnn": "ncnn", "mnn": "MNN", "litert": "LiteRT (XNNPACK)",
    "resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2", "float32": "fp32", "int8": "int8",
    "cortex-a72": "Cortex-A72", "neoverse-n1": "Neoverse N1",
}  # fmt: skip
#: What ours may take of the best peer's cycles.
LIMIT = 1.2
_FORMAT = 1
_NONE = "—"
_ABOUT = """\
One inference of one image (1×3×224×224) on one thread, the same seeded weights everywhere. \
**Instructions are counted** by an emulator (all that one inference executes in any library: two \
inferences less one), **cycles are estimated** from the executed blocks by {model}, all \
data in the first cache. Nothing here was measured on a device; ratios mean more than figures.

Every contender sees the core alone: its features, and its name where a library asks Linux for \
it, so that each chooses the kernels that it would choose there."""
_SETTINGS = """\
- **Tilewright**: `compile(net, target="arm/…")` with the shipped records, run by the C runner.
- **ncnn**: converted by pnnx; 16-bit floats off. int8: a scale for each output channel, six bits \
for the weights of 3×3 convolutions of stride 1 (ncnn's integer Winograd needs them) and eight for \
others, int8 kept between neighbouring convolutions, sums and pools in fp32, as ncnn's own \
quantizer has it. Its packages lack that quantizer; the files were written by a program of ours.
- **MNN**: converted from ONNX; fp32 with `precision = high`. int8: MNN's quantizer (`EMA`; `KL` \
crashes), `precision = normal`, which lets it use 16-bit floats where the core has them.
- **LiteRT**: XNNPACK's delegate runs the whole graph. The files were written from ONNX by a \
program of ours with LiteRT's schema: NHWC input (no transposition, which the others' input \
needs), activations fused, int8 with a scale for each output channel and zero points.

Values of int8 networks differ slightly, since each quantizer has ranges of its own; they change \
no contender's work. Copying the input into the runtime's own tensors is counted for all but \
LiteRT, reading the output for all but LiteRT and Tilewright."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's figures for one network in one precision on one core.

    Attributes:
        instructions: Of one inference, counted; `None` if it failed.
        cycles: Of one inference, estimated.
        model: What estimated them.
        version: The contender's.
        dot_products: Executed ``sdot`` and ``udot`` instructions.
        error: Why there are no figures.
    """

    net: str
    precision: str
    core: str
    contender: str
    instructions: int | None = None
    cycles: float | None = None
    model: str = ""
    version: str = ""
    dot_products: int = 0
    error: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.net, self.precision, self.core, self.contender)


def read(path: Path) -> list[Row]:
    """The rows of a file; none if it is not there."""
    if not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text())["rows"]]


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows and, beside them, the page."""
    order = {row.key: row for row in rows}
    keys = [(n, p, c, who) for n in NETS for p in PRECISIONS for c in CORES for who in CONTENDERS]
    kept = [order[key] for key in keys if key in order]
    data: dict[str, Any] = {
        "format": _FORMAT,
        "instructions": "counted",
        "cycles": "estimated",
        "rows": [asdict(row) for row in kept],
    }
    path.write_text(json.dumps(data, indent=1) + "\n")
    path.with_suffix(".md").write_text(render(kept))


def render(rows: Sequence[Row]) -> str:
    """The page."""
    found = {row.key: row for row in rows}
    models = sorted({row.model.partition(",")[0] for row in rows if row.model})
    versions = {row.contender: row.version for row in rows if row.version}
    cycles, instructions = [], []
    for net in NETS:
        for precision in PRECISIONS:
            for core in CORES:
                line = [found.get((net, precision, core, who)) for who in CONTENDERS]
                if not any(line):
                    continue
                names = [LABELS[net], LABELS[precision], LABELS[core]]
                spent = [_millions(row.cycles if row else None) for row in line]
                executed = [_millions(row.instructions if row else None) for row in line]
                cycles.append([*names, *spent, *_ratio(line)])
                instructions.append([*names, *executed])
    head = ["Network", "Precision", "Core", *(LABELS[who] for who in CONTENDERS)]
    used = "; ".join(f"{LABELS[who]} {version}" for who, version in versions.items())
    parts = [
        "# Kernels beside other runtimes' on ARM: counted and estimated",
        _ABOUT.format(model=" and ".join(models)),
        f"Contenders: {used}.",
        "## Cycles (estimated), millions",
        f"The last column is ours by the best peer's; at most {LIMIT} is asked for.",
        table([*head, "Best peer", "Ours / best"], cycles, left=3),
        "## Instructions (counted), millions",
        table(head, instructions, left=3),
        *_gains(found),
        *_failures(rows),
        "## How each was run",
        _SETTINGS,
    ]
    return "\n\n".join(parts) + "\n"


def _millions(value: float | None) -> str:
    return _NONE if value is None else f"{value / 1e6:.1f}"


def _ratio(line: Sequence[Row | None]) -> list[str]:
    ours, peers = line[0], [row for row in line[1:] if row is not None and row.cycles]
    if not peers:
        return [_NONE, _NONE]
    best = min(peers, key=lambda row: row.cycles or 0.0)
    if ours is None or not ours.cycles or not best.cycles:
        return [LABELS[best.contender], _NONE]
    return [LABELS[best.contender], number(ours.cycles / best.cycles)]


def _gains(found: dict[tuple[str, str, str, str], Row]) -> list[str]:
    """How much int8 gains over fp32, each contender by itself."""
    lines = []
    for net in NETS:
        for core in CORES:
            cells = []
            for who in CONTENDERS:
                both = [found.get((net, precision, core, who)) for precision in PRECISIONS]
                values = [row.cycles for row in both if row is not None and row.cycles]
                cells.append(number(values[0] / values[1]) if len(values) == 2 else _NONE)
            lines.append([LABELS[net], LABELS[core], *cells])
    head = ["Network", "Core", *(LABELS[who] for who in CONTENDERS)]
    return ["## fp32 cycles by int8 cycles (estimated)", table(head, lines, left=2)]


def _failures(rows: Sequence[Row]) -> list[str]:
    failed = [row for row in rows if row.error]
    if not failed:
        return []
    lines = [
        f"- {LABELS[r.contender]}, {LABELS[r.net]}, {LABELS[r.precision]}, {LABELS[r.core]}: "
        f"{r.error}"
        for r in failed
    ]
    return ["## Without figures", "\n".join(lines)]


__all__ = ["CONTENDERS", "CORES", "NETS", "OURS", "PEERS", "PRECISIONS", "Row", "read", "render",
           "write"]  # fmt: skip
