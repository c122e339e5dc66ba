"""The six benchmark networks, in plain PyTorch with seeded weights.

>>> from tools.zoo.nets import BENCHMARKS, build
>>> module, example_inputs = build("resnet18")
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tools.zoo.nets.efficientnet_lite import EfficientNetLite0
from tools.zoo.nets.mobilenet import MobileNetV2
from tools.zoo.nets.resnet import resnet18, resnet50
from tools.zoo.nets.transformers import MiniLM, ViT
from tools.zoo.nets.weights import example, randomize, tokens

Inputs = tuple[torch.Tensor, ...]


def _image() -> Inputs:
    return (example(1, 3, 224, 224),)


def _sentence() -> Inputs:
    mask = torch.ones(1, 128, dtype=torch.int64)
    mask[:, 110:] = 0  # the last tokens are padding, so that the mask is tested
    return tokens(1, 128, vocabulary=30522), mask


_NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "resnet18": (resnet18, _image),
    "resnet50": (resnet50, _image),
    "mobilenet_v2": (MobileNetV2, _image),
    "efficientnet_lite0": (EfficientNetLite0, _image),
    "minilm_l6": (MiniLM, _sentence),
    "vit_tiny": (ViT, _image),
}
BENCHMARKS: tuple[str, ...] = tuple(_NETS)


def samples(name: str, count: int) -> list[Inputs]:
    """Inputs of a benchmark network to calibrate by, unlike the example's.

    Raises:
        ValueError: There is no such network.
    """
    if name not in _NETS:
        raise ValueError(f"no benchmark network {name!r}; there are: {', '.join(BENCHMARKS)}")
    shapes = [(v.shape, v.dtype) for v in _NETS[name][1]()]
    found: list[Inputs] = []
    for i in range(count):
        seed = 1000 + i
        if shapes[0][1] != torch.int64:
            found.append(tuple(example(*shape, seed=seed) for shape, _ in shapes))
            continue
        mask = torch.ones(1, 128, dtype=torch.int64)
        mask[:, 24 + 13 * i % 105 :] = 0  # sentences of different lengths
        found.append((tokens(1, 128, vocabulary=30522, seed=seed), mask))
    return found


def build(name: str, *, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A benchmark network in inference mode with its example inputs (batch 1).

    Args:
        name: One of `BENCHMARKS`.
        seed: Seed of the weights; PyTorch's own random state is left alone.

    Raises:
        ValueError: There is no such network.
    """
    if name not in _NETS:
        raise ValueError(f"no benchmark network {name!r}; there are: {', '.join(BENCHMARKS)}")
    make, inputs = _NETS[name]
    with torch.random.fork_rng(devices=[]):
        module = make()
    return randomize(module, seed), inputs()


__all__ = ["BENCHMARKS", "Inputs", "build", "samples"]
