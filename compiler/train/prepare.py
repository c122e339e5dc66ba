"""`prepare` and `finish`: from a module to one that is trained for a plan, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compiler.compress.plan import CompressionPlan, model_identity
from compiler.compress.recipe import Quantize
from compiler.compress.samples import read_samples
from compiler.compress.sites import plain_graph
from compiler.errors import InputError, TrainingError
from compiler.frontend import import_model
from compiler.lower.plain import plain_module_and_folds
from compiler.quantization import make_plan, read_request
from compiler.source import read_source
from compiler.stages import Imported, StageLog
from compiler.train.lower_bits import ENDS, lower_bits
from compiler.train.module import FakeQuantized, Program
from targets import get_target

#: Samples that thresholds of signs are chosen by.
PROBES = 64


def prepare(
    model: nn.Module,
    quantize: str | Path | Quantize | CompressionPlan = "int8",
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any],
    calibration: Iterable[Any] | None = None,
    int8_layers: Iterable[str] | str = ENDS,
    learn_steps: bool = True,
    copy_model: bool = True,
) -> FakeQuantized:
    """A module that computes what a plan makes of a model, and can be trained.

    Args:
        model: The trained module. It has to export with `torch.export`.
        quantize: A recipe, from which a plan is made by calibration, or a plan.
        example_inputs: As in `compile`: the plan is for inputs of these shapes. Training
            batches may have another number of samples.
        calibration: As in `compile`; needed for a recipe.
        int8_layers: Module paths or operators that keep 8 bits where a recipe gives weights, or
            activations, fewer: ``"ends"`` stands for the first and the last layer with a weight.
            A plan is taken as it is.
        learn_steps: Train the scales of activations and weights, too (LSQ).
        copy_model: Train a copy; otherwise the module itself is changed.

    Raises:
        InputError: The options have no meaning.
        CalibrationError: There are no samples, or they do not do.
        PlanError: The plan is for another model.
        TrainingError: The model has operators that no gradient can be computed of.
        ModelError: It does not export.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"a {type(model).__name__} cannot be trained",
            where="model",
            hint="give the torch.nn.Module itself, not what was exported of it",
        )
    trained = copy.deepcopy(model) if copy_model else model
    given = read_source(trained, _container(example_inputs), None, StageLog()).given
    imported = import_model(trained, given, log=StageLog())
    program = program_of(imported)
    option = quantize if isinstance(quantize, CompressionPlan) else Quantize.parse(quantize)
    if option is None:
        raise InputError("there is nothing to train for", where="quantize", hint='give "int8"')
    samples = _Recorder(calibration) if calibration is not None else None
    if isinstance(option, Quantize) and option.scheme in ("int8", "binary"):
        plan = _plan(_eight_bits(option), samples, imported)
        weights = {
            site.name: np.asarray(site.value.args[1].value.numpy())
            for site in program.graph.sites
            if plan.operators.get(site.name) and plan.operators[site.name].weight is not None
        }
        kept = () if option.ends == "same" and int8_layers == ENDS else int8_layers
        plan = lower_bits(plan, option, weights, kept, _grouped(program))
    else:
        plan = _plan(option, samples, imported)
    plan = replace(plan, roundings={})  # training finds better ones
    qat = FakeQuantized(trained, program, plan, learn_steps=learn_steps)
    qat.example_inputs = given
    if samples is not None and samples.kept is not None and isinstance(option, Quantize):
        first = next(iter(read_samples([samples.kept], imported.inputs, PROBES)))
        qat.start_signs([torch.from_numpy(np.array(a)) for a in first])
    return qat.train()


def _eight_bits(recipe: Quantize) -> Quantize:
    """The recipe with 8 bits everywhere, from which training starts.

    Raises:
        InputError: It has options that training does not know.
    """
    if recipe.ends == "float32":
        raise InputError(
            "the first and last layers in float32 by ends are not trained",
            where="quantize",
            hint="name them in keep, and leave ends out",
        )
    if recipe.max_drop is not None:
        raise InputError(
            "a search for precisions by max_drop is none of training's",
            where="quantize",
            hint="compile with it first, and give the plan that it finds",
        )
    return replace(
        recipe, activations="int8/tensor", ends="int8", rounding="nearest",
        weights="int8/tensor" if recipe.weight_form.granularity == "tensor" else "int8/channel",
    )  # fmt: skip


class _Recorder:
    """Calibration samples, the first of which is remembered."""

    def __init__(self, samples: Iterable[Any]) -> None:
        self._samples = samples
        self.kept: Any = None

    def __iter__(self) -> Iterator[Any]:
        for sample in self._samples:
            if self.kept is None:
                self.kept = sample
            yield sample


def _grouped(program: Program) -> list[str]:
    return [
        site.name
        for site in program.graph.sites
        if site.kind in ("nn.conv1d", "nn.conv2d") and int(site.value.attrs.groups) > 1
    ]


def _container(inputs: Sequence[Any] | Mapping[str, Any]) -> Any:
    return dict(inputs) if isinstance(inputs, Mapping) else tuple(inputs)


def _plan(
    quantize: Quantize | CompressionPlan | Path, samples: _Recorder | None, imported: Imported
) -> CompressionPlan:
    request = read_request(quantize, samples, None, precision="float32", dynamic=False)
    if request is None:
        raise AssertionError
    plan, _ = make_plan(request, imported, get_target("x86"), StageLog())
    return plan


def program_of(imported: Imported) -> Program:
    """The plain graph of an imported model, and what training has to know about it."""
    module, table, folds = plain_module_and_folds(imported, get_target("x86"))
    graph = plain_graph(module, table.name_of)
    return Program(graph, folds, tuple(spec.name for spec in imported.inputs))


def finish(qat: FakeQuantized) -> tuple[nn.Module, CompressionPlan]:
    """The trained model in float32, for inference, and its plan.

    ``compile(model, example_inputs=..., quantize=plan)`` gives a bundle whose outputs are those of
    `qat` in inference mode.

    Raises:
        TrainingError: A scale or a parameter is not a finite number, or weights are still
            rounded to another dtype than the plan's.
    """
    for name, value in qat.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(
                "it holds NaN or infinities",
                where=name,
                hint="training diverged: go back to a checkpoint, with a smaller learning rate",
            )
    model = copy.deepcopy(qat.model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    imported = import_model(model, qat.example_inputs, name=qat.plan.model.name, log=StageLog())
    identity = model_identity(
        imported.name, imported.parameters, [(s.name, s.shape, s.dtype) for s in imported.inputs]
    )
    plan = replace(qat.current_plan(), model=identity)
    return model, plan


__all__ = ["finish", "prepare", "program_of"]
