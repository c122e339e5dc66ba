"""Interpolation with PyTorch's conventions for coordinates.

TVM's importer uses half-pixel centres for the nearest neighbour; PyTorch takes
``floor(i · input / output)``. Where a given scale factor is not the ratio of the sizes the
coordinates cannot be told to ``resize2d``, and the decomposition of PyTorch's own, which
gathers, is kept (see ``compiler.frontend.decompositions``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from compiler.frontend.converters.base import (
    Converter,
    Unsupported,
    arguments,
    array_constant,
    dtype_of,
    static_shape_of,
    value_of,
)
from compiler.frontend.converters.linear import matmul
from schedules.tvm_adapter import relax, te

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
        )
        return importer.block_builder.emit(op.squeeze(result, [2]) if flat else result)

    return convert


_TAPS = 4
_SHARPNESS = -0.75  # PyTorch's coefficient of cubic convolution


def _bicubic(node: fx.Node, importer: Any) -> Any:
    """Cubic convolution along one axis after the other, four weighted points each.

    TVM's own cubic resize computes all weights anew for every point and mixes the widths of
    its index arithmetic, which fails in code generation.
    """
    values = arguments(node, importer)
    x, corners = values["input"], bool(values["align_corners"])
    factors = values["scale_factors"] or (None, None)
    dims, size = static_shape_of(x, "bicubic interpolation"), value_of(node).shape[2:]
    for axis, (extent, target, factor) in enumerate(
        zip(dims[2:], size, factors, strict=True), start=2
    ):
        places, weights = _cubic_taps(extent, int(target), factor, corners)
        x = importer.block_builder.emit_te(
            _weighted_points,
            x,
            array_constant(places),
            array_constant(weights.astype(dtype_of(node))),
            axis,
            primfunc_name_hint="cubic_resize",
        )
    return x


def _cubic_taps(
    extent: int, target: int, factor: float | None, corners: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Places ``int64[target, 4]`` and weights ``float64[target, 4]`` along one axis."""
    out = np.arange(target)
    if corners:
        source = out * ((extent - 1) / (target - 1) if target > 1 else 0.0)
    else:
        source = (out + 0.5) * (1 / factor if factor else extent / target) - 0.5
    whole = np.floor(source)
    distance = np.abs((source - whole)[:, None] - np.arange(-1, 3))
    a = _SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    places = whole[:, None].astype("int64") + np.arange(-1, 3)
    return places.clip(0, extent - 1), np.where(distance <= 1, near, far)


def _weighted_points(x: Any, places: Any, weights: Any, axis: int) -> Any:
    """``sum over k of weights[i, k] · x[…, places[i, k], …]`` for every i along `axis`."""
    tap = te.reduce_axis((0, _TAPS), name="tap")
    shape = [*x.shape[:axis], places.shape[0], *x.shape[axis + 1 :]]

    def element(*at: Any) -> Any:
        point = [*at[:axis], places[at[axis], tap], *at[axis + 1 :]]
        return te.sum(weights[at[axis], tap] * x(*point), axis=tap)

    return te.compute(shape, element, name="cubic_resize")


_NEAREST = _resize("nearest_neighbor", "asymmetric", "floor")
_LINEAR = _resize("linear", "half_pixel")


def _smoothed(operator: Any) -> Converter:
    """Interpolation with antialiasing as one product with a matrix along each axis.

    The matrix is what PyTorch makes of the identity. TVM's importer would leave the
    antialiasing out in silence.
    """

    def convert(node: fx.Node, importer: Any) -> Any:
        values = arguments(node, importer)
        x = values["input" if "input" in values else "self"]
        height, width = static_shape_of(x, "interpolation")[2:]
        size = [int(extent) for extent in value_of(node).shape[2:]]
        corners, dtype = bool(values["align_corners"]), dtype_of(node)
        factors = values.get("scale_factors") or (values.get("scales_h"), values.get("scales_w"))
        rows = _response(operator, height, size[0], corners, factors[0])
        columns = _response(operator, width, size[1], corners, factors[1])
        along = array_constant(columns.T.astype(dtype))
        x = matmul(x, along, dtype, importer)
        return matmul(array_constant(rows.astype(dtype)), x, dtype, importer)

    return convert


def _response(
    operator: Any, extent: int, target: int, corners: bool, factor: float | None
) -> npt.NDArray[Any]:
    """``float64[target, extent]``: the weight of every point in every new one."""
    identity = torch.eye(extent, dtype=torch.float64)[None, None]
    moved = operator(identity, [target, extent], corners, factor, None)
    return np.asarray(moved[0, 0].numpy())


CONVERTERS: dict[str, Converter] = {
    "upsample_nearest1d.vec": _NEAREST,
    "upsample_nearest2d.vec": _NEAREST,
    "upsample_linear1d.vec": _LINEAR,
    "upsample_bilinear2d.vec": _LINEAR,
    "upsample_bicubic2d.vec": _bicubic,
    "_upsample_bilinear2d_aa.default": _smoothed(torch.ops.aten._upsample_bilinear2d_aa.default),
    "_upsample_bicubic2d_aa.default": _smoothed(torch.ops.aten._upsample_bicubic2d_aa.default),
}

__all__ = ["CONVERTERS"]
