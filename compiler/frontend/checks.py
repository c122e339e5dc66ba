"""What is refused before the export: wrong inputs, damaged weights, other devices."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from compiler.errors import InputError, ModelError

_SHOWN = 5  # names in a message


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword example inputs.

    Args:
        example_inputs: A tuple (or list) of positional inputs, or a dict of inputs by the
            names of ``forward``'s parameters.

    Raises:
        InputError: It is neither, or holds no tensor.
    """
    if isinstance(example_inputs, (torch.Tensor, nn.Module)) or example_inputs is None:
        kind = type(example_inputs).__name__
        raise InputError(
            f"example_inputs must be a tuple of inputs, not {kind}",
            hint="write example_inputs=(x,) with a comma"
            if kind != "NoneType"
            else "a model needs example inputs: compile(model, example_inputs=(x,))",
        )
    if isinstance(example_inputs, Mapping) and all(isinstance(k, str) for k in example_inputs):
        args, kwargs = (), dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args, kwargs = tuple(example_inputs), {}
    else:
        raise InputError(
            f"example_inputs must be a tuple of inputs, not {type(example_inputs).__name__}",
            hint="write example_inputs=(x, y), or a dict by the names of forward's parameters",
        )
    leaves = pytree.tree_leaves((args, kwargs))
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise InputError(
            "example_inputs hold no torch.Tensor",
            hint="convert arrays with torch.from_numpy(array)",
        )
    return args, kwargs


def check_signature(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a number or names of inputs that ``model.forward`` does not take.

    Raises:
        InputError: The message shows the signature.
    """
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return  # a scripted or built-in forward has none; torch.export says what is wrong
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(
            f"the example inputs do not fit {type(model).__name__}.forward{signature}: {error}",
            hint=f"{len(args)} positional and {len(kwargs)} named inputs were given",
        ) from None


def check_devices(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse models and inputs that are not in the CPU's memory.

    Raises:
        ModelError: A parameter or buffer is elsewhere.
        InputError: An input is elsewhere.
    """
    for name, tensor in _named_tensors(model):
        if tensor.device.type == "cpu":
            continue
        meta = tensor.device.type == "meta"
        raise ModelError(
            f"parameter {name!r} is on device {tensor.device}",
            stage="frontend",
            where=name.rpartition(".")[0] or None,
            hint="load the weights first: a model on the meta device has none"
            if meta
            else "move the model first: model.cpu(). The compile target is chosen by target=",
        )
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu":
            raise InputError(
                f"an example input is on device {leaf.device}",
                hint="move it first: x.cpu(). The compile target is chosen by target=",
            )


def check_weights(named: Iterable[tuple[str, torch.Tensor, bool]]) -> None:
    """Refuse weights that are not numbers.

    Args:
        named: Name, tensor, and whether it is a parameter. Buffers may hold infinities
            (masks do), parameters may not.

    Raises:
        ModelError: It names the tensors and how many of their values are bad.
    """
    bad = []
    for name, tensor, is_parameter in named:
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            continue
        if _is_wrapped(tensor):
            continue  # compressed by torchao: its integers are looked at as they are read
        if bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
            continue  # one value that is no finite number would have spread to the sum
        wrong = ~torch.isfinite(tensor) if is_parameter else torch.isnan(tensor)
        count = int(wrong.sum())
        if count:
            bad.append(f"{name} ({count} of {tensor.numel()} values)")
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ModelError(
            f"weights hold NaN or infinite values: {', '.join(bad[:_SHOWN])}{more}",
            stage="frontend",
            where=bad[0].split(" ")[0].rpartition(".")[0] or None,
            hint="the training diverged or the checkpoint is damaged: load another one",
        )


def _is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor only stands for others that it holds."""
    return bool(is_traceable_wrapper_subclass(tensor))


def weights_of(model: nn.Module) -> list[tuple[str, torch.Tensor, bool]]:
    """All parameters and buffers of a module in the form that `check_weights` takes."""
    parameters = [(name, p.detach(), True) for name, p in model.named_parameters()]
    return parameters + [(name, b.detach(), False) for name, b in model.named_buffers()]


def _named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


__all__ = ["check_devices", "check_signature", "check_weights", "split_inputs", "weights_of"]
