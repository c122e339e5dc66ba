"""Models as the command line names them: ``file.py:factory`` or ``file.pt2``."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compiler.errors import ModelError
from compiler.frontend.export import load_program

_STAGE = "frontend"
_SHOWN = 6  # names in a message
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_model(
    spec: str, *, weights: str | Path | None = None
) -> tuple[nn.Module | torch.export.ExportedProgram, Any, str]:
    """Read a model named on the command line.

    Args:
        spec: ``file.py:factory`` or the path of a ``.pt2`` file. The factory takes no
            arguments and returns a module, or a module and its example inputs.
        weights: A state dict (``.pt``, ``.pth``, ``.bin``) or ``.safetensors`` file to load
            strictly into the factory's module. It is never unpickled beyond plain tensors.

    Returns:
        The model, its own example inputs or None, and a name for it.

    Raises:
        ModelError: A file is missing, the factory fails, or the weights do not fit.
    """
    path, colon, factory = spec.rpartition(":")
    if colon and path.endswith(".py"):
        module, inputs = _from_factory(Path(path), factory)
        if weights is not None:
            load_weights(module, Path(weights))
        name = factory if factory not in ("build", "model", "make", "create") else Path(path).stem
        return module, inputs, name
    file = Path(spec)
    if file.suffix == ".pt2":
        if weights is not None:
            raise ModelError(
                "a .pt2 file has its weights inside",
                stage=_STAGE,
                where=spec,
                hint="leave out --weights, or name a factory: file.py:factory --weights file",
            )
        return load_program(file), None, file.stem
    if file.suffix == ".py":
        hint = f"name what makes the model: {spec}:factory"
    elif file.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        hint = f"weights need a factory for the model: file.py:factory --weights {spec}"
    else:
        hint = "name file.py:factory or a .pt2 file of torch.export.save"
    raise ModelError(f"{spec!r} does not name a model", stage=_STAGE, hint=hint)


def read_function(spec: str, what: str) -> Callable[..., Any]:
    """Read something callable that the command line names: ``file.py:name``.

    Args:
        spec: The file and the name.
        what: What it is for, such as ``--data``.

    Raises:
        ModelError: There is no such file or name, the file fails, or it is no function.
    """
    text, colon, name = spec.rpartition(":")
    path = Path(text)
    if not colon or path.suffix != ".py" or not path.is_file():
        raise ModelError(
            f"{spec!r} names no function in a Python file", stage=_STAGE, where=what,
            hint="give file.py:name",
        )  # fmt: skip
    with _importable(path.parent):
        found = getattr(_run_file(path), name, None)
    if not callable(found):
        raise ModelError(
            f"there is no function {name!r} in it", stage=_STAGE, where=f"{what} {path}"
        )
    return found


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict strictly; every name must be there with its shape.

    Raises:
        ModelError: The file cannot be read, or names or shapes differ.
    """
    state = _read_state(path)
    own = module.state_dict()
    if not set(state) & set(own):
        for key in _WRAPPERS:
            if isinstance(state.get(key), Mapping):
                state = dict(state[key])
                break
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(tensor.shape)}, the model has {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and isinstance(tensor, torch.Tensor) and tensor.shape != own[name].shape
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    problems = [f"{len(names)} {what}: {_listed(names)}" for what, names in found if names]
    if problems:
        prefixed = unexpected and all(name.startswith("module.") for name in unexpected)
        raise ModelError(
            f"the weights do not fit {type(module).__name__}; {'; '.join(problems)}",
            stage=_STAGE,
            where=str(path),
            hint="the names begin with 'module.': save model.module.state_dict() of the "
            "parallel wrapper"
            if prefixed
            else "the factory must build the network that the weights were saved from",
        )
    module.load_state_dict(state)


def _read_state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"there is no weights file {str(path)!r}", stage=_STAGE)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the weights cannot be read: {reason}",
            stage=_STAGE,
            where=str(path),
            hint="save plain tensors: torch.save(model.state_dict(), path) or safetensors. "
            "Pickled models are not read, since they can run any code",
        ) from error
    if not isinstance(state, Mapping):
        raise ModelError(
            f"the file holds a {type(state).__name__}, not a state dict",
            stage=_STAGE,
            where=str(path),
            hint="save model.state_dict()",
        )
    return dict(state)


def _from_factory(path: Path, factory: str) -> tuple[nn.Module, Any]:
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}", stage=_STAGE)
    with _importable(path.parent):
        scope = _run_file(path)
        target = getattr(scope, factory, None)
        if target is None:
            offered = [n for n, v in vars(scope).items() if callable(v) and not n.startswith("_")]
            raise ModelError(
                f"there is no {factory!r} in it",
                stage=_STAGE,
                where=str(path),
                hint=f"it has: {', '.join(offered)}" if offered else None,
            )
        if isinstance(target, nn.Module):
            return target, None
        if not callable(target):
            raise ModelError(
                f"{factory!r} is a {type(target).__name__}, not a function that makes a model",
                stage=_STAGE,
                where=str(path),
            )
        try:
            made = target()
        except Exception as error:
            raise _failed(f"{factory}() failed", path, error) from error
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{factory}() returned a {type(model).__name__}, not a torch.nn.Module",
            stage=_STAGE,
            where=str(path),
            hint="return the module, or (module, example_inputs)",
        )
    return model, inputs


def _run_file(path: Path) -> Any:
    """Run a Python file as a module under a name of its own."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"_tilewright_model_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError("it is not a Python file", stage=_STAGE, where=str(path))
    scope = importlib.util.module_from_spec(spec)
    sys.modules[name] = scope  # dataclasses and torch look modules up by name
    try:
        spec.loader.exec_module(scope)
    except Exception as error:
        del sys.modules[name]
        raise _failed("the file does not run", path, error) from error
    return scope


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours while it runs; the search path is restored after."""
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def _failed(what: str, path: Path, error: Exception) -> ModelError:
    """An error of the user's own code, with the last line of theirs that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).resolve() == path.resolve()]
    line = f"{path}:{own[-1].lineno}" if own else str(path)
    return ModelError(
        f"{what}: {type(error).__name__}: {error}",
        stage=_STAGE,
        where=line,
        hint="install what it imports into this environment"
        if isinstance(error, ImportError)
        else None,
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


__all__ = ["load_weights", "read_function", "read_model"]
