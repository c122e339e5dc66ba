"""Rules that no golden stream breaks, and the message of each."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets import TargetError
from targets.vta import (
    Alu,
    AluOp,
    Finish,
    Gemm,
    Instruction,
    Load,
    Memory,
    Store,
    VtaConfig,
    encode,
    encode_uop,
    simulate_stream,
)
from targets.vta.isa import Stage, Uop
from targets.vta.violations import KINDS, Violation
from tests.support.examples import some_of
from tests.unit.vta.golden import cases

CONFIG = VtaConfig()
SMALL = [c for c in cases("programs") if len(c.program.instructions) < 20]
ADDRESS = 8192
UOP_ADDRESS = 4096
ACC = Load(memory=Memory.ACC, dram_base=1024, y_size=1, x_size=4, x_stride=4)
UOPS = Load(memory=Memory.UOP, dram_base=1024, y_size=1, x_size=4, x_stride=4)
ONE = Alu(op=AluOp.ADD, use_imm=True, imm=1, uop_end=4, iter_out=1, iter_in=1)


def run(*code: Instruction, checks: bool = True) -> tuple[Violation, ...]:
    whole = [*code, Finish()]
    stream = np.frombuffer(b"".join(encode(x, CONFIG) for x in whole), np.uint8).reshape(-1, 16)
    dram = np.zeros(1 << 17, dtype=np.uint8)
    dram[ADDRESS : ADDRESS + stream.size] = stream.reshape(-1)
    words = [encode_uop(Uop(i, i, 0), CONFIG) for i in range(4)]
    dram[UOP_ADDRESS : UOP_ADDRESS + 16].view("<u4")[:] = words
    return simulate_stream(stream, dram, CONFIG, address=ADDRESS, checks=checks).violations


def stored(**values: int) -> tuple[Instruction, ...]:
    """A STORE with its tokens, after the ALU has written its vectors."""
    store = Store(memory=Memory.OUT, pop_prev=True, push_prev=True, y_size=1, x_size=4, x_stride=4,
                  **values)  # fmt: skip
    push = Load(memory=Memory.UOP, push_next=True)
    return ACC, UOPS, ONE, push, store, Load(memory=Memory.UOP, pop_next=True)


def test_a_correct_stream() -> None:
    assert run(*stored(dram_base=2048)) == ()


@pytest.mark.parametrize(
    ("code", "index", "kind", "says"),
    [
        ((Load(memory=Memory.ACC, dram_base=1024, x_size=4),), 0, "empty-transfer", "y_size is 0"),
        (stored(dram_base=ADDRESS // 16), 4, "store-over-program", "it writes bytes 8192 to 8255"),
        ((Load(memory=Memory.INP, push_prev=True),), 0, "no-such-queue", "before load"),
        ((Store(memory=Memory.OUT, pop_next=True),), 0, "no-such-queue", "after store"),
        ((UOPS, Gemm(reset=True, uop_end=1, iter_out=9999, iter_in=9999)), 1, "simulator-limit",
         "99980001 steps"),
        ((ACC, ONE), 1, "uninitialized-read", "UOP 0 to 3: 4 elements"),
        ((UOPS, ONE), 1, "uninitialized-read", "ACC 0 to 3: 4 elements"),
        ((ACC, UOPS, Gemm(uop_end=1, iter_out=1, iter_in=1)), 2, "uninitialized-read",
         "INP 0: 1 elements"),
        ((ACC, UOPS, Gemm(uop_begin=2, uop_end=1, iter_out=1, iter_in=1)), 2, "hw-zero-iterations",
         "micro-ops 2 to 1"),
        ((ACC, UOPS, Alu(op=AluOp.SHR, use_imm=True, imm=32, uop_end=1, iter_out=1, iter_in=1)), 2,
         "hw-shift-range", "SHR by 32"),
        ((ACC, UOPS, Alu(op=5, uop_end=1, iter_out=1, iter_in=1)), 2, "hw-unsupported-op",
         "no operation 5"),
        ((Load(memory=6, x_size=1),), 0, "bad-memory-type", "LOAD cannot fill memory 6"),
        ((Load(memory=Memory.INP, dram_base=(1 << 32) - 1, y_size=65535, x_size=65535),), 0,
         "sram-overflow", "the memory has 2048"),
        ((Load(memory=Memory.INP, dram_base=512, y_size=1, x_size=4),), 0, "finish-unordered",
         "no token orders FINISH"),
    ],
)  # fmt: skip
def test_rule(code: tuple[Instruction, ...], index: int, kind: str, says: str) -> None:
    found = [v for v in run(*code) if v.kind == kind]
    assert {v.index for v in found} == {index}, run(*code)
    assert says in found[0].message
    assert str(found[0]).startswith(f"instruction {index} (")


def test_bits_without_a_field() -> None:
    stream = np.frombuffer(encode(Finish(), CONFIG) * 2, np.uint8).reshape(2, 16).copy()
    stream[0, 9] = 1
    dram = np.zeros(1 << 14, dtype=np.uint8)
    result = simulate_stream(stream, dram, CONFIG)
    assert [(v.index, v.kind) for v in result.violations] == [(0, "bad-encoding")]
    with pytest.raises(TargetError, match="breaks 1 rules") as caught:
        result.check()
    assert "instruction 0 (undecodable): bad-encoding: bits that belong" in str(caught.value)


def test_dram_written_and_read_without_a_token() -> None:
    again = Load(memory=Memory.ACC, sram_base=8, dram_base=512, y_size=1, x_size=1, x_stride=1)
    good = (*stored(dram_base=2048), again)
    assert run(*good) == ()
    *before, _ = stored(dram_base=2048)
    bad = (*before, again, Load(memory=Memory.UOP, pop_next=True))
    assert [(v.index, v.kind) for v in run(*bad)] == [(5, "race")]
    message = run(*bad)[0].message
    assert "it reads DRAM" in message
    assert "written by instruction 4 (STORE OUT pop_prev" in message


def test_accumulators_may_be_loaded_while_outputs_are_stored() -> None:
    # In hardware ACC and OUT are two memories.
    *before, last = stored(dram_base=2048)
    assert run(*before, ACC, last) == ()


def test_outputs_are_old_if_acc_changed_before_the_store() -> None:
    acc, uops, one, push, store, pop = stored(dram_base=2048)
    assert [(v.index, v.kind) for v in run(acc, uops, one, acc, push, store, pop)] == [
        (5, "hw-output-not-written")
    ]


def test_long_streams_fill_the_queues_and_go_on() -> None:
    # Compute is busy long enough for more loads than a queue has room for.
    busy = Gemm(reset=True, uop_end=4, iter_out=16, iter_in=999)
    loads = [Load(memory=Memory.INP)] * 700
    last = (Load(memory=Memory.UOP, push_prev=True), Load(memory=Memory.INP, pop_next=True))
    first = (Load(memory=Memory.INP, pop_next=True), Load(memory=Memory.UOP, push_prev=True))
    assert run(UOPS, busy, first[1], first[0], *loads, *last) == ()


def test_a_full_queue_can_deadlock_too() -> None:
    # The token that load waits for is pushed by an instruction that does not fit in behind it.
    loads = [Load(memory=Memory.INP, pop_next=True), *[Load(memory=Memory.INP)] * 600]
    found = run(*loads, Load(memory=Memory.UOP, push_prev=True))
    assert [(v.index, v.kind) for v in found] == [(0, "token-deadlock")]
    assert "not yet fetched" in found[0].message


def test_timeline_adds_up() -> None:
    stream = np.frombuffer(
        b"".join(encode(x, CONFIG) for x in (*stored(dram_base=2048), Finish())), np.uint8
    ).reshape(-1, 16)
    dram = np.zeros(1 << 17, dtype=np.uint8)
    dram[4096:4112].view("<u4")[:] = [encode_uop(Uop(i, i, 0), CONFIG) for i in range(4)]
    result = simulate_stream(stream, dram, CONFIG)
    line = result.timeline
    assert (line.done >= line.begun).all()
    assert (line.begun >= line.arrived).all()
    for stage in Stage:
        mine = line.stage == stage
        last = int(line.done[mine].max(initial=0))
        assert result.busy_cycles(stage) + sum(result.waiting_cycles(stage)) == last
    assert result.cycles == line.done[-1]
    assert result.loaded_bytes == {"UOP": 16, "WGT": 0, "INP": 0, "ACC": 256}
    assert result.stored_bytes == 64
    assert result.alu_steps == 4
    assert result.seconds == result.cycles / 100e6


@pytest.mark.parametrize(
    ("stream", "dram"),
    [
        (np.zeros((2, 15), np.uint8), np.zeros(9, np.uint8)),
        (np.zeros((2, 16), np.int32), np.zeros(9, np.uint8)),
        (np.zeros((2, 16), np.uint8), np.zeros(9, np.int8)),
    ],
)
def test_arrays_of_a_wrong_kind(stream, dram) -> None:
    with pytest.raises(TargetError, match="must be"):
        simulate_stream(stream, dram, CONFIG)


@pytest.mark.parametrize(
    "code",
    [
        (UOPS, Gemm(reset=True, uop_end=4, iter_out=1, iter_in=2, dst_in=2047)),
        (ACC, UOPS, Alu(uop_end=4, iter_out=1, iter_in=2, src_in=2047)),
        (ACC, UOPS, Alu(op=7, uop_end=1, iter_out=1, iter_in=1)),
        (UOPS, Gemm(reset=True, uop_end=9999, iter_out=1, iter_in=1)),
        (Load(memory=Memory.ACC, dram_base=1 << 30, y_size=1, x_size=4),),
        stored(dram_base=1 << 30),
        stored(dram_base=2048, sram_base=2047),
    ],
)
def test_without_checks_what_cannot_be_done_is_an_error(code: tuple[Instruction, ...]) -> None:
    with pytest.raises(TargetError, match="cannot be carried out"):
        run(*code, checks=False)
    assert run(*code)


@settings(max_examples=some_of(150, 40), deadline=None)
@given(st.data())
def test_any_bytes_end_in_a_list_of_violations(data: st.DataObject) -> None:
    """Golden programs with changed bits: never an exception, and never without an end."""
    case = data.draw(st.sampled_from(SMALL))
    stream = case.program.instructions.copy()
    for _ in range(data.draw(st.integers(1, 3))):
        row, bit = data.draw(st.integers(0, len(stream) - 1)), data.draw(st.integers(0, 127))
        stream[row, bit // 8] ^= 1 << bit % 8
    dram = case.program.image()
    result = simulate_stream(stream, dram, CONFIG, address=case.program.instruction_address)
    assert all(v.kind in KINDS for v in result.violations)
    assert result.finished or result.violations


def test_every_kind_is_tested_and_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "vta.md").read_text(encoding="utf-8")
    section = text.split("## What the simulator checks")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    assert documented == set(KINDS)
    golden = {c.facts["failure_class"] for c in cases("illegal")}
    here = set(re.findall(r'"([a-z-]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert set(KINDS) <= golden | here
