"""`tilewright deploy`, `devices` and `bench`: models on boards, without Python there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.output import Session, size_text, with_common_options
from compiler.errors import InputError

if TYPE_CHECKING:
    from compiler.deploy.board import Board, Facts

_bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
_wheels_option = click.option(
    "--wheels", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Folder of the runtime's packages for the device, if they cannot be fetched.",
)  # fmt: skip


@click.command()
@_bundle_argument
@click.option(
    "--to", required=True, metavar="user@board[:FOLDER]|DEVICE|FOLDER",
    help="A board, a device of `tilewright devices`, or a folder here to copy by hand.",
)  # fmt: skip
@_wheels_option
@with_common_options
@click.pass_obj
def deploy(session: Session, bundle: Path, to: str, wheels: Path | None) -> None:
    """Put a compiled model on a device that has no Python.

    The deployment is a folder with the model, TVM's runtime for the device's machine, a runner
    (`./run . --bench 50`), a C header with an example, and the self-test's inputs and outputs. On
    a board the self-test runs before the model that was there is replaced.
    """
    from compiler.deploy import deploy_to_board, write_deployment
    from compiler.package import read_bundle

    board = _board(to)
    model = read_bundle(bundle, runnable=False)
    if board is None:
        done = write_deployment(model, Path(to), wheels=wheels, tell=session.message)
        document: dict[str, Any] = {"folder": str(done.path)}
        text = f"wrote {done.path}"
    else:
        with tempfile.TemporaryDirectory(prefix="tilewright-deploy-") as work:
            done = write_deployment(
                model, Path(work) / "model", wheels=wheels, tell=session.message
            )
            document = deploy_to_board(done.path, board, session.message)
        same = ", bit for bit" if document["same_bits"] else f", error {document['error']:.2g}"
        text = f"{document['folder']}: self-test passed{same}"
    sizes = {
        "runtime_bytes": done.runtime_bytes,
        "model_bytes": done.model_bytes,
        "loaded_parameter_bytes": done.parameter_bytes,
    }
    if session.json:
        session.document({**document, "machine": done.machine, **sizes})
        return
    click.echo(text)
    click.echo(
        f"{done.machine}: {size_text(done.model_bytes)} of model, "
        f"{size_text(done.runtime_bytes)} of runtime and runner; "
        f"its parameters take {size_text(done.parameter_bytes)} in memory"
    )
    if board is None:
        click.echo(f"there: ./run {done.path.name} --selftest --bench 50")


@click.command()
@_bundle_argument
@click.option("--device", required=True, metavar="NAME|user@board", help="Where to measure.")
@click.option("--repeat", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@click.option("--warmup", type=click.IntRange(0, 1_000_000), default=10, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), help="By default as compiled.")
@click.option("--report", is_flag=True, help="Show the whole report, kernel by kernel.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="PATH",
    help="Write the report as an HTML page.",
)  # fmt: skip
@click.option("--save", is_flag=True, help="Put the report into the bundle, in place of its own.")
@click.option(
    "--estimate/--no-estimate", default=None,
    help="Put counted instructions and estimated cycles beside the measured times; by default "
    "where qemu and llvm-mca are installed.",
)  # fmt: skip
@_wheels_option
@with_common_options
@click.pass_obj
def bench(
    session: Session,
    bundle: Path,
    device: str,
    repeat: int,
    warmup: int,
    threads: int | None,
    report: bool,
    html: Path | None,
    save: bool,
    estimate: bool | None,
    wheels: Path | None,
) -> None:
    """Measure a compiled model on a board: it is deployed, tests itself, and is timed there.

    With --report, --html or --save a report is made of what was measured of every kernel.
    """
    from compiler.estimate.device import run_on_device
    from compiler.estimate.report import report_elsewhere
    from compiler.package import read_bundle
    from compiler.package.atomic import check_destination
    from compiler.report import Report

    wanted = report or save or html is not None
    if estimate is not None and not wanted:
        raise click.UsageError("--estimate belongs to --report, --html or --save")
    if html is not None:
        check_destination(html)
    model = read_bundle(bundle, runnable=False, read_report=Report.from_json)
    run, timing = run_on_device(
        model, device, repeat=repeat, warmup=warmup, threads=threads, wheels=wheels,
        tell=session.message,
    )  # fmt: skip
    if wanted:
        found = report_elsewhere(
            model, estimate=estimate, run=run, wheels=wheels, tell=session.message
        )
        if html is not None:
            found.to_html(html)
        if save:
            model.report = found
            model.save(bundle, folder=bundle.is_dir())
    if session.json:
        more = {"report": json.loads(found.to_json())} if wanted else {}
        session.document({"device": device, **timing, **more})
        return
    if report:
        session.show(found)
    click.echo(
        f"{model.name} on {device} (measured): median {timing['median_ms']:.3f} ms, least "
        f"{timing['min_ms']:.3f} ms, 90 % below {timing['p90_ms']:.3f} ms, {timing['runs']} runs, "
        f"peak memory {timing['peak_memory_kib'] / 1024:.1f} MiB"
    )


@click.group()
def devices() -> None:
    """Boards by name: list, add, remove, probe."""


@devices.command("list")
@with_common_options
@click.pass_obj
def list_(session: Session) -> None:
    """The boards that were added."""
    from compiler.deploy.devices import read_devices

    known = read_devices()
    if session.json:
        session.document({name: {"host": b.host, "folder": b.folder} for name, b in known.items()})
        return
    for name, board in known.items():
        click.echo(f"{name:16} {board.host}:{board.folder}")
    if not known:
        click.echo("no devices; add one: tilewright devices add NAME user@host")


@devices.command()
@click.argument("name")
@click.argument("address", metavar="user@host[:FOLDER]")
@click.option("--no-probe", is_flag=True, help="Do not ask the board what it is first.")
@with_common_options
@click.pass_obj
def add(session: Session, name: str, address: str, no_probe: bool) -> None:
    """Keep a board under a name, after asking it what it is."""
    from compiler.deploy.board import Board
    from compiler.deploy.devices import add_device

    board = Board.parse(address)
    facts = None if no_probe else board.probe()
    add_device(name, board)
    if session.json:
        session.document({"name": name, "host": board.host, "facts": _plain(facts)})
        return
    click.echo(f"added {name}: {board.host}" + (f", {_line(facts)}" if facts else ""))


@devices.command()
@click.argument("name")
@with_common_options
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Forget a board."""
    from compiler.deploy.devices import remove_device

    remove_device(name)
    if session.json:
        session.document({"removed": name})
    else:
        click.echo(f"removed {name}")


