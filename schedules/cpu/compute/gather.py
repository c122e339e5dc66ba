"""Rows of a compressed table, decoded as they are looked up: embeddings.

Codes of fewer than 8 bits lie side by side by parts of a row: byte ``j`` holds those of columns
``j``, ``j + size / n``, ..., so that neighbouring columns come from neighbouring bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cpu.compute.encoded import decode, pack_codes
from schedules.encodings import Encoding, Packing
from schedules.tvm_adapter import te, tirx

Array = npt.NDArray[Any]


def row_packing(encoding: Encoding, columns: int) -> Packing | None:
    """How codes lie in a row of so many; None where each has a byte."""
    packing = encoding.packing
    return packing if packing is not None and columns % packing.per_byte == 0 else None


def pack_rows(codes: Array, encoding: Encoding) -> Array:
    """Codes ``[rows, columns]`` as `gather` reads them."""
    rows, columns = codes.shape
    packing = row_packing(encoding, columns)
    if packing is None:
        return codes
    parts = codes.reshape(rows, packing.per_byte, -1)
    return np.ascontiguousarray(pack_codes(parts, packing, 1)[:, 0])


def gather(
    indices: Any, operands: Sequence[Any], encoding: Encoding, columns: int, *, clip: bool
) -> Any:
    """float32 rows of a table at indices, ``[*indices, columns]``.

    Args:
        indices: Integers.
        operands: Packed codes, and scales ``[rows or 1, columns / group]`` or a codebook and one
            scale a row.
        encoding: What the codes mean.
        columns: Of the table.
        clip: Whether indices beyond the table mean its ends.
    """
    codes = operands[0]
    rows = codes.shape[0]
    packing = row_packing(encoding, columns)

    def row_of(index: Any) -> Any:
        at = indices[index]
        if not clip:
            return at
        wide = at.astype("int64")
        return tirx.max(tirx.const(0, "int64"), tirx.min(wide, rows - 1))

    def number(*index: Any) -> Any:
        row, column = row_of(index[:-1]), index[-1]
        if packing is None:
            code = codes[row, column].astype("int32")
        else:
            size = columns // packing.per_byte
            code = decode(codes[row, column % size], column // size, packing, "int32")
        if len(operands) == 1:
            return codes[row, column].astype("float32")
        factors = operands[1]
        if encoding.name == "codebook":
            entry = factors[row // (rows // factors.shape[0]), code]
            return entry if len(operands) == 2 else entry * operands[2][row]
        group = columns // int(factors.shape[1])
        scale = factors[0 if int(factors.shape[0]) == 1 else row, column // group]
        return code.astype("float32") * scale.astype("float32")

    # As Relax counts: an index of another width would not meet the rows'.
    width = tirx.IntImm("int64", columns)
    return te.compute((*indices.shape, width), number, name="take")
