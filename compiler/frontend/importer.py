"""Import: a PyTorch model as a Relax module with its parameters by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compiler.errors import InputError, ModelError
from compiler.frontend import checks, export
from compiler.frontend.converters.quantized import remove_markers
from compiler.frontend.quantized import QuantizedProgram, is_quantized, read_quantized
from compiler.frontend.translate import Translation, translate
from compiler.stages import Imported, QuantizedElsewhere, StageLog

_STAGE = "frontend"


def import_model(
    model: nn.Module | torch.export.ExportedProgram | str | Path,
    example_inputs: tuple[Any, ...] | Mapping[str, Any] | None,
    *,
    dynamic_shapes: Any = None,
    dynamic_batch: bool = False,
    name: str | None = None,
    log: StageLog,
) -> Imported:
    """Import a model: torch.export, decompositions, Relax.

    The model is exported in inference mode and left as it was.

    Args:
        model: A module, an exported program, or the path of a ``.pt2`` file.
        example_inputs: Positional inputs as a tuple, or inputs by name as a dict. They fix
            dtypes and all sizes that are not dynamic. Not needed for exported programs.
        dynamic_shapes: Sizes that vary, in the form that `torch.export.export` takes.
        dynamic_batch: Axis 0 of every input varies, under the name ``batch``.
        name: Name of the model; the class's or the file's name if None.
        log: Where the steps and their milliseconds are recorded.

    Raises:
        InputError: The example inputs do not fit the model.
        ModelError: The model does not export, is empty, or holds NaN weights.
        UnsupportedOperatorError: Operators cannot be translated; all of them are named.
    """
    if dynamic_batch and dynamic_shapes is not None:
        raise InputError(
            "dynamic_batch and dynamic_shapes were both given",
            hint="dynamic_batch=True is short for axis 0 of every input: choose one of them",
        )
    if isinstance(model, (str, Path)):
        path = Path(model)
        with log.time(_STAGE, "load"):
            program = export.load_program(path)
        name = name or path.stem
    elif isinstance(model, torch.export.ExportedProgram):
        program = model
    elif isinstance(model, nn.Module):
        program, dynamic_shapes = _export_module(
            model, example_inputs, dynamic_shapes, dynamic_batch, log
        )
        found = _read_quantized(program, log)
        return _translate(program, name or type(model).__name__, dynamic_shapes, log, found)
    else:
        raise ModelError(
            f"cannot import a {type(model).__name__}",
            stage=_STAGE,
            hint="give a torch.nn.Module, a torch.export.ExportedProgram or the path of a .pt2",
        )
    if dynamic_batch or dynamic_shapes is not None:
        raise InputError(
            "an exported program's dynamic sizes are fixed when it is exported",
            hint="export it with torch.export.export(..., dynamic_shapes=...)",
        )
    found = _read_quantized(program, log)
    _check_program(program if found is None else found.program, example_inputs)
    return _translate(program, name or "model", None, log, found)


def _export_module(
    model: nn.Module,
    example_inputs: Any,
    dynamic_shapes: Any,
    dynamic_batch: bool,
    log: StageLog,
) -> tuple[torch.export.ExportedProgram, Any]:
    args, kwargs = checks.split_inputs(example_inputs)
    checks.check_signature(model, args, kwargs)
    checks.check_devices(model, args, kwargs)
    with log.time(_STAGE, "check weights"):
        checks.check_weights(checks.weights_of(model))
    if dynamic_batch:
        args, kwargs, dynamic_shapes = export.batch_dimension(args, kwargs)
    with log.time(_STAGE, "export") as detail, export.inference_mode(model) as was_training:
        if was_training:
            detail.append("the model was in training mode; it is compiled for inference")
            warnings.warn(
                f"{type(model).__name__} is in training mode; it is compiled for inference, "
                "as model.eval() would have it",
                UserWarning,
                stacklevel=4,
            )
        program = export.export(model, args, kwargs, dynamic_shapes)
    return program, dynamic_shapes


def _check_program(program: torch.export.ExportedProgram, example_inputs: Any) -> None:
    """The checks that a module gets before its export, on a finished program."""
    named = [(n, t.detach(), True) for n, t in program.named_parameters()]
    named += [(n, t.detach(), False) for n, t in program.named_buffers()]
    for weight, tensor, _ in named:
        if tensor.device.type != "cpu":
            raise ModelError(
                f"parameter {weight!r} is on device {tensor.device}",
                stage=_STAGE,
                hint="export the model from the CPU: model.cpu()",
            )
    checks.check_weights(named)
    training = [
        node for node in program.graph.nodes if node.op == "call_function" and _is_training(node)
    ]
    if training:
        from compiler.frontend.provenance import origin_of

        raise ModelError(
            f"the program was exported in training mode ({len(training)} operators)",
            stage=_STAGE,
            where=str(origin_of(training[0])),
            hint="call model.eval() before torch.export.export",
        )
    if example_inputs is not None:
        _check_program_inputs(program, example_inputs)


def _is_training(node: torch.fx.Node) -> bool:
    """Dropout and batch normalisation that behave as in training."""
    target = str(node.target)
    if target in ("aten.dropout.default", "aten.feature_dropout.default"):
        return bool(node.args[2]) and bool(node.args[1])
    if target == "aten.batch_norm.default":
        # Without running statistics the batch's own are used in inference as well.
        return bool(node.args[5]) and node.args[3] is not None
    return target == "aten._native_batch_norm_legit_functional.default"


def _check_program_inputs(program: torch.export.ExportedProgram, example_inputs: Any) -> None:
    """Refuse example inputs that a finished program does not take.

    Raises:
        InputError: Number, shapes or dtypes differ.
    """
    args, kwargs = checks.split_inputs(example_inputs)
    from torch.utils import _pytree as pytree

    given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    names = set(program.graph_signature.user_inputs)
    wanted = [
        (node.name, node.meta["val"])
        for node in program.graph.nodes
        if node.op == "placeholder"
        and node.name in names
        and isinstance(node.meta["val"], torch.Tensor)
    ]
    if len(given) != len(wanted):
        raise InputError(
            f"{len(given)} example inputs were given, the program takes {len(wanted)}: "
            f"{', '.join(name for name, _ in wanted)}",
            hint="leave example_inputs out: an exported program knows its inputs",
        )
    for tensor, (name, value) in zip(given, wanted, strict=True):
        fixed = [s if isinstance(s, int) else None for s in value.shape]
        fits = len(fixed) == tensor.ndim and all(
            f is None or f == s for f, s in zip(fixed, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != value.dtype:
            raise InputError(
                f"{tensor.dtype}{list(tensor.shape)} was given, the program takes "
                f"{value.dtype}{[str(s) for s in value.shape]}",
                where=f"input {name!r}",
                hint="export the program again with inputs of this shape and dtype",
            )


def _read_quantized(
    program: torch.export.ExportedProgram, log: StageLog
) -> QuantizedProgram | None:
    if not is_quantized(program):
        return None
    with log.time(_STAGE, "read quantization") as detail:
        found = read_quantized(program)
        if found is not None:
            detail.append(found.describe())
            detail.extend(found.notes)
    return found


def _translate(
    program: torch.export.ExportedProgram,
    name: str,
    dynamic_shapes: Any,
    log: StageLog,
    quantized: QuantizedProgram | None = None,
) -> Imported:
    if quantized is not None:
        program = quantized.program
    _check_not_empty(program)
    with log.time(_STAGE, "decompose"):
        program = export.decompose(program)
    names = export.symbol_names(program, dynamic_shapes)
    count = export.count_outputs(program)
    with log.time(_STAGE, "translate to Relax") as detail:
        result: Translation = translate(
            program, symbol_names=names, output_names=export.output_names(program, count)
        )
        weights = sum(array.nbytes for array in result.parameters.values())
        detail.append(
            f"{result.operators} operators, {len(result.parameters)} parameters, "
            f"{weights / 1e6:.1f} MB"
        )
        detail.extend(result.notes)
    if quantized is None:
        return Imported(result.module, result.inputs, result.outputs, result.parameters, name)
    return Imported(
        remove_markers(result.module),
        result.inputs,
        result.outputs,
        result.parameters,
        name,
        QuantizedElsewhere(quantized.source, result.module, quantized.weights),
    )


def _check_not_empty(program: torch.export.ExportedProgram) -> None:
    if export.count_outputs(program) == 0:
        raise ModelError(
            "the model has no tensor outputs",
            stage=_STAGE,
            hint="return the results from forward",
        )
    if not any(node.op == "call_function" for node in program.graph.nodes):
        raise ModelError(
            "the model is empty: it has no operators",
            stage=_STAGE,
            hint="forward returns its inputs or parameters as they are: nothing to compile",
        )


__all__ = ["import_model"]
