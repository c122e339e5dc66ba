"""The statements of an AMX block: calls of LLVM's tile intrinsics in TensorIR.

Tiles are named by constants, as the instructions demand, so what is in which register is
decided here and not by a register allocator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.cpu.amx.plan import TILE_COLUMNS, TILE_ROW_BYTES, TilePlan, registers
from schedules.tvm_adapter import tirx

#: Gives the address that many bytes into a buffer.
Address = Callable[[Any], Any]
#: Gives the address of an accumulator: line, position in it, column of the panel.
AccumulatorAddress = Callable[[Any, Any, int], Any]


def address(buffer: Any, offset: Any) -> Any:
    """The address that many bytes into a buffer.

    Not `Buffer.access_ptr`: that one carries a dtype, which TVM loses where it legalizes
    bfloat16 and where it lets two buffers share memory.
    """
    return tirx.call_intrin(
        "handle", "tirx.handle_add_byte_offset", buffer.data, tirx.Cast("int64", offset)
    )


def write_config(plan: TilePlan, buffer: Any) -> Any:
    """Fills `buffer` (16 x uint32) with the configuration of the tiles."""
    raw = plan.config()
    words = [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]
    return tirx.SeqStmt(
        [tirx.BufferStore(buffer, tirx.const(v, "uint32"), [i]) for i, v in enumerate(words)]
    )


def load_config(buffer: Any) -> Any:
    """Configures the tiles of the thread that runs it."""
    return _call("ldtilecfg", buffer.data)


def release() -> Any:
    """Gives the tiles back: the kernel then saves less state at a context switch."""
    return _call("tilerelease")


def multiply_block(
    plan: TilePlan, data: Address, weight: Address, accumulator: AccumulatorAddress, stride: Any
) -> Any:
    """All tiles of a block over the whole reduction.

    Args:
        plan: What to do.
        data: Address of the activations, from the block's first position on.
        weight: Address of the packed weights, from the panel on.
        accumulator: Address of an accumulator.
        stride: Bytes from one position's accumulators to the next one's.
    """
    tiles = plan.lines * plan.tiles_per_line
    whole, rest = divmod(tiles, plan.row_tiles)

    def block(first_tile: Any, count: int, part: Any) -> Any:
        return _register_block(
            plan, count, first_tile, part, data, weight, accumulator, tirx.Cast("int64", stride)
        )

    def over_tiles(part: Any) -> Any:
        parts = []
        if whole:
            parts.append(_loop("tiles", whole, lambda q: block(q * plan.row_tiles, plan.row_tiles,
                                                               part)))  # fmt: skip
        if rest:
            parts.append(block(tirx.IntImm("int64", whole * plan.row_tiles), rest, part))
        return _sequence(parts)

    return _loop("part", plan.passes, over_tiles)


def _register_block(
    plan: TilePlan,
    row_tiles: int,
    first_tile: Any,
    part: Any,
    data: Address,
    weight: Address,
    accumulator: AccumulatorAddress,
    stride: Any,
) -> Any:
    """`row_tiles` tiles of positions times the panel, in registers over a part of the reduction."""
    left, right = registers(plan.row_tiles, plan.column_tiles)
    places = [_place(plan, first_tile + i) for i in range(row_tiles)]
    starts = [line * plan.line_bytes + at * plan.position_bytes for line, at in places]

    def number(i: int, j: int) -> int:
        return i * plan.column_tiles + j

    grid = [(i, j) for i in range(row_tiles) for j in range(plan.column_tiles)]
    zero = _sequence([_call("tilezero", _tile(number(i, j))) for i, j in grid])
    load = _sequence(
        [
            _call("tileloadd64", _tile(number(i, j)),
                  accumulator(*places[i], j * TILE_COLUMNS), stride)
            for i, j in grid
        ]
    )  # fmt: skip
    begin = zero if plan.passes == 1 else tirx.IfThenElse(part == 0, zero, load)
    store = [
        _call(
            "tilestored64", _tile(number(i, j)), accumulator(*places[i], j * TILE_COLUMNS), stride
        )
        for i, j in grid
    ]

    def step(offset: Any, index: Any) -> Any:
        def load_left(i: int) -> Any:
            return _call(
                "tileloadd64", _tile(left[i % len(left)]), data(starts[i] + offset),
                tirx.IntImm("int64", plan.position_bytes),
            )  # fmt: skip

        def load_right(j: int) -> Any:
            tile = index * plan.column_tiles + j
            return _call(
                "tileloadd64", _tile(right[j % len(right)]),
                weight(tile * plan.weight_tile_bytes), tirx.IntImm("int64", TILE_ROW_BYTES),
            )  # fmt: skip

        def dot(i: int, j: int) -> Any:
            return _call(
                plan.instruction, _tile(number(i, j)), _tile(left[i % len(left)]),
                _tile(right[j % len(right)]),
            )  # fmt: skip

        calls = []
        if plan.row_tiles <= plan.column_tiles:  # the activations are held, the weights turn
            calls += [load_left(i) for i in range(row_tiles)]
            for j in range(plan.column_tiles):
                calls += [load_right(j), *(dot(i, j) for i in range(row_tiles))]
        else:
            calls += [load_right(j) for j in range(plan.column_tiles)]
            for i in range(row_tiles):
                calls += [load_left(i), *(dot(i, j) for j in range(plan.column_tiles))]
        return _sequence(calls)

    return _sequence([begin, _reduce(plan, part, step), *store])


def _reduce(plan: TilePlan, part: Any, step: Callable[[Any, Any], Any]) -> Any:
    """The loops of the reduction; `step` gets the bytes into the data and the step's number."""
    zero = tirx.IntImm("int64", 0)

    def nest(loops: tuple[tuple[int, int], ...], offset: Any, index: Any) -> Any:
        if not loops:
            return step(offset, index)
        (extent, stride), *inner = loops
        return _loop(
            "step", extent, lambda v: nest(tuple(inner), offset + v * stride, index * extent + v)
        )

    (extent, stride), *inner = plan.reductions
    length = extent // plan.passes

    def outermost(v: Any) -> Any:
        at = part * length + v
        return nest(tuple(inner), zero + at * stride, at)

    return _loop("step", length, outermost)


def _place(plan: TilePlan, tile: Any) -> tuple[Any, Any]:
    """Line and first position of a tile; the last one of a line is moved back to its end."""
    per_line = plan.tiles_per_line
    if plan.lines == 1:
        line, number = tirx.IntImm("int64", 0), tile
    else:
        line, number = tirx.floordiv(tile, per_line), tirx.floormod(tile, per_line)
    if per_line * plan.rows == plan.positions:
        return line, number * plan.rows
    return line, tirx.min(number * plan.rows, plan.positions - plan.rows)


def _tile(number: int) -> Any:
    return tirx.const(number, "uint8")


def _call(name: str, *arguments: Any) -> Any:
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _sequence(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)


def _loop(name: str, extent: int, body: Callable[[Any], Any]) -> Any:
    if extent == 1:
        return body(tirx.IntImm("int64", 0))
    variable = tirx.Var(name, "int64")
    return tirx.For(variable, 0, extent, tirx.ForKind.SERIAL, body(variable))
