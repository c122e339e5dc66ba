"""float32 on NEON: ``fmla`` by element."""

from __future__ import annotations

from typing import Any

from schedules.cpu.microkernels.base import Chunk, Plain, Sums, element_cycles, splat
from schedules.tvm_adapter import tirx
from targets.spec import TargetSpec


class FloatByElement(Plain):
    """Four steps from one load of a row; each multiplies with a lane of it."""

    name = "fmla"
    instruction = "fmla"
    lanes = 4
    group = 1
    chunk = 4
    row_step = 1
    shifted = False
    accumulator = "float32"

    def registers(self, rows: int, vectors: int) -> int:
        """See `MicroKernel.registers`."""
        return rows * vectors + rows + vectors

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`."""
        rate = spec.peak_ops_per_cycle.get("float32", 8.0) / 8
        return element_cycles(self.chunk * rows * vectors, self.chunk, rows, vectors, rate)

    def step(self, sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
        """See `MicroKernel.step`."""
        return multiply_add(sums, rows, vectors, chunk)


def multiply_add(sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
    """Statements that add the products of a chunk to sums of the same dtype, by ``fmla``."""
    body = []
    dtype = f"{sums.dtype}x{sums.lanes}"
    for index, place in enumerate(chunk.places):
        for v in range(vectors):
            for r in range(rows):
                row = chunk.row(r)
                lane = splat(row, place, sums.lanes) if row.ty.dtype.lanes > 1 else (
                    tirx.Broadcast(row, sums.lanes))  # fmt: skip
                at = r * vectors + v
                value = tirx.call_llvm_pure_intrin(
                    dtype, "llvm.fma", lane, chunk.weights(index, v), sums.get(at)
                )
                body.append(sums.set(at, value))
    return body


__all__ = ["FloatByElement", "multiply_add"]
