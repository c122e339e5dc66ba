"""Relocation: a program made for DRAM from address 0 on, moved to where its memory really lies.

An instruction names DRAM by its `dram_base` only: a byte address over the bytes of an element.
So a stream needs no table: its relocations are its transfers that move anything, and each
gets the base address in elements of its memory added.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from targets.errors import TargetError
from targets.vta.config import UOP_BYTES, VtaConfig
from targets.vta.isa import Load, Memory, Store

_OPCODE, _MEMORY_AT, _MEMORY = 0b111, 7, 0b111
_BASE_AT, _BASE_BITS = 26, 32
_X_SIZE_AT, _X_SIZE = 16, 0xFFFF  # in the second word

Bytes = npt.NDArray[np.uint8]


def alignment(config: VtaConfig) -> int:
    """What the address of a program's memory is a multiple of, bytes: a page, and an element."""
    return max(4096, config.inp_bytes, config.wgt_bytes, config.acc_bytes, config.out_bytes)


def relocations(instructions: Bytes) -> npt.NDArray[np.intp]:
    """Indices of the instructions that name an address in DRAM.

    Args:
        instructions: Encoded, uint8 (n, 16).
    """
    low, high = _words(instructions)
    opcode = low & np.uint64(_OPCODE)
    transfers = (opcode == Load.opcode) | (opcode == Store.opcode)
    moves = (high >> np.uint64(_X_SIZE_AT)) & np.uint64(_X_SIZE) != 0
    return np.nonzero(transfers & moves)[0]


def relocate(instructions: Bytes, config: VtaConfig, base: int) -> Bytes:
    """The instructions for a memory that begins at `base`.

    Args:
        instructions: Encoded, uint8 (n, 16), for a memory that begins at 0; they stay as they are.
        config: The VTA that they are for.
        base: Physical address, bytes.

    Raises:
        TargetError: The address is not aligned, or too large for an instruction's field.
    """
    step = alignment(config)
    if base < 0 or base % step:
        raise TargetError(
            f"a program cannot lie at address {base:#x}",
            where=f"VTA {config.name}",
            hint=f"its memory has to begin at a multiple of {step} bytes",
        )
    sizes = np.ones(8, np.int64)
    sizes[Memory.UOP], sizes[Memory.INP] = UOP_BYTES, config.inp_bytes
    sizes[Memory.WGT], sizes[Memory.ACC] = config.wgt_bytes, config.acc_bytes
    sizes[Memory.OUT] = config.out_bytes
    moved = instructions.copy()
    words = moved.view("<u8")
    chosen = relocations(instructions)
    low = words[chosen, 0]
    memory = ((low >> np.uint64(_MEMORY_AT)) & np.uint64(_MEMORY)).astype(np.int64)
    mask = np.uint64((1 << _BASE_BITS) - 1)
    place = ((low >> np.uint64(_BASE_AT)) & mask).astype(np.int64) + base // sizes[memory]
    if place.size and int(place.max()) >= 1 << _BASE_BITS:
        raise TargetError(
            f"address {base:#x} is too large for VTA's instructions",
            where=f"VTA {config.name}",
            hint="take contiguous memory at a lower address",
        )
    cleared = low & ~(mask << np.uint64(_BASE_AT))
    words[chosen, 0] = cleared | (place.astype(np.uint64) << np.uint64(_BASE_AT))
    return moved


def _words(instructions: Bytes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    words = np.ascontiguousarray(instructions).view("<u8")
    return words[:, 0], words[:, 1]


__all__ = ["alignment", "relocate", "relocations"]
