"""From observed ranges and weights to scales and zero points."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from compiler.compress.observers import Observer
from compiler.compress.plan import LIMITS, WEIGHT_LIMIT, TensorPlan

Floats = npt.NDArray[np.float64]

#: Shares of the largest weight that are tried as the end of its range.
_SHARES = np.linspace(0.5, 1.0, 51)
#: Powers of two that are tried as the scale of an activation.
_FINER = 6
#: A bias has to fit its int32 sums with room for the products.
_BIAS_LIMIT = 2.0**29


def activation_plan(
    low: float, high: float, *, method: str, power_of_two: bool, seen: tuple[float, float]
) -> TensorPlan:
    """Scale and zero point of an activation with this range.

    It is stored as uint8. With powers of two it is stored as int8 with a zero point of 0: what
    hardware that only shifts multiplies, and pads images with.

    Args:
        low: Least value that is to be stored.
        high: Greatest.
        method: How they were chosen.
        power_of_two: Take the least power of two that spans the range.
        seen: Least and greatest value that calibration saw.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    zero_point = 0
    if power_of_two:
        dtype, scale = "int8", 2.0 ** _symmetric_exponent(low, high)
    else:
        dtype = "uint8"
        least, greatest = LIMITS[dtype]
        scale = float(np.float32((high - low) / (greatest - least)))
        zero_point = round(min(max(least - low / scale, least), greatest))
    return TensorPlan(
        dtype, scale, zero_point, method, power_of_two=power_of_two,
        minimum=float(np.float32(seen[0])), maximum=float(np.float32(seen[1])),
    )  # fmt: skip


def wide_plan(reach: float, *, power_of_two: bool, seen: tuple[float, float]) -> TensorPlan:
    """An activation in 16 bits that reaches from -reach to reach.

    Args:
        reach: Greatest magnitude that is to be stored.
        power_of_two: Take the least power of two that spans it.
        seen: Least and greatest value that calibration saw.
    """
    step = max(reach, 1e-30) / LIMITS["int16"][1]
    scale = 2.0 ** math.ceil(math.log2(step)) if power_of_two else float(np.float32(step))
    low, high = (float(np.float32(v)) for v in seen)
    return TensorPlan("int16", scale, 0, "wide", power_of_two, low, high)


def symmetric_plan(
    low: float, high: float, *, method: str, power_of_two: bool, seen: tuple[float, float]
) -> TensorPlan:
    """An activation as int8 with a zero point of 0, for products of two activations."""
    if power_of_two:
        return activation_plan(low, high, method=method, power_of_two=True, seen=seen)
    scale = float(np.float32(max(-low, high, 1e-30) / LIMITS["int8"][1]))
    least, greatest = (float(np.float32(v)) for v in seen)
    return TensorPlan("int8", scale, 0, method, False, least, greatest)


def choose_range(
    observer: Observer, method: str, percentile: float, power_of_two: bool
) -> tuple[float, float]:
    """The range of one activation.

    With powers of two it is what int8 of one power spans. ``mse`` tries the powers themselves,
    from the one that spans all values down, and takes the one of the least squared error; the
    other methods choose a range first, and take the power that spans it.
    """
    if not power_of_two:
        return observer.range_by(method, percentile)
    if method == "mse":
        low, high = observer.range_by("minmax")
        top = _symmetric_exponent(low, high)
        exponents = range(top, top - _FINER, -1)
        exponent = min(exponents, key=lambda e: observer.squared_error(*_symmetric(e)))
    else:
        exponent = _symmetric_exponent(*observer.range_by(method, percentile))
    return _symmetric(exponent)


def _symmetric(exponent: int) -> tuple[float, float]:
    """The range of int8 with this power of two as scale."""
    least, greatest = LIMITS["int8"]
    return least * 2.0**exponent, greatest * 2.0**exponent


def _symmetric_exponent(low: float, high: float) -> int:
    """The least power of two by which int8 without a zero point spans a range."""
    least, greatest = LIMITS["int8"]
    return math.ceil(math.log2(max(low / least, high / greatest)))


def weight_scales(
    weight: npt.NDArray[np.float32],
    axis: int,
    *,
    granularity: str,
    method: str,
    power_of_two: bool,
    bias: npt.NDArray[np.float64] | None,
    data_scale: float,
    limit: int = WEIGHT_LIMIT,
) -> tuple[float, ...]:
    """Symmetric scales of a weight.

    Args:
        weight: Of the plain graph.
        axis: Its axis of output channels.
        granularity: ``channel`` or ``tensor``.
        method: ``minmax``, or ``mse`` for the least squared error.
        power_of_two: Only powers of two.
        bias: One real number a channel, which has to fit into int32.
        data_scale: Scale of the activations that are multiplied with it.
        limit: Greatest magnitude that is stored.
    """
    rows = np.moveaxis(weight.astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    floor = np.zeros(len(rows))
    if bias is not None:
        floor = np.abs(np.broadcast_to(bias, (len(rows),))) / (data_scale * _BIAS_LIMIT)
    if granularity == "tensor":
        rows, floor = rows.reshape(1, -1), np.asarray([floor.max()])
    largest = np.abs(rows).max(axis=1)
    # A channel of zeros needs some scale; one of very small numbers none that is smaller.
    typical = float(largest.max()) or 1.0
    floor = np.maximum(floor, typical * 2.0**-20 / limit)
    full = np.maximum(largest / limit, floor)
    if power_of_two:
        up = 2.0 ** np.ceil(np.log2(full))
        candidates = [up] + ([np.maximum(up / 2, _power_above(floor))] if method == "mse" else [])
    elif method == "mse":
        candidates = [np.maximum(full * share, floor) for share in _SHARES[::-1]]
    else:
        candidates = [full]
    best, error = candidates[0], np.full(len(rows), np.inf)
    for scales in candidates:
        rounded = _round_scales(scales)
        stored = np.clip(np.rint(rows / rounded[:, None]), -limit, limit)
        found = ((stored * rounded[:, None] - rows) ** 2).sum(axis=1)
        better = found < error
        best, error = np.where(better, rounded, best), np.where(better, found, error)
    return tuple(float(v) for v in best)


def fake_quantize_weight(
    weight: npt.NDArray[np.float32],
    axis: int,
    scales: tuple[float, ...],
    limit: int = WEIGHT_LIMIT,
) -> npt.NDArray[np.float32]:
    """The weight as its stored integers give it back."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = np.asarray(scales, np.float64).reshape(shape)
    stored = np.clip(np.rint(weight.astype(np.float64) / steps), -limit, limit)
    return (stored * steps).astype(np.float32)


def _power_above(values: Floats) -> Floats:
    result: Floats = 2.0 ** np.ceil(np.log2(values))
    return result


def _round_scales(scales: Floats) -> Floats:
    return scales.astype(np.float32).astype(np.float64)


__all__ = [
    "activation_plan",
    "choose_range",
    "fake_quantize_weight",
    "symmetric_plan",
    "weight_scales",
    "wide_plan",
]
