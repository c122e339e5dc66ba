"""Where in the user's model a node of the exported graph came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)')
_LIBRARY = ("/torch/nn/", "/torch/_", "/torch/fx/", "/torch/utils/", "/torch/functional")


@dataclass(frozen=True, slots=True)
class Origin:
    """Module path, source file, line and text of one operation; fields may be empty."""

    module: str
    file: str
    line: int
    code: str

    def __str__(self) -> str:
        parts = [self.module or "(the model itself)"]
        if self.file:
            parts.append(f"{Path(self.file).name}:{self.line}")
        text = ", ".join(parts)
        return f"{text}: {self.code}" if self.code else text


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that called `node`, ``""`` for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for entry in stack.values():
        path = entry[0] if isinstance(entry, tuple) else str(entry)
    # torch.export writes "L['self'].layer1[0]" for some modules that it traces strictly.
    path = re.sub(r"^L\['self'\]\.?", "", path)
    return re.sub(r"\[['\"]?([^\]'\"]+)['\"]?\]", r".\1", path).strip(".")


def origin_of(node: fx.Node) -> Origin:
    """The module and the source line that `node` came from, as far as torch.export kept them."""
    trace = node.meta.get("stack_trace") or ""
    frames = _FRAME.findall(trace)
    own = [frame for frame in frames if not any(part in frame[0] for part in _LIBRARY)]
    if own or frames:
        file, line, _, code = (own or frames)[-1]
        return Origin(module_path(node), file, int(line), code.strip())
    return Origin(module_path(node), "", 0, "")


def operator_name(node: fx.Node) -> str:
    """Full name of the operator that a node calls, such as ``aten.cumsum.default``."""
    target: Any = node.target
    if getattr(target, "__name__", "") == "with_effects":
        target = node.args[1]  # the operator that has the effect
    return (
        str(target)
        if not callable(target) or hasattr(target, "overloadpacket")
        else getattr(target, "__name__", str(target))
    )


def binding_name(node: fx.Node) -> str:
    """Name of the Relax bindings of `node`: ``module.path:operator``.

    Passes of TVM's keep the names of bindings, so that `module_of` finds the module path of
    what was fused into a kernel.
    """
    parts = operator_name(node).split(".")
    return f"{module_path(node)}:{parts[1] if len(parts) > 1 else parts[0]}"


def module_of(name: str) -> str | None:
    """The module path in a binding's name, None if the binding was made by a pass."""
    path, colon, _ = name.partition(":")
    return path if colon else None


__all__ = ["Origin", "binding_name", "module_of", "module_path", "operator_name", "origin_of"]
