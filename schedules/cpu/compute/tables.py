"""Functions of a byte: a table of 256 bytes in vector registers."""

from __future__ import annotations

from typing import Any

from schedules.cpu.annotations import KERNEL
from schedules.cpu.compute.neon_integers import BYTES, intrinsic
from schedules.cpu.microkernels.base import ramp
from schedules.tvm_adapter import te, tirx
from targets.spec import TargetSpec

KIND = "lookup"
#: Bytes that two permutations of x86 look up at once.
_WIDE = 64
#: Bytes of a table that an instruction of NEON looks up, in four registers.
_QUARTER = 64


def lanes(spec: TargetSpec) -> int:
    """Bytes that a target looks up at once (``vpermi2b``, ``tbx``); 0 if it has no such thing."""
    if spec.machine == "aarch64":
        return BYTES
    return _WIDE if spec.has("avx512vbmi") else 0


def lookup(x: Any, table: Any, *, dtype: str) -> Any:
    """`schedules.cpu.compute.integers.lookup` on one dimension, with a kernel of its own."""
    offset = 128 if str(x.dtype) == "int8" else 0

    def element(i: Any) -> Any:
        return table[x[i].astype("int32") + tirx.const(offset, "int32")].astype(dtype)

    return te.compute(x.shape, element, name="lookup", attrs={KERNEL: KIND})


def statement(x: Any, table: Any, result: Any, first: Any, count: int) -> Any:
    """Looks up some bytes.

    Args:
        x: Buffer of the bytes.
        table: Buffer of 256 bytes.
        result: Buffer to write to.
        first: Index of the first byte.
        count: How many, see `lanes`.
    """
    value = _wide(x, table, first) if count == _WIDE else _quarters(x, table, first)
    value = tirx.reinterpret(f"{result.dtype}x{count}", value)
    return tirx.BufferStore(result, value, [ramp(first, count)])


def _wide(x: Any, table: Any, first: Any) -> Any:
    """Two permutations of two registers each, by the sign of a byte."""

    def permute(part: int) -> Any:
        halves = [
            tirx.reinterpret(f"int8x{_WIDE}", tirx.BufferLoad(table, [ramp(v, _WIDE)]))
            for v in (part, part + _WIDE)
        ]
        return tirx.call_llvm_pure_intrin(
            f"int8x{_WIDE}", "llvm.x86.avx512.vpermi2var.qi.512", halves[0], index, halves[1]
        )

    index = _index(x, first, _WIDE)
    return tirx.Select(index >= tirx.const(0, f"int8x{_WIDE}"), permute(0), permute(2 * _WIDE))


def _quarters(x: Any, table: Any, first: Any) -> Any:
    """Four registers at a time; what is none of theirs stays what it was."""
    index = _index(x, first, BYTES)
    value: Any = None
    for start in range(0, 256, _QUARTER):
        registers = [
            tirx.reinterpret(
                f"int8x{BYTES}",
                tirx.BufferLoad(table, [ramp(start + at, BYTES)]),
            )
            for at in range(0, _QUARTER, BYTES)
        ]
        # Of the upper two bits; 0 to 63 are left of the quarter's own bytes alone.
        here = tirx.bitwise_xor(index, _byte(start)) if start else index
        name = "tbx4" if start else "tbl4"
        old = [value] if start else []
        value = intrinsic(f"int8x{BYTES}", name, *old, *registers, here)
    return value


def _index(x: Any, first: Any, count: int) -> Any:
    """Bytes as places in the table; int8 elements count from -128."""
    index = tirx.reinterpret(f"int8x{count}", tirx.BufferLoad(x, [ramp(first, count)]))
    if str(x.dtype) == "int8":
        index = tirx.bitwise_xor(index, tirx.const(-128, f"int8x{count}"))
    return index


def _byte(value: int) -> Any:
    return tirx.const(value - 256 if value > 127 else value, f"int8x{BYTES}")


__all__ = ["KIND", "lanes", "lookup", "statement"]
