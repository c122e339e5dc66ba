"""VTA's instruction set: each instruction once, with its fields, their widths and its meaning.

An instruction is a frozen dataclass. Its fields, in order, are the encoding's bit fields from
bit 0 on; `bits(...)` gives the width, a number or the name of a property of `VtaConfig`. Its
`execute` is its meaning, written as plainly as the hardware's manual would; the simulator's
datapath does the same with whole arrays and is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from targets.errors import TargetError
from targets.vta.config import IMMEDIATE_BITS, INSTRUCTION_BYTES, LOOP_BITS, UOP_BYTES, VtaConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Values = npt.NDArray[np.int64]


class Memory(IntEnum):
    """On-chip memories, by the number that LOAD and STORE name them with."""

    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    OUT = 4
    #: int8 in DRAM, int32 in ACC. The reference functional simulator has it, the hardware not.
    ACC_8BIT = 5


class AluOp(IntEnum):
    """Operations of the vector unit."""

    MIN = 0
    MAX = 1
    ADD = 2
    SHR = 3
    #: The reference functional simulator has it, the hardware not.
    MUL = 4


class Stage(IntEnum):
    """The three queues; "previous" and "next" of a token flag are neighbours in this order."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


class Machine(Protocol):
    """What an instruction works on; `targets.vta.memories.Memories` is the plain one.

    `inp`, `wgt` and `acc` are indexed by element first.
    """

    inp: Values
    wgt: Values
    acc: Values

    def uops(self, begin: int, end: int) -> Iterator[Uop]:
        """The micro-ops of a window."""

    def load(self, memory: Memory, at: int, element: int | None) -> None:
        """Fill one on-chip element from DRAM; zeros if `element` is None."""

    def store(self, at: int, element: int) -> None:
        """Write one element of OUT to DRAM."""

    def write(self, dst: int, value: Values) -> None:
        """Write an accumulator, wrapped to 32 bits, and its low bits to OUT."""

    def minimum(self, left: Any, right: Any) -> Values:
        """The smaller of each two values."""

    def maximum(self, left: Any, right: Any) -> Values:
        """The larger of each two values."""


class BitField(NamedTuple):
    """Where one field lies in an instruction of one configuration."""

    name: str
    low: int
    width: int
    signed: bool

    @property
    def least(self) -> int:
        """The smallest value that fits."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def most(self) -> int:
        """The largest value that fits."""
        return (1 << (self.width - self.signed)) - 1


def bits(
    width: int | str, *, signed: bool = False, at: int | None = None, flag: bool = False
) -> Any:
    """A bit field of an instruction, 0 by default.

    Args:
        width: In bits, or the property of `VtaConfig` that holds it.
        signed: Whether the value is in two's complement.
        at: The bit that it begins at, if not right after the field before.
        flag: Whether it is one bit that holds True or False.
    """
    meta = {"width": width, "signed": signed, "at": at, "flag": flag}
    return field(default=False if flag else 0, metadata=meta)


@dataclass(frozen=True, slots=True)
class Instruction:
    """What all instructions begin with: the opcode in bits 0 to 2, and the token flags.

    Attributes:
        pop_prev: Wait for a token of the previous stage, and take it.
        pop_next: Wait for a token of the next stage, and take it.
        push_prev: When done, give the previous stage a token.
        push_next: When done, give the next stage a token.
    """

    opcode: ClassVar[int] = -1
    mnemonic: ClassVar[str] = ""

    pop_prev: bool = bits(1, at=3, flag=True)
    pop_next: bool = bits(1, flag=True)
    push_prev: bool = bits(1, flag=True)
    push_next: bool = bits(1, flag=True)

    @property
    def stage(self) -> Stage | None:
        """The queue that runs it; None where the hardware knows of none."""
        return Stage.COMPUTE

    @property
    def is_noop(self) -> bool:
        """Whether it does nothing but take and give tokens."""
        return False

    def execute(self, memories: Machine) -> None:
        """Do what the instruction does, on `memories`; tokens are the queues' business."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Transfer(Instruction):
    """The fields that LOAD and STORE share: a rectangle in DRAM, dense rows on the chip.

    Attributes:
        memory: The on-chip memory, a `Memory`.
        sram_base: First element on the chip.
        dram_base: DRAM byte address / bytes of an element.
        y_size: Rows.
        x_size: Elements of a row; 0: an instruction that only passes tokens on.
        x_stride: Elements from one row's begin in DRAM to the next one's.
        y_pad0: Rows of zeros before the first.
        y_pad1: Rows of zeros after the last.
        x_pad0: Zeros before each row.
        x_pad1: Zeros after each row.
    """

    memory: int = bits(3)
    sram_base: int = bits(16)
    dram_base: int = bits(32)
    y_size: int = bits(16, at=64)
    x_size: int = bits(16)
    x_stride: int = bits(16)
    y_pad0: int = bits(4)
    y_pad1: int = bits(4)
    x_pad0: int = bits(4)
    x_pad1: int = bits(4)

    @property
    def is_noop(self) -> bool:
        """Whether it has no elements: it only passes tokens on."""
        return self.x_size == 0

    @property
    def row(self) -> int:
        """Elements of one row on the chip, padding included."""
        return self.x_pad0 + self.x_size + self.x_pad1

    @property
    def rows(self) -> int:
        """Rows on the chip, padding included."""
        return self.y_pad0 + self.y_size + self.y_pad1

    @property
    def sram_elements(self) -> int:
        """Elements that it fills or reads on the chip, from `sram_base` on."""
        return 0 if self.is_noop else self.rows * self.row


