"""VTA's instructions as text, and back.

One instruction a line: its mnemonic, the memory or operation, and the fields that are not 0::

    LOAD INP pop_next sram_base=256 dram_base=452 y_size=14 x_size=14 x_stride=14 x_pad0=1
    GEMM pop_prev push_next uop_begin=1 uop_end=37 iter_out=14 iter_in=14 dst_out=14
    ALU SHR use_imm uop_end=1 iter_out=1 iter_in=196 dst_in=1 src_in=1 imm=8
    FINISH

Flags stand alone, other fields are ``name=value`` with a decimal or 0x number. ``#`` begins a
comment. `encode` says whether the values fit into a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from enum import IntEnum
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from targets.errors import TargetError
from targets.vta.config import INSTRUCTION_BYTES, VtaConfig
from targets.vta.isa import INSTRUCTIONS, AluOp, Instruction, Memory, Uop, decode, encode

_KINDS = {kind.mnemonic: kind for kind in INSTRUCTIONS}
#: The field that is written without its name, and the names of its values.
_NAMED: dict[str, tuple[str, type[IntEnum]]] = {
    "LOAD": ("memory", Memory), "STORE": ("memory", Memory), "ALU": ("op", AluOp),
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")


def format_instruction(instruction: Instruction) -> str:
    """One line of text, which `parse_instruction` reads."""
    words = [instruction.mnemonic]
    named = _NAMED.get(instruction.mnemonic)
    if named is not None:
        value = int(getattr(instruction, named[0]))
        known = value in tuple(named[1])
        words.append(named[1](value).name if known else str(value))
    for item in fields(instruction):
        if named is not None and item.name == named[0]:
            continue
        value = getattr(instruction, item.name)
        if item.metadata["flag"]:
            words += [item.name] if value else []
        elif value:
            words.append(f"{item.name}={int(value)}")
    return " ".join(words)


def parse_instruction(text: str, *, where: str = "VTA assembler") -> Instruction:
    """The instruction of one line.

    Args:
        text: As `format_instruction` writes it; a comment may follow.
        where: Named in messages: a file and a line.

    Raises:
        TargetError: The line is no instruction.
    """
    words = text.split("#", 1)[0].split()
    if not words:
        _fail(where, "there is no instruction")
    mnemonic = words[0].upper()
    kind = _KINDS.get(mnemonic)
    if kind is None:
        _fail(where, f"{words[0]!r} is no instruction", f"use {', '.join(_KINDS)}")
    values: dict[str, Any] = {}
    rest = words[1:]
    named = _NAMED.get(mnemonic)
    if named is not None:
        if not rest:
            _fail(where, f"{mnemonic} needs a {named[0]}", f"use {_names(named[1])}")
        values[named[0]] = _enumerated(rest.pop(0), named[1], where)
    known = {item.name: item for item in fields(kind)}
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in known or (named is not None and name == named[0]):
            near = get_close_matches(name, list(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(known)}"
            _fail(where, f"{mnemonic} has no field {name!r}", hint)
        if name in values:
            _fail(where, f"{name} is given twice")
        if known[name].metadata["flag"]:
            if equals:
                _fail(where, f"{name} is a flag and takes no value")
            values[name] = True
        elif not _NUMBER.fullmatch(value):
            _fail(where, f"{name} needs a number, as in {name}=1, not {value!r}")
        else:
            values[name] = int(value, 0) if "x" in value.lower() else int(value)
    return kind(**values)


def format_uop(uop: Uop) -> str:
    """One line of text, which `parse_uop` reads."""
    return f"dst={uop.dst} src={uop.src} wgt={uop.wgt}"


def parse_uop(text: str, *, where: str = "VTA assembler") -> Uop:
    """The micro-op of one line such as ``dst=0 src=1 wgt=2``; what is missing is 0.

    Raises:
        TargetError: The line is no micro-op.
    """
    values: dict[str, int] = {}
    for word in text.split("#", 1)[0].split():
        name, _, value = word.partition("=")
        if name not in Uop._fields:
            _fail(where, f"a micro-op has no {name!r}", "use dst=, src= and wgt=")
        if name in values:
            _fail(where, f"{name} is given twice")
        if not _NUMBER.fullmatch(value):
            _fail(where, f"{name} needs a number, not {value!r}")
        values[name] = int(value, 0) if "x" in value.lower() else int(value)
    return Uop(values.get("dst", 0), values.get("src", 0), values.get("wgt", 0))


def assemble(text: str | Iterable[str], config: VtaConfig) -> npt.NDArray[np.uint8]:
    """The encoded instructions of a text, uint8 (n, 16). Empty lines and comments are skipped.

    Raises:
        TargetError: With the line's number: it is no instruction, or a value does not fit.
    """
    lines = text.splitlines() if isinstance(text, str) else text
    data = bytearray()
    for number, line in enumerate(lines, 1):
        if not line.split("#", 1)[0].strip():
            continue
        where = f"line {number}"
        instruction = parse_instruction(line, where=where)
        try:
            data += encode(instruction, config)
        except TargetError as error:
            raise TargetError(error.message, where=where, hint=error.hint) from error
    return np.frombuffer(bytes(data), dtype=np.uint8).reshape(-1, INSTRUCTION_BYTES)


def disassemble(stream: npt.NDArray[np.uint8], config: VtaConfig) -> list[str]:
    """One line of text for each of the encoded instructions, uint8 (n, 16).

    Raises:
        TargetError: One cannot be decoded; the message says which.
    """
    return [_disassembled(row.tobytes(), i, config) for i, row in enumerate(stream)]


def _disassembled(data: bytes, index: int, config: VtaConfig) -> str:
    try:
        return format_instruction(decode(data, config))
    except TargetError as error:
        raise TargetError(error.message, where=f"instruction {index}", hint=error.hint) from error


def _enumerated(word: str, names: type[IntEnum], where: str) -> int:
    if word.isdecimal():
        return int(word)
    if word.upper() not in names.__members__:
        _fail(where, f"{word!r} is none of {_names(names)}")
    return names[word.upper()]


def _names(names: type[IntEnum]) -> str:
    return ", ".join(names.__members__)


def _fail(where: str, message: str, hint: str | None = None) -> NoReturn:
    raise TargetError(message, where=where, hint=hint)


__all__ = [
    "assemble",
    "disassemble",
    "format_instruction",
    "format_uop",
    "parse_instruction",
    "parse_uop",
]
