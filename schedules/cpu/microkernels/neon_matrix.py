"""Blocks of two rows and two columns at a time on NEON: ``usmmla``, ``smmla``, ``bfmmla``.

One instruction multiplies two rows of activations, 8 bytes each, with two columns of weights and
adds the four sums to a vector. The halves of two rows' chunks make a vector of activations; it
serves all columns of the block. Unsigned activations meet signed weights as they are, without a
shift. The sums are put in rows when they are complete.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.compute.vectors import half_of
from schedules.cpu.microkernels.base import LOAD_CYCLES, Chunk, Starts, Sums, Unfolded
from schedules.tvm_adapter import ir, tirx
from targets.spec import TargetSpec

_ROWS = 2


class MatrixProduct(Unfolded):
    """Pairs of rows with pairs of columns; a vector of sums has four columns.

    Attributes:
        dtype: Of the activations.
        accumulator: Of the sums.
        latency: Cycles from one product to the next on the same sums.
    """

    lanes = 4
    row_step = _ROWS
    chunk = 2
    shifted = False

    def __init__(
        self, instruction: str, dtype: str, group: int, accumulator: str, latency: float
    ) -> None:
        self.name = self.instruction = instruction
        self.dtype, self.group, self.accumulator = dtype, group, accumulator
        self.latency = latency

    def registers(self, rows: int, vectors: int) -> int:
        """See `MicroKernel.registers`."""
        return rows * vectors + rows + 2 * vectors

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`."""
        macs = spec.peak_ops_per_cycle.get(self.dtype, 128.0) / 2
        each = 4 * self.group  # multiply-adds of an instruction
        pipes = spec.peak_ops_per_cycle.get("float32", 16.0) / 8
        products = self.chunk * rows * vectors
        loads = rows + self.chunk * 2 * vectors
        busy = max(
            products * each / macs + rows / pipes,  # and a zip for each row's half
            self.chunk * self.latency,
            loads / 2.0,
        )
        return busy + LOAD_CYCLES * loads

    def sums(self, rows: int, vectors: int) -> Sums:
        """See `MicroKernel.sums`: two rows and two columns in a vector."""
        return Sums(rows * vectors, self.lanes, self.accumulator)

    def start(self, sums: Sums, rows: int, vectors: int, first: Starts) -> list[Any]:
        """See `MicroKernel.start`."""
        return [
            sums.set(_place(pair, v, half, vectors), _pairs(first(_ROWS * pair, v), half))
            for pair in range(rows // _ROWS)
            for v in range(vectors)
            for half in (0, 1)
        ]

    def step(self, sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
        """See `MicroKernel.step`."""
        body = []
        for index, place in enumerate(chunk.places):
            for v in range(vectors):
                for half in (0, 1):
                    weights = half_of(self.view(chunk.weights(index, v)), half)
                    for pair in range(rows // _ROWS):
                        activations = self._two_rows(chunk, pair, place)
                        at = _place(pair, v, half, vectors)
                        body.append(sums.set(at, self.product(sums.get(at), activations, weights)))
        return body

    def view(self, vector: Any) -> Any:
        """A vector of activations or weights, as the instruction takes it."""
        return vector

    def product(self, sums: Any, activations: Any, weights: Any) -> Any:
        """The instruction."""
        return tirx.call_llvm_pure_intrin(
            f"{self.accumulator}x4", f"llvm.aarch64.neon.{self.instruction}", sums, activations,
            weights,
        )  # fmt: skip

    def result(self, sums: Sums, rows: int, vectors: int, row: int, vector: int) -> Any:
        """See `MicroKernel.result`."""
        halves = [sums.get(_place(row // _ROWS, vector, half, vectors)) for half in (0, 1)]
        first = 2 * (row % _ROWS)
        return tirx.Shuffle(halves, [first, first + 1, 4 + first, 5 + first])

    def _two_rows(self, chunk: Chunk, pair: int, place: int) -> Any:
        """A group of elements of two rows, one after the other."""
        rows = [self.view(chunk.row(_ROWS * pair + i)) for i in range(_ROWS)]
        size = int(rows[0].ty.dtype.lanes)
        first = place * self.group
        places = [row * size + first + i for row in range(_ROWS) for i in range(self.group)]
        return tirx.Shuffle(rows, places)


class MatrixBfloat(MatrixProduct):
    """bfloat16 products, sums in float32.

    LLVM's intrinsic takes vectors of a type that TVM's code generator does not have. So it is
    called through a function on 16-bit integers, which LLVM inlines.
    """

    def __init__(self) -> None:
        super().__init__("bfmmla", "bfloat16", 4, "float32", 5.0)

    def start(self, sums: Sums, rows: int, vectors: int, first: Starts) -> list[Any]:
        """See `MicroKernel.start`."""
        known, *others = super().start(sums, rows, vectors, first)
        library = ir.StringImm(_BFMMLA)
        return [
            tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", library, known),
            *others,
        ]

    def view(self, vector: Any) -> Any:
        """Bits: TVM computes with bfloat16 in float32."""
        return tirx.reinterpret(f"uint16x{int(vector.ty.dtype.lanes)}", vector)

    def product(self, sums: Any, activations: Any, weights: Any) -> Any:
        """See `MatrixProduct.product`."""
        return tirx.call_pure_extern("float32x4", "tilewright_bfmmla", sums, activations, weights)


_BFMMLA = """
declare <4 x float> @llvm.aarch64.neon.bfmmla(<4 x float>, <8 x bfloat>, <8 x bfloat>)

define linkonce_odr <4 x float> @tilewright_bfmmla(
    <4 x float> %c, <8 x i16> %a, <8 x i16> %b) alwaysinline {
  %x = bitcast <8 x i16> %a to <8 x bfloat>
  %y = bitcast <8 x i16> %b to <8 x bfloat>
  %r = call <4 x float> @llvm.aarch64.neon.bfmmla(
      <4 x float> %c, <8 x bfloat> %x, <8 x bfloat> %y)
  ret <4 x float> %r
}
"""


def bytes_kernel(left: str) -> MatrixProduct:
    """The kernel for 8-bit activations and signed weights.

    Args:
        left: Dtype of the activations, ``uint8`` or ``int8``.
    """
    return MatrixProduct("usmmla" if left == "uint8" else "smmla", left, 8, "int32", 3.0)


def _place(pair: int, vector: int, half: int, vectors: int) -> int:
    """Number of the sums of a pair of rows and the two columns in half a vector."""
    return (pair * vectors + vector) * 2 + half


def _pairs(vector: Any, half: int) -> Any:
    """Two of four columns, for two rows."""
    if isinstance(vector, tirx.Broadcast):
        return vector
    return tirx.Shuffle([vector], [2 * half, 2 * half + 1] * _ROWS)


__all__ = ["MatrixBfloat", "MatrixProduct", "bytes_kernel"]
