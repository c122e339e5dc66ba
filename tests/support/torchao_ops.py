"""torchao's operators, as far as the stored programs of tests/golden/quantized need them.

They are written anew from what torchao's documentation says, so that tests read files of
torchao's without it.
"""

from __future__ import annotations

from typing import Any

import torch

_SCHEMAS = (
    (
        "choose_qparams_affine(Tensor? input, str mapping_type, SymInt[] block_size, "
        "ScalarType target_dtype, Scalar? quant_min=None, Scalar? quant_max=None, float? eps=None, "
        "ScalarType? scale_dtype=None, ScalarType? zero_point_dtype=None, bool keepdim=False) "
        "-> (Tensor, Tensor)"
    ),
    (
        "quantize_affine(Tensor input, SymInt[] block_size, Tensor scale, Tensor? zero_point, "
        "ScalarType output_dtype, Scalar? quant_min=None, Scalar? quant_max=None) -> Tensor"
    ),
    (
        "dequantize_affine(Tensor input, SymInt[] block_size, Tensor scale, Tensor? zero_point, "
        "ScalarType input_dtype, Scalar? quant_min=None, Scalar? quant_max=None, "
        "ScalarType output_dtype=6) -> Tensor"
    ),
)
_kept: list[Any] = []


def register() -> None:
    """Make the operators known, unless torchao has."""
    if _kept or hasattr(torch.ops.torchao, "quantize_affine"):
        return
    library = torch.library.Library("torchao", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    for function in (choose_qparams_affine, quantize_affine, dequantize_affine):
        library.impl(function.__name__, function, "CompositeImplicitAutograd")
    _kept.append(library)


def _blocks(x: torch.Tensor, block_size: list[int]) -> torch.Tensor:
    """Rows, blocks of a row, elements of a block."""
    return x.reshape(-1, x.shape[-1] // block_size[-1], block_size[-1])


def choose_qparams_affine(
    x: torch.Tensor, mapping: str, block_size: list[int], dtype: torch.dtype,
    low: float, high: float, eps: float | None = None, *_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    blocks = _blocks(x, block_size)
    least, greatest = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    if mapping == "SYMMETRIC":
        scale = torch.maximum(-least, greatest) / ((high - low) / 2)
        scale = scale.clamp(min=eps)
        return scale, torch.zeros_like(scale, dtype=dtype)
    scale = ((greatest - least) / (high - low)).clamp(min=eps or 1e-12)
    return scale, (low - torch.round(least / scale)).clamp(low, high).to(dtype)


def quantize_affine(
    x: torch.Tensor, block_size: list[int], scale: torch.Tensor, zero: torch.Tensor | None,
    dtype: torch.dtype, low: float, high: float,
) -> torch.Tensor:  # fmt: skip
    blocks = _blocks(x, block_size)
    scale = scale.reshape(*blocks.shape[:2], 1)
    offset = 0 if zero is None else zero.reshape(scale.shape)
    stored = (torch.round(blocks * (1.0 / scale)) + offset).clamp(low, high)
    return stored.reshape(x.shape).to(dtype)


def dequantize_affine(
    x: torch.Tensor, block_size: list[int], scale: torch.Tensor, zero: torch.Tensor | None,
    *_: Any, **__: Any,
) -> torch.Tensor:  # fmt: skip
    blocks = _blocks(x, block_size).float()
    scale = scale.reshape(*blocks.shape[:2], 1)
    offset = 0 if zero is None else zero.reshape(scale.shape).float()
    return ((blocks - offset) * scale).reshape(x.shape)
