r"""A VTA program and its file.

A file is, all numbers little endian::

    8 bytes   magic, b"TWVTA\r\n\x1a"
    4 bytes   version of the format
    4 bytes   length of the header
    header    JSON: configuration, size of DRAM, place of the instructions, buffers
    data      the instructions, then the content of each buffer that has one, in their order
    32 bytes  SHA-256 of everything before

Buffers without content are zero when the program begins. Micro-ops are a buffer of the role
``uop``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from targets.errors import TargetError
from targets.vta.config import INSTRUCTION_BYTES, VtaConfig

MAGIC = b"TWVTA\r\n\x1a"
VERSION = 1
ROLES = ("input", "weight", "output", "scratch", "uop")
DTYPES = ("int8", "uint8", "int16", "int32", "uint32")
#: DRAM that a program may ask for, bytes; addresses of elements have 32 bits.
MAX_DRAM_BYTES = 1 << 32
_HEAD = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]*")


class ProgramError(TargetError):
    """A VTA program is damaged, foreign, impossible, or made for another configuration."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A named range of DRAM.

    Attributes:
        name: Its name, without spaces.
        role: One of `ROLES`.
        address: First byte.
        dtype: One of `DTYPES`.
        shape: Of the packed data, as the instructions see it.
    """

    name: str
    role: str
    address: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def end(self) -> int:
        """The byte after the last."""
        return self.address + self.size


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Instructions with the memory that they work on.

    Attributes:
        config: The VTA that it was made for.
        instructions: Encoded, uint8 (n, 16).
        instruction_address: Where they lie in DRAM, bytes.
        dram_bytes: Size of the memory, bytes.
        buffers: What else lies in DRAM; none overlaps another.
        contents: What buffers hold at the start, by name; the others are zero.

    Raises:
        ProgramError: The parts do not fit together.
    """

    config: VtaConfig
    instructions: npt.NDArray[np.uint8]
    instruction_address: int
    dram_bytes: int
    buffers: tuple[Buffer, ...]
    contents: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stream = np.ascontiguousarray(self.instructions)
        if stream.dtype != np.uint8 or stream.ndim != 2 or stream.shape[1] != INSTRUCTION_BYTES:
            _fail(f"instructions must be bytes (n, {INSTRUCTION_BYTES}), not {stream.dtype} "
                  f"{stream.shape}")  # fmt: skip
        object.__setattr__(self, "instructions", stream)
        if not 0 < self.dram_bytes <= MAX_DRAM_BYTES:
            _fail(f"dram_bytes is {self.dram_bytes}; it must be from 1 to {MAX_DRAM_BYTES}")
        ranges = [("the instructions", self.instruction_address, stream.size)]
        ranges += [(f"buffer {b.name!r}", b.address, b.size) for b in self.buffers]
        for item in self.buffers:
            check_buffer(item)
        if self.instruction_address % INSTRUCTION_BYTES:
            _fail(f"the instructions lie at {self.instruction_address}, which is no multiple of "
                  f"{INSTRUCTION_BYTES}")  # fmt: skip
        names = [b.name for b in self.buffers]
        if len(set(names)) != len(names):
            _fail(f"two buffers have one name: {', '.join(sorted(names))}")
        end, before = 0, "the start of DRAM"
        for name, begin, size in sorted(ranges, key=lambda r: r[1]):
            if begin < end:
                _fail(f"{name} at {begin} overlaps {before}, which ends at {end}")
            end, before = begin + size, name
        if end > self.dram_bytes:
            _fail(f"{before} ends at {end}, but DRAM has {self.dram_bytes} bytes")
        contents = {}
        for name, value in self.contents.items():
            if name not in names:
                _fail(f"there is content for a buffer {name!r}, which the program does not have")
            contents[name] = _content(self.buffers[names.index(name)], value)
        object.__setattr__(self, "contents", MappingProxyType(contents))

    def buffer(self, name: str) -> Buffer:
        """The buffer of a name.

        Raises:
            ProgramError: There is none.
        """
        for item in self.buffers:
            if item.name == name:
                return item
        names = ", ".join(b.name for b in self.buffers) or "none"
        return _fail(f"there is no buffer {name!r}", f"the program's buffers: {names}")

    def with_contents(self, contents: Mapping[str, npt.NDArray[Any]]) -> Program:
        """The program with other content for some of its buffers.

        Raises:
            ProgramError: There is no such buffer, or the array does not fit.
        """
        merged = {**self.contents, **contents}
        return Program(
            self.config, self.instructions, self.instruction_address, self.dram_bytes,
            self.buffers, merged,
        )  # fmt: skip

    def image(self) -> npt.NDArray[np.uint8]:
        """DRAM as it is when the program begins, uint8 (dram_bytes,), a fresh array."""
        dram = np.zeros(self.dram_bytes, dtype=np.uint8)
        begin = self.instruction_address
        dram[begin : begin + self.instructions.size] = self.instructions.reshape(-1)
        for name, value in self.contents.items():
            item = self.buffer(name)
            dram[item.address : item.end] = value.reshape(-1).view(np.uint8)
        return dram

    def read(self, name: str, dram: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """A buffer's content in a memory image, a copy.

        Raises:
            ProgramError: There is no such buffer.
        """
        item = self.buffer(name)
        data = dram[item.address : item.end].copy()
        return data.view(_dtype(item.dtype)).reshape(item.shape)


def write_program(program: Program, path: Path) -> None:
    """Write a program's file.

    Raises:
        OSError: The file cannot be written.
    """
    path.write_bytes(program_bytes(program))


def program_bytes(program: Program) -> bytes:
    """The bytes of a program's file; equal programs have equal ones."""
    stored = {name: value for name, value in program.contents.items() if value.any()}
    header = {
        "config": program.config.to_dict(),
        "dram_bytes": program.dram_bytes,
        "instruction_address": program.instruction_address,
        "instructions": len(program.instructions),
        "buffers": [
            {
                "name": b.name,
                "role": b.role,
                "address": b.address,
                "dtype": b.dtype,
                "shape": list(b.shape),
                "content": b.name in stored,
            }
            for b in program.buffers
        ],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    parts = [_HEAD.pack(MAGIC, VERSION, len(text)), text, program.instructions.tobytes()]
    parts += [stored[b.name].tobytes() for b in program.buffers if b.name in stored]
    data = b"".join(parts)
    return data + hashlib.sha256(data).digest()


def read_program(path: Path, config: VtaConfig | None = None) -> Program:
    """Read a program's file.

    Args:
        path: The file.
        config: The VTA that it shall run on, which the program then has; its name and clock
            may differ from those that the program was made for. None: the latter.

    Raises:
        ProgramError: The file cannot be read, is no VTA program, is of another version, cut off
            or damaged, or the program was made for another configuration.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProgramError(f"the program cannot be read: {error}", where=str(path)) from error
    return parse_program(data, where=str(path), config=config)


def parse_program(data: bytes, *, where: str, config: VtaConfig | None = None) -> Program:
    """The program of a file's bytes; see `read_program`."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        _fail("this is no VTA program file: it begins with other bytes",
              "`tilewright vta assemble` makes one; for a bare stream of instructions name its "
              "configuration", where=where)  # fmt: skip
    if len(data) < _HEAD.size:
        _truncated(where, f"its {len(data)} bytes are less than the file's head")
    _, version, header_bytes = _HEAD.unpack_from(data)
    if version != VERSION:
        _fail(f"the file is of version {version} of the format; this release reads {VERSION}",
              "make the program anew with this release", where=where)  # fmt: skip
    begin = _HEAD.size + header_bytes
    if len(data) < begin + _DIGEST_BYTES:
        _truncated(where, f"it ends within its header, after {len(data)} bytes")
    try:
        header = json.loads(data[_HEAD.size : begin])
        made_for = VtaConfig.from_dict(header["config"], where=where)
        buffers = tuple(
            Buffer(str(b["name"]), b["role"], b["address"], b["dtype"], tuple(b["shape"]))
            for b in header["buffers"]
        )
        stored = [
            b for b, entry in zip(buffers, header["buffers"], strict=True) if entry["content"]
        ]
        count, address = int(header["instructions"]), int(header["instruction_address"])
        dram_bytes = int(header["dram_bytes"])
        for item in buffers:
            check_buffer(item)
        sizes = [count * INSTRUCTION_BYTES, *(b.size for b in stored)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _fail(f"the header is damaged: {type(error).__name__}: {error}",
                     "make the program anew", where=where)  # fmt: skip
    whole = begin + sum(sizes) + _DIGEST_BYTES
    if len(data) < whole:
        _truncated(where, f"it has {len(data)} of {whole} bytes")
    if len(data) > whole:
        _fail(f"the file has {len(data) - whole} bytes too many", "make the program anew",
              where=where)  # fmt: skip
    if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        _fail("the file is damaged: its checksum does not fit", "make the program anew",
              where=where)  # fmt: skip
    require_config(made_for, config, where=where)
    parts = _split(data, begin, sizes)
    stream = np.frombuffer(next(parts), dtype=np.uint8).reshape(-1, INSTRUCTION_BYTES)
    contents = {
        b.name: np.frombuffer(next(parts), dtype=_dtype(b.dtype)).reshape(b.shape) for b in stored
    }
    return Program(config or made_for, stream, address, dram_bytes, buffers, contents)


def require_config(made_for: VtaConfig, config: VtaConfig | None, *, where: str) -> None:
    """Refuse a program that was made for a VTA of other widths or sizes.

    Raises:
        ProgramError: With the quantities that differ.
    """
    if config is None:
        return
    have, want = made_for.shape(), config.shape()
    different = [f"{k} {have[k]}, not {want[k]}" for k in have if have[k] != want[k]]
    if different:
        _fail(f"the program was made for another VTA ({made_for.name}) than {config.name}: "
              + "; ".join(different), f"compile it for {config.name}", where=where)  # fmt: skip


def _split(data: bytes, begin: int, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[begin : begin + size]
        begin += size


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name).newbyteorder("<")


def check_buffer(item: Buffer) -> None:
    """Whether a buffer can be, apart from where it lies.

    Raises:
        ProgramError: It cannot.
    """
    if not _NAME.fullmatch(item.name):
        _fail(f"{item.name!r} is no name for a buffer", "use letters, digits and _.:/-")
    if item.role not in ROLES:
        _fail(f"buffer {item.name!r} has the role {item.role!r}", f"use one of {', '.join(ROLES)}")
    if item.dtype not in DTYPES:
        _fail(f"buffer {item.name!r} has dtype {item.dtype!r}", f"use one of {', '.join(DTYPES)}")
    if not all(isinstance(n, int) and n > 0 for n in (*item.shape, item.address + 1)):
        _fail(f"buffer {item.name!r} has the address {item.address} and shape {item.shape}")


def _content(item: Buffer, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if value.dtype != np.dtype(item.dtype) or value.shape != item.shape:
        _fail(f"buffer {item.name!r} is {item.dtype} {item.shape}, its content {value.dtype} "
              f"{value.shape}")  # fmt: skip
    return np.ascontiguousarray(value, dtype=_dtype(item.dtype))


def _truncated(where: str, message: str) -> NoReturn:
    _fail(f"the file is cut off: {message}", "copy it again, or make the program anew", where=where)


def _fail(message: str, hint: str | None = None, *, where: str = "VTA program") -> NoReturn:
    raise ProgramError(message, where=where, hint=hint)


__all__ = [
    "DTYPES",
    "ROLES",
    "VERSION",
    "Buffer",
    "Program",
    "ProgramError",
    "check_buffer",
    "parse_program",
    "program_bytes",
    "read_program",
    "require_config",
    "write_program",
]