@dataclass(frozen=True, slots=True)
class Load(_Transfer):
    """DRAM to an on-chip memory, row by row, with zeros around."""

    opcode: ClassVar[int] = 0
    mnemonic: ClassVar[str] = "LOAD"

    @property
    def stage(self) -> Stage | None:
        """Load or compute, by the memory; None for one that LOAD cannot fill."""
        if self.memory in (Memory.INP, Memory.WGT):
            return Stage.LOAD
        if self.memory in (Memory.UOP, Memory.ACC, Memory.ACC_8BIT):
            return Stage.COMPUTE
        return None

    def execute(self, memories: Machine) -> None:
        """Fill the on-chip memory."""
        if self.is_noop:
            return
        at = self.sram_base
        for y in range(-self.y_pad0, self.y_size + self.y_pad1):
            for x in range(-self.x_pad0, self.x_size + self.x_pad1):
                inside = 0 <= y < self.y_size and 0 <= x < self.x_size
                element = self.dram_base + y * self.x_stride + x if inside else None
                memories.load(Memory(self.memory), at, element)
                at += 1


@dataclass(frozen=True, slots=True)
class Store(_Transfer):
    """OUT to DRAM, row by row; no padding."""

    opcode: ClassVar[int] = 1
    mnemonic: ClassVar[str] = "STORE"

    @property
    def stage(self) -> Stage | None:
        """Always store."""
        return Stage.STORE

    def execute(self, memories: Machine) -> None:
        """Write the rows to DRAM."""
        for y in range(self.y_size if self.x_size else 0):
            for x in range(self.x_size):
                memories.store(self.sram_base + y * self.x_size + x,
                               self.dram_base + y * self.x_stride + x)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Loops(Instruction):
    """The fields that GEMM and ALU share: two loops around a list of micro-ops.

    Attributes:
        reset: GEMM only: write zeros instead of adding products.
        uop_begin: First micro-op.
        uop_end: The one after the last.
        iter_out: Runs of the outer loop.
        iter_in: Runs of the inner loop.
        dst_out: Added to a micro-op's dst for each run of the outer loop.
        dst_in: The same for the inner loop.
        src_out: Added to its src for each run of the outer loop.
        src_in: The same for the inner loop.
    """

    reset: bool = bits(1, flag=True)
    uop_begin: int = bits("uop_index_bits")
    uop_end: int = bits("uop_end_bits")
    iter_out: int = bits(LOOP_BITS)
    iter_in: int = bits(LOOP_BITS)
    dst_out: int = bits("acc_index_bits", at=64)
    dst_in: int = bits("acc_index_bits")
    src_out: int = bits("inp_index_bits")
    src_in: int = bits("inp_index_bits")

    @property
    def steps(self) -> int:
        """Micro-ops that it runs, loops included."""
        return self.iter_out * self.iter_in * max(0, self.uop_end - self.uop_begin)


