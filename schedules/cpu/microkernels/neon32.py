"""Micro-kernels of 32-bit ARM: ``vfma.f32``, ``vmull.s8`` and ``vpadal.s16``.

The same steps and, of integers, the same bits as without a dot product on 64-bit ARM, on 16
registers. ``vfma`` multiplies no vector with one lane of another: the lane is copied first, once
for all vectors of columns.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.microkernels.neon_float import FloatByElement
from schedules.cpu.microkernels.neon_widening import WideningPairs
from schedules.tvm_adapter import tirx
from targets.spec import TargetSpec


class FloatByCopy(FloatByElement):
    """Two steps from one load of a row; each multiplies with a copy of a lane of it."""

    name = instruction = "vfma"
    chunk = 2

    def registers(self, rows: int, vectors: int) -> int:
        """See `MicroKernel.registers`: the copy is needed only while a row is multiplied."""
        return rows * vectors + rows + vectors + 1

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`."""
        rate = _rate(spec)
        loads = rows + self.chunk * vectors
        return self.chunk * rows * (vectors + 1) / rate + loads / rate


class Widening32(WideningPairs):
    """Eight steps of two bytes from one load of a row."""

    def __init__(self, left: str, *, constant: bool, narrow: bool) -> None:
        super().__init__(left, constant=constant, narrow=narrow)
        self.instruction = "vmull.s8"

    def cycles(self, rows: int, vectors: int, spec: TargetSpec) -> float:
        """See `MicroKernel.cycles`."""
        assumed = spec.peak_ops_per_cycle.get("float32", 8.0) / 8
        return super().cycles(rows, vectors, spec) * assumed / _rate(spec)

    def multiply(self, activations: Any, weights: Any) -> Any:
        """See `WideningPairs.multiply`."""
        return _call("int16x8", "vmulls", activations, weights)

    def add_pairs(self, sums: Any, products: Any) -> Any:
        """See `WideningPairs.add_pairs`."""
        return _call("int32x4", "vpadals", sums, products)


def _rate(spec: TargetSpec) -> float:
    """Vectors in a cycle: as many as other algorithms' tiles are ranked by.

    Those take copies of activations for free, and four products of bytes for one instruction.
    """
    return max(1.0, spec.peak_ops_per_cycle.get("float32", 4.0) / 8)


def _call(dtype: str, name: str, *arguments: Any) -> Any:
    return tirx.call_llvm_pure_intrin(dtype, f"llvm.arm.neon.{name}", *arguments)


__all__ = ["FloatByCopy", "Widening32"]
