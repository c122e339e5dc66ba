"""`tilewright train`: train a model for the arithmetic that it is to be compiled to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from compiler.cli.inputs import read_inputs
from compiler.cli.model import command_line, input_option, load_model, model_arguments
from compiler.cli.output import Session, with_common_options
from compiler.cli.quantize import keep_option, read_recipe
from compiler.errors import InputError

if TYPE_CHECKING:
    from compiler.train import Training

#: Batches of the data that a plan is made of where no calibration is given.
_BATCHES = 8


@click.command("train")
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="FILE.py:NAME",
    help="A function of the epoch's number, from 0, that gives batches: pairs of inputs (a tensor, "
    "or a tuple of them) and target.",
)
@click.option(
    "--quantize",
    required=True,
    metavar="RECIPE|PLAN",
    help="What to train for: int8, w4a8, ternary, binary, int8-dynamic, int4-weights ..., or a "
    "plan's .json file.",
)
@click.option(
    "--loss",
    metavar="FILE.py:NAME",
    help="A function of outputs and target; by default cross entropy.",
)
@click.option(
    "--evaluate",
    metavar="FILE.py:NAME",
    help="A function of something that runs the model, such as its accuracy: the epoch of its "
    "highest value is kept. By default that of the lowest loss.",
)
@input_option
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="State dict (.pt, .pth) or .safetensors to start from.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Inputs to make the plan of: an .npy or .npz file with all samples along the first axis, "
    "or a folder of such files. By default those of the first batches of the data.",
)
@keep_option
@click.option(
    "--eight-bit-layer",
    "int8_layers",
    multiple=True,
    metavar="LAYER",
    help="A layer that keeps 8 bits where the recipe gives fewer; may be given several times. "
    "'ends', the default, stands for the first and the last.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=1e-3,
              show_default=True)  # fmt: skip
@click.option("--optimizer", type=click.Choice(("adam", "sgd")), default="adam", show_default=True)
@click.option(
    "--progressive",
    metavar="DTYPES",
    help="Weights of the stages before the recipe's own, such as int8,int4.",
)
@click.option("--fixed-steps", is_flag=True, help="Do not train scales.")
@click.option("--amp", is_flag=True, help="Convolutions and products in bfloat16 while training.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    required=True,
    help="Where the trained weights go: .safetensors. The plan goes beside them, with .json.",
)
@with_common_options
@click.pass_obj
def train(
    session: Session,
    model: str,
    data: str,
    quantize: str,
    loss: str | None,
    evaluate: str | None,
    inputs: tuple[str, ...],
    weights: Path | None,
    calibration: Path | None,
    keep: tuple[str, ...],
    int8_layers: tuple[str, ...],
    epochs: int,
    learning_rate: float,
    optimizer: str,
    progressive: str | None,
    fixed_steps: bool,
    amp: bool,
    seed: int,
    output: Path,
) -> None:
    """Train MODEL for quantized arithmetic, which then loses less accuracy.

    MODEL is `file.py:factory`. The trained weights and the plan then go to `tilewright compile`.
    Ctrl-C keeps the best so far; the same command continues from the checkpoint beside OUTPUT.
    """
    if output.suffix != ".safetensors":
        raise click.UsageError("--output has to end in .safetensors")
    plan_path, checkpoint = output.with_suffix(".json"), output.with_suffix(".ckpt")
    from compiler.package.atomic import check_destination, write_file

    recipe = read_recipe(quantize, keep)
    given = read_inputs(inputs)
    check_destination(output)
    check_destination(plan_path)
    session.kept = f"the same command continues from {checkpoint}, if an epoch was finished"
    with session.working(), session.progress() as progress:
        progress("frontend", "load PyTorch and TVM")
        session.import_heavy("torch", "schedules.tvm_adapter")
        from safetensors.torch import save
        from torch import nn

        from compiler.compress.samples import open_calibration
        from compiler.frontend.model_files import read_function
        from compiler.train import Options, fine_tune, finish, prepare

        options = Options(
            epochs=epochs, learning_rate=learning_rate, optimizer=optimizer, amp=amp, seed=seed,
            progressive=tuple(progressive.split(",")) if progressive else (),
        )  # fmt: skip
        batches = read_function(data, "--data")
        loss_of: Any = nn.CrossEntropyLoss() if loss is None else read_function(loss, "--loss")
        metric = None if evaluate is None else read_function(evaluate, "--evaluate")
        progress("frontend", "read the model")
        loaded = load_model(model, weights, given, None)
        if loaded.example_inputs is None:
            raise InputError(
                "there are no example inputs", where="--input",
                hint="give a shape such as 1x3x224x224, or let the factory return them",
            )  # fmt: skip
        progress("compress", "make the plan")
        seen = None
        if calibration is not None:
            seen = open_calibration(calibration)
        elif not isinstance(recipe, Path):
            seen = _from_data(batches)
        qat = prepare(
            loaded.model, recipe or "", example_inputs=loaded.example_inputs, calibration=seen,
            int8_layers=int8_layers or "ends", learn_steps=not fixed_steps,
        )  # fmt: skip

        def tell(text: str) -> None:
            progress("train", text)
            if ", batch " not in text and not sys.stderr.isatty():
                session.message(text)  # for logs, which show no line that changes

        result = fine_tune(
            qat, batches, loss_of, options, evaluate=metric, checkpoint=checkpoint,
            progress=tell,
        )  # fmt: skip
        trained, plan = finish(qat)

        def fill(file: BinaryIO) -> None:
            file.write(save(state))

        state = {k: v.detach().clone().contiguous() for k, v in trained.state_dict().items()}
        write_file(output, fill)
        plan.save(plan_path)
    if not result.interrupted:
        checkpoint.unlink(missing_ok=True)
    same = model_arguments(inputs, None, 1, dynamic_batch=False)
    _show(session, result, output, plan_path, (model, *same))
    if session.stopped or result.interrupted:
        raise click.exceptions.Exit(session.stopped or 130)


def _from_data(batches: Any) -> Any:
    """Inputs of the first batches of the data, in place of calibration."""
    for number, (inputs, _) in enumerate(batches(0)):
        if number == _BATCHES:
            return
        yield inputs


def _show(
    session: Session, result: Training, output: Path, plan: Path, arguments: tuple[str, ...]
) -> None:
    """The epochs, and the command that compiles what was trained."""
    compiles = command_line(
        "compile", *arguments, "--weights", str(output), "--quantize", str(plan)
    )
    if session.json:
        session.document(
            {
                "weights": str(output),
                "plan": str(plan),
                "best": result.best,
                "resumed": result.resumed,
                "interrupted": result.interrupted,
                "epochs": [
                    {
                        "epoch": e.number, "loss": e.loss, "metric": e.metric,
                        "seconds": round(e.seconds, 3), "stage": e.stage,
                    }
                    for e in result.epochs
                ],
                "compile": compiles,
            }
        )  # fmt: skip
        return
    for epoch in result.epochs:
        session.show(f"{epoch}{'  <- kept' if epoch.number == result.best else ''}")
    if result.interrupted:
        session.message("interrupted: the best so far is kept; the same command continues")
    session.show(f"weights written to {output}, the plan to {plan}")
    session.show(f"compile it: {compiles}")


__all__ = ["train"]
