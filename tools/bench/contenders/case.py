"""A network on disk, as the workers read it: inputs, and for torch the module and its weights."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array: TypeAlias = npt.NDArray[np.generic]

INPUTS = "inputs.npz"
REFERENCE = "reference.npz"
SAMPLES = "samples.npz"
WEIGHTS = "weights.pt"
ONNX = "model.onnx"
CASE = "case.json"


def read_arrays(path: Path) -> list[Array]:
    """The arrays of an ``.npz`` that `numpy.savez` wrote from positional arguments."""
    with np.load(path, allow_pickle=False) as archive:
        return [archive[f"arr_{i}"] for i in range(len(archive.files))]


def read_samples(path: Path) -> list[list[Array]]:
    """Inputs to calibrate by, each like the network's own inputs."""
    stacked = read_arrays(path)
    return [[array[i] for array in stacked] for i in range(len(stacked[0]))]


def build_model(builder: str, net: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """Call ``module:function`` with the network's name; gives the module and example inputs."""
    module, _, function = builder.partition(":")
    model, inputs = getattr(importlib.import_module(module), function)(net)
    return model.eval(), tuple(inputs)


def load_torch(case: Path) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The case's module, with the very weights and inputs that the reference was made with."""
    import torch

    facts: dict[str, Any] = json.loads((case / CASE).read_text())
    model, _ = build_model(facts["builder"], facts["net"])
    model.load_state_dict(torch.load(case / WEIGHTS, weights_only=True))
    return model, tuple(torch.from_numpy(array) for array in read_arrays(case / INPUTS))


def torch_outputs(result: Any) -> list[Array]:
    """All tensors of a model's result as arrays."""
    from torch.utils import _pytree as pytree

    return [leaf.detach().numpy() for leaf in pytree.tree_leaves(result)]


def torch_facts(label: str) -> dict[str, Any]:
    """What there is to say about torch in this process."""
    import torch

    return {
        "version": torch.__version__,
        "precision": "f32",
        "threads": f"torch.get_num_threads() = {torch.get_num_threads()}",
        "settings": label,
    }
