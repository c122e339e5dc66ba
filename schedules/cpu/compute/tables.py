"""Functions of a byte: a table of 256 bytes in four vector registers."""

from __future__ import annotations

from typing import Any

from schedules.cpu.annotations import KERNEL
from schedules.tvm_adapter import te, tirx
from targets.spec import TargetSpec

KIND = "lookup"
#: Bytes that two permutations look up at once.
LANES = 64


def has_permutations(spec: TargetSpec) -> bool:
    """Whether the target looks up bytes of a table in registers (``vpermi2b``)."""
    return spec.has("avx512vbmi")


def lookup(x: Any, table: Any, *, dtype: str) -> Any:
    """`schedules.cpu.compute.integers.lookup` on one dimension, with a kernel of its own."""
    offset = 128 if str(x.dtype) == "int8" else 0

    def element(i: Any) -> Any:
        return table[x[i].astype("int32") + tirx.const(offset, "int32")].astype(dtype)

    return te.compute(x.shape, element, name="lookup", attrs={KERNEL: KIND})


def statement(x: Any, table: Any, result: Any, first: Any) -> Any:
    """Looks up `LANES` bytes.

    Args:
        x: Buffer of the bytes.
        table: Buffer of 256 bytes.
        result: Buffer to write to.
        first: Index of the first byte.
    """

    def ramp(start: Any) -> Any:
        return [tirx.Ramp(start, tirx.const(1, "int64"), LANES)]

    def permute(part: int) -> Any:
        halves = [
            tirx.reinterpret(f"int8x{LANES}", tirx.BufferLoad(table, ramp(tirx.const(v, "int64"))))
            for v in (part, part + LANES)
        ]
        return tirx.call_llvm_pure_intrin(
            f"int8x{LANES}", "llvm.x86.avx512.vpermi2var.qi.512", halves[0], index, halves[1]
        )

    index = tirx.reinterpret(f"int8x{LANES}", tirx.BufferLoad(x, ramp(first)))
    if str(x.dtype) == "int8":
        index = tirx.bitwise_xor(index, tirx.const(-128, f"int8x{LANES}"))
    value = tirx.Select(index >= tirx.const(0, f"int8x{LANES}"), permute(0), permute(2 * LANES))
    return tirx.BufferStore(result, tirx.reinterpret(f"{result.dtype}x{LANES}", value), ramp(first))


__all__ = ["KIND", "LANES", "has_permutations", "lookup", "statement"]
