"""Frontend: PyTorch models to Relax, and models named on the command line.

The names are imported when they are first used: reading a model needs torch, importing it
needs TVM as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.frontend.importer import import_model
    from compiler.frontend.model_files import load_weights, read_model

_HOMES = {"import_model": "importer", "load_weights": "model_files", "read_model": "model_files"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = ["import_model", "load_weights", "read_model"]
