"""Bytes on NEON with dot products of four: ``sdot`` and ``sudot`` by element.

Only processors with i8mm multiply unsigned with signed bytes. Elsewhere unsigned activations are
read as signed ones, 128 less: one instruction for the 16 of a vector.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.microkernels.base import Chunk, Plain, Starts, Sums, element_cycles, every, splat
from schedules.tvm_adapter import tirx
from targets.spec import TargetSpec


class Bytes(Plain):
    """What kernels on bytes share.

    Where the weights are known, what the shift of unsigned activations takes away is, too, and the
    sums start with it. Where not, each vector of weights is also multiplied with 64s, for which
    there is one more vector of sums for each of columns.

    Args:
        left: Dtype of the activations.
        constant: Whether the weights are known.
    """

    lanes = 4
    accumulator = "int32"
    row_step = 1

    def __init__(self, left: str, *, constant: bool, signed_only: bool) -> None:
        self.shifted = left == "uint8" and signed_only
        self.counting = self.shifted and not constant

    def sums(self, rows: int, vectors: int) -> Sums:
        """See `MicroKernel.sums`."""
        return Sums((rows + int(self.counting)) * vectors, self.lanes, self.accumulator)

    def start(self, sums: Sums, rows: int, vectors: int, first: Starts) -> list[Any]:
        """See `MicroKernel.start`."""
        body = super().start(sums, rows, vectors, first)
        if self.counting:
            zero = every("int32", 0, self.lanes)
            body += [sums.set(rows * vectors + v, zero) for v in range(vectors)]
        return body

    def result(self, sums: Sums, rows: int, vectors: int, row: int, vector: int) -> Any:
        """See `MicroKernel.result`."""
        value = super().result(sums, rows, vectors, row, vector)
        if not self.counting:
            return value
        half = sums.get(rows * vectors + vector)
        return value + half + half

    def signed(self, row: Any) -> Any:
        """A vector of activations as the kernel multiplies them."""
        dtype, count = str(row.ty.dtype), row.ty.dtype.lanes
        if not self.shifted or dtype.startswith("int8"):
            return row
        return tirx.bitwise_xor(row, every("uint8", 128, count))


class DotByElement(Bytes):
    """Four steps of four bytes from one load of a row; each multiplies with a lane of it."""

    group = 4
    chunk = 4

    def __init__(self, left: str, *, constant: bool, mixed: bool) -> None:
        super().__init__(left, constant=constant, signed_only=not mixed)
        self.unsigned = left == "uint8" and mixed
        self.name = self.instruction = "sudot" if self.unsigned else "sdot"

    def registers(self, rows: int, vectors: int) -> int:
        """See `MicroKernel.registers`."""
        return (rows + int(self.counting)) * vectors + rows + vectors + int(self.shifted)

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`."""
        rate = spec.peak_ops_per_cycle.get("float32", 8.0) / 8
        products = self.chunk * (rows + int(self.counting)) * vectors
        shifts = rows if self.shifted else 0
        return element_cycles(products + shifts, self.chunk, rows, vectors, rate)

    def step(self, sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
        """See `MicroKernel.step`."""
        body = []
        kind = "uint8x16" if self.unsigned else "int8x16"
        for index, place in enumerate(chunk.places):
            for v in range(vectors):
                weights = chunk.weights(index, v)
                for r in range(rows):
                    row = self.signed(chunk.row(r))
                    words = row.ty.dtype.lanes // 4
                    lane = tirx.reinterpret(kind, _word(row, words, place))
                    body.append(self._add(sums, r * vectors + v, lane, weights))
                if self.counting:
                    halves = every("int8", 64, 16)
                    body.append(self._add(sums, rows * vectors + v, halves, weights))
        return body

    def _add(self, sums: Sums, at: int, activations: Any, weights: Any) -> Any:
        name = "usdot" if self.unsigned else "sdot"
        pair = (activations, weights) if self.unsigned else (weights, activations)
        return sums.set(
            at,
            tirx.call_llvm_pure_intrin("int32x4", f"llvm.aarch64.neon.{name}", sums.get(at), *pair),
        )


def _word(row: Any, words: int, place: int) -> Any:
    """Four bytes of a vector of activations, in all lanes."""
    if words == 1:
        return tirx.Broadcast(tirx.reinterpret("int32", row), 4)
    return splat(tirx.reinterpret(f"int32x{words}", row), place, 4)


__all__ = ["Bytes", "DotByElement"]
