"""Networks for the tests of the benchmark's driver."""

from __future__ import annotations

import torch


def build(net: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    if net == "broken":
        raise ValueError("no such layer")
    torch.manual_seed(1)
    return torch.nn.Linear(4, 3), (torch.arange(8, dtype=torch.float32).reshape(2, 4),)
