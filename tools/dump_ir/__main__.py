"""``python -m tools.dump_ir net.py:factory -i 1x3x224x224 --to out/ir``."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from compiler.cli.inputs import read_inputs
from compiler.errors import TilewrightError
from compiler.frontend import import_model, read_model
from compiler.lower import lower
from compiler.stages import StageLog
from schedules.tvm_adapter import IRModule
from targets import get_target


def dump(model: str, inputs: tuple[str, ...], target: str, folder: Path) -> list[Path]:
    """Lower a model and write ``NN-PassName.py`` after each pass; returns the files."""
    spec = get_target(target)
    module, own_inputs, name = read_model(model)
    given = read_inputs(inputs) if inputs else None
    example = own_inputs if given is None else tuple(map(torch.from_numpy, given.positional))
    log = StageLog()
    imported = import_model(module, example, name=name, log=log)
    folder.mkdir(parents=True, exist_ok=True)
    written = []

    def observe(number: int, step: str, ir: IRModule) -> None:
        path = folder / f"{number:02d}-{step}.py"
        path.write_text(ir.script(), encoding="utf-8")
        written.append(path)

    lower(imported, spec, log, observe=observe)
    return written


@click.command()
@click.argument("model")
@click.option("-i", "--input", "inputs", multiple=True, help="A shape or a .npy file.")
@click.option("--target", default="x86", show_default=True)
@click.option("--to", "folder", type=click.Path(path_type=Path), default=Path("out/ir"))
def main(model: str, inputs: tuple[str, ...], target: str, folder: Path) -> None:
    """Write MODEL's module after each pass of the lowering pipeline."""
    try:
        for path in dump(model, inputs, target, folder):
            click.echo(str(path))
    except TilewrightError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
