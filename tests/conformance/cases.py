"""Builds one network of one operator through the whole pipeline and compares it with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compiler.build import build
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.runtime import Executor
from compiler.stages import KernelInfo, Lowered, StageLog
from targets import TargetSpec

#: Largest error, relative to the largest magnitude of the reference.
TOLERANCE = 1e-5


class Function(nn.Module):
    """A plain function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation mode with random parameters, batch statistics included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            positive = name.endswith(("running_var", "norm.weight"))
            value.copy_(noise.abs() + 0.5 if positive else noise * 0.3)
    return module.eval()


def check(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    spec: TargetSpec,
    workdir: Path,
    *,
    tolerance: float = TOLERANCE,
    allow_fallback: bool = False,
    make: Callable[..., Any] = Executor,
) -> tuple[KernelInfo, ...]:
    """Compile and run, compare with PyTorch, and return the kernels."""
    lowered, executor = _compile(module, inputs, spec, workdir, make)
    with torch.no_grad():
        expected = module(*inputs)
    for have, want in zip(_list(executor.run(*inputs)), _list(expected), strict=True):
        assert have.shape == want.shape
        scale = max(float(want.abs().max()), 1e-6)
        error = float((have.double() - want.double()).abs().max()) / scale
        assert np.isfinite(error)
        assert error <= tolerance, f"error {error:.2e}"
    fallbacks = [k.name for k in lowered.kernels if k.fallback]
    assert allow_fallback or not fallbacks, f"met only the fallback: {fallbacks}"
    return lowered.kernels


def compile_and_run(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    spec: TargetSpec,
    workdir: Path,
    make: Callable[..., Any] = Executor,
) -> list[torch.Tensor]:
    """The outputs alone, for what cannot be compared by their largest error."""
    return _list(_compile(module, inputs, spec, workdir, make)[1].run(*inputs))


def _compile(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    spec: TargetSpec,
    workdir: Path,
    make: Callable[..., Any] = Executor,
) -> tuple[Lowered, Any]:
    log = StageLog()
    lowered = lower(import_model(module, inputs, log=log), spec, log)
    built = build(lowered, spec, log, workdir)
    return lowered, make(
        built.library, built.inputs, built.outputs, built.parameters, built.prepared
    )


def _list(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
