"""Who wrote and who read each place, and whether a token orders them.

A queue runs its instructions in order, and a token orders what came before its push before what
comes after its pop. Counters are first in, first out: the nth pop takes the nth push. An
instruction's *clock* (load, compute, store) counts the instructions of each queue that are
certain to be done when it begins. Two accesses of one place are ordered if the later one's
clock covers the earlier one; whether they met in this run does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from targets.vta.config import UOP_BYTES, VtaConfig
from targets.vta.isa import Load, Memory, Stage, Store

Clock = tuple[int, int, int]
#: Elements of a memory: a range, or indices.
Elements = slice | npt.NDArray[np.int64]
Table = npt.NDArray[np.int32]


class Shared:
    """A memory that queues share: for each place the last write, and each queue's last read.

    Attributes:
        writer: The one queue that writes.
        readers: The queues that read.
    """

    def __init__(self, size: int, writer: Stage, readers: tuple[Stage, ...]) -> None:
        self.writer = writer
        self.readers = readers
        self._written = np.zeros(size, dtype=np.int32)
        self._read = {stage: np.zeros(size, dtype=np.int32) for stage in readers}

    def view(self, what: Any) -> Any:
        """A part of the memory: `what` makes a view of each table."""
        part = object.__new__(Shared)
        part.writer, part.readers = self.writer, self.readers
        part._written = what(self._written)
        part._read = {stage: what(table) for stage, table in self._read.items()}
        return part

    def read(self, at: Elements, stage: Stage, clock: Clock) -> int:
        """Note a read.

        Returns:
            The latest write there that is not ordered before it, as a count of the writer's
            instructions; 0: there is none.
        """
        self._read[stage][at] = clock[stage]
        return _unordered(self._written[at], clock[self.writer])

    def write(self, at: Elements, clock: Clock) -> tuple[Stage, int] | None:
        """Note a write.

        Returns:
            A queue and the count of its latest read there that is not ordered before it.
        """
        self._written[at] = clock[self.writer]
        for stage, table in self._read.items():
            found = _unordered(table[at], clock[stage])
            if found:
                return stage, found
        return None


def _unordered(table: Table, known: int) -> int:
    latest = int(table.max(initial=0))
    return latest if latest > known else 0


class Hazards:
    """The state of all memories, as far as ordering and initialization go."""

    def __init__(self, config: VtaConfig, dram_bytes: int) -> None:
        load, compute, store = Stage.LOAD, Stage.COMPUTE, Stage.STORE
        inp, wgt = 1 << config.inp_index_bits, 1 << config.wgt_index_bits
        acc, uop = 1 << config.acc_index_bits, 1 << config.uop_index_bits
        self._grain = min(UOP_BYTES, config.inp_bytes, config.wgt_bytes, config.out_bytes)
        self.shared = {
            Memory.INP: Shared(inp, load, (compute,)),
            Memory.WGT: Shared(wgt, load, (compute,)),
            Memory.OUT: Shared(acc, compute, (store,)),
        }
        self._dram = Shared(-(-dram_bytes // self._grain), store, (load, compute))
        self.filled = {
            Memory.INP: np.zeros(inp, dtype=bool),
            Memory.WGT: np.zeros(wgt, dtype=bool),
            Memory.ACC: np.zeros(acc, dtype=bool),
            Memory.UOP: np.zeros(uop, dtype=bool),
        }
        # Counts of compute's instructions: the last that wrote OUT, the last that wrote ACC alone.
        self._out = np.zeros(acc, dtype=np.int32)
        self._acc_only = np.zeros(acc, dtype=np.int32)

    def unfilled(self, memory: Memory, at: Elements) -> npt.NDArray[np.int64]:
        """Which of these elements hold garbage."""
        places = np.arange(at.start, at.stop) if isinstance(at, slice) else at
        missing = places[~self.filled[memory][at]]
        return np.asarray(missing, dtype=np.int64)

    def fill(self, memory: Memory, at: Elements) -> None:
        """These elements hold something now."""
        self.filled[memory][at] = True

    def wrote_acc_only(self, at: Elements, clock: Clock) -> None:
        """LOAD and GEMM with reset change ACC, and leave OUT as it was."""
        self._acc_only[at] = clock[Stage.COMPUTE]

    def wrote_out(self, at: Elements, clock: Clock) -> None:
        """ALU and GEMM without reset write OUT, too."""
        self._out[at] = clock[Stage.COMPUTE]

    def stale(self, at: slice, clock: Clock) -> npt.NDArray[np.int64]:
        """Elements of OUT that do not hold what ACC holds, at a STORE with this clock."""
        out, acc = self._out[at], self._acc_only[at]
        old = (out == 0) | ((acc > out) & (acc <= clock[Stage.COMPUTE]))
        return np.asarray(np.flatnonzero(old) + at.start, dtype=np.int64)

    def dram(self, instruction: Load | Store, size: int) -> Shared:
        """The places in DRAM that a transfer of elements of `size` bytes uses."""
        grain = self._grain
        begin = instruction.dram_base * size // grain
        width = instruction.x_size * size // grain
        stride = instruction.x_stride * size // grain

        def rows(table: Table) -> Table:
            step = table.itemsize
            return np.lib.stride_tricks.as_strided(
                table[begin:], (instruction.y_size, width), (stride * step, step)
            )

        part: Shared = self._dram.view(rows)
        return part


__all__ = ["Clock", "Elements", "Hazards", "Shared"]
