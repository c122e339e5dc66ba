"""The networks of the zoo: where each comes from, how it is built, what error is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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
    from tools.zoo.nets.weights import example

    return (example(batch, channels, size, size),)


def seeded(make: Callable[[], Any]) -> nn.Module:
    """Build a module and fill it with seeded weights; PyTorch's random state is left alone."""
    from tools.zoo.nets.weights import randomize

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize(make())


def all_entries() -> tuple[Entry, ...]:
    """Every network, whether or not its package is installed."""
    from tools.zoo import plain, timm_nets, torchvision_nets, transformers_nets

    entries = (
        *plain.ENTRIES,
        *torchvision_nets.ENTRIES,
        *timm_nets.ENTRIES,
        *transformers_nets.ENTRIES,
    )
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names), "two networks of the zoo have the same name"
    return entries


__all__ = ["TOLERANCE", "Built", "Entry", "all_entries", "image", "seeded"]
