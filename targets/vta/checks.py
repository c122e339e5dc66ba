"""One instruction's effect, with every rule looked at that it could break.

What breaks a rule is reported and then not carried out where it cannot be; what it would have
written counts as written, so that one mistake is not reported a thousand times.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from targets.errors import TargetError
from targets.vta.config import VtaConfig
from targets.vta.datapath import Datapath, Plan
from targets.vta.hazards import Clock, Elements, Hazards
from targets.vta.isa import Alu, AluOp, Gemm, Load, Memory, Stage, Store, Uop
from targets.vta.timing import element_bytes

#: The first page of DRAM is never handed out: an address of 0 is a mistake.
FIRST_ADDRESS = 4096
#: Steps of one instruction that the simulator is ready to spread out in memory.
MAX_STEPS = 1 << 22


class Report(Protocol):
    """How violations are reported."""

    def __call__(
        self,
        kind: str,
        index: int | None,
        message: str,
        *,
        timed: bool = True,
        other: tuple[Stage, int] | None = None,
    ) -> None:
        """Report one.

        Args:
            kind: One of `violations.KINDS`.
            index: The instruction.
            message: What is wrong.
            timed: Whether it was noticed at a certain cycle.
            other: A queue and the count of its instruction that the message ends with.
        """  # fmt: skip


class Checks:
    """Carries out instructions on a `Datapath`, and checks them if `enabled`."""

    def __init__(
        self,
        config: VtaConfig,
        dram: npt.NDArray[np.uint8],
        *,
        functional: bool,
        enabled: bool,
        program: tuple[int, int],
        report: Report,
    ) -> None:
        self.config = config
        self.data = Datapath(config, dram, functional=functional)
        self._enabled = enabled
        self._program = program
        self._report = report
        self._hazards = Hazards(config, dram.size if enabled else 0)
        self._depth = {
            Memory.UOP: 1 << config.uop_index_bits,
            Memory.WGT: 1 << config.wgt_index_bits,
            Memory.INP: 1 << config.inp_index_bits,
            Memory.ACC: 1 << config.acc_index_bits,
            Memory.OUT: 1 << config.acc_index_bits,
            Memory.ACC_8BIT: 1 << config.acc_index_bits,
        }

    def fits(self, instruction: Load | Store) -> bool:
        """Whether a transfer has rows, and its memory could hold it at all."""
        if instruction.is_noop:
            return True
        depth = self._depth[Memory(instruction.memory)] if instruction.memory in self._depth else 0
        return instruction.y_size > 0 and instruction.sram_elements <= depth

    def load(self, index: int, instruction: Load, clock: Clock) -> None:
        """A LOAD that is no no-op."""
        memory = Memory(instruction.memory)
        begin = instruction.sram_base
        if not self._enabled:
            self._require(self._transfer(index, instruction, memory), index)
            self.data.load(instruction)
            return
        if memory == Memory.ACC_8BIT:
            self._report("hw-unsupported-op", index, "LOAD ACC_8BIT does not exist in hardware")
            memory = Memory.ACC
        good = self._transfer(index, instruction, Memory(instruction.memory))
        depth = self._depth[memory]
        end = min(begin + instruction.sram_elements, depth)
        usable = self.config.usable_uops
        if memory == Memory.UOP and usable < end and begin + instruction.sram_elements <= depth:
            self._report(
                "hw-uop-depth", index,
                f"it fills micro-ops up to {end - 1}; the hardware has {usable}",
            )  # fmt: skip
        window = slice(min(begin, depth), end)
        self._hazards.fill(memory, window)
        if memory == Memory.ACC:
            self._hazards.wrote_acc_only(window, clock)
        elif memory != Memory.UOP:
            self._write(index, memory, window, clock)
        if good:
            shared = self._hazards.dram(instruction, element_bytes(instruction.memory, self.config))
            stage = instruction.stage
            if stage is not None:
                found = shared.read(slice(None), stage, clock)
                if found:
                    self._race(index, "reads DRAM", "is written by", (Stage.STORE, found))
            self.data.load(instruction)

    def store(self, index: int, instruction: Store, clock: Clock) -> None:
        """A STORE that is no no-op."""
        if not self._enabled:
            self._require(self._transfer(index, instruction, Memory.OUT), index)
            self.data.store(instruction)
            return
        if instruction.memory != Memory.OUT:
            self._report(
                "bad-memory-type", index,
                f"STORE names memory {_memory_name(instruction.memory)}; it reads OUT whatever "
                "it names",
            )  # fmt: skip
        pads = [instruction.y_pad0, instruction.y_pad1, instruction.x_pad0, instruction.x_pad1]
        if any(pads):
            self._report("store-padding", index, f"STORE has the padding {pads}")
        plain = Store(
            memory=Memory.OUT, sram_base=instruction.sram_base, dram_base=instruction.dram_base,
            y_size=instruction.y_size, x_size=instruction.x_size, x_stride=instruction.x_stride,
        )  # fmt: skip
        good = self._transfer(index, plain, Memory.OUT)
        begin = instruction.sram_base
        depth = self._depth[Memory.OUT]
        window = slice(min(begin, depth), min(begin + plain.sram_elements, depth))
        found = self._hazards.shared[Memory.OUT].read(window, Stage.STORE, clock)
        if found:
            where = _range(Memory.OUT, window)
            self._race(index, f"reads {where}", "is written by", (Stage.COMPUTE, found))
        stale = self._hazards.stale(window, clock)
        if stale.size and not found:
            self._report(
                "hw-output-not-written", index,
                f"{_range(Memory.OUT, stale)} was not written by ALU or GEMM without reset since "
                "ACC changed there",
            )  # fmt: skip
        if not good:
            return
        size = self.config.out_bytes
        low, high = _extent(plain, size)
        if low < self._program[1] and high > self._program[0]:
            self._report(
                "store-over-program", index,
                f"it writes bytes {low} to {high - 1}; the program lies at "
                f"{self._program[0]} to {self._program[1] - 1}",
            )  # fmt: skip
        reader = self._hazards.dram(plain, size).write(slice(None), clock)
        if reader is not None:
            self._race(index, "writes DRAM", "is read by", reader)
        self.data.store(plain)

    def gemm(self, index: int, instruction: Gemm, clock: Clock) -> None:
        """A GEMM."""
        plan = self._plan(index, instruction)
        if plan is None:
            return
        used = [(Memory.ACC, plan.dst, 0)]
        if not instruction.reset:
            used += [(Memory.INP, plan.src, 1), (Memory.WGT, plan.wgt, 2)]
        good = self._in_range(index, plan, used)
        if not self._enabled:
            self._require(good, index)
            self.data.gemm(instruction, plan)
            return
        inside = plan.dst[plan.dst < self._depth[Memory.ACC]]
        if instruction.reset:
            self._hazards.fill(Memory.ACC, inside)
            self._hazards.wrote_acc_only(inside, clock)
        else:
            for memory, places, _ in used:
                known = places[places < self._depth[memory]]
                self._read(index, memory, known, clock)
            self._hazards.fill(Memory.ACC, inside)
            self._write_out(index, inside, clock)
        if good:
            self.data.gemm(instruction, plan)

    def alu(self, index: int, instruction: Alu, clock: Clock) -> None:
        """An ALU instruction."""
        if instruction.op == AluOp.MUL:
            self._report("hw-unsupported-op", index, "the hardware has no MUL")
        elif instruction.op not in tuple(AluOp):
            self._report("hw-unsupported-op", index, f"there is no operation {instruction.op}")
            self._require(self._enabled, index)
            return
        plan = self._plan(index, instruction)
        if plan is None:
            return
        used = [(Memory.ACC, plan.dst, 0), (Memory.ACC, plan.src, 1)]
        good = self._in_range(index, plan, used)
        if not self._enabled:
            self._require(good, index)
            self.data.alu(instruction, plan)
            return
        self._alu_rules(index, instruction, plan)
        depth = self._depth[Memory.ACC]
        inside = plan.dst[plan.dst < depth]
        sources = plan.src if instruction.use_imm else np.union1d(plan.dst, plan.src)
        self._read(index, Memory.ACC, sources[sources < depth], clock)
        self._hazards.fill(Memory.ACC, inside)
        self._write_out(index, inside, clock)
        if good and self.data.alu(instruction, plan):
            self._report(
                "hw-shift-range", index,
                "SHR by a tensor with elements outside 0 to 31; only their low 5 bits count",
            )  # fmt: skip

    def _alu_rules(self, index: int, instruction: Alu, plan: Plan) -> None:
        if not instruction.use_imm:
            return
        if plan.differs:
            self._report("hw-imm-source", index, "src is not dst in some step of it")
        if plan.same_dst:
            self._report("hw-hazard", index, "two steps in a row have the same dst")
        if instruction.op == AluOp.SHR and not -31 <= instruction.imm <= 31:
            self._report("hw-shift-range", index, f"SHR by {instruction.imm}; use 0 to 15")

    def _require(self, good: bool, index: int) -> None:
        """Without checks a program must be known to be good; what cannot be done is an error."""
        if not good:
            raise TargetError(
                f"instruction {index} cannot be carried out",
                where="VTA simulator",
                hint="simulate the program with checks: they say what is wrong",
            )

    def _plan(self, index: int, instruction: Gemm | Alu) -> Plan | None:
        """The instruction's plan; None if it has none that could be carried out."""
        plan = self._checked_plan(index, instruction)
        self._require(plan is not None or self._enabled, index)
        return plan

    def _checked_plan(self, index: int, instruction: Gemm | Alu) -> Plan | None:
        depth = self._depth[Memory.UOP]
        usable = self.config.usable_uops
        end = instruction.uop_end
        if end > depth:
            self._report(
                "uop-index-out-of-range", index,
                f"its micro-ops are {instruction.uop_begin} to {end - 1}; the memory has {depth}",
            )  # fmt: skip
            return None
        if instruction.steps == 0:
            self._report(
                "hw-zero-iterations", index,
                f"iter_out {instruction.iter_out}, iter_in {instruction.iter_in}, micro-ops "
                f"{instruction.uop_begin} to {end} (exclusive): nothing to run",
            )  # fmt: skip
            return None
        if end > usable:
            self._report(
                "hw-uop-depth", index,
                f"it uses micro-ops up to {end - 1}; the hardware has {usable}",
            )  # fmt: skip
        if self._enabled:
            missing = self._hazards.unfilled(Memory.UOP, slice(instruction.uop_begin, end))
            if missing.size:
                self._uninitialized(index, Memory.UOP, missing)
                return None
        if instruction.steps > MAX_STEPS:
            self._report(
                "simulator-limit", index,
                f"it has {instruction.steps} steps; the simulator runs at most {MAX_STEPS}",
            )  # fmt: skip
            return None
        return self.data.plan(instruction)

    def _transfer(self, index: int, instruction: Load | Store, memory: Memory) -> bool:
        """Whether both ends of a transfer are in range."""
        if instruction.y_size == 0:
            self._report("empty-transfer", index, f"y_size is 0 and x_size {instruction.x_size}")
            return False
        depth = self._depth[memory]
        end = instruction.sram_base + instruction.sram_elements
        good = True
        if end > depth:
            self._report(
                "sram-overflow", index,
                f"it uses {_memory_name(memory)} {instruction.sram_base} to {end - 1}; the memory "
                f"has {depth} elements",
            )  # fmt: skip
            good = False
        size = element_bytes(memory, self.config)
        low, high = _extent(instruction, size)
        if low < FIRST_ADDRESS or high > self.data.dram.size:
            self._report(
                "dram-out-of-range", index,
                f"it uses bytes {low} to {high - 1} of DRAM; they can be {FIRST_ADDRESS} to "
                f"{self.data.dram.size - 1}",
            )  # fmt: skip
            good = False
        return good

    def _in_range(
        self, index: int, plan: Plan, used: list[tuple[Memory, npt.NDArray[np.int64], int]]
    ) -> bool:
        good = True
        for memory, places, which in used:
            largest = plan.largest[which]
            if places.size and largest >= self._depth[memory]:
                self._report(
                    "sram-index-out-of-range", index,
                    f"its {Uop._fields[which]} goes up to {_memory_name(memory)} {largest}; "
                    f"the memory has {self._depth[memory]} elements",
                )  # fmt: skip
                good = False
        return good

    def _read(self, index: int, memory: Memory, places: Elements, clock: Clock) -> None:
        missing = self._hazards.unfilled(memory, places)
        if missing.size:
            self._uninitialized(index, memory, missing)
        shared = self._hazards.shared.get(memory)
        if shared is not None:
            found = shared.read(places, Stage.COMPUTE, clock)
            if found:
                what = f"reads {_range(memory, places)}"
                self._race(index, what, "is written by", (shared.writer, found))

    def _write(self, index: int, memory: Memory, places: Elements, clock: Clock) -> None:
        reader = self._hazards.shared[memory].write(places, clock)
        if reader is not None:
            self._race(index, f"writes {_range(memory, places)}", "is read by", reader)

    def _write_out(self, index: int, places: npt.NDArray[np.int64], clock: Clock) -> None:
        self._hazards.wrote_out(places, clock)
        self._write(index, Memory.OUT, places, clock)

    def _uninitialized(self, index: int, memory: Memory, missing: npt.NDArray[np.int64]) -> None:
        self._report(
            "uninitialized-read", index,
            f"{_range(memory, missing)}: {missing.size} elements were never loaded or written",
        )  # fmt: skip
        self._hazards.fill(memory, missing)

    def _race(self, index: int, what: str, by: str, other: tuple[Stage, int]) -> None:
        self._report(
            "race", index, f"it {what}, and no token orders it with what {by}", other=other
        )


def _extent(instruction: Load | Store, size: int) -> tuple[int, int]:
    """First and last byte (exclusive) that a transfer uses in DRAM."""
    last = instruction.dram_base + (instruction.y_size - 1) * instruction.x_stride
    return instruction.dram_base * size, (last + instruction.x_size) * size


def _memory_name(memory: int) -> str:
    return Memory(memory).name if memory in tuple(Memory) else str(memory)


def _range(memory: Memory, places: Elements) -> str:
    if isinstance(places, slice):
        return f"{memory.name} {places.start} to {places.stop - 1}"
    low, high = int(places.min(initial=1 << 30)), int(places.max(initial=0))
    return f"{memory.name} {low}" if low == high else f"{memory.name} {low} to {high}"


__all__ = ["FIRST_ADDRESS", "MAX_STEPS", "Checks", "Report"]
