"""The model that a command works on: its options, and how it is read."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from compiler.cli.inputs import GivenInputs
from compiler.errors import InputError
from compiler.options import PRECISIONS

_Command = TypeVar("_Command", bound=Callable[..., Any])

INPUT_HELP = (
    "An input, as often as the model has some: x.npy, x.npz (by name), a shape filled with "
    "seeded random numbers such as 1x3x224x224 or 1x128/int64:1000 (0 to 999), or any of them "
    "for a named input: NAME=..."
)
THREADS_HELP = "Threads that the model runs on."
input_option = click.option(
    "-i", "--input", "inputs", multiple=True, metavar="INPUT", help=INPUT_HELP
)
records_option = click.option(
    "--records",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of your tuning records, in place of the usual one in the user's data folder; "
    "those that come with this release are looked at as well.",
)

_target_option = click.option(
    "--target",
    default="x86",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Device to compile for; x86 is this machine. `tilewright targets` lists them.",
)
_MODEL_OPTIONS = (
    input_option,
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="State dict (.pt, .pth) or .safetensors to load into the factory's model.",
    ),
    click.option("--name", metavar="NAME", help="The model's name."),
    click.option(
        "--threads", type=click.IntRange(min=1), default=1, show_default=True, help=THREADS_HELP
    ),
    click.option("--dynamic-batch", is_flag=True, help="Axis 0 of every input may vary."),
    click.option(
        "--precision",
        type=click.Choice(tuple(PRECISIONS)),
        default="float32",
        show_default=True,
        help="Precision of the heavy operators' inputs; sums are float32.",
    ),
)


def _with_reading_options(command: _Command) -> _Command:
    for option in reversed(_MODEL_OPTIONS):
        command = option(command)
    return command


def with_model_options(command: _Command) -> _Command:
    """The argument MODEL and the options that say how it is read and what it is compiled for."""
    return click.argument("model")(_target_option(_with_reading_options(command)))


def with_targets_model_options(command: _Command) -> _Command:
    """The same for a command that takes several targets."""
    return click.argument("model")(_with_reading_options(command))


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that was read, with its example inputs.

    Attributes:
        model: A module, or the path of an exported program.
        example_inputs: As `compile` takes them; None if the model brings them.
        name: Its name.
    """

    model: Any
    example_inputs: Any
    name: str | None


def target_argument(text: str) -> str | Path:
    """A target's name, or the path of its file."""
    return Path(text) if text.endswith(".toml") else text


def load_model(
    model: str, weights: Path | None, given: GivenInputs, name: str | None
) -> LoadedModel:
    """Read a model named on the command line; its file is run.

    Raises:
        ModelError: It cannot be read.
        InputError: Some inputs are given by name and some by position.
    """
    from compiler.frontend import read_model

    loaded, own_inputs, own_name = read_model(model, weights=weights)
    return LoadedModel(loaded, _example_inputs(given, own_inputs), name or own_name)


def _example_inputs(given: GivenInputs, own: Any) -> Any:
    if not given:
        return own
    if given.positional and given.named:
        raise InputError(
            "some inputs are given by name and some by position",
            where="--input",
            hint="name all of them or none",
        )
    return dict(given.named) if given.named else given.positional


def model_arguments(
    inputs: tuple[str, ...], weights: Path | None, threads: int, *, dynamic_batch: bool
) -> tuple[str, ...]:
    """Options that another command needs to read the same model in the same way."""
    arguments: list[str] = []
    for text in inputs:
        arguments += ["--input", text]
    if weights is not None:
        arguments += ["--weights", str(weights)]
    if threads != 1:
        arguments += ["--threads", str(threads)]
    if dynamic_batch:
        arguments.append("--dynamic-batch")
    return tuple(arguments)


def command_line(*arguments: str) -> str:
    """A command to show, quoted for a shell."""
    return shlex.join(["tilewright", *arguments])


__all__ = [
    "INPUT_HELP",
    "THREADS_HELP",
    "LoadedModel",
    "command_line",
    "input_option",
    "load_model",
    "model_arguments",
    "records_option",
    "target_argument",
    "with_model_options",
    "with_targets_model_options",
]
