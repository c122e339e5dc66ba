"""The simulator: what a program computes, when, and which rules it breaks, in one run.

Events happen in the order of their cycles: instructions arrive at the three queues, begin when
their tokens are there, and take effect when they are done. Timing does not depend on data.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from targets.errors import TargetError
from targets.vta.assembly import format_instruction
from targets.vta.checks import Checks
from targets.vta.config import INSTRUCTION_BYTES, VtaConfig
from targets.vta.hazards import Clock
from targets.vta.isa import Alu, Finish, Gemm, Instruction, Load, Memory, Stage, Store, decode
from targets.vta.timing import (
    FETCH_INSTRUCTIONS,
    MAX_TOKENS,
    QUEUE_DEPTH,
    ReadBus,
    ReadTransfer,
    busy_cycles,
    element_bytes,
    fetch_transfer,
    load_transfer,
)
from targets.vta.violations import Violation

if TYPE_CHECKING:
    from targets.vta.program import Program

_Edge = tuple[Stage, Stage]
_EDGES: tuple[_Edge, ...] = (
    (Stage.LOAD, Stage.COMPUTE),
    (Stage.COMPUTE, Stage.LOAD),
    (Stage.COMPUTE, Stage.STORE),
    (Stage.STORE, Stage.COMPUTE),
)
# What can happen, in the order in which it is handled within one cycle.
_FETCHED, _ARRIVE, _DONE, _FETCH = range(4)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each instruction ran, cycles from the program's launch; -1: it never did.

    Attributes:
        stage: Its queue (`Stage`), int8; -1: none.
        arrived: When it came into its queue, int64.
        begun: When it began, int64.
        done: When it was done, int64.
        waited_for_token: Cycles for which it was first in its idle queue without its tokens.
        waited_for_fetch: Cycles for which its queue was idle because it had not yet arrived.
    """

    stage: npt.NDArray[np.int8]
    arrived: npt.NDArray[np.int64]
    begun: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]
    waited_for_token: npt.NDArray[np.int64]
    waited_for_fetch: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Simulation:
    """The result of a run. All cycles are simulated, none is measured.

    Attributes:
        config: The VTA that was simulated.
        cycles: From launch to FINISH, or to the last event if there was none.
        finished: Whether FINISH ran.
        violations: Every broken rule, by instruction; empty for a correct program.
        timeline: When each instruction ran.
        loaded_bytes: Bytes read from DRAM into each memory, without padding.
        stored_bytes: Bytes written to DRAM.
        fetched_bytes: Bytes of instructions.
        read_beats: Beats of the read bus.
        gemm_steps: Products of blocks, resets not counted.
        alu_steps: Steps of the vector unit.
        functional: Whether data was computed, too.
    """

    config: VtaConfig
    cycles: int
    finished: bool
    violations: tuple[Violation, ...]
    timeline: Timeline
    loaded_bytes: dict[str, int]
    stored_bytes: int
    fetched_bytes: int
    read_beats: int
    gemm_steps: int
    alu_steps: int
    functional: bool

    @property
    def ok(self) -> bool:
        """Whether the program breaks no rule."""
        return not self.violations

    @property
    def seconds(self) -> float:
        """The cycles at the configuration's clock, simulated."""
        return self.cycles / self.config.clock_hz

    @property
    def utilization(self) -> float:
        """The share of all cycles in which the matrix unit multiplied."""
        return self.gemm_steps / self.cycles if self.cycles else 0.0

    def busy_cycles(self, stage: Stage) -> int:
        """Cycles in which a queue worked on an instruction."""
        line = self.timeline
        ran = (line.stage == stage) & (line.done >= 0)
        return int((line.done[ran] - line.begun[ran]).sum())

    def waiting_cycles(self, stage: Stage) -> tuple[int, int]:
        """Cycles in which a queue was idle for want of a token, and of an instruction."""
        mine = self.timeline.stage == stage
        return (
            int(self.timeline.waited_for_token[mine].sum()),
            int(self.timeline.waited_for_fetch[mine].sum()),
        )

    def check(self) -> None:
        """Raise if the program breaks a rule.

        Raises:
            TargetError: With the first violations.
        """
        if self.ok:
            return
        shown = [str(v) for v in self.violations[:5]]
        more = len(self.violations) - len(shown)
        tail = f"\n  and {more} more" if more else ""
        raise TargetError(
            f"the VTA program breaks {len(self.violations)} rules:\n  " + "\n  ".join(shown) + tail,
            where=f"VTA simulator ({self.config.name})",
            hint="docs/vta.md explains each kind",
        )


