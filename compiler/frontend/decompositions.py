"""Which composite operators stay whole, and which fall apart into core ATen operators.

PyTorch's default table takes apart what the lowering would rather see whole (a linear layer
becomes views and an ``addmm``, attention becomes twenty operators). The operators named here
are kept; converters exist for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import get_decompositions

_KEPT = (
    "hardsigmoid.default",
    "hardswish.default",
    "linear.default",
    "matmul.default",
    "reflection_pad1d.default",
    "reflection_pad2d.default",
    "replication_pad1d.default",
    "replication_pad2d.default",
    "scaled_dot_product_attention.default",
    "silu.default",
    "softplus.default",
    "unbind.int",
    "upsample_bicubic2d.vec",
    "upsample_linear1d.vec",
)
# Kept only if the sizes alone say where each point comes from.
_RESIZES = ("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_bilinear2d.vec")


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """The decompositions to run on an exported program before it is translated."""
    table = torch.export.default_decompositions()
    for name in _KEPT:
        packet, overload = name.split(".")
        table.pop(getattr(getattr(torch.ops.aten, packet), overload), None)
    for name in _RESIZES:
        packet, overload = name.split(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload)
        table[operator] = _kept_if_exact(get_decompositions([operator])[operator])
    aten = torch.ops.aten
    table[aten.bilinear.default] = _bilinear
    table[aten.exp2.default] = _exp2
    table[aten.erfc.default] = _erfc
    table[aten.hypot.default] = _hypot
    table[aten.copysign.Tensor] = _copysign
    table[aten._cdist_forward.default] = _cdist
    return table


def _kept_if_exact(gathering: Callable[..., Any]) -> Callable[..., Any]:
    def decompose(input: torch.Tensor, output_size: Any, *rest: Any) -> Any:  # noqa: A002
        factors = rest[-1] if rest else None
        spatial = input.shape[2:]
        exact = factors is None or all(
            isinstance(extent, int) and float(extent * factor).is_integer()
            for extent, factor in zip(spatial, factors, strict=True)
        )
        if exact:
            return NotImplemented
        return gathering(input, output_size, *rest)

    return decompose


def _bilinear(
    input1: torch.Tensor,
    input2: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """``nn.Bilinear`` as one product of matrices and a weighted sum."""
    outputs, left, right = weight.shape
    stacked = weight.permute(1, 0, 2).reshape(left, outputs * right)
    partial = torch.matmul(input1, stacked).reshape(*input1.shape[:-1], outputs, right)
    result = (partial * input2.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


def _exp2(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x * math.log(2.0))


def _erfc(x: torch.Tensor) -> torch.Tensor:
    return 1.0 - torch.erf(x)


def _hypot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.sqrt(x * x + y * y)


def _copysign(x: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    size = x.abs()
    return torch.where(sign < 0, -size, size)


def _cdist(x: torch.Tensor, y: torch.Tensor, p: float, compute_mode: int | None) -> torch.Tensor:
    """Distances of every row of `x` from every row of `y`."""
    del compute_mode  # how PyTorch's own kernel goes about it
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, dim=-1)


__all__ = ["decomposition_table"]
