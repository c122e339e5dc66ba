"""Races: the vector clocks against all pairs of instructions, and every dropped token."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from targets.vta import (
    Alu,
    Gemm,
    Instruction,
    Load,
    Memory,
    Program,
    Store,
    decode,
    decode_uop,
    encode,
    simulate,
)
from targets.vta.isa import Finish, Stage
from targets.vta.timing import element_bytes
from tests.unit.vta.golden import CONFIG, Case, cases

Place = tuple[str, int]


def decoded(program: Program) -> list[Instruction]:
    return [decode(row.tobytes(), CONFIG) for row in program.instructions]


def with_code(program: Program, code: list[Instruction]) -> Program:
    stream = np.frombuffer(b"".join(encode(x, CONFIG) for x in code), dtype=np.uint8)
    return Program(program.config, stream.reshape(-1, 16), program.instruction_address,
                   program.dram_bytes, program.buffers, program.contents)  # fmt: skip


def edges(code: list[Instruction]) -> list[tuple[int, str, int, str]]:
    """Every token: who pushes it by which flag, and who pops it by which."""
    counts: dict[tuple[Stage, Stage], deque[tuple[int, str]]] = {}
    pops: dict[tuple[Stage, Stage], deque[tuple[int, str]]] = {}
    for i, x in enumerate(code):
        stage = x.stage
        assert stage is not None
        for flag, step in (("prev", -1), ("next", 1)):
            if not 0 <= stage + step <= 2:
                continue
            other = Stage(stage + step)
            if getattr(x, f"push_{flag}"):
                counts.setdefault((stage, other), deque()).append((i, f"push_{flag}"))
            if getattr(x, f"pop_{flag}"):
                pops.setdefault((other, stage), deque()).append((i, f"pop_{flag}"))
    return [
        (*pushed, *popped)
        for edge, queue in counts.items()
        for pushed, popped in zip(queue, pops[edge], strict=True)
    ]


def accesses(program: Program, code: list[Instruction]) -> list[tuple[set[Place], set[Place]]]:
    """What each instruction reads and writes of what queues share, place by place."""
    dram = program.image()
    uops: dict[int, int] = {}
    result = []
    for x in code:
        reads: set[Place] = set()
        writes: set[Place] = set()
        if isinstance(x, Load | Store) and not x.is_noop:
            size = element_bytes(x.memory, CONFIG)
            rows = [(x.dram_base + y * x.x_stride) * size for y in range(x.y_size)]
            there = {("DRAM", a) for r in rows for a in range(r, r + x.x_size * size, 4)}
            here = {(Memory(x.memory).name, x.sram_base + n) for n in range(x.sram_elements)}
            if isinstance(x, Store):
                reads, writes = here, there
            else:
                reads, writes = there, here
                if x.memory == Memory.UOP:
                    words: npt.NDArray[np.uint32] = np.concatenate(
                        [dram[r : r + 4 * x.x_size].view(np.uint32) for r in rows]
                    )
                    uops.update(enumerate(words.tolist(), x.sram_base))
        elif isinstance(x, Gemm | Alu):
            for y in range(x.iter_out):
                for n in range(x.iter_in):
                    for u in range(x.uop_begin, x.uop_end):
                        uop = decode_uop(uops[u], CONFIG)
                        if not x.reset:
                            writes.add(("OUT", uop.dst + y * x.dst_out + n * x.dst_in))
                        if isinstance(x, Gemm) and not x.reset:
                            reads.add(("INP", uop.src + y * x.src_out + n * x.src_in))
                            reads.add(("WGT", uop.wgt + y * x.wgt_out + n * x.wgt_in))
        result.append((reads, writes))
    return result


def is_ordered(code: list[Instruction], used: list[tuple[set[Place], set[Place]]]) -> bool:
    """Whether the queues' order and the tokens order all pairs that share a place."""
    count = len(code)
    after = [0] * count  # bit set: what is certain to be done before
    last: dict[Stage, int] = {}
    incoming: dict[int, list[int]] = {}
    for source, _, target, _ in edges(code):
        incoming.setdefault(target, []).append(source)
    for i, x in enumerate(code):
        assert x.stage is not None
        if x.stage in last:
            incoming.setdefault(i, []).append(last[x.stage])
        last[x.stage] = i
    changed = True
    while changed:
        changed = False
        for i in range(count):
            known = after[i]
            for source in incoming.get(i, ()):
                known |= after[source] | 1 << source
            changed |= known != after[i]
            after[i] = known
    for i in range(count):
        if isinstance(code[i], Finish):
            work = [j for j in range(count) if code[j].stage != Stage.COMPUTE]
            if any(not after[i] >> j & 1 and not code[j].is_noop for j in work):
                return False
        for j in range(i):
            if code[i].stage == code[j].stage or after[i] >> j & 1 or after[j] >> i & 1:
                continue
            (reads, writes), (other_reads, other_writes) = used[i], used[j]
            if writes & (other_reads | other_writes) or reads & other_writes:
                return False
    return True


_SMALL = [c for c in cases("programs") if len(c.program.instructions) <= 80]


@pytest.mark.parametrize("case", _SMALL, ids=str)
def test_every_dropped_token_is_noticed_or_redundant(case: Case) -> None:
    code = decoded(case.program)
    used = accesses(case.program, code)
    assert is_ordered(code, used)
    for push, push_flag, pop, pop_flag in edges(code):
        broken = list(code)
        broken[push] = replace(broken[push], **{push_flag: False})
        broken[pop] = replace(broken[pop], **{pop_flag: False})
        result, _ = simulate(with_code(case.program, broken), functional=False)
        noticed = {v.kind for v in result.violations} & {"race", "finish-unordered"}
        assert bool(noticed) != is_ordered(broken, used), (push, pop)
        assert result.finished


def test_a_redundant_token_may_go() -> None:
    case = next(c for c in _SMALL if c.name == "01-gemm-single")
    code = decoded(case.program)
    used = accesses(case.program, code)
    index = next(i for i, x in enumerate(code) if isinstance(x, Load) and x.memory == Memory.INP)
    extra = [
        *code[: index + 1],
        Load(memory=Memory.INP, push_next=True),
        Load(memory=Memory.UOP, pop_prev=True),
        *code[index + 1 :],
    ]
    assert is_ordered(code, used)
    for program in (code, extra):
        assert simulate(with_code(case.program, program), functional=False)[0].ok
