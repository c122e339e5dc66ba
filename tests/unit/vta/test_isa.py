"""Encoding, decoding and text, over all fields and configurations."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets import TargetError
from targets.vta import (
    AluOp,
    Gemm,
    Load,
    Memory,
    VtaConfig,
    assemble,
    decode,
    decode_uop,
    disassemble,
    encode,
    encode_uop,
)
from targets.vta.assembly import format_instruction, format_uop, parse_instruction, parse_uop
from targets.vta.isa import INSTRUCTIONS, Instruction, Uop, layout, uop_layout


def possible(values: dict[str, int]) -> VtaConfig | None:
    try:
        return VtaConfig(**values)
    except TargetError:
        return None


def powers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high).map(lambda n: 1 << n)


#: Every quantity varied; those that are impossible together are left out.
configs = (
    st.fixed_dictionaries({
        "inp_bits": st.sampled_from([8, 16]),
        "wgt_bits": st.sampled_from([8, 16]),
        "out_bits": st.sampled_from([8, 16, 32]),
        "batch": powers(0, 3),
        "block": powers(2, 6),
        "uop_buffer_bytes": powers(5, 15),
        "inp_buffer_bytes": powers(7, 17),
        "wgt_buffer_bytes": powers(9, 20),
        "acc_buffer_bytes": powers(8, 19),
        "uop_depth": st.just(0),
    })
    .map(possible)
    .filter(lambda c: c is not None)
)  # fmt: skip


@st.composite
def instructions(draw: st.DrawFn, config: VtaConfig) -> Instruction:
    kind = draw(st.sampled_from(INSTRUCTIONS))
    values = {f.name: draw(st.integers(f.least, f.most)) for f in layout(kind, config)}
    for item in fields(kind):
        if item.metadata["flag"]:
            values[item.name] = bool(values[item.name])
    return kind(**values)


@settings(deadline=None)
@given(st.data())
def test_round_trips(data: st.DataObject) -> None:
    config = data.draw(configs)
    assert config is not None
    instruction = data.draw(instructions(config))
    encoded = encode(instruction, config)
    assert decode(encoded, config) == instruction
    text = format_instruction(instruction)
    assert parse_instruction(text) == instruction
    stream = assemble(text, config)
    assert stream.tobytes() == encoded
    assert disassemble(stream, config) == [text]


@settings(deadline=None)
@given(st.data())
def test_uop_round_trips(data: st.DataObject) -> None:
    config = data.draw(configs)
    assert config is not None
    uop = Uop(*(data.draw(st.integers(f.least, f.most)) for f in uop_layout(config)))
    assert decode_uop(encode_uop(uop, config), config) == uop
    assert parse_uop(format_uop(uop)) == uop


@settings(deadline=None)
@given(st.data())
def test_a_value_that_does_not_fit_is_refused_by_name(data: st.DataObject) -> None:
    config = data.draw(configs)
    assert config is not None
    instruction = data.draw(instructions(config))
    field = data.draw(st.sampled_from(layout(type(instruction), config)))
    value = data.draw(st.sampled_from([field.least - 1, field.most + 1, field.most * 2 + 2]))
    with pytest.raises(TargetError, match=rf"{field.name} is {value}.*does not fit"):
        encode(replace(instruction, **{field.name: value}), config)


@settings(deadline=None)
@given(st.data())
def test_fields_fill_the_word_without_overlap(data: st.DataObject) -> None:
    config = data.draw(configs)
    assert config is not None
    for kind in INSTRUCTIONS:
        end = 3
        for field in layout(kind, config):
            assert field.low >= end
            assert field.low // 64 == (field.low + field.width - 1) // 64
            end = field.low + field.width
        assert end <= 128


def test_widths_of_the_published_configuration() -> None:
    places = {f.name: (f.low, f.width) for f in layout(Gemm, VtaConfig())}
    assert places["uop_begin"] == (8, 13)
    assert places["uop_end"] == (21, 14)
    assert places["iter_in"] == (49, 14)
    assert places["dst_out"] == (64, 11)
    assert places["wgt_in"] == (118, 10)
    places = {f.name: (f.low, f.width) for f in layout(Load, VtaConfig())}
    assert places["memory"] == (7, 3)
    assert places["dram_base"] == (26, 32)
    assert places["x_pad1"] == (124, 4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bytes(15), "16 bytes, not 15"),
        (bytes([5, *[0] * 15]), "opcode 5 is unknown"),
        (bytes([0] * 7 + [4] + [0] * 8), "belong to no field of LOAD are set: 58"),
        (bytes([3, 1] + [0] * 14), "belong to no field of FINISH are set: 8"),
        (bytes([2] + [0] * 6 + [128] + [0] * 8), "belong to no field of GEMM are set: 63"),
    ],
)
def test_bytes_that_are_no_instruction(data: bytes, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        decode(data, VtaConfig())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("JUMP", "'JUMP' is no instruction"),
        ("LOAD", "LOAD needs a memory"),
        ("LOAD DDR", "'DDR' is none of UOP, WGT"),
        ("ALU XOR", "'XOR' is none of MIN"),
        ("LOAD INP y_siez=1", "did you mean 'y_size'"),
        ("LOAD INP x_size", "x_size needs a number"),
        ("LOAD INP x_size=ten", "not 'ten'"),
        ("LOAD INP x_size=1 x_size=2", "x_size is given twice"),
        ("GEMM reset=1", "reset is a flag"),
        ("FINISH y_size=1", "FINISH has no field 'y_size'"),
        ("GEMM iter_in=16384", "iter_in is 16384, which does not fit into its 14 bits"),
        ("ALU ADD imm=-32769", "imm is -32769"),
    ],
)
def test_text_that_is_no_instruction(text: str, says: str) -> None:
    with pytest.raises(TargetError, match=says) as caught:
        assemble(f"FINISH\n\n{text}", VtaConfig())
    assert caught.value.where == "line 3"


def test_text_may_be_written_freely() -> None:
    text = "  load inp push_next x_size=0x10   # a comment\n# another\n\nalu shr use_imm imm=-3\n"
    first, second = (decode(row.tobytes(), VtaConfig()) for row in assemble(text, VtaConfig()))
    assert first == Load(memory=Memory.INP, push_next=True, x_size=16)
    assert getattr(second, "op", None) == AluOp.SHR
    assert getattr(second, "imm", None) == -3


def test_numbers_for_unknown_memories_survive() -> None:
    odd = Load(memory=7, x_size=1)
    assert format_instruction(odd) == "LOAD 7 x_size=1"
    assert parse_instruction("LOAD 7 x_size=1") == odd


def test_a_field_needs_a_whole_number() -> None:
    with pytest.raises(TargetError, match=r"y_size must be a whole number, not 1\.5"):
        encode(Load(y_size=1.5), VtaConfig())  # type: ignore[arg-type]