@dataclass(slots=True)
class _Queue:
    """One stage at work."""

    stage: Stage
    waiting: deque[int] = field(default_factory=deque)
    running: int | None = None
    free_at: int = 0
    started: int = 0
    clock: Clock = (0, 0, 0)


def simulate(
    program: Program, *, functional: bool = True, checks: bool = True
) -> tuple[Simulation, npt.NDArray[np.uint8]]:
    """Run a program on its own memory image.

    Args:
        program: What to run; it stays as it is.
        functional: Compute data; otherwise only time and order.
        checks: Look for violations.

    Returns:
        What happened, and DRAM as it is afterwards (uint8).
    """
    dram = program.image()
    result = simulate_stream(
        program.instructions, dram, program.config,
        address=program.instruction_address, functional=functional, checks=checks,
    )  # fmt: skip
    return result, dram


def simulate_stream(
    stream: npt.NDArray[np.uint8] | Sequence[Instruction],
    dram: npt.NDArray[np.uint8],
    config: VtaConfig,
    *,
    address: int = 0,
    functional: bool = True,
    checks: bool = True,
) -> Simulation:
    """Run a stream of instructions.

    Args:
        stream: Encoded, uint8 (n, 16), or decoded instructions.
        dram: The memory, uint8 in one piece, from byte address 0 on; written in place.
        config: The VTA to simulate.
        address: Where the stream lies in DRAM, bytes; 0: outside of `dram`.
        functional: Compute data; otherwise only time and order (micro-ops are read all the same).
        checks: Look for violations. Without, a program must be known to break no rule.

    Raises:
        TargetError: `stream` or `dram` is of a wrong type or shape.
    """
    if dram.dtype != np.uint8 or dram.ndim != 1 or not dram.flags.c_contiguous:
        raise TargetError(
            f"the memory must be one row of bytes, not {dram.dtype} {dram.shape}",
            where="VTA simulator",
        )
    return _Engine(stream, dram, config, address, functional=functional, checks=checks).run()


@lru_cache(maxsize=65536)
def _decoded(word: bytes, config: VtaConfig) -> Instruction | TargetError:
    try:
        return decode(word, config)
    except TargetError as error:
        return error


