"""Bytes on NEON without a dot product: ``smull``, ``smlal`` and ``sadalp``.

Weights lie in pairs along the reduction. A pair of activations, copied into all lanes, meets four
columns in one ``smull``; the 16-bit products of two steps are added up by ``smlal``, and neighbours
of those go into the 32-bit sums by ``sadalp``. Two products fit into 16 bits unless all four
factors are -128: where a weight may be -128, every step has its own ``sadalp``.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.compute.neon_integers import intrinsic
from schedules.cpu.microkernels.base import LOAD_CYCLES, Chunk, Sums, every, splat
from schedules.cpu.microkernels.neon_dot import Bytes
from schedules.tvm_adapter import tirx
from targets.spec import TargetSpec


class WideningPairs(Bytes):
    """Eight steps of two bytes from one load of a row.

    Args:
        left: Dtype of the activations.
        constant: Whether the weights are known.
        narrow: Whether no weight is -128.
    """

    group = 2
    chunk = 8
    instruction = "smull"

    def __init__(self, left: str, *, constant: bool, narrow: bool) -> None:
        super().__init__(left, constant=constant, signed_only=True)
        self.narrow = narrow
        self.name = "smlal" if narrow else "smull"

    def registers(self, rows: int, vectors: int) -> int:
        """See `MicroKernel.registers`."""
        held = 2 if self.narrow else 1
        sums = (rows + int(self.counting)) * vectors
        return sums + rows + held * vectors + held + 2 + int(self.shifted)

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`: one pipeline multiplies, the other adds and copies."""
        rate = spec.peak_ops_per_cycle.get("float32", 8.0) / 8
        lines = rows + int(self.counting)
        products = self.chunk * lines * vectors
        sums = products / 2 if self.narrow else products
        copies = self.chunk * rows + (rows if self.shifted else 0)
        loads = rows + self.chunk * vectors / 2
        return max(products, (products + sums + copies) / 2, loads) / rate + LOAD_CYCLES * loads

    def step(self, sums: Sums, rows: int, vectors: int, chunk: Chunk) -> list[Any]:
        """See `MicroKernel.step`."""
        body = []
        places = list(enumerate(chunk.places))
        each = 2 if self.narrow else 1
        for first in range(0, len(places), each):
            steps = places[first : first + each]
            for r in range(rows + int(self.counting)):
                lanes = [self._pair(chunk, r, place, rows) for _, place in steps]
                for v in range(vectors):
                    products = None
                    for (index, _), lane in zip(steps, lanes, strict=True):
                        product = self.multiply(lane, chunk.weights(index, v))
                        products = product if products is None else products + product
                    at = r * vectors + v
                    body.append(sums.set(at, self.add_pairs(sums.get(at), products)))
        return body

    def multiply(self, activations: Any, weights: Any) -> Any:
        """Products of eight bytes each, in 16 bits."""
        return intrinsic("int16x8", "smull", activations, weights)

    def add_pairs(self, sums: Any, products: Any) -> Any:
        """Sums, and those of neighbouring products."""
        return sums + intrinsic("int32x4", "saddlp", products)

    def _pair(self, chunk: Chunk, row: int, place: int, rows: int) -> Any:
        """Two bytes of a row's vector of activations, in all lanes; 64s behind the last row."""
        if row == rows:
            return every("int8", 64, 8)
        vector = self.signed(chunk.row(row))
        pairs = vector.ty.dtype.lanes // 2
        if pairs == 1:
            found = tirx.Broadcast(tirx.reinterpret("int16", vector), 4)
        else:
            found = splat(tirx.reinterpret(f"int16x{pairs}", vector), place, 4)
        return tirx.reinterpret("int8x8", found)


__all__ = ["WideningPairs"]
