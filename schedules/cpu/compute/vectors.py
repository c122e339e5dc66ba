"""Parts of vector expressions, for instructions that take fewer lanes than a loop has."""

from __future__ import annotations

from typing import Any

from schedules.tvm_adapter import ir, tirx

#: Calls of which each lane depends on the same lane of the arguments only.
_ELEMENTWISE = frozenset({"tirx.tilewright_scale", "tirx.shift_right", "tirx.shift_left",
                          "tirx.bitwise_and", "tirx.bitwise_or", "tirx.bitwise_xor",
                          "tirx.nearbyint"})  # fmt: skip


def lanes_of(value: Any) -> int:
    """Lanes of an expression."""
    return int(str(value.ty.dtype).partition("x")[2] or 1)


def part(value: Any, lanes: int, first: int, count: int) -> Any:
    """Some neighbouring lanes of an elementwise expression, computed on those alone."""

    def inner(expr: Any) -> Any:
        return part(expr, lanes, first, count)

    def dtype() -> str:
        return f"{str(value.ty.dtype).partition('x')[0]}x{count}"

    if not str(value.ty.dtype).endswith(f"x{lanes}"):
        return value
    if isinstance(value, tirx.Ramp):
        return tirx.Ramp(value.base + value.stride * first, value.stride, count)
    if isinstance(value, tirx.Broadcast):
        return tirx.Broadcast(value.value, count)
    # A buffer of vectors has them at single places, and is no such load.
    if isinstance(value, ir.TensorLoad) and any(lanes_of(i) == lanes for i in value.indices):
        return tirx.BufferLoad(value.source, [inner(i) for i in value.indices])
    if isinstance(value, tirx.Cast):
        return tirx.Cast(dtype(), inner(value.value))
    if isinstance(value, tirx.Select):
        condition, *branches = value.condition, value.true_value, value.false_value
        return tirx.Select(inner(condition), *(inner(b) for b in branches))
    if isinstance(value, ir.Call) and value.op.name in _ELEMENTWISE:
        return ir.Call(value.op, [inner(a) for a in value.args], ret_ty=dtype())
    if isinstance(value, (tirx.Add, tirx.Sub, tirx.Mul, tirx.Min, tirx.Max)):
        return type(value)(inner(value.a), inner(value.b))
    return tirx.Shuffle([value], list(range(first, first + count)))


def half_of(vector: Any, half: int) -> Any:
    """The lower or the upper lanes of a vector."""
    count = lanes_of(vector) // 2
    if isinstance(vector, tirx.Broadcast):
        return tirx.Broadcast(vector.value, count)
    return tirx.Shuffle([vector], list(range(half * count, half * count + count)))


def constant(expr: Any) -> int:
    """The number in a constant, or in a vector of one."""
    return int(expr.value if isinstance(expr, tirx.IntImm) else expr.value.value)


def joined(parts: list[Any]) -> Any:
    """Vectors one after the other, as one."""
    return (
        parts[0] if len(parts) == 1 else tirx.Shuffle(parts, list(range(sum(map(lanes_of, parts)))))
    )


__all__ = ["constant", "half_of", "joined", "lanes_of", "part"]
