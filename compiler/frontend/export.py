"""torch.export with errors that say why and where a model does not export."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from compiler.errors import InputError, ModelError, TilewrightError
from compiler.frontend.decompositions import decomposition_table
from compiler.frontend.quantized import register_operators

_BATCH = "batch"
_LINES = 4  # of torch's own message
_LOGGERS = ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export")


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[bool]:
    """Put every module in inference mode for the block and restore it after.

    Yields whether any module was in training mode.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield bool(training)
    finally:
        for module in training:
            module.training = True


def batch_dimension(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Example inputs and ``dynamic_shapes`` for a batch of any size along axis 0.

    torch.export takes sizes 0 and 1 for constants, so that an example of one is doubled.

    Raises:
        InputError: An input has no axes, or the inputs' batches differ.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    sizes = {
        (leaf.shape[0] if leaf.ndim else None) for leaf in leaves if isinstance(leaf, torch.Tensor)
    }
    if None in sizes or len(sizes) != 1:
        shapes = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        raise InputError(
            f"a dynamic batch needs the same size along axis 0 of every input, not {shapes}",
            hint="say which sizes vary with dynamic_shapes, in the form of torch.export",
        )
    batch = torch.export.Dim(_BATCH)
    doubled = [
        torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and leaf.shape[0] == 1 else leaf
        for leaf in leaves
    ]
    sizes_that_vary: list[Any] = [
        {0: batch} if isinstance(leaf, torch.Tensor) else None for leaf in leaves
    ]
    new_args, new_kwargs = pytree.tree_unflatten(doubled, spec)
    args_shapes, kwargs_shapes = pytree.tree_unflatten(sizes_that_vary, spec)
    return new_args, new_kwargs, kwargs_shapes if kwargs else args_shapes


def export(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any = None,
) -> torch.export.ExportedProgram:
    """Export a module in inference mode.

    Raises:
        InputError: The model itself does not run on the example inputs.
        ModelError: It runs, but torch.export cannot follow it; where and why are named.
    """
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                model, args, kwargs or None, dynamic_shapes=dynamic_shapes, strict=False
            )
    except TilewrightError:
        raise
    except Exception as error:
        raise _explain(model, args, kwargs, dynamic_shapes, error) from error


def decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Run the decompositions that the translation expects.

    Raises:
        ModelError: A decomposition fails.
    """
    try:
        with torch.no_grad(), _quiet():
            return program.run_decompositions(decomposition_table())
    except Exception as error:
        raise ModelError(
            f"an operator could not be decomposed: {_shorten(error)}",
            stage="frontend",
            hint="export the model with the release of PyTorch that is installed here "
            f"({torch.__version__})",
        ) from error


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read a ``.pt2`` file.

    Raises:
        ModelError: There is no such file, or it is not an exported program.
    """
    if not path.is_file():
        raise ModelError(
            f"there is no file {str(path)!r}",
            stage="frontend",
            hint="write one with torch.export.save(torch.export.export(model, inputs), path)",
        )
    register_operators()
    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as error:
        if "torchao" in str(error):
            raise ModelError(
                f"{path.name} needs torchao to be read: {_shorten(error)}",
                stage="frontend",
                where=str(path),
                hint="pip install torchao, in the release that exported it, and import it first",
            ) from error
        raise ModelError(
            f"{path.name} is not an exported program: {_shorten(error)}",
            stage="frontend",
            where=str(path),
            hint="write it with torch.export.save; a state dict goes with a factory "
            "(file.py:factory --weights file)",
        ) from error


def symbol_names(program: torch.export.ExportedProgram, dynamic_shapes: Any) -> dict[str, str]:
    """The user's names of symbolic sizes, by torch.export's symbols."""
    names: dict[str, str] = {}
    if not dynamic_shapes:
        return names
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    values = [
        placeholders[spec.arg.name].meta.get("val")
        for spec in program.graph_signature.input_specs
        if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT
    ]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    for value, wanted in zip(tensors, _leaf_shapes(dynamic_shapes), strict=False):
        pairs = wanted.items() if isinstance(wanted, Mapping) else enumerate(wanted or ())
        for axis, dimension in pairs:
            name = getattr(dimension, "__name__", None)
            size: Any = value.shape[axis]
            if name and isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                names.setdefault(str(size.node.expr), str(name))
    return names


