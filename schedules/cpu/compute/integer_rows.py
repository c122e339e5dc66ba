"""Softmax, layer normalization and sums of rows with one result everywhere.

docs/integer-semantics.md defines them. Sums are of integers, in any order; floating point is a
conversion, a product or a root at a time, and no product is added to anything, so that it does
not matter whether code generation fuses the two.
"""

from __future__ import annotations

from typing import Any

from schedules.cpu.annotations import KERNEL, ROLE
from schedules.cpu.compute.packed import _int
from schedules.cpu.compute.rows import fold_row
from schedules.tvm_adapter import te, tirx

#: The constants of `compiler.compress.rows`, which the reference computes with.
POWER = (-2565, 15110, -45313, 65536)
FRACTION, UNIT, TOP, GUARD, LANES = 14, 16, 255, 8, 16


def _const(value: int, dtype: str = "int32") -> Any:
    return tirx.const(value, dtype)


def exponentials(x: Any, lanes: int, *, factor: int, shift: int, limit: int) -> Any:
    """``exp`` of each element less the row's largest, as uint8."""
    largest = fold_row(x, lanes, "max", "row_max", lambda i: x[i].astype("int32"))

    def element(*index: Any) -> Any:
        below = largest[index[:-1]] - x[index].astype("int32")
        exponent = tirx.min(below, _const(limit)) * _const(factor)
        if shift:
            exponent = tirx.shift_right(exponent + _const(1 << (shift - 1)), _const(shift))
        whole = tirx.shift_right(exponent, _const(FRACTION))
        fraction = tirx.bitwise_and(exponent, _const((1 << FRACTION) - 1))
        power = _const(POWER[0])
        for coefficient in POWER[1:]:
            product = tirx.shift_right(power * fraction, _const(FRACTION))
            power = _const(coefficient) + product
        value = tirx.shift_right(power * _const(TOP), whole) + _const(1 << (UNIT - 1))
        return tirx.shift_right(value, _const(UNIT)).astype("uint8")

    return te.compute(x.shape, element, name="softmax", attrs={KERNEL: "softmax"})


def row_factors(x: Any, lanes: int, *, ratio: float) -> Any:
    """``ratio`` over the sum of each row."""
    total = fold_row(x, lanes, "sum", "row_sum", lambda i: x[i].astype("int32"))
    return te.compute(
        (*x.shape[:-1], 1),
        lambda *i: tirx.const(ratio, "float32") / total[i[:-1]].astype("float32"),
        name="row_factors", attrs={KERNEL: "row_reduction"},
    )  # fmt: skip


def requantize_rows(
    sums: Any, factors: Any, *, zero_point: int, low: int, high: int, dtype: str
) -> Any:
    """int32 sums times a factor of their row."""

    def element(*index: Any) -> Any:
        value = sums[index].astype("float32") * factors[(*index[:-1], 0)]
        below, above = (tirx.const(float(v - zero_point), "float32") for v in (low, high))
        limited = tirx.max(tirx.min(value, above), below)
        return (tirx.nearbyint(limited).astype("int32") + _const(zero_point)).astype(dtype)

    return te.compute(sums.shape, element, name="requantize")


def layer_norm(
    x: Any, gain: Any, bias: Any, lanes: int, *, epsilon: int, zero_point: int, low: int,
    high: int, dtype: str,
) -> Any:  # fmt: skip
    """Each row less its mean, over its deviation, times `gain`, plus `bias`."""
    length = _int(x.shape[-1])
    total = fold_row(x, lanes, "sum", "row_sum", lambda i: x[i].astype("int32"))
    squares = fold_row(
        x, lanes, "sum", "row_squares",
        lambda i: (x[i].astype("int32") * x[i].astype("int32")).astype("int64"),
    )  # fmt: skip

    def inverse_deviation(*index: Any) -> Any:
        mean = total[index].astype("int64")
        variance = squares[index] * _const(length, "int64") - mean * mean
        variance = (variance + _const(epsilon, "int64")).astype("float64")
        return (tirx.const(1.0, "float64") / tirx.sqrt(variance)).astype("float32")

    inverse = te.compute(
        total.shape, inverse_deviation, name="row_inverse_deviation", attrs={ROLE: "fold"}
    )

    def normalized(*index: Any) -> Any:
        row, column = index[:-1], index[-1]
        distance = x[index].astype("int32") * _const(length) - total[row]
        scaled = distance.astype("float32") * inverse[row] * gain[column]
        value = tirx.nearbyint(scaled).astype("int32") + bias[column] + _const(1 << (GUARD - 1))
        value = tirx.shift_right(value, _const(GUARD)) + _const(zero_point)
        limited = tirx.max(tirx.min(value, _const(high)), _const(low))
        return limited.astype(dtype)

    return te.compute(x.shape, normalized, name="layer_norm", attrs={KERNEL: "layer_norm"})


def sum_rows(x: Any, *, scale: float) -> Any:
    """Sums of rows in float32, in one order for all targets."""
    folded = fold_row(x, LANES, "sum", "row_sum")
    factor = None if scale == 1 else tirx.const(scale, "float32")
    return te.compute(
        folded.shape, lambda *i: folded[i] if factor is None else folded[i] * factor,
        name="sum", attrs={KERNEL: "row_reduction"},
    )  # fmt: skip
