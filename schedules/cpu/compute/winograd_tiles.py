"""Winograd's algorithm block by block, on float32 and, exactly, on 8-bit integers.

`schedules.cpu.compute.winograd` explains the algorithm. Here its transforms are written as
straight-line sums (`Transforms`), from which the matrices follow, and the kernel's transform is
scaled so that it has whole numbers only. So 8-bit data and weights stay integers throughout:

* transformed data and weights fit into int16 (`largest_data`, `largest_weight`);
* sums of their products, and the transform back, are taken modulo 2^32;
* what comes out is `scale` times the convolution's sum, modulo 2^32. An odd divisor of `scale` is
  divided off by multiplying with its inverse modulo 2^32, a power of two by a shift. That gives
  the sum itself if it has at most `sum_bits` bits, which the weights prove (`bits_of_sums`).

docs/decisions/0020-integer-winograd.md has the proof.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.annotations import KERNEL, ROLE
from schedules.cpu.compute import modular
from schedules.cpu.compute.packed import pad_spatial, round_up
from schedules.cpu.microkernels.base import Groups, pack
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]
#: A number, an array or a TIR expression: what transforms are made of.
Value = Any
#: Multiplies a value by a small constant.
Times = Callable[[Value, int], Value]
#: Names of the kernels whose heart is the product.
KIND = "winograd_tiles"


@dataclass(frozen=True)
class Transforms:
    """F(m x m, 3 x 3) with whole numbers.

    Attributes:
        m: Outputs of a tile along one axis.
        input: From ``m + 2`` elements of the data to as many factors.
        kernel: Matrix from three elements of the kernel to as many factors, scaled.
        output: From as many products to ``m`` outputs times `root`.
        root: What outputs of one axis are multiplied with.
    """

    m: int
    input: Callable[[Sequence[Value], Times], list[Value]]
    kernel: tuple[tuple[int, int, int], ...]
    output: Callable[[Sequence[Value], Times], list[Value]]
    root: int

    @property
    def places(self) -> int:
        """Products of a tile along one axis."""
        return self.m + 2

    @property
    def scale(self) -> int:
        """What the sums are multiplied with after both axes."""
        return self.root**2

    @property
    def shift(self) -> int:
        """The power of two in `scale`."""
        return (self.scale & -self.scale).bit_length() - 1

    @property
    def inverse(self) -> int:
        """The inverse, modulo 2^32, of the odd divisor of `scale`."""
        return pow(self.scale >> self.shift, -1, 1 << 32)

    @property
    def sum_bits(self) -> int:
        """Bits, the sign's included, of the widest sums that are right."""
        return 32 - self.shift

    def input_matrix(self) -> Array:
        """``[places, m + 2]``."""
        return _matrix(self.input, self.places)

    def output_matrix(self) -> Array:
        """``[m, places]``."""
        return _matrix(self.output, self.places)

    def largest_data(self, low: int, high: int) -> int:
        """The largest magnitude of transformed data between two numbers."""
        b = self.input_matrix()
        both = np.einsum("iy,jx->ijyx", b, b).reshape(-1, self.places**2)
        up, down = both.clip(min=0).sum(1), -both.clip(max=0).sum(1)
        extremes = [up * high - down * low, up * -low + down * high]
        return int(np.max(extremes))

    def largest_weight(self, magnitude: int) -> int:
        """The largest magnitude of a transformed kernel of weights up to one."""
        return int(np.abs(np.array(self.kernel)).sum(1).max() ** 2 * magnitude)


def _input4(d: Sequence[Value], times: Times) -> list[Value]:
    a, b = times(d[2], 4) - d[4], times(d[1], 4) - d[3]
    u, v = d[4] - d[2], times(d[3] - d[1], 2)
    return [
        times(d[0] - d[2], 4) + u, a + b, a - b, u + v, u - v, (d[5] - d[3]) - times(v, 2),
    ]  # fmt: skip


def _output4(m: Sequence[Value], times: Times) -> list[Value]:
    p, q = times(m[1] + m[2], 4), times(m[1] - m[2], 4)
    r, t = m[3] + m[4], times(m[3] - m[4], 2)
    return [m[0] + p + r, q + t, p + times(r, 4), q + times(t + m[5], 4)]


def _input2(d: Sequence[Value], times: Times) -> list[Value]:
    del times  # nothing but sums
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output2(m: Sequence[Value], times: Times) -> list[Value]:
    del times
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


