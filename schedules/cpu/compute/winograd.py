"""3x3 convolutions with fewer multiplications: Winograd's minimal filtering, F(m x m, 3 x 3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), sections 4.1
to 4.3: tiles of ``m x m`` outputs come from ``(m + 2)^2`` products instead of ``9 m^2``, in three
steps: transform the input tiles, multiply matrices for each of the ``(m + 2)^2`` places,
transform back. Rounding errors grow with `m`; in float32 ``m = 4`` keeps about five digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, ROLE
from schedules.cpu.bfloat16 import widen
from schedules.cpu.compute.packed import Attributes, pad_spatial, round_up
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]

#: Transforms of the input (``B^T``), the kernel (``G``) and the output (``A^T``) for each `m`.
INPUT: dict[int, list[list[float]]] = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
KERNEL_TRANSFORM: dict[int, list[list[float]]] = {
    2: [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
OUTPUT: dict[int, list[list[float]]] = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}


@dataclass(frozen=True)
class Tiling:
    """How an output of `height` x `width` falls into tiles of `m` x `m`.

    Attributes:
        m: Outputs of a tile along one axis.
        down: Tiles from top to bottom.
        across: Tiles from left to right.
    """

    m: int
    down: int
    across: int

    @classmethod
    def of(cls, m: int, height: int, width: int) -> Tiling:
        """Enough tiles for the whole output."""
        return cls(m, ceil(height / m), ceil(width / m))

    @property
    def places(self) -> int:
        """Products of a tile along one axis."""
        return self.m + 2


def pack_transformed(weight: Array, m: int, columns: int) -> Array:
    """Transform ``OI33`` and pack it into panels ``[m + 2, m + 2, panels, ic, columns]``."""
    g = np.array(KERNEL_TRANSFORM[m])
    outputs, inner = weight.shape[:2]
    transformed = np.einsum("xi,yj,ocij->xyco", g, g, weight.astype(np.float64), optimize=True)
    panels = ceil(outputs / columns)
    padded = np.zeros((m + 2, m + 2, inner, panels * columns), np.float32)
    padded[..., :outputs] = transformed
    split = padded.reshape(m + 2, m + 2, inner, panels, columns)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4))


def conv2d_winograd(
    data: Any,
    packed: Any,
    out_channels: int,
    out_size: tuple[int, int],
    padding: Sequence[int],
    tiling: Tiling,
    attrs: Attributes,
) -> Any:
    """3x3 convolution of ``NHWC`` data with stride 1; the kernel packed by `pack_transformed`.

    Data may be float32 or bfloat16; all arithmetic is float32. Returns ``NHWC``, float32.
    """
    m, places = tiling.m, tiling.places
    batch, inner = data.shape[0], data.shape[3]
    columns = int(packed.shape[4])
    padded_out = round_up(out_channels, columns)
    source = pad_spatial(data, padding, (tiling.down * m + 2, tiling.across * m + 2))

    rows = te.compute(
        (batch, tiling.down, tiling.across, places, places, inner),
        lambda n, h, w, i, y, c: _row(
            INPUT[m], i, lambda k: widen(source[n, h * m + k, w * m + y, c])
        ),
        name="input_rows",
        attrs={ROLE: "transform"},
    )
    transformed = te.compute(
        (places, places, batch, tiling.down, tiling.across, inner),
        lambda i, j, n, h, w, c: _row(INPUT[m], j, lambda k: rows[n, h, w, i, k, c]),
        name="input_transform",
        attrs={ROLE: "transform"},
    )
    k = te.reduce_axis((0, inner), "ic")
    product = te.compute(
        (places, places, batch, tiling.down, tiling.across, padded_out),
        lambda i, j, n, h, w, o: te.sum(
            transformed[i, j, n, h, w, k] * packed[i, j, o // columns, k, o % columns], axis=k
        ),
        name="conv2d",
        attrs={KERNEL: "winograd", **attrs},
    )
    columns_back = te.compute(
        (batch, tiling.down, tiling.across, m, places, padded_out),
        lambda n, h, w, i, j, o: _row(OUTPUT[m], i, lambda k: product[k, j, n, h, w, o]),
        name="output_rows",
        attrs={ROLE: "transform"},
    )
    return te.compute(
        (batch, *out_size, out_channels),
        lambda n, h, w, o: _row(
            OUTPUT[m], w % m, lambda k: columns_back[n, h // m, w // m, h % m, k, o]
        ),
        name="output_transform",
    )


def _row(matrix: list[list[float]], index: Any, element: Callable[[int], Any]) -> Any:
    """Row `index` of a matrix times a vector; once `index` is a number, only its terms stay."""
    sums = [_weighted(row, element) for row in matrix]
    result = sums[-1]
    for i in range(len(sums) - 2, -1, -1):
        result = tirx.Select(index == i, sums[i], result)
    return result


def _weighted(row: list[float], element: Callable[[int], Any]) -> Any:
    """The sum of the terms of a row that are not zero."""
    total: Any = None
    for k, weight in enumerate(row):
        if weight == 0:
            continue
        value = element(k)
        if total is None:
            total = value if weight == 1 else value * tirx.const(weight, "float32")
        elif weight == 1:
            total = total + value
        elif weight == -1:
            total = total - value
        else:
            total = total + value * tirx.const(weight, "float32")
    return total
