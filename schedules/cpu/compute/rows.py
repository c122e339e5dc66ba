"""Softmax, normalizations and reductions along the last dimension, row by row.

A sum over a row is computed in as many partial sums as a vector has lanes, then folded: the
explicit form of what a compiler may not do with floating-point sums by itself. What does not
fill a vector is added at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.cpu.annotations import KERNEL, ROLE
from schedules.cpu.bfloat16 import DTYPES, widen
from schedules.cpu.compute.packed import _int
from schedules.tvm_adapter import te, tirx, topi

Combine = Callable[[Any, Any], Any]
#: Turns a float32 element into what is stored.
Store = Callable[[Any], Any]


def as_it_is(value: Any) -> Any:
    """The element itself: results are stored in float32."""
    return value


def widened(data: Any) -> Any:
    """The tensor in float32: numbers of 16 bits are widened where they are read."""
    if str(data.dtype) not in DTYPES:
        return data
    return te.compute(data.shape, lambda *i: widen(data[i]), name="widened", attrs={ROLE: "inline"})


def fold_row(
    tensor: Any,
    lanes: int,
    kind: str,
    name: str,
    term: Callable[[Any], Any] | None = None,
) -> Any:
    """Reduce the last dimension of `tensor`; returns a tensor without it.

    Args:
        tensor: ``[..., k]``.
        lanes: Partial results, normally the lanes of a vector.
        kind: ``sum``, ``max`` or ``min``.
        name: Prefix of the stages' names.
        term: Applied to each element first, given its full index.
    """
    *lead, k = (_int(v) for v in tensor.shape)
    element = term or (lambda index: tensor[index])
    reduce = {"sum": te.sum, "max": te.max, "min": te.min}[kind]
    combine: Combine = {
        "sum": lambda a, b: a + b, "max": tirx.max, "min": tirx.min,
    }[kind]  # fmt: skip
    main = k // lanes if isinstance(k, int) else 0
    if main < 2:
        r = te.reduce_axis((0, k), "k")
        return te.compute(
            tuple(lead), lambda *i: reduce(element((*i, r)), axis=r), name=name,
            attrs={ROLE: "fold"},
        )  # fmt: skip
    outer = te.reduce_axis((0, main), "ko")
    partial = te.compute(
        (*lead, lanes),
        lambda *i: reduce(element((*i[:-1], outer * lanes + i[-1])), axis=outer),
        name=f"{name}_lanes",
        attrs={ROLE: "lanes"},
    )
    folded = te.compute(
        tuple(lead), lambda *i: _tree([partial[(*i, lane)] for lane in range(lanes)], combine),
        name=f"{name}_fold", attrs={ROLE: "fold"},
    )  # fmt: skip
    rest = k - main * lanes
    if rest == 0:
        return folded
    tail = te.reduce_axis((0, rest), "kt")
    tail_value = te.compute(
        tuple(lead), lambda *i: reduce(element((*i, main * lanes + tail)), axis=tail),
        name=f"{name}_tail", attrs={ROLE: "fold"},
    )  # fmt: skip
    return te.compute(
        tuple(lead), lambda *i: combine(folded[i], tail_value[i]), name=name, attrs={ROLE: "fold"}
    )


def softmax(data: Any, lanes: int, *, log: bool = False, store: Store = as_it_is) -> Any:
    """Softmax (or log-softmax) over the last dimension of `data`, shifted by the maximum.

    bfloat16 data is computed with in float32; `store` makes elements of the result.
    """
    data = widened(data)
    largest = fold_row(data, lanes, "max", "row_max")
    shifted = te.compute(
        data.shape, lambda *i: data[i] - largest[i[:-1]], name="shifted", attrs={ROLE: "inline"}
    )
    exponent = topi.fast_exp(shifted)
    total = fold_row(exponent, lanes, "sum", "row_sum")
    if log:
        logarithm = te.compute(
            total.shape, lambda *i: tirx.log(total[i]), name="row_log", attrs={ROLE: "fold"}
        )
        return te.compute(
            data.shape, lambda *i: store(data[i] - largest[i[:-1]] - logarithm[i[:-1]]),
            name="log_softmax", attrs={KERNEL: "softmax"},
        )  # fmt: skip
    inverse = te.compute(
        total.shape, lambda *i: tirx.const(1, data.dtype) / total[i], name="row_inverse",
        attrs={ROLE: "fold"},
    )  # fmt: skip
    return te.compute(
        data.shape, lambda *i: store(exponent[i] * inverse[i[:-1]]), name="softmax",
        attrs={KERNEL: "softmax"},
    )  # fmt: skip


def layer_norm(
    data: Any,
    gamma: Any | None,
    beta: Any | None,
    epsilon: float,
    lanes: int,
    *,
    rms: bool = False,
    store: Store = as_it_is,
) -> Any:
    """Layer normalization (or RMS normalization) over the last dimension.

    The variance is the mean of squared distances from the mean, in a second sweep over the
    row: stable where a sum of squares would cancel. bfloat16 data is computed with in
    float32; `store` makes elements of the result.
    """
    data = widened(data)
    k = _int(data.shape[-1])
    scale = tirx.const(1.0 / k, data.dtype)
    if rms:
        squares = fold_row(data, lanes, "sum", "row_squares", lambda i: data[i] * data[i])
        mean = None
    else:
        total = fold_row(data, lanes, "sum", "row_sum")
        mean = te.compute(
            total.shape, lambda *i: total[i] * scale, name="row_mean", attrs={ROLE: "fold"}
        )
        squares = fold_row(
            data, lanes, "sum", "row_squares",
            lambda i: (data[i] - mean[i[:-1]]) * (data[i] - mean[i[:-1]]),
        )  # fmt: skip
    deviation = te.compute(
        squares.shape,
        lambda *i: (
            tirx.const(1.0, data.dtype)
            / tirx.sqrt(squares[i] * scale + tirx.const(epsilon, data.dtype))
        ),
        name="row_inverse_deviation",
        attrs={ROLE: "fold"},
    )

    def normalized(*index: Any) -> Any:
        row, column = index[:-1], index[-1]
        value = data[index] if mean is None else data[index] - mean[row]
        value = value * deviation[row]
        if gamma is not None:
            value = value * gamma[column]
        if beta is not None:
            value = value + beta[column]
        return store(value)

    name = "rms_norm" if rms else "layer_norm"
    return te.compute(data.shape, normalized, name=name, attrs={KERNEL: "layer_norm"})


def reduce_last(data: Any, kind: str, lanes: int) -> Any:
    """Sum, mean, max or min over the last dimension of `data`; of bfloat16 in float32."""
    k = _int(data.shape[-1])
    folded = fold_row(
        data, lanes, "sum" if kind == "mean" else kind, f"row_{kind}", lambda i: widen(data[i])
    )
    scale = 1.0 / k if kind == "mean" else None
    return te.compute(
        folded.shape,
        lambda *i: folded[i] if scale is None else folded[i] * tirx.const(scale, folded.dtype),
        name=kind,
        attrs={KERNEL: "row_reduction"},
    )


def _tree(values: list[Any], combine: Combine) -> Any:
    """Combine values pairwise, so that the chain of dependent operations is short."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        values = [
            combine(values[i], values[i + half]) if i + half < len(values) else values[i]
            for i in range(half)
        ]
    return values[0]
