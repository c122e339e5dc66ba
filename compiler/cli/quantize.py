"""Options of commands that quantize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from compiler.compress.recipe import Quantize

quantize_option = click.option(
    "--quantize",
    metavar="RECIPE|PLAN",
    help="Quantize: a recipe such as int8 makes a plan from --calibration; a plan's .json file "
    "applies that.",
)
_META = "tilewright.quantize"
#: Options that are `Quantize`'s own attributes.
_RECIPE = frozenset(
    {"power_of_two", "equalize", "smooth", "rounding", "ends", "max_drop", "max_evaluations",
     "journal"}
)  # fmt: skip
_Function = TypeVar("_Function", bound="Callable[..., Any]")


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Keep an option's value where `read_recipe` and `samples` look for it."""
    ctx.meta.setdefault(_META, {})[str(parameter.name)] = value
    return value


def _given() -> dict[str, Any]:
    """The remembered options that were given."""
    context = click.get_current_context(silent=True)
    values = {} if context is None else context.meta.get(_META, {})
    return {name: value for name, value in values.items() if value not in (None, False)}


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return _remember(ctx, parameter, None)
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no number, or three with commas") from None
    return _remember(ctx, parameter, numbers)


#: Options of a recipe, and of images to calibrate by; `read_recipe` and `samples` read them.
_RECIPE_OPTIONS = (
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Inputs to quantize by: a folder of photographs, an .npy or .npz file with all "
        "samples along the first axis, or a folder of such files.",
    ),
    click.option(
        "--image-mean", callback=_numbers, expose_value=False, metavar="R,G,B",
        help="Mean that is subtracted from calibration images, brightness from 0 to 1; by "
        "default ImageNet's.",
    ),
    click.option(
        "--image-std", callback=_numbers, expose_value=False, metavar="R,G,B",
        help="Deviation that calibration images are divided by; by default ImageNet's.",
    ),
    click.option(
        "--image-resize", type=click.Choice(["crop", "stretch"]), callback=_remember,
        expose_value=False,
        help="Take the central 7/8 of calibration images (crop, the default), or all of them.",
    ),
    click.option(
        "--power-of-two", is_flag=True, callback=_remember, expose_value=False,
        help="Scales that are powers of two, and int8 without zero points: what VTA computes.",
    ),
    click.option(
        "--equalize", is_flag=True, callback=_remember, expose_value=False,
        help="Equalize the channels of neighbouring layers first, where that is exact.",
    ),
    click.option(
        "--smooth", type=click.FloatRange(0, 1), callback=_remember, expose_value=False,
        metavar="SHARE",
        help="Move this share of the difficulty from normalized activations to the weights that "
        "read them (SmoothQuant); by default 0.5.",
    ),
    click.option(
        "--max-drop", type=float, callback=_remember, expose_value=False, metavar="DROP",
        help="Give each layer the fastest precision of int4 weights, int8, bfloat16 and float32 "
        "with which the metric of --evaluate drops by at most this much.",
    ),
    click.option(
        "--max-evaluations", type=click.IntRange(2), callback=_remember, expose_value=False,
        metavar="COUNT", help="Models to compile and judge for --max-drop at most; 16 by default.",
    ),
    click.option(
        "--journal", type=click.Path(dir_okay=False, path_type=Path), callback=_remember,
        expose_value=False, metavar="FILE",
        help="Keep what --max-drop has judged in this file, and go on from it.",
    ),
    click.option(
        "--rounding", type=click.Choice(["nearest", "adaround"]), callback=_remember,
        expose_value=False,
        help="Round weights to the nearest (the default), or as is best for the sums of their "
        "layer.",
    ),
    click.option(
        "--ends", type=click.Choice(["int8", "float32", "same"]), callback=_remember,
        expose_value=False,
        help="What the first and the last layers get where others have weights of one or two "
        "bits; by default int8.",
    ),
)  # fmt: skip


def calibration_option(function: _Function) -> _Function:
    """Where calibration samples are, and options of recipes."""
    for option in reversed(_RECIPE_OPTIONS):
        function = option(function)
    return function


keep_option = click.option(
    "--keep",
    multiple=True,
    metavar="LAYER",
    help="A module path that stays in float32; may be given several times.",
)


def read_recipe(
    quantize: str | None, keep: tuple[str, ...], *, shifts: bool = False
) -> Quantize | Path | None:
    """What to quantize, as `compile` takes it.

    Args:
        quantize: Recipe or plan; None for neither.
        keep: Layers that stay in float32.
        shifts: Whether the target only shifts, so that it takes powers of two where no recipe
            is given.

    Raises:
        click.UsageError: Layers to keep, and no plan to make.
        InputError: The text means nothing.
    """
    from compiler.compress.recipe import Quantize

    recipe = Quantize.parse(quantize)
    if recipe is None and shifts:
        recipe = Quantize(power_of_two=True)
    options = {n: v for n, v in _given().items() if n in _RECIPE}
    if options and not isinstance(recipe, Quantize):
        given = ", ".join(f"--{n.replace('_', '-')}" for n in options)
        raise click.UsageError(f"{given} belongs to --quantize with a recipe")
    if keep and not isinstance(recipe, Quantize):
        raise click.UsageError("--keep belongs to --quantize with a recipe, such as int8")
    if not isinstance(recipe, Quantize):
        return recipe
    if "journal" in options:  # not --resume, which `tune` has for records
        options["resume"] = options.pop("journal")
    return replace(recipe, keep=keep, **options)


evaluate_option = click.option(
    "--evaluate",
    metavar="FILE.py:FUNCTION",
    help="A metric: a function that takes run(*inputs) and returns a number, more is better. It "
    "is taken before and after quantization.",
)


def read_metric(text: str | None) -> Callable[..., Any] | None:
    """The metric that `--evaluate` names; its file is run.

    Raises:
        InputError: There is no such file.
        ModelError: There is no such function in it, or it fails.
    """
    from compiler.errors import InputError

    if text is None:
        return None
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise click.UsageError(f"--evaluate takes FILE.py:FUNCTION, not {text!r}")
    if not Path(path).is_file():
        raise InputError(
            f"there is no file {path!r}", where="--evaluate", hint="name a file of Python code"
        )
    from compiler.frontend.model_files import read_function

    return read_function(text, "--evaluate")


def samples(calibration: Path | None) -> Any:
    """The samples in the files, None for none.

    Raises:
        FileError: They cannot be read.
    """
    from compiler.compress.samples import open_calibration

    images = {
        name.removeprefix("image_"): value
        for name, value in _given().items()
        if name.startswith("image_")
    }
    if calibration is None:
        if images:
            raise click.UsageError("options for images belong to --calibration with a folder")
        return None
    return open_calibration(calibration, **images)


def quantize_arguments(
    quantize: str | None, calibration: Path | None, keep: tuple[str, ...]
) -> list[str]:
    """Options that another command needs to quantize in the same way."""
    arguments = [] if quantize is None else ["--quantize", quantize]
    if calibration is not None:
        arguments += ["--calibration", str(calibration)]
    for layer in keep:
        arguments += ["--keep", layer]
    for name, value in _given().items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        arguments += [f"--{name.replace('_', '-')}", text]
    return arguments


__all__ = [
    "calibration_option",
    "evaluate_option",
    "keep_option",
    "quantize_arguments",
    "quantize_option",
    "read_metric",
    "read_recipe",
    "samples",
]