def output_names(program: torch.export.ExportedProgram, count: int) -> tuple[str, ...]:
    """Names of the tensor outputs: keys of a dict or model output, else ``output_0`` …."""
    spec = program.call_spec.out_spec
    if count == 1 and (spec is None or spec.is_leaf() or spec.type in (tuple, list)):
        return ("output",)
    if spec is None:
        return tuple(f"output_{index}" for index in range(count))
    try:
        tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
        paths, _ = pytree.tree_flatten_with_path(tree)
    except (TypeError, ValueError, AttributeError):
        paths = []
    tensors = _tensor_outputs(program)
    chosen = [path for (path, _), kept in zip(paths, tensors, strict=False) if kept]
    if len(chosen) != count:
        return tuple(f"output_{index}" for index in range(count))
    names = []
    for path in chosen:
        parts = [
            str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path
        ]
        joined = re.sub(r"\W+", "_", "_".join(parts)).strip("_")
        names.append(f"output_{joined}" if not joined or joined[0].isdigit() else joined)
    return (
        tuple(names)
        if len(set(names)) == count
        else tuple(f"output_{index}" for index in range(count))
    )


def _tensor_outputs(program: torch.export.ExportedProgram) -> list[bool]:
    kinds = torch.export.graph_signature.OutputKind
    return [
        isinstance(spec.arg, torch.export.graph_signature.TensorArgument)
        for spec in program.graph_signature.output_specs
        if spec.kind in (kinds.USER_OUTPUT, kinds.LOSS_OUTPUT)
    ]


def count_outputs(program: torch.export.ExportedProgram) -> int:
    """Number of outputs that are tensors."""
    return sum(_tensor_outputs(program))


def _leaf_shapes(dynamic_shapes: Any) -> list[Any]:
    """The entries of a ``dynamic_shapes`` tree, one for each tensor input, in order."""

    def is_leaf(node: Any) -> bool:
        if node is None:
            return True
        if isinstance(node, Mapping):
            return all(isinstance(key, int) for key in node)
        if isinstance(node, (tuple, list)):
            return (
                bool(node)
                and all(
                    entry is None
                    or isinstance(entry, int)
                    or hasattr(entry, "__name__")
                    or type(entry).__name__ == "_DimHint"
                    for entry in node
                )
                and any(entry is not None for entry in node)
            )
        return True

    return pytree.tree_leaves(dynamic_shapes, is_leaf=is_leaf)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings about PyTorch's internals, and the graphs it logs when an export fails."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _explain(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any,
    error: Exception,
) -> TilewrightError:
    """The right error for a failed export: the inputs' fault, or the model's."""
    try:
        with torch.no_grad(), _quiet():
            model(*args, **kwargs)
    except Exception as own:  # noqa: BLE001 - a model may raise anything
        shapes = [
            f"{leaf.dtype}{list(leaf.shape)}".removeprefix("torch.")
            for leaf in pytree.tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        ]
        return InputError(
            f"the model does not run on the example inputs ({', '.join(shapes)}): {_shorten(own)}",
            where=_place(model, own),
            hint="call model(*example_inputs) yourself to see the whole error",
        )
    text = _shorten(error)
    hint = "rewrite the place so that the graph does not depend on the values of tensors"
    if "data-dependent" in text or "data dependent" in text.lower() or "GuardOn" in text:
        hint += " (use torch.where or torch.cond in place of if and while on tensors)"
    elif dynamic_shapes is not None and ("specializ" in str(error) or "Constraint" in str(error)):
        hint = (
            "this size is fixed by the model: leave it out of dynamic_shapes, or compile statically"
        )
    return ModelError(
        f"the model does not export: {text}",
        stage="frontend",
        where=_place(model, error),
        hint=hint,
    )


def _shorten(error: BaseException) -> str:
    """The first lines of an error's message that say something."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cut = next(
        (
            index
            for index, line in enumerate(lines)
            if line.startswith(
                ("For more information", "User Stack", "Potential framework", "Traceback")
            )
            or "TORCH_LOGS" in line
        ),
        len(lines),
    )
    return " ".join(lines[: min(cut, _LINES)] or lines[:1] or [type(error).__name__])


def _place(model: nn.Module, error: BaseException) -> str | None:
    """Module path and source line of the innermost module that an error went through."""
    paths = {id(module): path for path, module in model.named_modules()}
    package = str(Path(torch.__file__).parent)
    path: str | None = None
    line: str | None = None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        owner = paths.get(id(frame.f_locals.get("self")))
        if owner is not None:
            path = owner
            if not frame.f_code.co_filename.startswith(package):
                line = f"{Path(frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    if path is None:
        return None
    name = f"module {path!r}" if path else "the model itself"
    return name if line is None else f"{name}, {line}"


__all__ = [
    "batch_dimension",
    "count_outputs",
    "decompose",
    "export",
    "inference_mode",
    "load_program",
    "output_names",
    "symbol_names",
]
