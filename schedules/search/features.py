"""What a cost model knows of a candidate: its shapes, its choice and what follows from both.

Names and numbers, not positions: templates have decisions of their own, and a model learns
from several workloads. What a workload lacks is a missing value, not a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schedules.space import Choice
from schedules.workload import Json, Workload
from targets.spec import DTYPE_BYTES, TargetSpec

#: Name of a feature -> its value.
Features = dict[str, float]


@dataclass(frozen=True)
class ProductShape:
    """A heavy operator as the matrix product that it is at heart.

    Attributes:
        batch: Independent products.
        rows: Rows of the output: pixels of a convolution.
        columns: Columns of the output: its channels.
        depth: Length of the reduction.
    """

    batch: int
    rows: int
    columns: int
    depth: int

    @property
    def flops(self) -> float:
        """Operations; a multiply-add is two."""
        return 2.0 * self.batch * self.rows * self.columns * self.depth


def product_shape(workload: Workload) -> ProductShape:
    """The matrix product at the heart of a static workload.

    Raises:
        ValueError: An extent is symbolic.
    """
    data, weight, output = (
        _static(extents) for extents in (workload.data, workload.weight, workload.output)
    )
    if workload.operator == "batch_matmul":
        batch = math.prod(output[:-2])
        return ProductShape(batch, output[-2], output[-1], data[-1])
    rows = math.prod(output[:-1])
    if workload.operator == "dense":
        return ProductShape(1, rows, output[-1], data[-1])
    if workload.operator == "pool2d":
        window = workload.attributes["kernel"]
        return ProductShape(1, rows, output[-1], math.prod(window))
    return ProductShape(1, rows, output[-1], math.prod(weight[1:]))


def workload_features(workload: Workload, spec: TargetSpec) -> Features:
    """What does not depend on the choice."""
    shape = product_shape(workload)
    data, weight, output = (
        _bytes(extents, dtype)
        for extents, dtype in (
            (workload.data, workload.dtypes[0]),
            (workload.weight, workload.dtypes[1]),
            (workload.output, workload.dtypes[0]),
        )
    )
    features: Features = {
        "log rows": math.log2(shape.rows),
        "log columns": math.log2(shape.columns),
        "log depth": math.log2(shape.depth),
        "log batch": math.log2(shape.batch),
        "log intensity": math.log2(shape.flops / (data + weight + output)),
        "log data bytes": math.log2(data),
        "log output bytes": math.log2(output),
        "element bytes": float(DTYPE_BYTES.get(workload.dtypes[0], 4)),
        "epilogue": float(len(workload.epilogue)),
        "log peak": math.log2(peak_ops_per_cycle(workload, spec)),
        "lanes": float(spec.vector_lanes(workload.dtypes[2])),
        "registers": float(spec.vector_registers),
    }
    if workload.weight:
        features["log weight bytes"] = math.log2(weight)
    if len(output_extents := _static(workload.output)) == 4:
        features["height"], features["width"] = map(float, output_extents[1:3])
    for level in (1, 2, 3):
        if size := spec.cache_bytes(level):
            features[f"data by L{level}"] = math.log2(data / size)
            if workload.weight:
                features[f"weight by L{level}"] = math.log2(weight / size)
    for name in ("strides", "dilation", "kernel"):
        values = workload.attributes.get(name)
        if isinstance(values, list) and values and all(_is_number(v) for v in values):
            features[name] = float(values[0])
    if workload.operator != "dense" and len(workload.weight) == 4:
        features["window"] = float(math.prod(_static(workload.weight)[2:]))
    return features


def choice_features(
    workload: Workload, choice: Choice, spec: TargetSpec, estimated_cycles: float
) -> Features:
    """What follows from the choice: its values, how well they divide the extents, cache fits.

    Args:
        workload: What is computed.
        choice: One choice of one of its spaces.
        spec: The target.
        estimated_cycles: The template's analytic estimate for the choice.
    """
    shape = product_shape(workload)
    ideal = shape.flops / peak_ops_per_cycle(workload, spec)
    features: Features = {
        "log cycles": math.log2(estimated_cycles),
        "log cycles by ideal": math.log2(estimated_cycles / ideal),
    }
    lanes = spec.vector_lanes(workload.dtypes[2])
    element = DTYPE_BYTES.get(workload.dtypes[0], 4)
    sizes = {level: spec.cache_bytes(level) for level in (1, 2)}
    for name, value in _numbers(choice):
        features[name] = value
        if value < 1 or value != int(value):
            continue
        features[f"log {name}"] = math.log2(value)
        for extent_name in ("rows", "columns", "depth"):
            extent = getattr(shape, extent_name)
            features[f"{name}: {extent_name} wasted"] = _waste(extent, int(value))
        features[f"{name}: vectors wasted"] = _waste(shape.columns, int(value) * lanes)
        if len(workload.output) == 4:
            height, width = _static(workload.output)[1:3]
            features[f"{name}: height wasted"] = _waste(height, int(value))
            features[f"{name}: width wasted"] = _waste(width, int(value))
        for level, size in sizes.items():
            if size:
                panel = value * shape.depth * element
                features[f"{name}: panel by L{level}"] = math.log2(panel / size)
    for name, item in choice.items():
        if isinstance(item, str):
            features[f"{name}={item}"] = 1.0
    return features


def peak_ops_per_cycle(workload: Workload, spec: TargetSpec) -> float:
    """Peak operations of one core per cycle on the workload's operands."""
    peaks = spec.peak_ops_per_cycle
    return peaks.get(workload.dtypes[0]) or peaks.get("float32") or 1.0


def _numbers(choice: Mapping[str, Json]) -> Iterator[tuple[str, float]]:
    """Numbers in a choice by name; lists give each element and their product."""
    for name, value in choice.items():
        if isinstance(value, bool) or _is_number(value):
            yield name, float(value)
        elif isinstance(value, list | tuple) and value and all(_is_number(v) for v in value):
            for index, item in enumerate(value):
                yield f"{name}[{index}]", float(item)
            yield f"{name} product", float(math.prod(value))
            if len(value) >= 4:  # a tile of rows in front, one of columns behind
                half = len(value) // 2
                yield f"{name} front", float(math.prod(value[:half]))
                yield f"{name} back", float(math.prod(value[half:]))


def _waste(extent: int, tile: int) -> float:
    """Share of the work of whole tiles that lies outside of the extent."""
    covered = math.ceil(extent / tile) * tile
    return (covered - extent) / covered


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _static(extents: tuple[int | str, ...]) -> tuple[int, ...]:
    values = tuple(v for v in extents if isinstance(v, int))
    if len(values) != len(extents):
        raise ValueError(f"a workload with symbolic extents cannot be searched: {extents}")
    return values


def _bytes(extents: tuple[int | str, ...], dtype: str) -> int:
    return math.prod(_static(extents)) * DTYPE_BYTES.get(dtype, 4)


__all__ = [
    "Features",
    "ProductShape",
    "choice_features",
    "peak_ops_per_cycle",
    "product_shape",
    "workload_features",
]
