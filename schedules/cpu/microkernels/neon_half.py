"""float16 on NEON: ``fmla`` by element on eight lanes, sums folded into float32.

A sum in float16 has 11 bits: of some hundred products the last ones hardly count. So at most
`PRODUCTS` of them are added up in float16; then what there is is added to a sum in float32, and
the next ones begin at 0. Folding takes five instructions a vector, one in 14 of the loop's.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.microkernels.base import Chunk, Starts, Sums, element_cycles, every, ramp
from schedules.cpu.microkernels.neon_float import multiply_add
from schedules.tvm_adapter import tirx
from targets.spec import TargetSpec

#: Products that are added up in float16.
PRODUCTS = 64
DTYPES = ("float16", "float16", "float32")
_FOLD_INSTRUCTIONS = 5.0


class HalfSums(Sums):
    """Sums in float16, and beside them those in float32."""

    def __init__(self, count: int, lanes: int) -> None:
        super().__init__(count, lanes, "float16")
        self.total = tirx.decl_buffer([count * lanes], "float32", "total")

    @property
    def buffers(self) -> tuple[Any, ...]:
        """See `Sums.buffers`."""
        return (self.buffer, self.total)

    def whole(self, number: int) -> Any:
        """The value of one vector in float32."""
        return tirx.BufferLoad(self.total, [ramp(number * self.lanes, self.lanes)])

    def set_whole(self, number: int, value: Any) -> Any:
        """The statement that changes one."""
        return tirx.BufferStore(self.total, value, [ramp(number * self.lanes, self.lanes)])


class HalfByElement:
    """Eight steps from one load of a row; each multiplies with a lane of it."""

    name = "fmla16"
    instruction = "fmla"
    lanes = 8
    group = 1
    chunk = 8
    row_step = 1
    shifted = False
    fold_chunks = PRODUCTS // chunk

    def registers(self, rows: int, vectors: int) -> int:
        """See `MicroKernel.registers`; only half of them can be taken elements from."""
        return rows * vectors + rows + vectors

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`."""
        rate = spec.peak_ops_per_cycle.get("float16", 32.0) / 16
        fold = _FOLD_INSTRUCTIONS * rows * vectors / self.fold_chunks
        products = self.chunk * rows * vectors + fold
        return element_cycles(products, self.chunk, rows, vectors, rate)

    def sums(self, rows: int, vectors: int) -> HalfSums:
        """See `MicroKernel.sums`."""
        return HalfSums(rows * vectors, self.lanes)

    def start(self, sums: Sums, rows: int, vectors: int, first: Starts) -> list[Any]:
        """See `MicroKernel.start`."""
        both = _half_sums(sums)
        return [
            statement
            for r in range(rows)
            for v in range(vectors)
            for statement in (
                both.set_whole(r * vectors + v, first(r, v)),
                both.set(r * vectors + v, every("float16", 0.0, self.lanes)),
            )
        ]

    def step(self, sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
        """See `MicroKernel.step`."""
        return multiply_add(sums, rows, vectors, chunk)

    def fold(self, sums: Sums, rows: int, vectors: int) -> list[Any]:
        """See `MicroKernel.fold`."""
        both = _half_sums(sums)
        body = []
        for at in range(rows * vectors):
            added = both.whole(at) + tirx.Cast(f"float32x{self.lanes}", both.get(at))
            body.append(both.set_whole(at, added))
            body.append(both.set(at, every("float16", 0.0, self.lanes)))
        return body

    def result(self, sums: Sums, rows: int, vectors: int, row: int, vector: int) -> Any:
        """See `MicroKernel.result`."""
        return _half_sums(sums).whole(row * vectors + vector)


def _half_sums(sums: Sums) -> HalfSums:
    if not isinstance(sums, HalfSums):
        raise TypeError("these are not the sums that the kernel made")
    return sums


__all__ = ["DTYPES", "PRODUCTS", "HalfByElement", "HalfSums"]
