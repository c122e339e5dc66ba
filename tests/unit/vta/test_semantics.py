"""The simulator's datapath against the plain meaning of each instruction, and against NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    simulate,
    simulate_stream,
)
from targets.vta.datapath import Datapath
from targets.vta.isa import Uop
from targets.vta.memories import integer, interpret
from tests.support.examples import some_of
from tools.vta_resnet18 import Conv, program

CONFIGS = (
    VtaConfig(),
    VtaConfig("batch", batch=4, block=8, acc_buffer_bytes=1 << 15, inp_buffer_bytes=1 << 12),
    VtaConfig("wide", block=32, out_bits=32, bus_bits=128),
    VtaConfig("sixteen", inp_bits=16, wgt_bits=16, out_bits=16, block=4, uop_depth=0,
              acc_buffer_bytes=1 << 12, inp_buffer_bytes=1 << 12, wgt_buffer_bytes=1 << 12),
)  # fmt: skip
#: Vectors of each on-chip memory that the random programs use.
USED = 24
UOPS = 12
PAGE = 4096


@dataclass
class Machine:
    """DRAM with random data for every memory, and the instructions that load it."""

    config: VtaConfig
    dram: npt.NDArray[np.uint8]
    loads: list[Instruction]
    out_base: int


def machine(config: VtaConfig, uops: list[Uop], seed: int, *, shifts: bool) -> Machine:
    random = np.random.default_rng(seed)
    tile = (USED, config.batch, config.block)

    def full(width: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        high = 1 << (width - 1)
        return random.integers(-high, high, shape).astype(integer(width))

    acc = full(32, tile)
    if shifts:  # the second half holds what tensors may be shifted by
        acc[USED // 2 :] = random.integers(0, 32, acc[USED // 2 :].shape)
    parts = {
        Memory.UOP: np.array([encode_uop(u, config) for u in uops], dtype="<u4"),
        Memory.ACC: acc,
        Memory.INP: full(config.inp_bits, tile),
        Memory.WGT: full(config.wgt_bits, (USED, config.block, config.block)),
    }
    dram = np.zeros(64 * PAGE + (1 << 16), dtype=np.uint8)
    at = 4 * PAGE
    loads: list[Instruction] = []
    for memory, data in parts.items():
        at = -(-at // PAGE) * PAGE
        size = data.nbytes // len(data)
        dram[at : at + data.nbytes] = data.reshape(-1).view(np.uint8)
        loads.append(Load(
            memory=memory, dram_base=at // size, y_size=1, x_size=len(data), x_stride=len(data),
            push_next=memory == Memory.WGT,
        ))  # fmt: skip
        at += data.nbytes
    return Machine(config, dram, loads, -(-at // PAGE) * PAGE // config.out_bytes)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, int]:
    """A window of micro-ops and two loops whose indices stay below `USED`."""
    begin = draw(st.integers(0, UOPS - 1))
    result = {
        "uop_begin": begin,
        "uop_end": draw(st.integers(begin + 1, UOPS)),
        "iter_out": draw(st.integers(1, 4)),
        "iter_in": draw(st.integers(1, 4)),
    }
    for index in ("dst", "src", "wgt"):
        # micro-ops go up to 7, and 3 * 2 + 3 * 3 is 15: 22 at most
        result[f"{index}_out"] = draw(st.integers(0, 2))
        result[f"{index}_in"] = draw(st.integers(0, 3))
    return result


small = st.integers(0, 7)
uop_lists = st.lists(st.builds(Uop, small, small, small), min_size=UOPS, max_size=UOPS)


@st.composite
def compute(draw: st.DrawFn) -> Instruction:
    window = draw(windows())
    if draw(st.booleans()):
        return Gemm(reset=draw(st.integers(0, 4)) == 0, **window)  # type: ignore[arg-type]
    del window["wgt_out"], window["wgt_in"]
    op = draw(st.sampled_from([AluOp.MIN, AluOp.MAX, AluOp.ADD, AluOp.SHR, AluOp.MUL]))
    imm = draw(st.integers(-31, 31) if op == AluOp.SHR else st.integers(-(1 << 15), (1 << 15) - 1))
    use_imm = draw(st.booleans())
    return Alu(op=op, use_imm=use_imm, imm=imm if use_imm else 0, **window)  # type: ignore[arg-type]


@settings(max_examples=some_of(300, 60), deadline=None)
@given(st.sampled_from(CONFIGS), uop_lists, st.lists(compute(), min_size=1, max_size=5),
       st.integers(0, 1 << 30))  # fmt: skip
def test_datapath_does_what_the_instructions_mean(
    config: VtaConfig, uops: list[Uop], code: list[Instruction], seed: int
) -> None:
    made = machine(config, uops, seed, shifts=False)
    expected = interpret([*made.loads, *code], made.dram.copy(), config)
    data = Datapath(config, made.dram, functional=True)
    for load in made.loads:
        assert isinstance(load, Load)
        data.load(load)
    for instruction in code:
        if isinstance(instruction, Gemm):
            data.gemm(instruction, data.plan(instruction))
        elif isinstance(instruction, Alu):
            data.alu(instruction, data.plan(instruction))
    np.testing.assert_array_equal(data.acc, expected.acc)
    np.testing.assert_array_equal(data.out, expected.out)


@settings(max_examples=some_of(100, 30), deadline=None)
@given(st.sampled_from(CONFIGS), uop_lists, st.lists(windows(), min_size=1, max_size=4),
       st.integers(0, 1 << 30), st.data())  # fmt: skip
def test_random_legal_programs(
    config: VtaConfig, uops: list[Uop], loops: list[dict[str, int]], seed: int, data: st.DataObject
) -> None:
    """Queues, tokens and DMA around it: the memory afterwards is what the meaning gives."""
    code: list[Instruction] = [Gemm(pop_prev=True, **loops[0])]  # type: ignore[arg-type]
    for loop in loops[1:]:
        both = {**loop, "src_out": loop["dst_out"], "src_in": loop["dst_in"]}
        del both["wgt_out"], both["wgt_in"]
        op = data.draw(st.sampled_from([AluOp.MIN, AluOp.MAX, AluOp.ADD]))
        code.append(Alu(op=op, **both))  # type: ignore[arg-type]
    made = machine(config, uops, seed, shifts=False)
    # All vectors pass through the ALU, so that all of OUT is written; two micro-ops take turns,
    # since one place cannot be written twice in a row.
    table = [*uops, Uop(0, 0), Uop(1, 1)]
    made = machine(config, table, seed, shifts=False)
    code.append(Alu(op=AluOp.ADD, use_imm=True, imm=data.draw(st.integers(-9, 9)), push_next=True,
                    uop_begin=UOPS, uop_end=UOPS + 2, iter_out=1, iter_in=USED // 2, dst_in=2,
                    src_in=2))  # fmt: skip
    store = Store(
        memory=Memory.OUT, pop_prev=True, push_prev=True, sram_base=data.draw(st.integers(0, 3)),
        dram_base=made.out_base, y_size=4, x_size=5, x_stride=data.draw(st.integers(0, 9)),
    )  # fmt: skip
    full = [*made.loads, *code, store, Load(memory=Memory.UOP, pop_next=True), Finish()]
    expected = made.dram.copy()
    interpret(full, expected, config)
    stream = np.frombuffer(b"".join(encode(x, config) for x in full), np.uint8).reshape(-1, 16)
    result = simulate_stream(stream, made.dram, config)
    assert [str(v) for v in result.violations] == []
    np.testing.assert_array_equal(made.dram, expected)


@settings(max_examples=some_of(60, 30), deadline=None)
@given(
    memory=st.sampled_from([Memory.INP, Memory.WGT, Memory.ACC, Memory.UOP]),
    y=st.integers(1, 4), x=st.integers(1, 5), stride=st.integers(0, 9),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4), base=st.integers(0, 9),
    config=st.sampled_from(CONFIGS),
)  # fmt: skip
def test_loads(
    memory: Memory, y: int, x: int, stride: int, pads: list[int], base: int, config: VtaConfig
) -> None:
    random = np.random.default_rng(y + 10 * x)
    dram = random.integers(0, 256, 1 << 17, dtype=np.uint8)
    load = Load(memory=memory, sram_base=base, dram_base=8, y_size=y, x_size=x, x_stride=stride,
                y_pad0=pads[0], y_pad1=pads[1], x_pad0=pads[2], x_pad1=pads[3])  # fmt: skip
    expected = interpret([load], dram, config)
    data = Datapath(config, dram, functional=True)
    data.load(load)
    if memory == Memory.UOP:
        np.testing.assert_array_equal(data.uop, expected._uop)
    elif memory == Memory.ACC:
        np.testing.assert_array_equal(data.acc, expected.acc)
    elif memory == Memory.INP:
        np.testing.assert_array_equal(data._inp, expected.inp)
    else:
        np.testing.assert_array_equal(data._wgt, expected.wgt.transpose(0, 2, 1))


@pytest.mark.parametrize(
    "layer",
    [Conv(2, 4, 9), Conv(3, 2, 14, stride=2), Conv(4, 4, 8, kernel=1), Conv(1, 1, 5)],
    ids=str,
)
def test_convolutions_equal_numpy(layer: Conv) -> None:
    made = program([layer], VtaConfig(), seed=3)
    result, dram = simulate(made)
    result.check()
    data = made.contents["data0"].astype(np.int64)
    weight = made.contents["weight0"].astype(np.int64)
    pad, size = layer.kernel // 2, layer.out_size
    padded = np.pad(data, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = np.zeros((layer.out_blocks, size, size, 16), dtype=np.int64)
    for ky in range(layer.kernel):
        for kx in range(layer.kernel):
            window = padded[:, ky :: layer.stride, kx :: layer.stride][:, :size, :size]
            total += np.einsum("iyxc,oikc->oyxk", window, weight[:, :, ky, kx])
    expected = np.clip(total >> 10, 0, 127)
    np.testing.assert_array_equal(made.read("out0", dram), expected)


def test_two_layers_in_one_stream() -> None:
    layers = [Conv(2, 2, 8), Conv(2, 2, 8)]
    result, dram = simulate(program(layers, VtaConfig(), seed=5))
    result.check()
    first = program(layers[:1], VtaConfig(), seed=5)
    _, alone = simulate(first)
    both = program(layers, VtaConfig(), seed=5)
    np.testing.assert_array_equal(both.read("out0", dram), first.read("out0", alone))
    assert both.read("out1", dram).any()


def test_sums_wrap_at_32_bits_and_never_lose_bits() -> None:
    """As many products as it takes to leave float32's exact range, with extreme values."""
    config = VtaConfig("deep", inp_buffer_bytes=1 << 15)
    count = 2000
    uops = [Uop(0, i, 0) for i in range(count)]
    dram = np.zeros(1 << 18, dtype=np.uint8)
    dram[4096:12096].view("<u4")[:] = [encode_uop(u, config) for u in uops]
    dram[16384 : 16384 + 16 * count] = np.int8(-128).view(np.uint8)
    dram[65536:65792] = np.int8(-128).view(np.uint8)
    dram[69632:69696].view("<i4")[:] = 2**31 - 1
    code: list[Instruction] = [
        Load(memory=Memory.UOP, dram_base=1024, y_size=1, x_size=count),
        Load(memory=Memory.ACC, dram_base=1088, y_size=1, x_size=1),
        Load(memory=Memory.INP, dram_base=1024, y_size=1, x_size=count),
        Load(memory=Memory.WGT, dram_base=256, y_size=1, x_size=1, push_next=True),
        Gemm(pop_prev=True, uop_end=count, iter_out=1, iter_in=1),
    ]
    data = Datapath(config, dram, functional=True)
    for x in code[:-1]:
        assert isinstance(x, Load)
        data.load(x)
    gemm = code[-1]
    assert isinstance(gemm, Gemm)
    data.gemm(gemm, data.plan(gemm))
    expected = 2**31 - 1 + count * 16 * 128 * 128
    assert data.acc[0, 0, 0] == (expected + 2**31) % 2**32 - 2**31
    np.testing.assert_array_equal(data.acc, interpret(code, dram, config).acc)
