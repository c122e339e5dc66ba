"""The memories that `Instruction.execute` works on: the plain statement of what VTA does.

Slow on purpose: one element at a time, in the order of the hardware. The simulator's datapath
is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.vta.config import UOP_BYTES, VtaConfig
from targets.vta.isa import Instruction, Memory, Uop, decode_uop

_INTEGERS = {8: "<i1", 16: "<i2", 32: "<i4"}


def integer(width: int) -> np.dtype[Any]:
    """The NumPy dtype of a signed integer of `width` bits, little endian."""
    return np.dtype(_INTEGERS[width])


class Memories:
    """DRAM and the on-chip memories of one VTA, zero at the start.

    Attributes:
        dram: Bytes, uint8; written in place.
        inp: int64 (depth, batch, block): the values of the narrow integers.
        wgt: int64 (depth, block out, block in).
        acc: int64 (depth, batch, block), always within 32 bits.
        out: int64 (depth, batch, block).
    """

    def __init__(self, config: VtaConfig, dram: npt.NDArray[np.uint8]) -> None:
        self.config = config
        self.dram = dram
        tile = (config.batch, config.block)
        self._uop = np.zeros(1 << config.uop_index_bits, dtype=np.uint32)
        self.inp = np.zeros((1 << config.inp_index_bits, *tile), dtype=np.int64)
        self.wgt = np.zeros((1 << config.wgt_index_bits, config.block, config.block), np.int64)
        self.acc = np.zeros((1 << config.acc_index_bits, *tile), dtype=np.int64)
        self.out = np.zeros((1 << config.acc_index_bits, *tile), dtype=np.int64)

    def uops(self, begin: int, end: int) -> Iterator[Uop]:
        """The micro-ops of a window."""
        return (decode_uop(int(word), self.config) for word in self._uop[begin:end])

    def load(self, memory: Memory, at: int, element: int | None) -> None:
        """Fill one on-chip element from DRAM; zeros if `element` is None."""
        if memory == Memory.UOP:
            self._uop[at] = 0 if element is None else self._read(element, UOP_BYTES, np.uint32)[0]
            return
        config = self.config
        array, size, width = {
            Memory.INP: (self.inp, config.inp_bytes, config.inp_bits),
            Memory.WGT: (self.wgt, config.wgt_bytes, config.wgt_bits),
            Memory.ACC: (self.acc, config.acc_bytes, config.acc_bits),
            Memory.ACC_8BIT: (self.acc, config.acc_bytes * 8 // config.acc_bits, 8),
        }[memory]
        if element is None:
            array[at] = 0
        else:
            array[at] = self._read(element, size, integer(width)).reshape(array.shape[1:])

    def store(self, at: int, element: int) -> None:
        """Write one element of OUT to DRAM."""
        size = self.config.out_bytes
        values = self.out[at].astype(integer(self.config.out_bits))
        self.dram[element * size : (element + 1) * size] = values.reshape(-1).view(np.uint8)

    def write(self, dst: int, value: npt.NDArray[np.int64]) -> None:
        """Write an accumulator, wrapped to 32 bits, and its low bits to OUT."""
        self.acc[dst] = value.astype(np.int32)
        self.out[dst] = value.astype(integer(self.config.out_bits))

    def minimum(self, left: Any, right: Any) -> npt.NDArray[np.int64]:
        """The smaller of each two values."""
        return np.asarray(np.minimum(left, right), dtype=np.int64)

    def maximum(self, left: Any, right: Any) -> npt.NDArray[np.int64]:
        """The larger of each two values."""
        return np.asarray(np.maximum(left, right), dtype=np.int64)

    def _read(self, element: int, size: int, dtype: Any) -> npt.NDArray[Any]:
        return self.dram[element * size : (element + 1) * size].view(dtype)


def interpret(
    instructions: Iterable[Instruction], dram: npt.NDArray[np.uint8], config: VtaConfig
) -> Memories:
    """Run instructions one after another, without queues, tokens, time or checks.

    Args:
        instructions: The program.
        dram: Its memory, uint8; written in place.
        config: The VTA that it was made for.

    Returns:
        The memories as they are after the last instruction.
    """
    memories = Memories(config, dram)
    for instruction in instructions:
        instruction.execute(memories)
    return memories


__all__ = ["Memories", "integer", "interpret"]