@devices.command()
@click.argument("name", metavar="NAME|user@host")
@with_common_options
@click.pass_obj
def probe(session: Session, name: str) -> None:
    """Ask a board what it is: processor, features, cores, clock, memory, governor."""
    from compiler.deploy.devices import find_device

    facts = find_device(name).probe()
    if session.json:
        session.document(_plain(facts))
        return
    click.echo(_line(facts))
    click.echo(f"features: {' '.join(sorted(facts.features))}")
    if facts.governor and facts.governor != "performance":
        click.echo(f"the clock follows the load ({facts.governor}): figures will vary")


def _board(to: str) -> Board | None:
    """The board that a destination names; None for a folder here."""
    from compiler.deploy.devices import find_device, read_devices

    if to.startswith("-") or not to:
        raise InputError(f"{to!r} is no destination", where="--to", hint="give a folder")
    return find_device(to) if to in read_devices() or "@" in to else None


def _line(facts: Facts) -> str:
    clock = f" at {facts.clock_hz / 1e9:.2f} GHz" if facts.clock_hz else ""
    return (
        f"{facts.model or facts.machine}, {facts.machine}, {facts.cores} cores{clock}, "
        f"{size_text(facts.memory_bytes)} of memory, {size_text(facts.free_bytes)} free"
    )


def _plain(facts: Facts | None) -> dict[str, Any] | None:
    from compiler.codec import encode

    if facts is None:
        return None
    plain: dict[str, Any] = encode(facts)
    return {**plain, "features": sorted(facts.features)}


__all__ = ["bench", "deploy", "devices"]