class _Engine:
    def __init__(
        self,
        stream: npt.NDArray[np.uint8] | Sequence[Instruction],
        dram: npt.NDArray[np.uint8],
        config: VtaConfig,
        address: int,
        *,
        functional: bool,
        checks: bool,
    ) -> None:
        self.config = config
        self.functional = functional
        self.checking = checks
        self.violations: list[Violation] = []
        self.instructions = self._decode(stream)
        count = len(self.instructions)
        end = address + count * INSTRUCTION_BYTES if address else 0
        self.checks = Checks(
            config, dram, functional=functional, enabled=checks,
            program=(address, end), report=self._violation,
        )  # fmt: skip
        self.queues = tuple(_Queue(stage) for stage in Stage)
        # Tokens: the clock of the instruction that pushed it, and its index.
        self.tokens: dict[_Edge, deque[tuple[Clock, int]]] = {edge: deque() for edge in _EDGES}
        self.started: tuple[list[int], ...] = ([], [], [])
        self.clocks: list[Clock | None] = [None] * count
        self.bus = ReadBus()
        self.owners: dict[int, tuple[ReadTransfer, int]] = {}
        self.events: list[tuple[int, int, int, int]] = []
        self._sequence = 0
        self.now = 0
        self.finish: int | None = None
        self.finished_at: int | None = None
        self.fetched = 0
        self._fetch_count = 0
        self._fetch_next = 0
        self._blocked = False
        self.times = np.full((3, count), -1, dtype=np.int64)
        self.waits = np.zeros((2, count), dtype=np.int64)
        self.loaded: dict[Memory, int] = dict.fromkeys(Memory, 0)
        self.stored = 0
        self.gemm_steps = 0
        self.alu_steps = 0

    def run(self) -> Simulation:
        self._check_stream()
        self._push(0, _FETCH, 0)
        bus, events = self.bus, self.events
        while True:
            grant = bus.next_grant()
            if grant is not None and (not events or grant < events[0][0]):
                ended = bus.grant(grant)
                if ended is not None:
                    self._transferred(*ended)
                continue
            if not events:
                break
            self.now, kind, _, what = heapq.heappop(events)
            if kind == _DONE:
                self._done(what)
            elif kind == _ARRIVE:
                self._arrive(what)
            elif kind == _FETCHED:
                self._fetch_next = self.fetched
                self._push(self.now + 1, _ARRIVE, self._fetch_next)
            else:
                self._fetch()
        self._check_end()
        return self._result()

    # Fetching.

    def _fetch(self) -> None:
        last = len(self.instructions) if self.finish is None else self.finish + 1
        self._fetch_count = min(FETCH_INSTRUCTIONS, last - self.fetched)
        if self._fetch_count > 0:
            self.bus.add(fetch_transfer(self._fetch_count, self.now, self.config))

    def _arrive(self, index: int) -> None:
        instruction = self.instructions[index]
        stage = None if isinstance(instruction, TargetError) else instruction.stage
        if stage is not None:
            queue = self.queues[stage]
            if len(queue.waiting) >= QUEUE_DEPTH:
                self._blocked = True
                return
            queue.waiting.append(index)
            self.times[0, index] = self.now
            self._start(queue)
        self._fetch_next = index + 1
        if self._fetch_next < self.fetched + self._fetch_count:
            self._push(self.now + 1, _ARRIVE, self._fetch_next)
        else:
            self.fetched = self._fetch_next
            self._push(self.now, _FETCH, 0)

    # Running.

    def _start(self, queue: _Queue) -> None:
        """Begin with the first instruction that waits, if nothing is in its way."""
        if queue.running is not None or not queue.waiting:
            return
        index = queue.waiting[0]
        instruction = self._instruction(index)
        stage = queue.stage
        pops = _neighbours(stage, instruction.pop_prev, instruction.pop_next)
        taken = [self.tokens[other, stage] for other in pops]
        if not all(taken):
            return
        queue.waiting.popleft()
        if self._blocked:
            self._blocked = False
            self._push(self.now + 1, _ARRIVE, self._fetch_next)
        now = self.now
        arrived = int(self.times[0, index])
        ready = max(arrived, queue.free_at)
        self.times[1, index] = now
        self.waits[0, index] = now - ready
        self.waits[1, index] = ready - queue.free_at
        clock = list(queue.clock)
        for tokens in taken:
            pushed, _ = tokens.popleft()
            clock = [max(a, b) for a, b in zip(clock, pushed, strict=True)]
        queue.started += 1
        clock[stage] = queue.started
        queue.clock = self.clocks[index] = (clock[0], clock[1], clock[2])
        self.started[stage].append(index)
        queue.running = index
        if isinstance(instruction, Load) and not instruction.is_noop:
            if self.checks.fits(instruction):
                transfer = load_transfer(instruction, now, self.config)
                self.owners[id(transfer)] = (transfer, index)
                self.bus.add(transfer)
                return
            self._push(now + 1, _DONE, index)
        elif isinstance(instruction, Store) and not self.checks.fits(instruction):
            self._push(now + 1, _DONE, index)
        else:
            self._push(now + busy_cycles(instruction, self.config), _DONE, index)

    def _transferred(self, transfer: ReadTransfer, end: int) -> None:
        if transfer.client == 0:
            self._push(end, _FETCHED, 0)
            return
        _, index = self.owners.pop(id(transfer))
        self._push(transfer.end(end), _DONE, index)

    def _done(self, index: int) -> None:
        instruction = self._instruction(index)
        clock = self.clocks[index]
        stage = instruction.stage
        if clock is None or stage is None:
            raise RuntimeError("an instruction ended that never began")
        queue = self.queues[stage]
        self.times[2, index] = queue.free_at = self.now
        queue.running = None
        self._effect(index, instruction, clock)
        for other in _neighbours(stage, instruction.push_prev, instruction.push_next):
            tokens = self.tokens[stage, other]
            tokens.append((clock, index))
            if len(tokens) > MAX_TOKENS:
                self._violation(
                    "hw-token-overflow", index,
                    f"{len(tokens)} tokens from {_name(stage)} to {_name(other)} are outstanding; "
                    f"the counter holds {MAX_TOKENS}",
                )  # fmt: skip
        if isinstance(instruction, Finish):
            self.finished_at = self.now
            queue.waiting.clear()
        for each in self.queues:
            self._start(each)

    def _effect(self, index: int, instruction: Instruction, clock: Clock) -> None:
        if isinstance(instruction, Load):
            if not instruction.is_noop:
                self._count(instruction)
                self.checks.load(index, instruction, clock)
        elif isinstance(instruction, Store):
            if not instruction.is_noop:
                size = self.config.out_bytes
                self.stored += instruction.x_size * instruction.y_size * size
                self.checks.store(index, instruction, clock)
        elif isinstance(instruction, Gemm):
            self.gemm_steps += 0 if instruction.reset else instruction.steps
            self.checks.gemm(index, instruction, clock)
        elif isinstance(instruction, Alu):
            self.alu_steps += instruction.steps
            self.checks.alu(index, instruction, clock)

    def _count(self, instruction: Load) -> None:
        memory = Memory(instruction.memory)
        size = element_bytes(memory, self.config)
        self.loaded[memory] += instruction.x_size * instruction.y_size * size

    # Rules about the stream as a whole.

    def _check_stream(self) -> None:
        for i, x in enumerate(self.instructions):
            if isinstance(x, TargetError):
                kind = "bad-opcode" if "opcode" in x.message else "bad-encoding"
                self._violation(kind, i, x.message, timed=False)
            elif isinstance(x, Load) and x.stage is None:
                self._violation(
                    "bad-memory-type", i, f"LOAD cannot fill memory {x.memory}", timed=False
                )
            elif x.stage is not None:
                self._check_neighbours(i, x, x.stage)
        places = [i for i, x in enumerate(self.instructions) if isinstance(x, Finish)]
        if not places:
            self._violation("finish-missing", None, "the stream has no FINISH", timed=False)
            return
        self.finish = places[0]
        after = len(self.instructions) - 1 - self.finish
        if after:
            self._violation(
                "finish-not-last", self.finish,
                f"{after} instructions come after it and are never run", timed=False,
            )  # fmt: skip

    def _check_neighbours(self, index: int, instruction: Instruction, stage: Stage) -> None:
        if stage == Stage.LOAD and (instruction.pop_prev or instruction.push_prev):
            missing = "before load"
        elif stage == Stage.STORE and (instruction.pop_next or instruction.push_next):
            missing = "after store"
        else:
            return
        self._violation(
            "no-such-queue", index, f"a token flag names a queue {missing}", timed=False
        )

    def _check_end(self) -> None:
        stuck = [q for q in self.queues if q.waiting]
        if stuck or self._blocked:
            self._report_stuck(stuck)
        if self.finished_at is not None and self.finish is not None:
            clock = self.clocks[self.finish]
            for stage in (Stage.LOAD, Stage.STORE):
                known = 0 if clock is None else clock[stage]
                for index in self.started[stage][known:]:
                    if not self._instruction(index).is_noop:
                        self._violation(
                            "finish-unordered", index,
                            f"no token orders FINISH (instruction {self.finish}) after it",
                        )  # fmt: skip
        for (source, target), tokens in self.tokens.items():
            if tokens and not stuck:
                pushers = ", ".join(str(i) for _, i in list(tokens)[:8])
                self._violation(
                    "token-left-over", tokens[0][1],
                    f"{len(tokens)} tokens from {_name(source)} to {_name(target)} are never "
                    f"taken, pushed by instructions {pushers}",
                )  # fmt: skip

    def _report_stuck(self, stuck: list[_Queue]) -> None:
        state = self._state()
        for queue in stuck:
            index = queue.waiting[0]
            instruction = self._instruction(index)
            missing = [
                _name(other)
                for other in _neighbours(queue.stage, instruction.pop_prev, instruction.pop_next)
                if not self.tokens[other, queue.stage]
            ]
            kind = "token-deadlock" if self.finished_at is None else "instruction-left-over"
            self._violation(
                kind, index,
                f"{_name(queue.stage)} waits for a token of {' and of '.join(missing)} that never "
                f"comes; {state}",
            )  # fmt: skip

    def _state(self) -> str:
        """All queues and tokens, for the message of a deadlock."""
        parts = []
        for queue in self.queues:
            if not queue.waiting:
                parts.append(f"{_name(queue.stage)}: empty")
                continue
            first = queue.waiting[0]
            parts.append(
                f"{_name(queue.stage)}: {len(queue.waiting)} waiting, first {first} "
                f"({self._text(first)})"
            )
        held = [f"{_name(a)} to {_name(b)} {len(t)}" for (a, b), t in self.tokens.items()]
        last = len(self.instructions) if self.finish is None else self.finish + 1
        rest = last - max(self.fetched, self._fetch_next)
        return f"queues: {'; '.join(parts)}; tokens: {', '.join(held)}; not yet fetched: {rest}"

    # Small things.

    def _decode(
        self, stream: npt.NDArray[np.uint8] | Sequence[Instruction]
    ) -> list[Instruction | TargetError]:
        if not isinstance(stream, np.ndarray):
            return list(stream)
        if stream.dtype != np.uint8 or stream.ndim != 2 or stream.shape[1] != INSTRUCTION_BYTES:
            raise TargetError(
                f"the stream must be bytes (n, {INSTRUCTION_BYTES}), not {stream.dtype} "
                f"{stream.shape}",
                where="VTA simulator",
            )
        data = stream.tobytes()
        return [
            _decoded(data[i : i + INSTRUCTION_BYTES], self.config)
            for i in range(0, len(data), INSTRUCTION_BYTES)
        ]

    def _instruction(self, index: int) -> Instruction:
        instruction = self.instructions[index]
        if isinstance(instruction, TargetError):
            raise TypeError("an instruction that cannot be decoded came into a queue")
        return instruction

    def _text(self, index: int) -> str:
        instruction = self.instructions[index]
        return (
            "undecodable"
            if isinstance(instruction, TargetError)
            else format_instruction(instruction)
        )

    def _push(self, time: int, kind: int, what: int) -> None:
        self._sequence += 1
        heapq.heappush(self.events, (time, kind, self._sequence, what))

    def _violation(
        self, kind: str, index: int | None, message: str, *, timed: bool = True,
        other: tuple[Stage, int] | None = None,
    ) -> None:  # fmt: skip
        if not self.checking:
            return
        if other is not None:
            there = self.started[other[0]][other[1] - 1]
            message += f" instruction {there} ({self._text(there)})"
        text = "" if index is None else self._text(index)
        self.violations.append(Violation(kind, index, text, message, self.now if timed else None))

    def _result(self) -> Simulation:
        count = len(self.instructions)
        stage = np.full(count, -1, dtype=np.int8)
        for i, instruction in enumerate(self.instructions):
            if not isinstance(instruction, TargetError) and instruction.stage is not None:
                stage[i] = instruction.stage
        order = sorted(self.violations, key=lambda v: -1 if v.index is None else v.index)
        names = {m: m.name for m in Memory if m not in (Memory.OUT, Memory.ACC_8BIT)}
        return Simulation(
            config=self.config,
            cycles=self.now if self.finished_at is None else self.finished_at,
            finished=self.finished_at is not None,
            violations=tuple(order),
            timeline=Timeline(stage, *self.times, *self.waits),
            loaded_bytes={name: self.loaded[m] for m, name in names.items()},
            stored_bytes=self.stored,
            fetched_bytes=self.fetched * INSTRUCTION_BYTES,
            read_beats=self.bus.busy_beats,
            gemm_steps=self.gemm_steps,
            alu_steps=self.alu_steps,
            functional=self.functional,
        )


def _neighbours(stage: Stage, prev: bool, following: bool) -> list[Stage]:
    """The queues that an instruction's flags of one direction name; there may be none beyond."""
    result = []
    if prev and stage > Stage.LOAD:
        result.append(Stage(stage - 1))
    if following and stage < Stage.STORE:
        result.append(Stage(stage + 1))
    return result


def _name(stage: Stage) -> str:
    return stage.name.lower()


__all__: list[Any] = ["Simulation", "Timeline", "simulate", "simulate_stream"]
