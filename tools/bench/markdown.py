"""The results as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tools.bench.contenders import BF16, CONTENDERS, INT8, INT8_UNTUNED, TUNED
from tools.bench.limits import OPENVINO_INT8, best_f32, bf16, default_over_tuned, int8, limits
from tools.bench.results import BenchResult, ContenderResult
from tools.bench.stats import Spread, geomean

_NONE = "—"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table whose first `left` columns are aligned to the left, the rest to the right.

    Bars and line breaks in cells are replaced, since they would end the cell.
    """
    marks = [":--" if i < left else "--:" for i in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def number(value: float) -> str:
    """A time or a ratio with three digits, or as many as there are before the point."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def range_of(values: Spread | None) -> str:
    """``median (p10 - p90)``."""
    if values is None:
        return _NONE
    return f"{number(values.median)} ({number(values.p10)}–{number(values.p90)})"


def render(result: BenchResult) -> str:
    """The page.

    Raises:
        ValueError: There is no network in the results.
    """
    if not result.nets:
        raise ValueError("no networks in the results")
    ratio_note = (
        "Above 1: we are faster. Each cell is the median over the rounds, each round's own ratio "
        "being taken first; p10–p90 of the rounds in parentheses."
    )
    error_note = (
        "Largest absolute difference over all outputs; in parentheses relative to the largest "
        "magnitude of the output."
    )
    thread_note = (
        "Threads that worked: those that spent at least 1 % of the CPU time of the timed "
        "inferences, by each thread's own CPU clock; the largest number over all networks."
    )
    load_note = (
        "Share of the measured CPU's time during the rounds that went to anything but the "
        "contenders, and the system's load average before and after (the contender that is "
        "running counts 1 in it)."
    )
    parts = [
        f"# Latency beside other runtimes: {result.machine.cpu}",
        _setup(result),
        *_limits(result),
        "## Ratio of the peer's time to ours",
        f"Ours is *{CONTENDERS[result.ours].label}*. {ratio_note}",
        _ratios(result),
        _other_precisions(result),
        _against_eager(result),
        "## Latency in milliseconds (measured)",
        "Median over all timed inferences, p10–p90 in parentheses.",
        _latencies(result),
        _failures(result),
        "## Error against PyTorch eager",
        error_note,
        _errors(result),
        "## Preparation in seconds (measured)",
        "Load, compile and first inference, on the same pinned CPU.",
        _preparation(result),
        "## Settings and threads",
        thread_note,
        _threads(result),
        "## Load of the machine",
        load_note,
        _load(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setup(result: BenchResult) -> str:
    machine, settings = result.machine, result.settings
    cpus = ", ".join(map(str, settings.cpus))
    threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    return table(
        ["what", "value"],
        [
            ["date", result.date],
            ["revision", f"`{result.revision}`"],
            ["processor", machine.cpu],
            ["instruction sets", ", ".join(machine.isa) or _NONE],
            ["logical CPUs", str(machine.logical_cpus)],
            ["system", f"{machine.system}, Python {machine.python}"],
            ["measured with", f"{threads} pinned to CPU {cpus}, batch 1"],
            ["rounds", f"{settings.rounds}, contenders in turn in each"],
            ["target", f"`{settings.target}`"],
        ],
        left=2,
    )


def _limits(result: BenchResult) -> list[str]:
    """The figures that the project has to reach; nothing if none of them was measured."""
    found = limits(result.nets)
    if all(limit.value is None for limit in found):
        return []
    if result.ours == INT8:
        header, rows = _int8_rows(result)
    else:
        header, rows = _float_rows(result)
    summary = [
        [
            limit.name,
            f"{'at least' if limit.least else 'at most'} {limit.limit:g}",
            _NONE if limit.value is None else f"**{number(limit.value)}**",
            str(limit.nets),
            {True: "yes", False: "no", None: "not measured"}[limit.reached],
        ]
        for limit in found
    ]
    note = "Medians over the rounds, each round's own ratio being taken first."
    return [
        "## What has to be reached",
        table(["figure", "limit", "measured", "networks", "reached"], summary),
        note,
        table(header, rows, left=1 if result.ours == INT8 else 2),
    ]


def _int8_rows(result: BenchResult) -> tuple[list[str], list[list[str]]]:
    ours = CONTENDERS[INT8].label
    header = [
        "network",
        *[f"{CONTENDERS[key].label} over {ours}" for key in (OPENVINO_INT8, TUNED, INT8_UNTUNED)],
    ]
    return header, [
        [net.name, *[_NONE if value is None else number(value) for value in int8(net)]]
        for net in result.nets
    ]


def _float_rows(result: BenchResult) -> tuple[list[str], list[list[str]]]:
    rows = []
    for net in result.nets:
        best, low, default = best_f32(net), bf16(net), default_over_tuned(net)
        row = [net.name, _NONE if best is None else CONTENDERS[best[0]].label]
        row += [_NONE if value is None else number(value)
                for value in (best[1] if best is not None else None, low, default)]  # fmt: skip
        rows.append(row)
    header = [
        "network",
        "fastest f32 peer",
        f"its time over {CONTENDERS[TUNED].label}",
        f"OpenVINO as it comes over {CONTENDERS[BF16].label}",
        "default over tuned",
    ]
    return header, rows


def _labels(result: BenchResult, *, ours: bool) -> list[tuple[str, str]]:
    base = result.ours
    return [(c.key, c.label) for c in result.nets[0].contenders if ours or c.key != base]


def _ratios(result: BenchResult) -> str:
    peers = _labels(result, ours=False)
    rows = []
    for net in result.nets:
        found = [net.of(key) for key, _ in peers]
        rows.append([net.name, *[range_of(c.ratio) if c else _NONE for c in found]])
    means = []
    for key, _ in peers:
        ratios = result.ratios(key)
        text = f"**{number(geomean(ratios))}**" if ratios else _NONE
        if ratios and len(ratios) < len(result.nets):
            text += f" ({len(ratios)} of {len(result.nets)} networks)"
        means.append(text)
    return table(
        ["network", *[label for _, label in peers]], [*rows, ["**geometric mean**", *means]]
    )


def _against_eager(result: BenchResult) -> str:
    """Ours over PyTorch eager's, which is the figure that the project has a limit for."""
    ratios = result.ratios("torch")
    if not ratios:
        return ""
    return (
        f"The other way round, our time over PyTorch eager's: geometric mean "
        f"{1 / geomean(ratios):.2f}, largest {1 / min(ratios):.2f}, over {len(ratios)} of "
        f"{len(result.nets)} networks."
    )


def _other_precisions(result: BenchResult) -> str:
    """Who computed in less than float32, since that is another contest."""
    found = {
        f"{entry.label} ({entry.facts['precision']})": None
        for net in result.nets
        for entry in net.contenders
        if entry.status == "measured" and entry.facts["precision"] != "f32"
    }
    return f"Not in float32: {', '.join(found)}." if found else ""


def _latencies(result: BenchResult) -> str:
    def cell(entry: ContenderResult | None) -> str:
        if entry is None:
            return _NONE
        return range_of(entry.latency_ms) if entry.status == "measured" else "failed"

    return _by_net(result, cell)


def _errors(result: BenchResult) -> str:
    def cell(entry: ContenderResult | None) -> str:
        if entry is None or entry.max_abs_error is None or entry.max_rel_error is None:
            return _NONE
        return f"{entry.max_abs_error:.1e} ({entry.max_rel_error:.1e})"

    return _by_net(result, cell)


def _preparation(result: BenchResult) -> str:
    def cell(entry: ContenderResult | None) -> str:
        if entry is None or entry.prepare_seconds is None:
            return _NONE
        return number(entry.prepare_seconds)

    return _by_net(result, cell)


def _by_net(result: BenchResult, cell: Callable[[ContenderResult | None], str]) -> str:
    labels = _labels(result, ours=True)
    rows = [[net.name, *[cell(net.of(key)) for key, _ in labels]] for net in result.nets]
    return table(["network", *[label for _, label in labels]], rows)


def _failures(result: BenchResult) -> str:
    rows = [
        [net.name, entry.label, entry.error]
        for net in result.nets
        for entry in net.contenders
        if entry.status == "failed"
    ]
    return "### Failed\n\n" + table(["network", "runtime", "error"], rows, left=3) if rows else ""


def _threads(result: BenchResult) -> str:
    rows = []
    for key, label in _labels(result, ours=True):
        found = [c for net in result.nets if (c := net.of(key)) and c.status == "measured"]
        if not found:
            rows.append([label, *[_NONE] * 7])
            continue
        facts = found[0].facts
        precisions = sorted({str(c.facts["precision"]) for c in found})
        rows.append(
            [
                label,
                str(facts["version"]),
                ", ".join(precisions),
                f"`{facts['threads']}`",
                str(facts["settings"]),
                ", ".join(map(str, facts["cpus"])),
                str(max(c.threads["busy"] for c in found)),
                f"{min(c.threads['busiest_share'] for c in found):.1%}",
            ]
        )
    header = ["runtime", "version", "precision", "thread setting", "settings", "CPUs allowed"]
    return table([*header, "threads that worked", "smallest share of the busiest"], rows, left=6)


def _load(result: BenchResult) -> str:
    rows = [
        [net.name, f"{net.other_share:.1%}", *[f"{load:.2f}" for load in net.load_average]]
        for net in result.nets
    ]
    return table(["network", "CPU time of others", "load before", "load after"], rows)
