"""How weights of fewer bits are stored: names of encodings, and what operands they come with.

An encoding says what values a weight's codes have and what they mean; how codes are packed into
bytes follows from it (`Packing`), and where the bytes lie is a template's business.

``int4`` alone: the weight holds codes from -8 to 7 as ``int8``, and means those numbers. With
integer arithmetic that is all; what scales them stands behind the kernel. ``int4/64``: a second
operand holds one scale for 64 inputs of an output that lie side by side, and the weight means
code times scale, rounded to float32. ``codebook``: codes are indices into the second operand's
rows of float32 numbers, ``[blocks, entries]``; blocks of neighbouring outputs have a row each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packing:
    """How codes lie in bytes, the first one in the lowest bits.

    A field of `bits` bits holds ``u``, and ``code = u * step - offset``.
    """

    bits: int
    step: int
    offset: int

    @property
    def per_byte(self) -> int:
        """Codes in a byte."""
        return 8 // self.bits

    @property
    def mask(self) -> int:
        """The bits of one field."""
        return (1 << self.bits) - 1

    @property
    def codes(self) -> tuple[int, ...]:
        """All codes, the least first."""
        return tuple(field * self.step - self.offset for field in range(self.mask + 1))

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest code."""
        return -self.offset, self.mask * self.step - self.offset


#: Encodings whose codes are numbers, by name; ``int8`` lies as it is.
PACKINGS: Mapping[str, Packing | None] = {
    "int8": None,
    "int4": Packing(4, 1, 8),
    "ternary": Packing(2, 1, 1),
    "binary": Packing(1, 2, 1),
    "codebook": Packing(4, 1, 0),
}
#: Entries of a codebook's row.
ENTRIES = 16
#: Dtypes of the second operand: scales of groups, and entries of codebooks.
SCALE_DTYPE, ENTRY_DTYPE = "float16", "float32"


@dataclass(frozen=True, slots=True)
class Encoding:
    """What `Workload.weight_encoding` says.

    Attributes:
        name: One of `PACKINGS`; empty for a weight that is what it seems.
        group: Inputs that share a scale; 0 where the kernel applies no scales.
    """

    name: str = ""
    group: int = 0

    @classmethod
    def parse(cls, text: str) -> Encoding:
        """Read ``int4`` or ``int4/64``.

        Raises:
            ValueError: There is no such encoding.
        """
        name, slash, group = text.partition("/")
        known = not text or (name in PACKINGS and (not slash or group.isdigit()))
        if not known or (slash and (name == "codebook" or int(group) < 1)):
            raise ValueError(f"there is no encoding of weights {text!r}")
        return cls(name, int(group or 0))

    def __str__(self) -> str:
        return f"{self.name}/{self.group}" if self.group else self.name

    @property
    def packing(self) -> Packing | None:
        """How codes lie in bytes; None where each has a byte or more."""
        return PACKINGS[self.name] if self.name else None

    @property
    def operands(self) -> int:
        """Operands that the weight consists of."""
        return 2 if self.group or self.name == "codebook" else 1


#: Of a weight that is what it seems.
PLAIN = Encoding()


__all__ = [
    "ENTRIES",
    "ENTRY_DTYPE",
    "PACKINGS",
    "PLAIN",
    "SCALE_DTYPE",
    "Encoding",
    "Packing",
]
