"""A whole program as text, and back: directives, buffers, micro-ops and instructions.

::

    .config name=vta/pynq inp_bits=8 ...    # or .config vta/pynq
    .dram 28672                             # size of DRAM, bytes
    .buffer data input 4096 int8 64x16      # name, role, address, dtype, shape
    .content data                           # lines of hexadecimal bytes follow
    0001feff...
    .skip 64                                # zeros, bytes
    .uops uop                               # lines of micro-ops follow
    dst=0 src=0 wgt=0
    .code 24576                             # address; lines of instructions follow
    LOAD UOP dram_base=5120 y_size=1 x_size=1 x_stride=1
    FINISH
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from targets.errors import TargetError
from targets.vta.assembly import assemble, disassemble, format_uop, parse_uop
from targets.vta.config import INSTRUCTION_BYTES, VtaConfig
from targets.vta.isa import decode_uop, encode_uop
from targets.vta.program import Buffer, Program, check_buffer

_LINE_BYTES = 32


def format_program(program: Program, *, contents: bool = True) -> str:
    """The program's text.

    Args:
        program: The program.
        contents: Write what the buffers hold, too, so that `parse_listing` gives an equal
            program. Micro-ops are always written.
    """
    config = " ".join(f"{k}={v:g}" if k == "clock_hz" else f"{k}={v}"
                      for k, v in program.config.to_dict().items())  # fmt: skip
    lines = [f".config {config}", f".dram {program.dram_bytes}"]
    lines += [
        f".buffer {b.name} {b.role} {b.address} {b.dtype} {_shape_text(b.shape)}"
        for b in program.buffers
    ]
    for b in program.buffers:
        value = program.contents.get(b.name)
        if value is None or not value.any():
            continue
        if b.role == "uop" and b.dtype == "uint32":
            lines += ["", f".uops {b.name}"]
            uops = (format_uop(decode_uop(int(w), program.config)) for w in value.reshape(-1))
            lines += [f"{text}  # {i}" for i, text in enumerate(uops)]
        elif contents:
            lines += ["", f".content {b.name}", *_hex_lines(value)]
    lines += ["", f".code {program.instruction_address}"]
    code = disassemble(program.instructions, program.config)
    lines += [f"{text}  # {i}" for i, text in enumerate(code)]
    return "\n".join(lines) + "\n"


def parse_listing(
    text: str, *, where: str, config: VtaConfig | None = None,
    find_config: Callable[[str], VtaConfig] | None = None,
) -> Program:  # fmt: skip
    """The program of a text that `format_program` wrote, or a person.

    Args:
        text: The text.
        where: Named in messages: the file.
        config: Used if the text has no ``.config``.
        find_config: Gives the configuration that ``.config NAME`` stands for.

    Raises:
        TargetError: With the line: something is unknown, missing or impossible.
    """
    return _Parser(where, config, find_config).parse(text)


class _Parser:
    def __init__(
        self, where: str, config: VtaConfig | None,
        find_config: Callable[[str], VtaConfig] | None,
    ) -> None:  # fmt: skip
        self._where = where
        self._config = config
        self._find = find_config
        self._line = 0
        self._dram: int | None = None
        self._code: int | None = None
        self._stream: list[npt.NDArray[np.uint8]] = []
        self._buffers: dict[str, Buffer] = {}
        self._bytes: dict[str, bytearray] = {}
        self._into: str | None = None
        self._mode = ""

    def parse(self, text: str) -> Program:
        for self._line, raw in enumerate(text.splitlines(), 1):
            line = raw.split("#", 1)[0].strip()
            if not line:
                continue
            if line.startswith("."):
                self._directive(line.split())
            else:
                self._data(line)
        if self._code is None:
            self._fail("there is no .code")
        if self._dram is None:
            self._fail("there is no .dram")
        empty = np.empty((0, INSTRUCTION_BYTES), dtype=np.uint8)
        contents: dict[str, npt.NDArray[Any]] = {}
        for name, data in self._bytes.items():
            b = self._buffers[name]
            if len(data) > b.size:
                self._fail(f"buffer {name!r} has {b.size} bytes, its content {len(data)}")
            whole = bytes(data).ljust(b.size, b"\0")
            dtype = np.dtype(b.dtype).newbyteorder("<")
            contents[name] = np.frombuffer(whole, dtype=dtype).reshape(b.shape)
        return Program(
            self._known(), np.concatenate([empty, *self._stream]), self._code, self._dram,
            tuple(self._buffers.values()), contents,
        )  # fmt: skip

    def _directive(self, words: list[str]) -> None:
        name, rest = words[0], words[1:]
        if name == ".config":
            self._config = self._read_config(rest)
        elif name == ".dram" and len(rest) == 1:
            self._dram = self._number(rest[0])
        elif name == ".buffer" and len(rest) == 5:
            shape = tuple(self._number(n) for n in rest[4].split("x"))
            if rest[0] in self._buffers:
                self._fail(f"buffer {rest[0]!r} is given twice")
            made = Buffer(rest[0], rest[1], self._number(rest[2]), rest[3], shape)
            try:
                check_buffer(made)
            except TargetError as error:
                self._fail(error.message, error.hint)
            self._buffers[made.name] = made
        elif name in (".content", ".uops") and len(rest) == 1:
            if rest[0] not in self._buffers:
                self._fail(f"there is no buffer {rest[0]!r}")
            self._mode, self._into = name, rest[0]
            self._bytes.setdefault(rest[0], bytearray())
        elif name == ".skip" and len(rest) == 1 and self._into is not None:
            self._bytes[self._into] += bytes(self._number(rest[0]))
        elif name == ".code" and len(rest) == 1:
            if self._code is not None:
                self._fail(".code is given twice")
            self._mode, self._code = name, self._number(rest[0])
        else:
            self._fail(
                f"{' '.join(words)!r} is no directive",
                "use .config, .dram N, .buffer NAME ROLE ADDRESS DTYPE SHAPE, .content NAME, "
                ".skip N, .uops NAME or .code ADDRESS",
            )

    def _data(self, line: str) -> None:
        if self._mode == ".code":
            try:
                self._stream.append(assemble(line, self._known()))
            except TargetError as error:
                self._fail(error.message, error.hint)
        elif self._mode == ".uops" and self._into is not None:
            try:
                uop = parse_uop(line)
                word = encode_uop(uop, self._known())
            except TargetError as error:
                self._fail(error.message, error.hint)
            self._bytes[self._into] += word.to_bytes(4, "little")
        elif self._mode == ".content" and self._into is not None:
            try:
                self._bytes[self._into] += bytes.fromhex(line)
            except ValueError:
                self._fail(f"{line[:40]!r} are no hexadecimal bytes")
        else:
            self._fail(f"{line[:40]!r} comes before .code, .content or .uops")

    def _read_config(self, words: list[str]) -> VtaConfig:
        if len(words) == 1 and "=" not in words[0]:
            if self._find is None:
                self._fail(f".config {words[0]}: configurations cannot be named here")
            return self._find(words[0])
        known = {item.name: item for item in fields(VtaConfig)}
        values: dict[str, Any] = {}
        for word in words:
            key, _, value = word.partition("=")
            if key == "name":
                values[key] = value
            elif key == "clock_hz" and key in known:
                try:
                    values[key] = float(value)
                except ValueError:
                    self._fail(f"clock_hz needs a number, not {value!r}")
            else:
                values[key] = self._number(value)
        return VtaConfig.from_dict(values, where=f"{self._where}:{self._line}")

    def _known(self) -> VtaConfig:
        if self._config is None:
            self._fail("there is no .config before this line")
        return self._config

    def _number(self, text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            self._fail(f"{text!r} is no number")
        if not 0 <= value < 1 << 40:
            self._fail(f"{text} is out of range")
        return value

    def _fail(self, message: str, hint: str | None = None) -> NoReturn:
        raise TargetError(message, where=f"{self._where}:{self._line}", hint=hint)


def _hex_lines(value: npt.NDArray[Any]) -> list[str]:
    data = value.tobytes()
    lines = []
    zeros = 0
    for i in range(0, len(data), _LINE_BYTES):
        part = data[i : i + _LINE_BYTES]
        if not any(part):
            zeros += len(part)
            continue
        if zeros:
            lines.append(f".skip {zeros}")
            zeros = 0
        lines.append(part.hex())
    return lines  # zeros at the end need not be said


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


__all__ = ["format_program", "parse_listing"]
