"""A stream of instructions whose token flags follow from what the instructions touch.

Instructions are added in an order in which they could run one after another. For each one the
stream looks up who last wrote and who last read the places that it uses, on the chip and in DRAM,
and which of those are already certain to be done (the same vector clocks that the simulator's race
detector keeps). What is left needs a token: a push at the instruction to wait for, a pop here.
Load and store have no tokens for each other; such an order goes by way of the compute queue.

So a program has no race by construction, and no token that another one makes superfluous when it
is set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.vta.config import VtaConfig
from targets.vta.isa import Alu, Finish, Gemm, Instruction, Load, Memory, Stage, Store, encode

Clock = tuple[int, int, int]
_LOAD, _COMPUTE, _STORE = Stage.LOAD, Stage.COMPUTE, Stage.STORE
#: Tokens that may wait for one queue; the hardware's counters hold 255.
MOST_TOKENS = 96


class LimitError(Exception):
    """A program would go beyond what the hardware counts."""


class _Places:
    """For each place of a memory the last write and the last reads, as counts of a queue."""

    def __init__(self, size: int, writer: Stage, readers: Sequence[Stage]) -> None:
        self.writer = writer
        self.written = np.zeros(size, dtype=np.int32)
        self.read = {stage: np.zeros(size, dtype=np.int32) for stage in readers}


@dataclass(slots=True)
class _Entry:
    """An instruction and the flags that it has so far."""

    instruction: Instruction
    owner: int
    pop_prev: bool = False
    pop_next: bool = False
    push_prev: bool = False
    push_next: bool = False


class Stream:
    """See the module.

    Args:
        config: The VTA.
        activations: Elements of INP in DRAM that are written and read. LOADs and STOREs of
            activations count from the first of them.
    """

    def __init__(self, config: VtaConfig, activations: int) -> None:
        self.config = config
        self.entries: list[_Entry] = []
        #: What is added belongs to this layer.
        self.owner = -1
        self._clocks: tuple[list[Clock], ...] = ([(0, 0, 0)], [(0, 0, 0)], [(0, 0, 0)])
        self._where: tuple[list[int], ...] = ([-1], [-1], [-1])
        # For each edge the (pushing, popping) counts, in order.
        self._tokens: dict[tuple[Stage, Stage], list[tuple[int, int]]] = {
            (_LOAD, _COMPUTE): [], (_COMPUTE, _LOAD): [], (_COMPUTE, _STORE): [],
            (_STORE, _COMPUTE): [],
        }  # fmt: skip
        self._inp = _Places(1 << config.inp_index_bits, _LOAD, (_COMPUTE,))
        self._wgt = _Places(1 << config.wgt_index_bits, _LOAD, (_COMPUTE,))
        self._out = _Places(1 << config.acc_index_bits, _COMPUTE, (_STORE,))
        self._dram = _Places(activations, _STORE, (_LOAD,))

    def load(self, instruction: Load, *, constant: bool) -> None:
        """A LOAD of INP or WGT, from activations or from DRAM that nothing writes."""
        is_inp = instruction.memory == Memory.INP
        places = self._inp if is_inp else self._wgt
        at = slice(instruction.sram_base, instruction.sram_base + instruction.sram_elements)
        needs = {_COMPUTE: int(places.read[_COMPUTE][at].max(initial=0))}
        source = None if constant else self._rows(instruction)
        if source is not None:
            needs[_STORE] = int(source(self._dram.written).max(initial=0))
        count = self._add(instruction, _LOAD, needs)
        places.written[at] = count
        if source is not None:
            source(self._dram.read[_LOAD])[...] = count

    def store(self, instruction: Store) -> None:
        """A STORE."""
        at = slice(instruction.sram_base, instruction.sram_base + instruction.sram_elements)
        target = self._rows(instruction)
        needs = {
            _COMPUTE: int(self._out.written[at].max(initial=0)),
            _LOAD: int(target(self._dram.read[_LOAD]).max(initial=0)),
        }
        count = self._add(instruction, _STORE, needs)
        self._out.read[_STORE][at] = count
        target(self._dram.written)[...] = count

    def gemm(
        self, instruction: Gemm, *, inp: Sequence[slice] = (), wgt: Sequence[slice] = (),
        acc: slice,
    ) -> None:  # fmt: skip
        """A GEMM.

        Args:
            instruction: Without flags.
            inp: What it reads of INP, or more.
            wgt: What it reads of WGT, or more.
            acc: What it writes of ACC, or more.
        """
        if instruction.reset:  # writes ACC only, which no other queue sees
            self._add(instruction, _COMPUTE, {})
            return
        loaded = [int(self._inp.written[s].max(initial=0)) for s in inp]
        loaded += [int(self._wgt.written[s].max(initial=0)) for s in wgt]
        needs = {_LOAD: max(loaded, default=0)}
        needs[_STORE] = int(self._out.read[_STORE][acc].max(initial=0))
        count = self._add(instruction, _COMPUTE, needs)
        for s in inp:
            self._inp.read[_COMPUTE][s] = count
        for s in wgt:
            self._wgt.read[_COMPUTE][s] = count
        self._out.written[acc] = count

    def alu(self, instruction: Alu, *, acc: slice) -> None:
        """An ALU instruction that writes `acc`, or less, of ACC."""
        needs = {_STORE: int(self._out.read[_STORE][acc].max(initial=0))}
        self._out.written[acc] = self._add(instruction, _COMPUTE, needs)

    def own(self, instruction: Load) -> None:
        """A LOAD of the compute queue: micro-ops or accumulators, from constants."""
        self._add(instruction, _COMPUTE, {})

    def finish(self) -> None:
        """FINISH, when every queue is done."""
        done = {_LOAD: len(self._where[_LOAD]) - 1, _STORE: len(self._where[_STORE]) - 1}
        known = self._clocks[_COMPUTE][-1]
        if any(count > known[stage] for stage, count in done.items()):
            self._add(Load(memory=Memory.UOP), _COMPUTE, done)
        self._add(Finish(), _COMPUTE, {})

    def instructions(self) -> list[Instruction]:
        """The instructions with their flags."""
        return [
            replace(
                e.instruction, pop_prev=e.pop_prev, pop_next=e.pop_next, push_prev=e.push_prev,
                push_next=e.push_next,
            )
            for e in self.entries
        ]  # fmt: skip

    def encoded(self) -> npt.NDArray[np.uint8]:
        """The instructions' bytes, uint8 (n, 16)."""
        data = b"".join(encode(x, self.config) for x in self.instructions())
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, 16)

    def _add(self, instruction: Instruction, stage: Stage, needs: Mapping[Stage, int]) -> int:
        """Add an instruction that has to wait for others.

        Args:
            instruction: Without flags.
            stage: Its queue.
            needs: For other queues, how many of their instructions have to be done.

        Returns:
            Its count in its queue, from 1 on.
        """
        wanted = dict(needs)
        clock = list(self._clocks[stage][-1])
        if stage != _COMPUTE:
            far = _STORE if stage == _LOAD else _LOAD
            if wanted.get(far, 0) > clock[far]:
                wanted[_COMPUTE] = max(wanted.get(_COMPUTE, 0), self._through(far, wanted[far]))
        pops = []
        for other in (_COMPUTE,) if stage != _COMPUTE else (_LOAD, _STORE):
            count = wanted.get(other, 0)
            if count <= clock[other]:
                continue
            self._push(other, stage, count)
            pops.append(other)
            clock = [max(a, b) for a, b in zip(clock, self._clocks[other][count], strict=True)]
        entry = _Entry(instruction, self.owner)
        entry.pop_prev = any(other < stage for other in pops)
        entry.pop_next = any(other > stage for other in pops)
        self._where[stage].append(len(self.entries))
        self.entries.append(entry)
        clock[stage] = len(self._where[stage]) - 1
        self._clocks[stage].append((clock[0], clock[1], clock[2]))
        return clock[stage]

    def _through(self, far: Stage, count: int) -> int:
        """The compute queue's first instruction that is certain to run after `far`'s `count`th."""
        clocks = self._clocks[_COMPUTE]
        at = bisect_left(clocks, count, key=lambda clock: clock[far])
        if at < len(clocks):
            return at
        return self._add(Load(memory=Memory.UOP), _COMPUTE, {far: count})

    def _push(self, source: Stage, target: Stage, count: int) -> None:
        """A token from `source`'s `count`th instruction to the one that `target` gets next."""
        entry = self.entries[self._where[source][count]]
        if source < target:
            entry.push_next = True
        else:
            entry.push_prev = True
        tokens = self._tokens[source, target]
        tokens.append((count, len(self._where[target])))
        if len(tokens) > MOST_TOKENS:
            # The token that many pushes before has to be taken when this one is pushed.
            popped = tokens[-1 - MOST_TOKENS][1]
            if self._clocks[source][count][target] < popped:
                raise LimitError(
                    f"more than {MOST_TOKENS} tokens from {source.name} to {target.name} may be "
                    "outstanding"
                )

    def _rows(self, instruction: Load | Store) -> Any:
        """A view of a table of DRAM's places that the transfer uses."""
        begin, stride = instruction.dram_base, instruction.x_stride
        rows, width = instruction.y_size, instruction.x_size

        def view(table: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
            step = table.itemsize
            return np.lib.stride_tricks.as_strided(
                table[begin:], (rows, width), (stride * step, step)
            )

        return view


__all__ = ["MOST_TOKENS", "LimitError", "Stream"]
