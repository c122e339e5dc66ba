"""Our own converters from ATen operators to Relax, one topic a file.

Each takes the node of the exported graph and the importer, and returns the Relax
expression. They replace converters of TVM's that are missing, wrong, or harder to compile
well than they need be.
"""

from __future__ import annotations

from compiler.frontend.converters import (
    arithmetic,
    attention,
    creation,
    indexing,
    linear,
    normalization,
    pooling,
    quantized,
    reduction,
    resize,
    shape,
)
from compiler.frontend.converters.base import Converter

CONVERTERS: dict[str, Converter] = {
    **arithmetic.CONVERTERS,
    **attention.CONVERTERS,
    **creation.CONVERTERS,
    **indexing.CONVERTERS,
    **linear.CONVERTERS,
    **normalization.CONVERTERS,
    **pooling.CONVERTERS,
    **quantized.CONVERTERS,
    **reduction.CONVERTERS,
    **resize.CONVERTERS,
    **shape.CONVERTERS,
}

__all__ = ["CONVERTERS", "Converter"]
