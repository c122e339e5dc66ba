"""`python -m tools.bench`."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tools.bench.contenders import (
    CONTENDERS,
    DEFAULT_OWN,
    DEFAULT_PEERS,
    INT8,
    INT8_OWN,
    INT8_PEERS,
    OWN,
    TUNED,
)
from tools.bench.driver import ROOT, run_net
from tools.bench.machine import slug, this_machine
from tools.bench.markdown import number, range_of, render
from tools.bench.protocol import ContenderError
from tools.bench.results import BenchResult, NetResult, Settings
from tools.bench.stats import geomean

#: The six networks of the benchmark; their definitions are in `tools.zoo.nets`.
NETS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_lite0",
    "minilm_l6",
    "vit_tiny",
)
DEFAULT_ROUNDS = 40
QUICK_ROUNDS = 12


class _Names(click.ParamType[tuple[str, ...]]):
    """A comma-separated list of known names, or ``all``."""

    name = "names"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        if value == "all":
            return self.known
        names = tuple(dict.fromkeys(str(value).split(",")))
        unknown = [name for name in names if name not in self.known]
        if unknown:
            self.fail(f"unknown: {', '.join(unknown)}; known: {', '.join(self.known)}", param, ctx)
        return names


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--nets", type=_Names(NETS), default=NETS, help="Networks, comma-separated.")
@click.option(
    "--ours",
    "own",
    type=_Names(OWN),
    help=f"Which of ours, comma-separated. Default: {','.join(DEFAULT_OWN)}, with --quick {TUNED}, "
    f"with --int8 {','.join(INT8_OWN)}.",
)
@click.option(
    "--peers",
    type=_Names(tuple(key for key in CONTENDERS if key not in OWN)),
    help=f"Runtimes to compare with, comma-separated. Default: {','.join(DEFAULT_PEERS)}, "
    f"with --int8 {','.join(INT8_PEERS)}.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Quantized networks: ours beside our float32 and others' static int8, calibrated by the "
    "same inputs. The files' names end in -int8.",
)
@click.option("--quick", is_flag=True, help="Few contenders, few rounds, write nothing.")
@click.option("--threads", type=click.IntRange(1), default=1, help="Threads of each runtime.")
@click.option("--core", type=click.IntRange(0), help="First CPU to pin to. Default: the last one.")
@click.option("--rounds", type=click.IntRange(2), help="Rounds. Default: 40, with --quick 12.")
@click.option("--target", default="x86", help="Target that Tilewright compiles for.")
@click.option(
    "--write",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the JSON and Markdown files. Default: docs/benchmarks, with --quick none.",
)
@click.option("--no-write", is_flag=True, help="Print the table only.")
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/bench"),
    help="Folder for exported networks and the runtimes' logs.",
)
def main(
    nets: tuple[str, ...],
    own: tuple[str, ...] | None,
    peers: tuple[str, ...] | None,
    int8: bool,
    quick: bool,
    threads: int,
    core: int | None,
    rounds: int | None,
    target: str,
    write: Path | None,
    no_write: bool,
    workdir: Path,
) -> None:
    """Compare Tilewright's latency with other runtimes', interleaved on the same pinned CPUs.

    Exit code 0 if each of ours was measured on every network, 1 if not.
    """
    console = Console(width=None if sys.stdout.isatty() else 130)
    if write is not None and no_write:
        raise click.UsageError("--write and --no-write exclude each other")
    folder = None if no_write else (write or (None if quick else ROOT / "docs" / "benchmarks"))
    all_own, all_peers = (INT8_OWN, INT8_PEERS) if int8 else (DEFAULT_OWN, DEFAULT_PEERS)
    own = own or ((INT8 if int8 else TUNED,) if quick else all_own)
    keys = (*own, *(peers or ((all_peers if int8 else ("torch",)) if quick else all_peers)))
    machine = this_machine()
    settings = Settings(
        threads=threads,
        cpus=_choose_cpus(core, threads),
        rounds=rounds or (QUICK_ROUNDS if quick else DEFAULT_ROUNDS),
        target=target,
    )
    result = BenchResult(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        revision=_revision(),
        machine=machine,
        settings=settings,
    )
    console.print(
        f"{machine.cpu}; {threads} thread(s) on CPU {', '.join(map(str, settings.cpus))}; "
        f"{settings.rounds} rounds; load {os.getloadavg()[0]:.2f}"
    )
    for net in nets:
        with console.status(net) as status:
            try:
                measured = run_net(
                    net,
                    [CONTENDERS[key] for key in keys],
                    settings,
                    workdir=workdir.resolve(),
                    say=lambda text, net=net, status=status: status.update(f"{net}: {text}"),  # type: ignore[misc]
                )
            except ContenderError as error:
                raise click.ClickException(str(error)) from error
        result.nets.append(measured)
        _show_failures(console, measured)
        # After every network, so that a run that is cut short leaves what it measured.
        if folder is not None:
            _write(result, folder)
    _show(console, result)
    if folder is not None:
        for path in _write(result, folder):
            console.print(f"written: {path}", soft_wrap=True)
    ours = [net.of(key) for net in result.nets for key in own]
    sys.exit(0 if all(c is not None and c.status == "measured" for c in ours) else 1)


def _choose_cpus(first: int | None, threads: int) -> tuple[int, ...]:
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise click.UsageError(f"--threads {threads}: only {len(allowed)} CPUs may be used")
    if first is None:
        # The first CPU serves most interrupts.
        return tuple(allowed[-threads:])
    chosen = tuple(range(first, first + threads))
    missing = [cpu for cpu in chosen if cpu not in allowed]
    if missing:
        raise click.UsageError(f"--core: CPU {missing[0]} is not among {allowed}")
    return chosen


def _revision() -> str:
    """The commit of the sources, with ``-dirty`` if they were changed since."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _write(result: BenchResult, folder: Path) -> tuple[Path, Path]:
    name = f"{slug(result.machine.cpu)}-{result.settings.threads}t"
    name += "-int8" if result.ours == INT8 else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{name}.json", folder / f"{name}.md"
        for path, text in zip(paths, (result.to_json(), render(result)), strict=True):
            part = path.with_name(path.name + ".part")
            part.write_text(text)
            part.replace(path)
    except OSError as error:
        raise click.ClickException(f"cannot write to {folder}: {error.strerror}") from error
    return paths


def _show_failures(console: Console, net: NetResult) -> None:
    for entry in net.contenders:
        if entry.status == "failed":
            console.print(f"[red]{net.name}, {entry.label}:[/] ", end="", highlight=False)
            console.print(entry.error, markup=False, highlight=False)


def _show(console: Console, result: BenchResult) -> None:
    table = Table(
        title="Median ms (p10–p90, measured); x: the peer's time over ours, above 1 we are faster"
    )
    table.add_column("network")
    labels = {c.key: c.label for c in result.nets[0].contenders}
    for label in labels.values():
        table.add_column(label, justify="right")
    table.add_column("others on CPU", justify="right")
    for net in result.nets:
        cells = []
        for entry in net.contenders:
            text = range_of(entry.latency_ms) if entry.status == "measured" else "[red]failed[/]"
            if entry.ratio is not None:
                text += f"\n[bold]x {entry.ratio.median:.2f}[/]"
            cells.append(text)
        table.add_row(net.name, *cells, f"{net.other_share:.0%}")
    table.add_section()
    means = [result.ratios(key) for key in labels]
    table.add_row(
        "geometric mean", *[f"[bold]x {number(geomean(r))}[/]" if r else "" for r in means], ""
    )
    console.print(table)


if __name__ == "__main__":
    main()
