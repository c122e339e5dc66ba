"""Seeded, non-trivial weights for networks that have no trained ones.

A fresh PyTorch module has BatchNorm statistics of zero mean and unit variance and LayerNorm
weights of one: an importer or a folding pass that drops them would still give the right
answer. Here every one of them is random, and all depends on the seed alone.
"""

from __future__ import annotations

import torch
from torch import nn

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _fan_in(weight: torch.Tensor, *, transposed: bool, groups: int) -> int:
    receptive = 1
    for extent in weight.shape[2:]:
        receptive *= extent
    channels = weight.shape[0] // groups if transposed else weight.shape[1]
    return max(1, channels * receptive)


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter and statistic of `module` from `seed`, and put it in inference mode.

    The scale of the weights keeps activations near one through a deep network, so that an
    error relative to the output's size means something. Returns the same module.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, deviation: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    known: set[int] = set()
    for layer in module.modules():
        if isinstance(layer, _BATCH_NORMS + _NORMS):
            if layer.weight is not None:
                uniform(layer.weight, 0.6, 1.1)
                normal(layer.bias, 0.1) if layer.bias is not None else None
            if isinstance(layer, _BATCH_NORMS) and layer.running_mean is not None:
                assert layer.running_var is not None
                normal(layer.running_mean, 0.2)
                uniform(layer.running_var, 0.6, 1.6)
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            groups = getattr(layer, "groups", 1)
            # The gain of a ReLU layer for convolutions; linear layers stand in residual branches.
            gain = 1.0 if isinstance(layer, nn.Linear) else 1.4
            fan = _fan_in(layer.weight, transposed=False, groups=groups)
            normal(layer.weight, gain * fan**-0.5)
            if layer.bias is not None:
                normal(layer.bias, 0.05)
        elif isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
            fan = _fan_in(layer.weight, transposed=True, groups=layer.groups)
            normal(layer.weight, 1.4 * fan**-0.5)
            if layer.bias is not None:
                normal(layer.bias, 0.05)
        elif isinstance(layer, nn.Embedding):
            normal(layer.weight, 0.5)
        elif isinstance(layer, nn.PReLU):
            uniform(layer.weight, 0.1, 0.4)
        else:
            continue
        known.update(id(parameter) for parameter in layer.parameters(recurse=False))
    for parameter in module.parameters():
        if id(parameter) not in known and parameter.is_floating_point():
            fan = parameter.shape[-1] if parameter.ndim > 1 else 16
            normal(parameter, fan**-0.5 if parameter.ndim > 1 else 0.2)
    return module.eval()


def example(*shape: int, seed: int = 1) -> torch.Tensor:
    """A float32 input of the given shape from a standard normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, vocabulary: int, seed: int = 1) -> torch.Tensor:
    """int64 token numbers of the given shape, below `vocabulary`."""
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


__all__ = ["example", "randomize", "tokens"]
