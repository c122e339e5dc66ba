"""The micro-op memory: what is in it, and loads of what is not.

Micro-ops hold indices only, so layers of one shape use the same ones; whatever is still in the
memory is used again, also as a part of a longer run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from targets.vta.config import UOP_BYTES, VtaConfig
from targets.vta.isa import Load, Memory, Uop, encode_uop

#: Loads begin at multiples of this many micro-ops in DRAM: a word of the bus.
_ALIGNMENT = 16


class UopMemory:
    """See the module.

    Args:
        config: The VTA.
    """

    def __init__(self, config: VtaConfig) -> None:
        self._config = config
        self._depth = config.usable_uops
        self._chip = b""
        self._dram = bytearray()
        self._placed: dict[bytes, int] = {}

    @property
    def depth(self) -> int:
        """Micro-ops that the hardware holds."""
        return self._depth

    def words(self, uops: Sequence[Uop]) -> bytes:
        """The micro-ops' bytes."""
        data = [encode_uop(u, self._config) for u in uops]
        return np.array(data, dtype="<u4").tobytes()

    def require(self, windows: Sequence[bytes]) -> tuple[int, int, int] | None:
        """Make sure that all of these are in the memory.

        Returns:
            What has to be loaded before they are used: first micro-op on the chip, first one of
            the table in DRAM, and their number; None if nothing has to be.

        Raises:
            ValueError: They do not fit all at once.
        """
        missing: list[bytes] = []
        for window in windows:
            if self._find(window) is None and window not in missing:
                missing.append(window)
        if not missing:
            return None
        data = b"".join(missing)
        if len(self._chip) + len(data) > self._depth * UOP_BYTES:
            self._chip = b""
            data = b"".join(dict.fromkeys(windows))
            if len(data) > self._depth * UOP_BYTES:
                raise ValueError(
                    f"{len(data) // UOP_BYTES} micro-ops at once; there is room for {self._depth}"
                )
        begin = len(self._chip) // UOP_BYTES
        self._chip += data
        if data not in self._placed:
            self._dram += bytes(-len(self._dram) % (_ALIGNMENT * UOP_BYTES))
            self._placed[data] = len(self._dram) // UOP_BYTES
            self._dram += data
        return begin, self._placed[data], len(data) // UOP_BYTES

    def place(self, window: bytes) -> tuple[int, int]:
        """First micro-op of a window that is in the memory, and the one after its last."""
        begin = self._find(window)
        if begin is None:
            raise ValueError("micro-ops that were not loaded")
        return begin, begin + len(window) // UOP_BYTES

    def load(self, begin: int, source: int, count: int) -> Load:
        """The LOAD for what `require` returned; `source` is relative to the table."""
        return Load(
            memory=Memory.UOP, sram_base=begin, dram_base=source, y_size=1, x_size=count,
            x_stride=count,
        )  # fmt: skip

    def table(self) -> npt.NDArray[np.uint32]:
        """All that is ever loaded, as it lies in DRAM."""
        return np.frombuffer(bytes(self._dram), dtype="<u4").astype(np.uint32)

    def _find(self, window: bytes) -> int | None:
        at = self._chip.find(window)
        while at % UOP_BYTES and at >= 0:
            at = self._chip.find(window, at + 1)
        return None if at < 0 else at // UOP_BYTES


__all__ = ["UopMemory"]
