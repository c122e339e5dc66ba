"""How long VTA's hardware takes, in cycles: constants, and the model of the shared read bus.

The constants were fitted to cycle-accurate simulation of the published hardware design (64-bit
bus, a memory that answers after a modelled 16 cycles). They are no measurement of a board's DDR.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from targets.vta.config import INSTRUCTION_BYTES, UOP_BYTES, VtaConfig
from targets.vta.isa import Alu, Gemm, Instruction, Load, Memory, Store

#: Instructions that one fetch reads.
FETCH_INSTRUCTIONS = 8
#: Instructions that may wait in each queue.
QUEUE_DEPTH = 512
#: Beats of the longest burst; a transfer is also cut where the address is a multiple of that.
BURST_BEATS = 16
#: Bursts that may be under way at once.
OUTSTANDING_BURSTS = 16
#: Cycles before its last beat's end that a burst makes room for another.
EARLY_RELEASE = 3
#: Cycles from a burst's request to its first beat, if the bus is free.
READ_LATENCY = 20
#: Cycles from one request of a loader to its next.
REQUEST_PERIOD = 2
#: Tokens that one counter (8 bits) can hold.
MAX_TOKENS = 255

#: Cycles of an instruction that only passes tokens on.
NOOP_CYCLES = 2
FINISH_CYCLES = 1
#: Cycles that GEMM and ALU take besides their steps.
PIPELINE_CYCLES = 7
#: Cycles of a STORE's burst besides its elements, and of an element.
STORE_BURST_CYCLES = 3
STORE_ELEMENT_CYCLES = 3


def alu_step_cycles(instruction: Alu) -> int:
    """Cycles of one ALU step: two operands are read one after the other."""
    return 1 if instruction.use_imm else 2


def busy_cycles(instruction: Instruction, config: VtaConfig) -> int:
    """Cycles that an instruction which does not read DRAM occupies its stage."""
    if isinstance(instruction, Gemm):
        return PIPELINE_CYCLES + instruction.steps
    if isinstance(instruction, Alu):
        return PIPELINE_CYCLES + instruction.steps * alu_step_cycles(instruction)
    if isinstance(instruction, Store) and not instruction.is_noop:
        return store_cycles(instruction, config)
    return NOOP_CYCLES if isinstance(instruction, Load | Store) else FINISH_CYCLES


def store_cycles(instruction: Store, config: VtaConfig) -> int:
    """Cycles of a STORE: its rows are cut where an address is a multiple of a burst's bytes."""
    size = config.out_bytes
    beats = max(1, size * 8 // config.bus_bits)
    per_element = STORE_ELEMENT_CYCLES * beats // 2 if beats > 1 else STORE_ELEMENT_CYCLES
    total = 1
    for _, count in _pieces(instruction, size, config):
        total += STORE_BURST_CYCLES + per_element * -(-count // size)
    return total


@dataclass(slots=True)
class ReadTransfer:
    """One LOAD's, or one fetch's, way over the read bus.

    Attributes:
        client: Its place among the arbiter's clients: lower is served first.
        bursts: Beats of each burst, in order.
        next_request: The cycle from which its next burst may be requested.
        begun: The cycle in which the instruction began.
        tail: Cycles from the last beat to the end.
        zeros: Padding elements to write.
        bottom_zeros: Those after the last row.
    """

    client: int
    bursts: list[int]
    next_request: int
    begun: int
    tail: int
    zeros: int = 0
    bottom_zeros: int = 0
    granted: int = 0
    beats: int = field(init=False)

    def __post_init__(self) -> None:
        self.beats = sum(self.bursts)

    def end(self, last_beat: int) -> int:
        """The cycle in which the instruction is done, given when its last beat came.

        Zeros are written while the loader waits for data. What does not fit into that time
        adds up, and so do those that can only be written once the last row was requested.
        """
        end = last_beat + self.tail
        if self.zeros:
            hidden = self.begun + NOOP_CYCLES + 1 + self.beats + self.zeros
            end = max(end, hidden, end + self.bottom_zeros - 6)
        return end


def fetch_transfer(count: int, now: int, config: VtaConfig) -> ReadTransfer:
    """The fetch of `count` instructions."""
    beats = -(-count * INSTRUCTION_BYTES * 8 // config.bus_bits)
    bursts = [min(BURST_BEATS, beats - i) for i in range(0, beats, BURST_BEATS)]
    return ReadTransfer(0, bursts, now + 1, now, 0)


_CLIENTS = {Memory.UOP: 1, Memory.INP: 2, Memory.WGT: 3, Memory.ACC: 4, Memory.ACC_8BIT: 4}


def load_transfer(instruction: Load, now: int, config: VtaConfig) -> ReadTransfer:
    """The transfer of a LOAD that is no no-op."""
    size = element_bytes(instruction.memory, config)
    bus = config.bus_bits // 8
    # A burst that begins within a word of the bus takes the whole word.
    bursts = [
        -(-(begin % bus + count) // bus) for begin, count in _pieces(instruction, size, config)
    ]
    is_uop = instruction.memory == Memory.UOP
    pads = instruction.sram_elements - instruction.x_size * instruction.y_size
    return ReadTransfer(
        client=_CLIENTS[Memory(instruction.memory)],
        bursts=bursts,
        next_request=now + (1 if is_uop else 2),
        begun=now,
        tail=1,
        zeros=0 if is_uop else pads,
        bottom_zeros=0 if is_uop else instruction.y_pad1 * instruction.row,
    )


def element_bytes(memory: int, config: VtaConfig) -> int:
    """Bytes of one element in DRAM."""
    return {
        Memory.UOP: UOP_BYTES,
        Memory.WGT: config.wgt_bytes,
        Memory.INP: config.inp_bytes,
        Memory.ACC: config.acc_bytes,
        Memory.OUT: config.out_bytes,
        Memory.ACC_8BIT: config.batch * config.block,
    }[Memory(memory)]


def _pieces(instruction: Load | Store, size: int, config: VtaConfig) -> list[tuple[int, int]]:
    """Address and bytes of the bursts that a transfer's rows are cut into."""
    burst = BURST_BEATS * config.bus_bits // 8
    pieces = []
    length = instruction.x_size * size
    for y in range(instruction.y_size):
        begin = (instruction.dram_base + y * instruction.x_stride) * size
        end = begin + length
        while begin < end:
            after = min(end, begin - begin % burst + burst)
            pieces.append((begin, after - begin))
            begin = after
    return pieces


class ReadBus:
    """The memory's read side: one request a cycle, the lowest client first; data in order."""

    def __init__(self) -> None:
        self._active: list[ReadTransfer] = []
        self._under_way: deque[int] = deque()
        self._last_grant = -1
        self._free_at = 0
        self.busy_beats = 0

    def add(self, transfer: ReadTransfer) -> None:
        """A transfer begins to ask."""
        self._active.append(transfer)
        self._active.sort(key=lambda t: t.client)

    def next_grant(self) -> int | None:
        """The cycle in which the next burst will be requested; None if nobody asks."""
        if not self._active:
            return None
        wanted = min(t.next_request for t in self._active)
        if len(self._under_way) >= OUTSTANDING_BURSTS:
            wanted = max(wanted, self._under_way[0])
        return max(wanted, self._last_grant + 1)

    def grant(self, now: int) -> tuple[ReadTransfer, int] | None:
        """Request one burst in cycle `now`, which `next_grant` gave.

        Returns:
            A transfer whose last burst this was, and the cycle after its last beat.
        """
        under_way = self._under_way
        if len(under_way) >= OUTSTANDING_BURSTS:
            under_way.popleft()
        for transfer in self._active:
            if transfer.next_request <= now:
                break
        beats = transfer.bursts[transfer.granted]
        begin = max(now + READ_LATENCY, self._free_at)
        end = self._free_at = begin + beats
        self.busy_beats += beats
        under_way.append(end - EARLY_RELEASE)
        self._last_grant = now
        transfer.granted += 1
        transfer.next_request = now + REQUEST_PERIOD
        if transfer.granted < len(transfer.bursts):
            return None
        self._active.remove(transfer)
        return transfer, end


__all__ = [
    "FETCH_INSTRUCTIONS",
    "MAX_TOKENS",
    "QUEUE_DEPTH",
    "ReadBus",
    "ReadTransfer",
    "busy_cycles",
    "element_bytes",
    "fetch_transfer",
    "load_transfer",
    "store_cycles",
]