@dataclass(frozen=True, slots=True)
class Gemm(_Loops):
    """acc[dst] += inp[src] x wgt[wgt] transposed, for each micro-op in both loops.

    Attributes:
        wgt_out: Added to a micro-op's wgt for each run of the outer loop.
        wgt_in: The same for the inner loop.
    """

    opcode: ClassVar[int] = 2
    mnemonic: ClassVar[str] = "GEMM"

    wgt_out: int = bits("wgt_index_bits")
    wgt_in: int = bits("wgt_index_bits")

    def execute(self, memories: Machine) -> None:
        """Multiply and add, or reset."""
        for y in range(self.iter_out):
            for x in range(self.iter_in):
                for uop in memories.uops(self.uop_begin, self.uop_end):
                    dst = uop.dst + y * self.dst_out + x * self.dst_in
                    if self.reset:
                        memories.acc[dst] = 0
                        continue
                    inp = memories.inp[uop.src + y * self.src_out + x * self.src_in]
                    wgt = memories.wgt[uop.wgt + y * self.wgt_out + x * self.wgt_in]
                    memories.write(dst, memories.acc[dst] + inp @ wgt.T)


@dataclass(frozen=True, slots=True)
class Alu(_Loops):
    """acc[dst] = op(acc[dst], acc[src]), or op(acc[src], imm), for each micro-op in both loops.

    Attributes:
        op: An `AluOp`.
        use_imm: Take `imm` for the second operand; then the hardware reads src, not dst.
        imm: The second operand.
    """

    opcode: ClassVar[int] = 4
    mnemonic: ClassVar[str] = "ALU"

    op: int = bits(3)
    use_imm: bool = bits(1, flag=True)
    imm: int = bits(IMMEDIATE_BITS, signed=True)

    def execute(self, memories: Machine) -> None:
        """Apply the operation."""
        for y in range(self.iter_out):
            for x in range(self.iter_in):
                for uop in memories.uops(self.uop_begin, self.uop_end):
                    dst = uop.dst + y * self.dst_out + x * self.dst_in
                    src = memories.acc[uop.src + y * self.src_out + x * self.src_in]
                    left, right = (src, self.imm) if self.use_imm else (memories.acc[dst], src)
                    if self.op == AluOp.MIN:
                        value = memories.minimum(left, right)
                    elif self.op == AluOp.MAX:
                        value = memories.maximum(left, right)
                    elif self.op == AluOp.ADD:
                        value = left + right
                    elif self.op == AluOp.MUL:
                        value = left * right
                    elif self.use_imm and self.imm < 0:
                        value = left << (-self.imm & 31)
                    else:
                        value = left >> (right & 31)
                    memories.write(dst, value)


@dataclass(frozen=True, slots=True)
class Finish(Instruction):
    """The program's end: the host is told. The last instruction, after every load and store."""

    opcode: ClassVar[int] = 3
    mnemonic: ClassVar[str] = "FINISH"

    def execute(self, memories: Machine) -> None:
        """Nothing: the queues see to it."""
        del memories


class Uop(NamedTuple):
    """A micro-op: the three indices that GEMM's and ALU's loops add to."""

    dst: int
    src: int = 0
    wgt: int = 0


INSTRUCTIONS: tuple[type[Instruction], ...] = (Load, Store, Gemm, Finish, Alu)
_BY_OPCODE = {kind.opcode: kind for kind in INSTRUCTIONS}


def layout(kind: type[Instruction], config: VtaConfig) -> tuple[BitField, ...]:
    """Where an instruction's fields lie, bit 0 first; the opcode in bits 0 to 2 is not listed."""
    return _layout(kind.opcode, config)


@lru_cache(maxsize=256)
def _layout(opcode: int, config: VtaConfig) -> tuple[BitField, ...]:
    result = []
    low = 0
    for item in fields(_BY_OPCODE[opcode]):
        width = item.metadata["width"]
        if width == "uop_end_bits":  # exclusive, so that the depth itself must fit
            width = config.uop_index_bits + 1
        elif isinstance(width, str):
            width = getattr(config, width)
        if item.metadata["at"] is not None:
            low = item.metadata["at"]
        result.append(BitField(item.name, low, width, item.metadata["signed"]))
        low += width
    return tuple(result)


