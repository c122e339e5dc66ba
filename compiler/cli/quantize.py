"""Options of commands that quantize."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from compiler.compress.recipe import Quantize

quantize_option = click.option(
    "--quantize",
    metavar="RECIPE|PLAN",
    help="Quantize: a recipe such as int8 makes a plan from --calibration; a plan's .json file "
    "applies that.",
)
calibration_option = click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Inputs to quantize by: an .npy or .npz file with all samples along the first axis, or "
    "a folder of such files.",
)
keep_option = click.option(
    "--keep",
    multiple=True,
    metavar="LAYER",
    help="A module path that stays in float32; may be given several times.",
)


def read_recipe(quantize: str | None, keep: tuple[str, ...]) -> Quantize | Path | None:
    """What to quantize, as `compile` takes it.

    Raises:
        click.UsageError: Layers to keep, and no plan to make.
        InputError: The text means nothing.
    """
    from compiler.compress.recipe import Quantize

    recipe = Quantize.parse(quantize)
    if keep and not isinstance(recipe, Quantize):
        raise click.UsageError("--keep belongs to --quantize with a recipe, such as int8")
    return replace(recipe, keep=keep) if isinstance(recipe, Quantize) else recipe


def samples(calibration: Path | None) -> Any:
    """The samples in the files, None for none.

    Raises:
        FileError: They cannot be read.
    """
    from compiler.compress.samples import open_calibration

    return None if calibration is None else open_calibration(calibration)


def quantize_arguments(
    quantize: str | None, calibration: Path | None, keep: tuple[str, ...]
) -> list[str]:
    """Options that another command needs to quantize in the same way."""
    arguments = [] if quantize is None else ["--quantize", quantize]
    if calibration is not None:
        arguments += ["--calibration", str(calibration)]
    for layer in keep:
        arguments += ["--keep", layer]
    return arguments


__all__ = [
    "calibration_option",
    "keep_option",
    "quantize_arguments",
    "quantize_option",
    "read_recipe",
    "samples",
]
