"""A VTA's configuration: the widths and sizes that its hardware was built with.

Everything else follows from them: depths of the on-chip memories, widths of the instructions'
fields. Imports nothing but the errors, so that a target's description can be checked with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

from targets.errors import TargetError

if TYPE_CHECKING:
    from targets.spec import TargetSpec

#: Width of the loop counters of GEMM and ALU, bits. The hardware fixes it.
LOOP_BITS = 14
#: Width of an ALU instruction's immediate, bits. The hardware fixes it.
IMMEDIATE_BITS = 16
#: Width of `sram_base`, bits: no on-chip memory can have more than 2**16 elements.
SRAM_BASE_BITS = 16
#: Bytes of an encoded micro-op.
UOP_BYTES = 4
#: Bytes of an encoded instruction.
INSTRUCTION_BYTES = 16

#: Names of the quantities in the published JSON configurations, as logarithms of base 2.
_LOGARITHMS = {
    "log_inp_width": "inp_bits",
    "log_wgt_width": "wgt_bits",
    "log_acc_width": "acc_bits",
    "log_out_width": "out_bits",
    "log_batch": "batch",
    "log_block": "block",
    "log_uop_buff_size": "uop_buffer_bytes",
    "log_inp_buff_size": "inp_buffer_bytes",
    "log_wgt_buff_size": "wgt_buffer_bytes",
    "log_acc_buff_size": "acc_buffer_bytes",
}
_RENAMED = {"uop_depth_rtl": "uop_depth"}
_BITS = {"inp_bits": (8, 16), "wgt_bits": (8, 16), "acc_bits": (32,), "out_bits": (8, 16, 32)}


@dataclass(frozen=True, slots=True)
class VtaConfig:
    """The widths and sizes of one VTA.

    Attributes:
        name: For messages: a target's name, or the file that it came from.
        inp_bits: Width of an input, bits (8 or 16).
        wgt_bits: Width of a weight, bits (8 or 16).
        acc_bits: Width of an accumulator, bits (32).
        out_bits: Width of an output, bits (8, 16 or 32).
        batch: Rows of an input and of an accumulator element.
        block: Columns of them; a weight element is block x block.
        uop_buffer_bytes: Size of the micro-op memory that the encoding allows for, bytes.
        inp_buffer_bytes: Size of the input memory, bytes.
        wgt_buffer_bytes: Size of the weight memory, bytes.
        acc_buffer_bytes: Size of the accumulator memory, bytes.
        bus_bits: Width of the memory bus, bits.
        uop_depth: Micro-ops that the hardware has room for; 0: as many as can be encoded.
        clock_hz: Clock for converting cycles into time, hertz.

    Raises:
        TargetError: No hardware can be like this.
    """

    name: str = "vta"
    inp_bits: int = 8
    wgt_bits: int = 8
    acc_bits: int = 32
    out_bits: int = 8
    batch: int = 1
    block: int = 16
    uop_buffer_bytes: int = 1 << 15
    inp_buffer_bytes: int = 1 << 15
    wgt_buffer_bytes: int = 1 << 18
    acc_buffer_bytes: int = 1 << 17
    bus_bits: int = 64
    uop_depth: int = 2048
    clock_hz: float = 100e6

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name in ("name", "clock_hz"):
                continue
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int):
                self._fail(f"{item.name} must be a whole number, not {value!r}")
            if item.name == "uop_depth" and value == 0:
                continue
            if value < 1 or value & (value - 1):
                self._fail(
                    f"{item.name} is {value}, which is no power of two",
                    "the hardware addresses blocks and buffers by bits: use 1, 2, 4, 8, ...",
                )
        for name, allowed in _BITS.items():
            if getattr(self, name) not in allowed:
                self._fail(
                    f"{name} is {getattr(self, name)}, which is not supported",
                    f"use {' or '.join(map(str, allowed))}",
                )
        if not 32 <= self.bus_bits <= 1024:
            self._fail(f"bus_bits is {self.bus_bits}; it must be from 32 to 1024")
        if not self.clock_hz > 0:
            self._fail(f"clock_hz is {self.clock_hz}; it must be more than 0")
        self._check_depths()
        self._check_instruction_widths()

    def _check_depths(self) -> None:
        memories = {
            "uop": (self.uop_buffer_bytes, UOP_BYTES, "micro-op"),
            "inp": (self.inp_buffer_bytes, self.inp_bytes, "input tile"),
            "wgt": (self.wgt_buffer_bytes, self.wgt_bytes, "weight tile"),
            "acc": (self.acc_buffer_bytes, self.acc_bytes, "accumulator tile"),
        }
        for name, (size, element, what) in memories.items():
            if size < element:
                self._fail(
                    f"{name}_buffer_bytes is {size}, too small for one {what} of {element} bytes",
                    f"use at least {2 * element} bytes, or a smaller batch or block",
                )
            if size < 2 * element:
                self._fail(
                    f"{name}_buffer_bytes is {size}, room for a single {what} of {element} bytes",
                    f"use at least {2 * element} bytes: one is filled while one is used",
                )
            if size // element > 1 << SRAM_BASE_BITS:
                self._fail(
                    f"{name}_buffer_bytes is {size}, that is {size // element} elements; "
                    f"instructions can address {1 << SRAM_BASE_BITS}",
                    "use a smaller buffer, or a larger batch or block",
                )
        if self.uop_depth > self.uop_buffer_bytes // UOP_BYTES:
            self._fail(
                f"uop_depth is {self.uop_depth}, more than the "
                f"{self.uop_buffer_bytes // UOP_BYTES} micro-ops of uop_buffer_bytes"
            )

    def _check_instruction_widths(self) -> None:
        first = 8 + self.uop_index_bits + (self.uop_index_bits + 1) + 2 * LOOP_BITS
        if first > 64:
            self._fail(
                f"uop_buffer_bytes is {self.uop_buffer_bytes}: GEMM's fields up to iter_in would "
                f"take {first} bits, and there are 64",
                f"use at most {UOP_BYTES << 13} bytes of micro-ops",
            )
        uop = self.acc_index_bits + self.inp_index_bits + self.wgt_index_bits
        if uop > 32:
            self._fail(
                f"a micro-op would take {uop} bits ({self.acc_index_bits} of acc, "
                f"{self.inp_index_bits} of inp, {self.wgt_index_bits} of wgt), and there are 32",
                "use smaller buffers, or a larger batch or block",
            )
        alu = 2 * (self.acc_index_bits + self.inp_index_bits) + 4 + IMMEDIATE_BITS
        if alu > 64:
            self._fail(
                f"ALU's second word would take {alu} bits, and there are 64",
                "use smaller acc and inp buffers, or a larger batch or block",
            )

    def _fail(self, message: str, hint: str | None = None) -> NoReturn:
        raise TargetError(message, where=f"VTA configuration {self.name}", hint=hint)

    @property
    def inp_bytes(self) -> int:
        """Bytes of one element of INP."""
        return self.batch * self.block * self.inp_bits // 8

    @property
    def wgt_bytes(self) -> int:
        """Bytes of one element of WGT."""
        return self.block * self.block * self.wgt_bits // 8

    @property
    def acc_bytes(self) -> int:
        """Bytes of one element of ACC."""
        return self.batch * self.block * self.acc_bits // 8

    @property
    def out_bytes(self) -> int:
        """Bytes of one element of OUT."""
        return self.batch * self.block * self.out_bits // 8

    @property
    def uop_index_bits(self) -> int:
        """Bits of an index into the micro-op memory."""
        return (self.uop_buffer_bytes // UOP_BYTES).bit_length() - 1

    @property
    def inp_index_bits(self) -> int:
        """Bits of an index into INP."""
        return (self.inp_buffer_bytes // self.inp_bytes).bit_length() - 1

    @property
    def wgt_index_bits(self) -> int:
        """Bits of an index into WGT."""
        return (self.wgt_buffer_bytes // self.wgt_bytes).bit_length() - 1

    @property
    def acc_index_bits(self) -> int:
        """Bits of an index into ACC, and OUT."""
        return (self.acc_buffer_bytes // self.acc_bytes).bit_length() - 1

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of one GEMM step."""
        return self.batch * self.block * self.block

    @property
    def usable_uops(self) -> int:
        """Micro-ops that the hardware holds."""
        return self.uop_depth or self.uop_buffer_bytes // UOP_BYTES

    def shape(self) -> dict[str, int]:
        """What programs depend on: everything but the name and the clock."""
        values = asdict(self)
        del values["name"], values["clock_hz"]
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str) -> VtaConfig:
        """A configuration from named quantities.

        Args:
            data: This class's attributes, or their logarithms as the published JSON files have
                them (``log_block = 4`` for ``block = 16``).
            where: Named in messages.

        Raises:
            TargetError: A key is unknown or given twice, or no hardware can be like this.
        """
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            name = _LOGARITHMS.get(key, _RENAMED.get(key, key))
            if name == "host":  # the processor beside it, which no program depends on
                continue
            if name == "instruction_bits":
                if value != 8 * INSTRUCTION_BYTES:
                    raise TargetError(
                        f"instruction_bits is {value!r}; VTA's instructions have 128", where=where
                    )
                continue
            if name not in known:
                raise TargetError(
                    f"VTA's configuration has no {key!r}",
                    where=where,
                    hint=f"use {', '.join(sorted(known | set(_LOGARITHMS)))}",
                )
            if name in values:
                raise TargetError(f"{name} is given twice", where=where)
            if key in _LOGARITHMS:
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 40:
                    raise TargetError(
                        f"{key} must be a whole number from 0 to 40, not {value!r}", where=where
                    )
                values[name] = 1 << value
            else:
                values[name] = value
        values.setdefault("name", where)
        return cls(**values)


def vta_config(target: TargetSpec) -> VtaConfig:
    """The configuration that a target of the family vta describes in its table ``extra``.

    Raises:
        TargetError: The target is of another family, or its configuration is impossible.
    """
    if target.family != "vta":
        raise TargetError(
            f"{target.name} is no VTA", where="VTA configuration", hint="use vta/pynq, for one"
        )
    data = {"name": target.name, "clock_hz": target.clock_hz, **target.extra}
    return VtaConfig.from_dict(data, where=target.name)


__all__ = [
    "IMMEDIATE_BITS",
    "INSTRUCTION_BYTES",
    "LOOP_BITS",
    "SRAM_BASE_BITS",
    "UOP_BYTES",
    "VtaConfig",
    "vta_config",
]
