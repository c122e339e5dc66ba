"""16-bit integers on NEON: ``smlal`` by element, into sums modulo 2^32.

A vector of eight weights makes two vectors of sums. Only registers v0 to v15 can be read by
element of 16 bits, so that a block has at most 14 rows.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.compute import modular
from schedules.cpu.compute.vectors import half_of
from schedules.cpu.microkernels.base import LOAD_CYCLES, Chunk, Starts, Sums, Unfolded, splat
from schedules.tvm_adapter import tirx
from targets.spec import TargetSpec

MAX_ROWS = 14


class WordsByElement(Unfolded):
    """Eight steps from one load of a row; each multiplies with a lane of it."""

    name = "smlal"
    instruction = "smlal"
    lanes = 8
    group = 1
    chunk = 8
    row_step = 1
    shifted = False

    def registers(self, rows: int, vectors: int) -> int:
        """See `MicroKernel.registers`."""
        return 2 * rows * vectors + rows + vectors

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`."""
        rate = max(1.0, spec.peak_ops_per_cycle.get("int8", 16.0) / 16)
        loads = rows + self.chunk * vectors
        busy = max(
            self.chunk * 2 * rows * vectors / min(rate, 2.0),
            self.chunk * 4.0,  # each sum waits for itself
            float(loads),
        )
        return busy + LOAD_CYCLES * loads

    def sums(self, rows: int, vectors: int) -> Sums:
        """See `MicroKernel.sums`."""
        return Sums(2 * rows * vectors, 4, "int32")

    def start(self, sums: Sums, rows: int, vectors: int, first: Starts) -> list[Any]:
        """See `MicroKernel.start`; `first` gives eight lanes."""
        return [
            sums.set(2 * (r * vectors + v) + half, half_of(first(r, v), half))
            for r in range(rows)
            for v in range(vectors)
            for half in (0, 1)
        ]

    def step(self, sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
        """See `MicroKernel.step`."""
        body: list[Any] = []

        def named(value: Any) -> Any:
            # Loaded as a whole: LLVM would cut loads down to the lanes that each of them gives.
            variable = tirx.Var("part", value.ty)
            body.append(tirx.Bind(variable, value))
            return variable

        loaded = [named(chunk.row(r)) for r in range(rows)]
        for index, place in enumerate(chunk.places):
            for v in range(vectors):
                weights = named(chunk.weights(index, v))
                for r, row in enumerate(loaded):
                    lane = splat(row, place, 8) if row.ty.dtype.lanes > 1 else (
                        tirx.Broadcast(row, 8))  # fmt: skip
                    for half in (0, 1):
                        product = tirx.call_llvm_pure_intrin(
                            "int32x4", "llvm.aarch64.neon.smull", half_of(weights, half),
                            half_of(lane, half),
                        )  # fmt: skip
                        at = 2 * (r * vectors + v) + half
                        body.append(sums.set(at, modular.plus(sums.get(at), product)))
        return body

    def result(self, sums: Sums, rows: int, vectors: int, row: int, vector: int) -> Any:
        """See `MicroKernel.result`."""
        at = 2 * (row * vectors + vector)
        return tirx.Shuffle([sums.get(at), sums.get(at + 1)], list(range(8)))


__all__ = ["MAX_ROWS", "WordsByElement"]
