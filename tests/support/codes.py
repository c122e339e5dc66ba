"""The other way round of `schedules.cpu.compute.encoded.pack_codes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from schedules.encodings import Packing

    Array = npt.NDArray[np.generic]


def unpack_codes(packed: Array, packing: Packing, axis: int) -> Array:
    """What `pack_codes` was given, as int8."""
    moved = np.moveaxis(packed, axis, -1).astype(np.int32)
    shifts = np.arange(packing.per_byte) * packing.bits
    fields = (moved[..., None] >> shifts) & packing.mask
    codes = (fields * packing.step - packing.offset).astype(np.int8)
    return np.ascontiguousarray(np.moveaxis(codes.reshape(*moved.shape[:-1], -1), -1, axis))
