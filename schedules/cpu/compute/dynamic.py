"""Activations quantized row by row at run time; `compiler.compress.dynamic` defines it."""

from __future__ import annotations

from typing import Any

from schedules.cpu.annotations import KERNEL
from schedules.cpu.compute.rows import fold_row
from schedules.tvm_adapter import te, tirx

LIMIT, ZERO_POINT, LEAST_SCALE = 127, 128, 2.0**-100


def row_scales(x: Any, lanes: int) -> Any:
    """``max |x| / 127`` of each row, with one element a row."""
    largest = fold_row(x, lanes, "max", "row_max", lambda i: tirx.abs(x[i]))
    return te.compute(
        (*x.shape[:-1], 1),
        lambda *i: largest[i[:-1]] / tirx.const(float(LIMIT), "float32"),
        name="row_scales", attrs={KERNEL: "row_reduction"},
    )  # fmt: skip


def quantize_rows(x: Any, scales: Any) -> Any:
    """Rows as uint8, 128 higher than they are."""

    def element(*index: Any) -> Any:
        scale = scales[(*index[:-1], 0)]
        one, zero, limit = (tirx.const(v, "float32") for v in (1.0, 0.0, float(LIMIT)))
        inverse = tirx.Select(scale > tirx.const(LEAST_SCALE, "float32"), one / scale, zero)
        value = x[index] * inverse
        value = tirx.Select(value > -limit, value, -limit)
        value = tirx.Select(value < limit, value, limit)
        rounded = tirx.nearbyint(value).astype("int32")
        return (rounded + tirx.const(ZERO_POINT, "int32")).astype("uint8")

    return te.compute(x.shape, element, name="quantize_rows")


def rows_to_float(sums: Any, offset: Any, scales: Any, factor: Any) -> Any:
    """int32 sums with their offset, times the row's scale, times a factor."""

    def element(*index: Any) -> Any:
        value = (sums[index] + offset[index[-1]]).astype("float32")
        return value * scales[(*index[:-1], 0)] * factor[index[-1]]

    return te.compute(sums.shape, element, name="dequantize")