@lru_cache(maxsize=64)
def uop_layout(config: VtaConfig) -> tuple[BitField, ...]:
    """Where a micro-op's fields lie, bit 0 first."""
    acc, inp, wgt = config.acc_index_bits, config.inp_index_bits, config.wgt_index_bits
    return (
        BitField("dst", 0, acc, signed=False),
        BitField("src", acc, inp, signed=False),
        BitField("wgt", acc + inp, wgt, signed=False),
    )


def encode(instruction: Instruction, config: VtaConfig) -> bytes:
    """The 16 bytes of an instruction.

    Raises:
        TargetError: A field's value does not fit into its width in this configuration.
    """
    word = instruction.opcode
    for item in layout(type(instruction), config):
        value = getattr(instruction, item.name)
        word |= _checked(value, item, instruction.mnemonic, config) << item.low
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes, config: VtaConfig) -> Instruction:
    """The instruction of 16 bytes.

    Raises:
        TargetError: There are not 16 bytes, the opcode is unknown, or bits that belong to no
            field are set: the bytes are no instruction of this configuration.
    """
    if len(data) != INSTRUCTION_BYTES:
        raise TargetError(
            f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}",
            where="VTA decoder",
            hint="the instruction stream is cut off or begins at a wrong place",
        )
    word = int.from_bytes(data, "little")
    kind = _BY_OPCODE.get(word & 7)
    if kind is None:
        raise TargetError(
            f"opcode {word & 7} is unknown (instruction {data.hex()})",
            where="VTA decoder",
            hint="these bytes are no VTA instruction",
        )
    rest = word >> 3 << 3
    values: dict[str, Any] = {}
    for item, known in zip(layout(kind, config), fields(kind), strict=True):
        raw = word >> item.low & ((1 << item.width) - 1)
        rest &= ~(raw << item.low)
        if known.metadata["flag"]:
            values[item.name] = bool(raw)
        else:
            values[item.name] = raw - (1 << item.width) if raw > item.most else raw
    if rest:
        raise TargetError(
            f"bits that belong to no field of {kind.mnemonic} are set: {_bit_list(rest)} "
            f"(instruction {data.hex()})",
            where="VTA decoder",
            hint=f"the stream is damaged, or was made for another configuration than {config.name}",
        )
    return kind(**values)


def encode_uop(uop: Uop, config: VtaConfig) -> int:
    """A micro-op's 32 bits as a number.

    Raises:
        TargetError: An index does not fit into its width in this configuration.
    """
    word = 0
    for item, value in zip(uop_layout(config), uop, strict=True):
        word |= _checked(value, item, "UOP", config) << item.low
    return word


def decode_uop(word: int, config: VtaConfig) -> Uop:
    """The micro-op of 32 bits.

    Raises:
        TargetError: It is no number of 32 bits, or bits that belong to no field are set.
    """
    if not 0 <= word < 1 << (8 * UOP_BYTES):
        raise TargetError(f"{word} is no number of 32 bits", where="VTA decoder")
    values = [word >> item.low & item.most for item in uop_layout(config)]
    if encode_uop(Uop(*values), config) != word:
        raise TargetError(
            f"bits that belong to no field of a micro-op are set: {word:#010x}",
            where="VTA decoder",
            hint=f"it is damaged, or was made for another configuration than {config.name}",
        )
    return Uop(*values)


def _checked(value: Any, item: BitField, mnemonic: str, config: VtaConfig) -> int:
    """The field's bits, not yet moved into place."""
    try:
        number = int(value.__index__())
    except AttributeError:
        raise TargetError(
            f"{mnemonic}'s field {item.name} must be a whole number, not {value!r}",
            where="VTA encoder",
        ) from None
    if not item.least <= number <= item.most:
        raise TargetError(
            f"{mnemonic}'s field {item.name} is {number}, which does not fit into its "
            f"{item.width} bits",
            where=f"VTA encoder ({config.name})",
            hint=f"it can be from {item.least} to {item.most}",
        )
    return number & ((1 << item.width) - 1)


def _bit_list(word: int) -> str:
    return ", ".join(str(i) for i in range(word.bit_length()) if word >> i & 1)


__all__ = [
    "INSTRUCTIONS",
    "Alu",
    "AluOp",
    "BitField",
    "Finish",
    "Gemm",
    "Instruction",
    "Load",
    "Memory",
    "Stage",
    "Store",
    "Uop",
    "decode",
    "decode_uop",
    "encode",
    "encode_uop",
    "layout",
    "uop_layout",
]
