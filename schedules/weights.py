"""The weight of a workload: how it is stored, and what operands it consists of."""

from __future__ import annotations

from schedules.encodings import ENTRIES, ENTRY_DTYPE, SCALE_DTYPE, Encoding
from schedules.workload import Extent, Workload


def encoding_of(workload: Workload) -> Encoding:
    """The encoding of a workload's weight."""
    return Encoding.parse(workload.weight_encoding)


def weight_operands(workload: Workload) -> tuple[tuple[tuple[Extent, ...], str], ...]:
    """Shape and dtype of each operand that the weight consists of, in the plain layout.

    Empty for a workload without a weight.
    """
    if not workload.weight:
        return ()
    first = (workload.weight, workload.dtypes[1])
    encoding = encoding_of(workload)
    if encoding.name == "codebook":
        return first, ((int(workload.attributes["codebooks"]), ENTRIES), ENTRY_DTYPE)
    if encoding.group:
        shape = list(workload.weight)
        axis = 0 if workload.operator == "dense" else 1
        shape[axis] = int(shape[axis]) // encoding.group
        return first, (tuple(shape), SCALE_DTYPE)
    return (first,)


__all__ = ["encoding_of", "weight_operands"]