#: By outputs of a tile along one axis.
TRANSFORMS: Mapping[int, Transforms] = {
    2: Transforms(2, _input2, ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)), _output2, 2),
    4: Transforms(
        4, _input4,
        ((6, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 6)),
        _output4, 24,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """How an output falls into tiles, and these into strips and blocks.

    Attributes:
        m: Outputs of a tile along one axis.
        height: Of the output.
        width: Of the output.
        strip: Lines of tiles that are transformed together.
        lines: Lines of tiles of a block; they divide a strip.
        across: Tiles of a line of a block.
    """

    m: int
    height: int
    width: int
    strip: int
    lines: int
    across: int

    @property
    def tiles(self) -> tuple[int, int]:
        """Lines of tiles, and tiles of a line, those that only fill blocks included."""
        down = round_up(ceil(self.height / self.m), self.strip)
        return down, round_up(ceil(self.width / self.m), self.across)

    @property
    def rows(self) -> int:
        """Tiles of a block."""
        return self.lines * self.across


def bits_of_sums(weight: Array, low: int, high: int) -> int:
    """Bits, the sign's included, that hold every sum of a convolution.

    Args:
        weight: ``OIHW``, whole numbers.
        low: The least that the data can be.
        high: The most.
    """
    wide = weight.astype(np.int64).reshape(len(weight), -1)
    up, down = wide.clip(min=0).sum(1), -wide.clip(max=0).sum(1)
    most, least = up * high - down * low, up * low - down * high
    return max(int(most.max()).bit_length(), int(-least.min() - 1).bit_length(), 1) + 1


def pack_kernel(weight: Array, m: int, columns: int, chunk: int) -> Array:
    """Transform ``OI33`` and pack it into ``[panels, m + 2, m + 2, inner, columns]``.

    Whole numbers become int16, multiplied with `Transforms.scale`; others float32, as they are.
    """
    transforms = TRANSFORMS[m]
    g = np.array(transforms.kernel)
    integers = np.issubdtype(weight.dtype, np.integer)
    wide = weight.astype(np.int64 if integers else np.float64)
    moved = np.einsum("xi,yj,ocij->xyco", g, g, wide, optimize=True)
    if integers and np.abs(moved).max(initial=0) > np.iinfo(np.int16).max:
        raise ValueError("transformed weights do not fit into 16 bits")
    moved = moved.astype(np.int16) if integers else (moved / transforms.scale).astype(np.float32)
    return pack(moved, columns, Groups(int(weight.shape[1]), 1, chunk))


def conv2d(
    data: Any,
    packed: Any,
    out_channels: int,
    padding: Sequence[int],
    grid: Grid,
    attrs: Mapping[str, Any],
    pad_value: float = 0,
) -> Any:
    """3x3 convolution of ``NHWC`` data with stride 1; the kernel packed by `pack_kernel`.

    Data are float32 or float16, and all arithmetic is float32, as the result is; or they are int8
    or uint8, and it is int32.
    """
    m, (down, across) = grid.m, grid.tiles
    transforms = TRANSFORMS[m]
    places = transforms.places
    batch, inner = data.shape[0], data.shape[3]
    columns = int(packed.shape[4])
    width = int(packed.shape[0]) * columns
    integers = str(data.dtype) in ("uint8", "int8")
    narrow, wide = ("int16", "int32") if integers else ("float32", "float32")
    add_up = modular.total if integers else te.sum
    multiply: Callable[[Any, Any], Any] = modular.times if integers else operator.mul
    source = pad_spatial(data, padding, (down * m + 2, across * m + 2), pad_value)

    y, x = te.reduce_axis((0, places), "y"), te.reduce_axis((0, places), "x")
    b = transforms.input_matrix()
    factors = te.compute(
        (places, places, batch, down, across, inner),
        lambda i, j, n, h, w, c: te.sum(
            _entry(b, i, y, narrow) * _entry(b, j, x, narrow)
            * _widened(source[n, h * m + y, w * m + x, c], narrow),
            axis=[y, x],
        ),
        name="input_transform",
        attrs={ROLE: "transform"},
    )  # fmt: skip
    k = te.reduce_axis((0, inner), "ic")
    products = te.compute(
        (places, places, batch, down, across, width),
        lambda i, j, n, h, w, o: add_up(
            _widened(factors[i, j, n, h, w, k], wide)
            * _widened(packed[o // columns, i, j, k, o % columns], wide),
            axis=k,
        ),
        name="conv2d",
        attrs={KERNEL: KIND, **attrs},
    )
    i, j = te.reduce_axis((0, places), "i"), te.reduce_axis((0, places), "j")
    a = transforms.output_matrix()
    sums = te.compute(
        (batch, down * m, across * m, width),
        lambda n, h, w, o: add_up(
            multiply(
                _entry(a, h % m, i, wide) * _entry(a, w % m, j, wide),
                products[i, j, n, h // m, w // m, o],
            ),
            axis=[i, j],
        ),
        name="scaled_sums",
        attrs={ROLE: "back"},
    )  # fmt: skip

    def exact(*index: Any) -> Any:
        value = sums[index]
        if not integers:
            return value
        if transforms.inverse != 1:
            inverse = modular.signed(transforms.inverse)
            value = modular.times(value, tirx.const(inverse, "int32"))
        return tirx.shift_right(value, tirx.const(transforms.shift, "int32"))

    return te.compute(
        (batch, grid.height, grid.width, out_channels), exact, name="output_transform"
    )


@cache
def _identity(size: int) -> Array:
    return np.eye(size, dtype=np.int64)


def _matrix(function: Callable[[Sequence[Value], Times], list[Value]], size: int) -> Array:
    """The matrix of a linear function of vectors of a size."""
    return np.array(function(list(_identity(size)), lambda value, factor: value * factor))


def _entry(matrix: Array, row: Any, column: Any, dtype: str) -> Any:
    """An element of a constant matrix, by conditions."""
    result: Any = tirx.const(0, dtype)
    for r, line in enumerate(matrix):
        for c, value in enumerate(line):
            if value:
                here = tirx.all(row == r, column == c)
                result = tirx.Select(here, tirx.const(int(value), dtype), result)
    return result


def _widened(value: Any, dtype: str) -> Any:
    """A number in another dtype."""
    have = str(value.dtype if isinstance(value, te.TensorSlice) else value.ty.dtype)
    return value if have == dtype else value.astype(dtype)
