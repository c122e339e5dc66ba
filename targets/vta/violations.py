"""What can be wrong with a program, each kind with its name and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Every kind of violation. ``hw-``: the reference functional simulator lets it pass, the
#: hardware does not.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "bad-opcode": "the hardware stops at an opcode that belongs to no queue",
        "bad-encoding": "bits that belong to no field are set",
        "bad-memory-type": "LOAD fills UOP, WGT, INP or ACC, and STORE reads OUT",
        "store-padding": "the hardware ignores a STORE's padding",
        "empty-transfer": "a transfer of elements without rows does not end",
        "finish-missing": "without FINISH the host waits for ever",
        "finish-not-last": "the hardware stops at FINISH; what comes after it is not run",
        "finish-unordered": "FINISH does not wait for other queues; only tokens make it",
        "instruction-left-over": "the program ended while the instruction still waited",
        "token-deadlock": "every queue that is not empty waits for a token",
        "token-left-over": "the counter keeps the token for the next program",
        "sram-overflow": "a transfer goes past the end of an on-chip memory",
        "sram-index-out-of-range": "GEMM or ALU goes past the end of an on-chip memory",
        "uop-index-out-of-range": "the window of micro-ops goes past the end of their memory",
        "dram-out-of-range": "the address is outside the memory, or in its first page",
        "store-over-program": "STORE writes over the instructions that are being run",
        "uninitialized-read": "nothing was loaded or written there: the chip holds garbage",
        "race": "two queues use the same place, one of them writes, and no token orders them",
        "no-such-queue": "a token flag names a neighbour that the queue does not have",
        "simulator-limit": "an instruction is too long to be simulated",
        "hw-unsupported-op": "the hardware has neither MUL nor loads of 8-bit accumulators",
        "hw-imm-source": "with an immediate the hardware reads src, not dst: they must be equal",
        "hw-hazard": "with an immediate the hardware cannot write one place in two steps in a row",
        "hw-zero-iterations": "the hardware never ends a loop of no runs",
        "hw-output-not-written": "only ALU and GEMM without reset write OUT: old data is stored",
        "hw-token-overflow": "the token counters have 8 bits: the hardware hangs",
        "hw-uop-depth": "the hardware's micro-op memory is smaller than the encoding allows",
        "hw-shift-range": "the hardware shifts by the low 5 bits only, and to the right",
    }
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that one instruction breaks.

    Attributes:
        kind: One of `KINDS`.
        index: The instruction's place in the stream; None for the stream as a whole.
        instruction: Its disassembly.
        message: What is wrong, with the values.
        cycle: When it was noticed, cycles from the start; None before the run.
    """

    kind: str
    index: int | None
    instruction: str
    message: str
    cycle: int | None = None

    def __str__(self) -> str:
        place = "stream" if self.index is None else f"instruction {self.index}"
        text = f" ({self.instruction})" if self.instruction else ""
        at = "" if self.cycle is None else f", cycle {self.cycle}"
        return f"{place}{text}{at}: {self.kind}: {self.message}"


__all__ = ["KINDS", "Violation"]
