"""Quantized images before a first convolution: bytes of pixels, with the borders it wants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from compiler.compress.operators import PREFIX, attributes_of
from compiler.lower.graph import FunctionView, dtype_of, is_constant, operator_name, shape_of
from compiler.lower.parameters import ParameterTable, value_of
from schedules.cpu.compute import images

OPAQUE = 8
#: Narrower images are left to the general kernels.
LEAST_WIDTH = 4


def image_operands(
    view: FunctionView,
    table: ParameterTable,
    visit: Callable[[Any], Any],
    bb: Any,
    data: Any,
    weight: Any,
    padding: tuple[int, int, int, int],
    fill: int,
) -> tuple[Any, Any] | None:
    """Data and weight of a convolution on a quantized image, both with four channels.

    Args:
        view: Definitions before the pass.
        table: Names of constants.
        visit: Gives the new form of an expression.
        bb: The block builder.
        data: The original operand, before its padding.
        weight: The constant weight, ``OIHW``.
        padding: Of the convolution: top, left, bottom, right.
        fill: What is beyond the edges.

    Returns:
        The operands, which need no padding any more; None where the data are no such image.
    """
    moved = view.definition(data)
    if operator_name(moved) != "permute_dims" or moved.attrs.axes is None:
        return None
    quantized = view.definition(moved.args[0])
    planes = shape_of(moved.args[0])
    if (
        operator_name(quantized) != f"{PREFIX}quantize"
        or [int(v) for v in moved.attrs.axes] != [0, 2, 3, 1]
        or planes is None
        or not all(isinstance(v, int) for v in planes)
        or planes[1] > images.CHANNELS
        or planes[3] < LEAST_WIDTH
        or not is_constant(weight)
        or dtype_of(quantized) not in ("uint8", "int8")
    ):
        return None
    plain = value_of(weight)
    if plain.shape[1] != planes[1]:
        return None
    wider = np.pad(plain, ((0, 0), (0, images.CHANNELS - planes[1]), (0, 0), (0, 0)))
    pixels = bb.emit(
        bb.call_te(
            partial(images.image_bytes, padding=padding, fill=fill, **attributes_of(quantized)),
            visit(quantized.args[0]),
            primfunc_name_hint="quantize_image",
            primfunc_attrs={"op_pattern": OPAQUE},
        )
    )
    return pixels, table.constant(wider, table.name_of(weight) or "weight")


__all__ = ["image_operands"]
