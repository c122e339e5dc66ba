"""Golden data of the published hardware: encodings, programs, illegal streams and timings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from targets.vta import (
    AluOp,
    Memory,
    decode,
    decode_uop,
    encode,
    encode_uop,
    simulate,
    simulate_stream,
)
from targets.vta.assembly import format_instruction, parse_instruction
from targets.vta.isa import INSTRUCTIONS, Uop
from targets.vta.listing import format_program, parse_listing
from targets.vta.program import parse_program, program_bytes
from targets.vta.violations import KINDS
from tests.unit.vta.golden import CONFIG, FOLDER, Case, cases, timings

_NAMES = {
    "pop_prev_dep": "pop_prev", "pop_next_dep": "pop_next", "push_prev_dep": "push_prev",
    "push_next_dep": "push_next", "memory_type": "memory", "y_pad_0": "y_pad0",
    "y_pad_1": "y_pad1", "x_pad_0": "x_pad0", "x_pad_1": "x_pad1", "reset_reg": "reset",
    "uop_bgn": "uop_begin", "dst_factor_out": "dst_out", "dst_factor_in": "dst_in",
    "src_factor_out": "src_out", "src_factor_in": "src_in", "wgt_factor_out": "wgt_out",
    "wgt_factor_in": "wgt_in", "alu_opcode": "op",
}  # fmt: skip


def encodings() -> Iterator[tuple[str, str, dict[str, Any]]]:
    data = json.loads((FOLDER / "encodings.json").read_text(encoding="utf-8"))
    for kind, table in data.items():
        for text, *values in table["rows"]:
            yield kind, text, dict(zip(table["fields"], values, strict=True))


def test_every_encoding() -> None:
    kinds = {kind.mnemonic: kind for kind in INSTRUCTIONS}
    count = 0
    for kind, text, fields in encodings():
        count += 1
        if kind == "UOP":
            uop = Uop(fields["dst_idx"], fields["src_idx"], fields["wgt_idx"])
            assert encode_uop(uop, CONFIG).to_bytes(4, "little").hex() == text
            assert decode_uop(int.from_bytes(bytes.fromhex(text), "little"), CONFIG) == uop
            continue
        values: dict[str, Any] = {_NAMES.get(k, k): v for k, v in fields.items()}
        if "memory" in values:
            values["memory"] = Memory[values["memory"]]
        if "op" in values:
            values["op"] = AluOp[values["op"]]
        instruction = kinds[kind](**values)
        assert encode(instruction, CONFIG).hex() == text
        assert decode(bytes.fromhex(text), CONFIG) == instruction
        assert parse_instruction(format_instruction(instruction)) == instruction
    assert count == 413


@pytest.mark.parametrize("case", cases("programs"), ids=str)
def test_program(case: Case) -> None:
    expected = case.program.image()
    for name, value in case.arrays.items():
        if name.startswith("expect_"):
            b = case.program.buffer(name[7:])
            expected[b.address : b.end] = value.reshape(-1).view(np.uint8)
    result, dram = simulate(case.program)
    assert [str(v) for v in result.violations] == []
    np.testing.assert_array_equal(dram, expected)
    assert result.cycles == pytest.approx(case.facts["rtl_cycles"], rel=0.03)
    assert result.read_beats == case.facts["rtl_counters"]["read_beats"]
    assert result.stored_bytes == 8 * case.facts["rtl_counters"]["write_beats"]
    timed, _ = simulate(case.program, functional=False)
    assert timed.ok
    assert timed.cycles == result.cycles


@pytest.mark.parametrize("case", cases("programs"), ids=str)
def test_program_as_file_and_text(case: Case) -> None:
    data = program_bytes(case.program)
    assert program_bytes(parse_program(data, where="file")) == data
    text = format_program(case.program)
    assert program_bytes(parse_listing(text, where="text")) == data


#: What a stream breaks besides the rule that it was made to break.
_ALSO = {
    "05-token-left-over": {"finish-unordered"},  # nor does FINISH wait for the load
    "10-sram-overflow-store": {"hw-output-not-written"},  # the part that is inside
    "12-acc-index-out-of-range": {"uninitialized-read"},
    "13-wgt-index-out-of-range": {"uninitialized-read"},
    "20-missing-dependency": {"finish-unordered"},
    "24-hw-alu-imm-same-dst": {"hw-output-not-written"},  # it writes one of 16 stored vectors
}


@pytest.mark.parametrize("case", cases("illegal"), ids=str)
def test_illegal_stream_is_named(case: Case) -> None:
    result, dram = simulate(case.program)
    kinds = {v.kind for v in result.violations}
    assert kinds == {case.facts["failure_class"]} | _ALSO.get(case.name, set())
    assert kinds <= set(KINDS)
    for violation in result.violations:
        if violation.kind != "finish-missing":
            assert violation.index is not None
            assert violation.instruction
    if "rtl_out" in case.arrays:
        np.testing.assert_array_equal(case.program.read("out", dram), case.arrays["rtl_out"])


def test_a_deadlock_shows_all_queues() -> None:
    case = next(c for c in cases("illegal") if c.name == "04-token-cycle")
    result, _ = simulate(case.program)
    assert not result.finished
    first, second = result.violations
    assert (first.index, second.index) == (1, 2)
    for part in ("load: 1 waiting, first 1 (LOAD INP", "compute: 2 waiting, first 2 (GEMM",
                 "store: empty", "load to compute 0", "store to compute 0"):  # fmt: skip
        assert part in first.message


@pytest.mark.parametrize("case", timings(), ids=lambda c: c[0])
def test_timing(case: tuple[str, Any, Any, int, int, int]) -> None:
    name, stream, dram, address, cycles, beats = case
    whole = not name.startswith("single")
    result = simulate_stream(stream, dram.copy(), CONFIG, address=address, functional=whole)
    assert result.cycles == pytest.approx(cycles, rel=0.03)
    assert result.read_beats == beats
    if whole:
        assert [str(v) for v in result.violations] == []
