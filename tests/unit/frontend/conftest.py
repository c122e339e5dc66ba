"""Compile an imported model with TVM's default pipeline and compare it with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler.frontend import import_model
from compiler.frontend.dtypes import to_numpy
from compiler.stages import Imported, StageLog

Check = Callable[..., Imported]


def run_imported(
    imported: Imported, inputs: tuple[torch.Tensor, ...]
) -> list[np.ndarray[Any, Any]]:
    from schedules.tvm_adapter import relax, tvm

    # What is compiled here is run once: it need not be fast.
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    pipeline = relax.get_default_pipeline(target)
    executable = tvm.compile(imported.module, target, relax_pipeline=pipeline)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    arrays = [*(to_numpy(x) for x in inputs), *imported.parameters.values()]
    result = machine["main"](*(tvm.runtime.tensor(a) for a in arrays))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [r.numpy() for r in results]


def tensors_of(value: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@pytest.fixture
def check() -> Check:
    """Import, compile, run; every output must have PyTorch's dtype, shape and values."""

    def run(
        model: nn.Module | Callable[..., Any],
        *inputs: torch.Tensor,
        tolerance: float = 2e-6,
        run_with: tuple[torch.Tensor, ...] | None = None,
        **options: Any,
    ) -> Imported:
        if not isinstance(model, nn.Module):
            model = Function(model)
        model.eval()
        imported = import_model(model, inputs, log=StageLog(), **options)
        inputs = run_with or inputs
        got = run_imported(imported, inputs)
        with torch.no_grad():
            wanted = tensors_of(model(*inputs))
        assert len(got) == len(wanted) == len(imported.outputs)
        for spec, have, want in zip(imported.outputs, got, wanted, strict=True):
            reference = to_numpy(want)
            assert have.dtype == reference.dtype == np.dtype(spec.dtype), spec
            assert have.shape == reference.shape, spec
            if reference.dtype.kind in "biu":
                np.testing.assert_array_equal(have, reference, err_msg=str(spec))
                continue
            wide, exact = have.astype("float64"), reference.astype("float64")
            finite = np.isfinite(exact)
            np.testing.assert_array_equal(np.isfinite(wide), finite, err_msg=str(spec))
            np.testing.assert_array_equal(wide[~finite], exact[~finite], err_msg=str(spec))
            scale = max(np.abs(exact[finite]).max(initial=0.0), 1e-3)
            error = np.abs(wide[finite] - exact[finite]).max(initial=0.0) / scale
            assert error <= tolerance, f"{spec}: relative error {error:.3g}"
        return imported

    return run


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)
