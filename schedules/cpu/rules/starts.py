"""What integer sums begin with, made before the loops: with it what is added to them last.

Kernels of signed bytes that read unsigned ones begin with what the shift takes away, a number a
column. A bias that the epilogue adds to every sum is added to that instead, once a column. There is
a copy for each row of a block: LLVM would load one vector and copy it to the others' registers,
which takes slots of the vector pipelines, as loads do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.cpu.microkernels.base import loop, number, ramp, sequence
from schedules.cpu.rules.base import replace_block, same_block
from schedules.tvm_adapter import Schedule, ir, tirx

#: Sums of a vector.
LANES = 4


class _AppearsAloneError(Exception):
    """A sum is used without the bias, or the epilogue has a part that is not known here."""


def take_bias(sch: Schedule, heart: Any, consumers: list[Any]) -> Any | None:
    """Take the addition of a bias, one number a column, out of a kernel's epilogue.

    Args:
        sch: The schedule.
        heart: The kernel.
        consumers: All blocks that read it.

    Returns:
        The buffer of the bias; None if the epilogue is left as it was.
    """
    if len(consumers) != 1 or same_block(sch, heart, consumers[0]):
        return None
    sums, block = sch.get(heart).writes[0].source, sch.get(consumers[0])
    if str(sums.dtype) != "int32" or not isinstance(block.body, tirx.BufferStore):
        return None
    found: list[Any] = []
    try:
        value = _without_bias(block.body.value, sums, found)
    except _AppearsAloneError:
        return None
    if not found or any(not bias.source.same_as(found[0].source) for bias in found):
        return None
    bias = found[0].source
    reads = [r for r in block.reads if not r.source.same_as(bias)]
    body = tirx.BufferStore(block.body.buffer, value, block.body.indices)
    replace_block(sch, consumers[0], body, reads)
    return bias


def _without_bias(value: Any, sums: Any, found: list[Any]) -> Any:
    def inner(expr: Any) -> Any:
        return _without_bias(expr, sums, found)

    if isinstance(value, tirx.Add) and _is_load(value.a, sums) and _is_bias(value.b, value.a):
        found.append(value.b)
        return value.a
    if isinstance(value, ir.TensorLoad):
        if value.source.same_as(sums):
            raise _AppearsAloneError
        return value
    if isinstance(value, (tirx.Add, tirx.Sub, tirx.Mul, tirx.Min, tirx.Max)):
        return type(value)(inner(value.a), inner(value.b))
    if isinstance(value, tirx.Cast):
        return tirx.Cast(value.ty.dtype, inner(value.value))
    if isinstance(value, ir.Call):
        return ir.Call(value.op, [inner(a) for a in value.args], ret_ty=value.ty.dtype)
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return value
    raise _AppearsAloneError


def _is_load(value: Any, source: Any) -> bool:
    return isinstance(value, ir.TensorLoad) and bool(value.source.same_as(source))


def _is_bias(value: Any, sums: Any) -> bool:
    """Whether it has one number for each of the last dimension of the sums."""
    if not isinstance(value, ir.TensorLoad) or str(value.source.dtype) != "int32":
        return False
    return bool(value.indices[-1].same_as(sums.indices[-1])) and all(
        isinstance(extent, tirx.IntImm) and int(extent) == 1 for extent in value.source.shape[:-1]
    )


def fill(
    sch: Schedule,
    stage: Any,
    bias: Any,
    width: int,
    copies: int,
    vector: Callable[[Any, int], Any],
) -> None:
    """Write what sums begin with, four at a time.

    Args:
        sch: The schedule.
        stage: The block that does so, ``[panels, copies * width]``.
        bias: Buffer of what is added, None for nothing; it may have fewer columns than there are
            sums.
        width: Columns of a panel.
        copies: Of each panel's.
        vector: Gives four numbers without the bias: panel, first of its columns.
    """
    whole = sch.blockize(sch.get_loops(stage)[0])
    block = sch.get(whole)
    target = block.writes[0].source
    panels = int(target.shape[0])
    known = panels * width if bias is None else int(bias.shape[-1])

    def panel(at: Any, columns: int) -> Any:
        """The statements of a panel of which so many columns have a bias."""
        body = []
        for first in range(0, width, LANES):
            value = vector(at, first)
            count = min(LANES, columns - first) if bias is not None else 0
            if count == LANES:
                value = value + biases(at * width + first, LANES)
            for copy in range(copies):
                body.append(store(at, copy * width + first, value, LANES))
                for i in range(count if count < LANES else 0):
                    place = copy * width + first + i
                    old = tirx.BufferLoad(target, [at, number(place)])
                    body.append(store(at, place, old + biases(at * width + first + i, 1), 1))
        return sequence(body)

    def biases(at: Any, count: int) -> Any:
        lead = [number(0)] * (len(bias.shape) - 1)
        return tirx.BufferLoad(bias, [*lead, ramp(at, count)])

    def store(at: Any, place: int, value: Any, count: int) -> Any:
        return tirx.BufferStore(target, value, [at, ramp(number(place), count)])

    body = [loop("panel", known // width, lambda at: panel(at, width))] if known >= width else []
    if known % width:
        body.append(panel(number(known // width), known % width))
    reads = list(block.reads)
    if bias is not None:
        region = [ir.Range(0, extent) for extent in bias.shape]
        reads.append(tirx.BufferRegion(bias, region))
    replace_block(sch, whole, sequence(body), reads)


__all__ = ["LANES", "fill", "take_bias"]
