"""Legalizations of the integer operators (`compiler.compress.operators`): elementwise epilogues."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from compiler.compress.operators import PREFIX, attributes_of
from compiler.lower.graph import is_constant, operator_name, shape_of
from schedules.cpu.compute import dynamic, integer_rows, integers

#: TVM's fusion patterns of functions whose operands all have the result's shape, and of others.
ELEMENTWISE, BROADCAST = 0, 1


def _requantize(*operands: Any, **attributes: Any) -> Any:
    """Without a multiplier it is a shift."""
    function = integers.requantize if len(operands) == 3 else integers.requantize_by_shift
    return function(*operands, **attributes)


COMPUTE: dict[str, Callable[..., Any]] = {
    "quantize": integers.quantize,
    "dequantize": integers.dequantize,
    "requantize": _requantize,
    "sums_to_float": integers.sums_to_float,
    "add": integers.add,
    "multiply": integers.multiply,
    "rescale": integers.rescale,
    "lookup": integers.lookup,
    "requantize_rows": integer_rows.requantize_rows,
    "quantize_rows": dynamic.quantize_rows,
    "rows_to_float": dynamic.rows_to_float,
}

#: Definitions that read one number a row beside the first operand.
BY_ROWS = frozenset({"rows_to_float", "requantize_rows", "quantize_rows"})


def legalize(bb: Any, call: Any, _original: Any) -> Any:
    """A call of an integer operator as a call of its definition, which fuses behind kernels."""
    name = operator_name(call).removeprefix(PREFIX)
    # TVM calls an operand elementwise by its type only, and here the dtype differs. Constants
    # that broadcast are no hindrance.
    # Nor are numbers of rows: they come from kernels that nothing fuses with.
    operands = call.args[:1] if name in BY_ROWS else call.args
    shapes = [shape_of(v) for v in operands if not is_constant(v)]
    same = all(shape == shape_of(call) for shape in shapes)
    return bb.call_te(
        partial(COMPUTE[name], **attributes_of(call)),
        *call.args,
        primfunc_name_hint=name,
        primfunc_attrs={"op_pattern": ELEMENTWISE if same else BROADCAST},
    )


LEGALIZATIONS = {f"{PREFIX}{name}": legalize for name in COMPUTE}
