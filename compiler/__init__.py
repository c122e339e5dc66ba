"""Tilewright: a trained PyTorch model in, a small fast module and an honest report out.

    from compiler import compile, load

    bundle = compile(model, target="x86", example_inputs=(x,))
    bundle.save("net.tw")
    y = load("net.tw")(x)

Importing this package is cheap; TVM and torch are imported when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler._version import __version__

if TYPE_CHECKING:
    from compiler.api import compile, load, tune_model  # noqa: A004 - the name users expect
    from compiler.comparison import compare_targets
    from compiler.compress.pictures import Images
    from compiler.compress.plan import CompressionPlan
    from compiler.compress.recipe import Quantize
    from compiler.package import Bundle
    from compiler.tune.options import Tune

__all__ = [
    "Bundle",
    "CompressionPlan",
    "Images",
    "Quantize",
    "Tune",
    "__version__",
    "compare_targets",
    "compile",
    "load",
    "tune_model",
]

_HOME = {
    "compare_targets": "compiler.comparison",
    "compile": "compiler.api",
    "load": "compiler.api",
    "tune_model": "compiler.api",
    "Bundle": "compiler.package",
    "CompressionPlan": "compiler.compress.plan",
    "Images": "compiler.compress.pictures",
    "Quantize": "compiler.compress.recipe",
    "Tune": "compiler.tune.options",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compiler' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
