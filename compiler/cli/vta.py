"""`tilewright vta`: VTA programs as text, and on the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.output import Session, size_text, with_common_options
from compiler.errors import FileError, InputError, VerificationError

if TYPE_CHECKING:
    from targets.vta import Program, Simulation, VtaConfig

_CONFIG_HELP = (
    "A VTA target's name or TOML file. A program that was made for another configuration is "
    "refused."
)
_config_option = click.option("--config", metavar="NAME|FILE.toml", help=_CONFIG_HELP)
_file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group("vta")
def vta() -> None:
    """Look at VTA programs, make them from text, and run them on the simulator."""


@vta.command()
@_file_argument
@_config_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Write the text to a file instead of standard output.",
)  # fmt: skip
@click.option(
    "--contents", is_flag=True,
    help="Show what buffers hold, too; `assemble` then gives the same file.",
)  # fmt: skip
@with_common_options
@click.pass_obj
def disassemble(
    session: Session, file: Path, config: str | None, output: Path | None, contents: bool
) -> None:
    """Show a program as text: configuration, buffers, micro-ops and instructions.

    FILE is a program, or, if --config says what it was made for, a bare stream of encoded
    instructions of 16 bytes each.
    """
    from targets.vta.listing import format_program

    text = format_program(_read(file, config), contents=contents)
    if output is not None:
        _write(output, text.encode())
    if session.json:
        session.document({"text": text, "written": str(output) if output else None})
    elif output is None:
        click.echo(text, nl=False)


@vta.command()
@_file_argument
@_config_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Where the program goes; by default the text's name with .vta.",
)  # fmt: skip
@with_common_options
@click.pass_obj
def assemble(session: Session, file: Path, config: str | None, output: Path | None) -> None:
    """Make a program from a text as `disassemble --contents` writes it."""
    from targets.vta.listing import parse_listing
    from targets.vta.program import program_bytes, require_config

    try:
        text = _bytes(file).decode()
    except UnicodeDecodeError as error:
        raise FileError(
            f"this is no text: {error}", where=str(file), hint="give a text of instructions"
        ) from error
    chosen = _config(config)
    program = parse_listing(text, where=str(file), config=chosen, find_config=_named)
    require_config(program.config, chosen, where=str(file))
    data = program_bytes(program)
    path = output or file.with_suffix(".vta")
    _write(path, data)
    if session.json:
        session.document(
            {"path": str(path), "bytes": len(data), "instructions": len(program.instructions)}
        )
    else:
        session.show(f"{path}: {len(program.instructions)} instructions, {size_text(len(data))}")


@vta.command()
@_file_argument
@_config_option
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="NAME=FILE.npy",
    help="Content of a buffer, instead of what the program brings.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.npz",
    help="Write the buffers of the role output, by name.",
)  # fmt: skip
@click.option(
    "--data/--no-data", default=True, show_default=True,
    help="Compute data, or time and order only.",
)  # fmt: skip
@with_common_options
@click.pass_obj
def simulate(
    session: Session,
    file: Path,
    config: str | None,
    inputs: tuple[str, ...],
    output: Path | None,
    data: bool,
) -> None:
    """Run a program on the simulator: cycles, bytes, and every rule that it breaks.

    All figures are simulated. Exit code 8 if the program breaks a rule.
    """
    from compiler.cli.inputs import check_output, write_outputs
    from targets.vta.simulator import simulate as run

    program = _with_inputs(_read(file, config), inputs)
    results = [b.name for b in program.buffers if b.role == "output"]
    if output is not None:
        if not data:
            raise click.UsageError("--output needs data: leave out --no-data")
        if not results:
            raise InputError("the program has no output buffers", where=str(file))
        check_output(output, len(results))
    result, dram = run(program, functional=data)
    if output is not None:
        write_outputs(output, {name: program.read(name, dram) for name in results})
    if session.json:
        session.document(_document(result))
        if not result.ok:
            raise click.exceptions.Exit(VerificationError.exit_code)
        return
    session.show(_table(result))
    for violation in result.violations:
        session.message(str(violation))
    if not result.ok:
        raise VerificationError(
            f"the program breaks {len(result.violations)} rules",
            where=str(file),
            hint="docs/vta.md explains each kind",
        )


def _named(name: str) -> VtaConfig:
    from targets import get_target
    from targets.vta import vta_config

    return vta_config(get_target(name))


def _config(name: str | None) -> VtaConfig | None:
    return None if name is None else _named(name)


def _bytes(file: Path) -> bytes:
    from compiler.package.atomic import file_error

    try:
        return file.read_bytes()
    except OSError as error:
        raise file_error(error, file, "read") from error


def _write(path: Path, data: bytes) -> None:
    from compiler.package.atomic import write_file

    def fill(stream: Any) -> None:
        stream.write(data)

    write_file(path, fill)


def _read(file: Path, config: str | None) -> Program:
    from targets.vta.program import MAGIC, parse_program

    data = _bytes(file)
    chosen = _config(config)
    if chosen is not None and data and data[: len(MAGIC)] != MAGIC[: len(data)]:
        return _bare(data, chosen, file)
    return parse_program(data, where=str(file), config=chosen)


def _bare(data: bytes, config: VtaConfig, file: Path) -> Program:
    """The program of a stream without a header; its DRAM holds nothing else."""
    import numpy as np

    from targets.vta import Program
    from targets.vta.config import INSTRUCTION_BYTES
    from targets.vta.program import ProgramError

    if len(data) % INSTRUCTION_BYTES:
        raise ProgramError(
            f"a stream has a multiple of {INSTRUCTION_BYTES} bytes, not {len(data)}",
            where=str(file),
            hint="the file is cut off, or is no stream of VTA instructions",
        )
    stream = np.frombuffer(data, dtype=np.uint8).reshape(-1, INSTRUCTION_BYTES)
    return Program(config, stream, 4096, 4096 + len(data), ())


def _with_inputs(program: Program, inputs: tuple[str, ...]) -> Program:
    import numpy as np

    contents = {}
    for text in inputs:
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} names no buffer", hint="write NAME=FILE.npy")
        buffer = program.buffer(name)
        try:
            value = np.load(Path(path), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"the array cannot be read: {error}", where=path) from error
        if value.dtype != np.dtype(buffer.dtype) or value.shape != buffer.shape:
            raise InputError(
                f"buffer {name!r} is {buffer.dtype} {buffer.shape}, the array {value.dtype} "
                f"{value.shape}",
                where=path,
            )
        contents[name] = value
    return program.with_contents(contents)


def _document(result: Simulation) -> dict[str, Any]:
    from targets.vta.isa import Stage

    return {
        "configuration": result.config.to_dict(),
        "kind": "simulated",
        "cycles": result.cycles,
        "seconds": result.seconds,
        "finished": result.finished,
        "matrix_unit_utilization": result.utilization,
        "gemm_steps": result.gemm_steps,
        "alu_steps": result.alu_steps,
        "loaded_bytes": result.loaded_bytes,
        "stored_bytes": result.stored_bytes,
        "fetched_bytes": result.fetched_bytes,
        "queues": {
            stage.name.lower(): {
                "busy_cycles": result.busy_cycles(stage),
                "waiting_for_tokens_cycles": result.waiting_cycles(stage)[0],
                "waiting_for_instructions_cycles": result.waiting_cycles(stage)[1],
            }
            for stage in Stage
        },
        "violations": [
            {
                "kind": v.kind,
                "index": v.index,
                "instruction": v.instruction,
                "message": v.message,
                "cycle": v.cycle,
            }
            for v in result.violations
        ],
    }


def _table(result: Simulation) -> Any:
    from rich.table import Table

    from targets.vta.isa import Stage

    config = result.config
    table = Table(
        title=f"Simulated on {config.name}, {config.clock_hz / 1e6:g} MHz",
        title_justify="left", title_style="bold", show_header=False,
    )  # fmt: skip
    ended = "" if result.finished else " (FINISH was not reached)"
    table.add_row("cycles", f"{result.cycles:,}{ended}")
    table.add_row("time", f"{result.seconds * 1e3:.3f} ms")
    table.add_row("matrix unit", f"{result.utilization:.1%} of all cycles")
    for stage in Stage:
        tokens, fetch = result.waiting_cycles(stage)
        table.add_row(
            f"{stage.name.lower()} queue",
            f"{result.busy_cycles(stage):,} cycles busy, {tokens:,} waiting for tokens, "
            f"{fetch:,} for instructions",
        )
    loaded = ", ".join(f"{name} {size_text(n)}" for name, n in result.loaded_bytes.items())
    table.add_row("read", f"{loaded}, instructions {size_text(result.fetched_bytes)}")
    table.add_row("written", size_text(result.stored_bytes))
    table.add_row("rules broken", str(len(result.violations)))
    return table


__all__ = ["vta"]
