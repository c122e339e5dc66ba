"""A network of the zoo: where it comes from, how it is built, what error is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tools.zoo.nets.weights import example, randomize

Built = tuple[nn.Module, tuple[torch.Tensor, ...] | dict[str, torch.Tensor]]

#: Largest error against PyTorch eager that counts as agreement, relative to the largest
#: magnitude of the output. Sums in another order differ by a few 1e-6 in deep networks.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Entry:
    """One network.

    Attributes:
        name: Unique name.
        kind: What sort of network it is, for the table.
        source: ``plain`` (this folder), or the package that defines it.
        build: Makes the module and its example inputs, seeded.
        tolerance: Largest accepted relative error.
    """

    name: str
    kind: str
    source: str
    build: Callable[[], Built]
    tolerance: float = TOLERANCE


def image(size: int = 64, channels: int = 3, batch: int = 1) -> tuple[torch.Tensor, ...]:
    """One seeded picture."""
    return (example(batch, channels, size, size),)


def seeded(make: Callable[[], Any]) -> nn.Module:
    """Build a module and fill it with seeded weights; PyTorch's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize(make())


__all__ = ["TOLERANCE", "Built", "Entry", "image", "seeded"]
