"""Interpolation with PyTorch's conventions for coordinates.

TVM's importer uses half-pixel centres for the nearest neighbour; PyTorch takes
``floor(i · input / output)``. Where a given scale factor is not the ratio of the sizes the
coordinates cannot be told to ``resize2d``, and the decomposition of PyTorch's own, which
gathers, is kept (see ``compiler.frontend.decompositions``).
"""

from __future__ import annotations

from typing import Any

from torch import fx

from compiler.frontend.converters.base import Converter, Unsupported, arguments, value_of
from schedules.tvm_adapter import relax

op = relax.op


def _resize(method: str, coordinates: str, rounding: str = "") -> Converter:
    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        size = value_of(node).shape[2:]
        if not all(isinstance(extent, int) for extent in size):
            raise Unsupported("interpolation to a dynamic size")
        mode = "align_corners" if values.get("align_corners") else coordinates
        x, flat = values["input" if "input" in values else "self"], len(size) == 1
        if flat:
            x = op.expand_dims(x, 2)
        result = op.image.resize2d(
            x,
            (1, size[0]) if flat else tuple(size),
            layout="NCHW",
            method=method,
            coordinate_transformation_mode=mode,
            rounding_method=rounding,
            cubic_alpha=-0.75,
        )
        return importer.block_builder.emit(op.squeeze(result, [2]) if flat else result)

    return convert


_NEAREST = _resize("nearest_neighbor", "asymmetric", "floor")
_LINEAR = _resize("linear", "half_pixel")

CONVERTERS: dict[str, Converter] = {
    "upsample_nearest1d.vec": _NEAREST,
    "upsample_nearest2d.vec": _NEAREST,
    "upsample_linear1d.vec": _LINEAR,
    "upsample_bilinear2d.vec": _LINEAR,
    "upsample_bicubic2d.vec": _resize("cubic", "half_pixel"),
}

__all__ = ["CONVERTERS"]
