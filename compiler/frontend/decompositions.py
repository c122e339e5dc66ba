"""Which composite operators stay whole, and which fall apart into core ATen operators.

PyTorch's default table takes apart what the lowering would rather see whole (a linear layer
becomes views and an ``addmm``, attention becomes twenty operators). The operators named here
are kept; converters exist for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_KEPT = (
    "hardsigmoid.default",
    "hardswish.default",
    "linear.default",
    "matmul.default",
    "pixel_shuffle.default",
    "pixel_unshuffle.default",
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
        table[operator] = _kept_if_exact(operator)
    return table


def _kept_if_exact(operator: Any) -> Callable[..., Any]:
    def decompose(input: torch.Tensor, output_size: Any, *rest: Any) -> Any:  # noqa: A002
        factors = rest[-1] if rest else None
        spatial = input.shape[2:]
        exact = factors is None or all(
            isinstance(extent, int) and float(extent * factor).is_integer()
            for extent, factor in zip(spatial, factors, strict=True)
        )
        if exact:
            return NotImplemented
        return operator.decompose(input, output_size, *rest)

    return decompose


__all__ = ["decomposition_table"]
