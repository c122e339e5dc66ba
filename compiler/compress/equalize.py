"""Cross-layer equalization: channels between two layers get equal shares of both ranges.

After Nagel et al. 2019, section 4.1: between two layers whose channels meet through nothing
but a positive-homogeneous activation, a channel may be divided by any positive factor in the
first and multiplied by it in the second. The factors make the ranges of both weights' channels
equal; the float32 model stays the same but for rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.compress.groups import WEIGHT_AXIS, Group
from compiler.compress.plan import Equalization
from compiler.compress.sites import PlainGraph

Array = npt.NDArray[np.float64]

#: Largest factor, and one over the smallest.
_LIMIT = 256.0
_ROUNDS = 8


def equalize(graph: PlainGraph, groups: tuple[Group, ...]) -> tuple[Equalization, ...]:
    """Factors for all pairs of layers that they are exact for, in the order of the graph."""
    pairs = _pairs(graph, groups)
    weights = {
        g.name: np.asarray(g.weight.value.numpy(), np.float64)
        for pair in pairs
        for g in pair
        if g.weight is not None
    }
    total = {first.name: np.ones(weights[first.name].shape[_axis(first)]) for first, _ in pairs}
    for _ in range(_ROUNDS):
        for first, second in pairs:
            before = _output_ranges(weights[first.name], first)
            after = _input_ranges(weights[second.name], second)
            live = (before > 0) & (after > 0)
            # before / factor == after * factor
            factors = np.where(
                live, np.sqrt(np.where(live, before, 1) / np.where(live, after, 1)), 1
            )
            wanted = np.clip(total[first.name] * factors, 1 / _LIMIT, _LIMIT)
            factors = wanted / total[first.name]
            weights[first.name] = divide_outputs(weights[first.name], factors, first)
            weights[second.name] = multiply_inputs(weights[second.name], factors, second)
            total[first.name] = wanted
    return tuple(
        Equalization(
            first.name, second.name,
            tuple(float(v) for v in total[first.name].astype(np.float32)),
        )
        for first, second in pairs
    )  # fmt: skip


def divide_outputs(weight: Array, factors: Array, group: Group) -> Array:
    """A weight whose outputs are smaller by these factors."""
    shape = [1] * weight.ndim
    shape[_axis(group)] = -1
    return weight / factors.reshape(shape)


def multiply_inputs(weight: Array, factors: Array, group: Group) -> Array:
    """A weight that takes inputs which are smaller by these factors."""
    if group.site.kind == "matmul":
        return weight * factors[:, None]
    groups = int(group.site.value.attrs.groups)
    shaped = weight.reshape(groups, -1, *weight.shape[1:])
    inner = factors.reshape(groups, 1, weight.shape[1], *([1] * (weight.ndim - 2)))
    return np.asarray((shaped * inner).reshape(weight.shape))


def _axis(group: Group) -> int:
    return WEIGHT_AXIS[group.site.kind]


def _output_ranges(weight: Array, group: Group) -> Array:
    others = tuple(i for i in range(weight.ndim) if i != _axis(group))
    return np.asarray(np.abs(weight).max(axis=others))


def _input_ranges(weight: Array, group: Group) -> Array:
    if group.site.kind == "matmul":
        return np.asarray(np.abs(weight).max(axis=1))
    groups = int(group.site.value.attrs.groups)
    shaped = np.abs(weight).reshape(groups, -1, *weight.shape[1:])
    others = (1, *range(3, shaped.ndim))
    return np.asarray(shaped.max(axis=others).reshape(-1))


def _pairs(graph: PlainGraph, groups: tuple[Group, ...]) -> list[tuple[Group, Group]]:
    readers = graph.readers()
    heads = {g.site.name: g for g in groups}
    found = []
    for first in groups:
        if not (first.integer and first.weighted) or first.output in graph.outputs:
            continue
        homogeneous = all(s.kind in ("add", "nn.relu") for s in first.epilogue)
        following = readers.get(first.output, ())
        if not homogeneous or len(following) != 1 or following[0].name not in heads:
            continue
        second = heads[following[0].name]
        if second.integer and second.weighted and second.inputs == (first.output,):
            found.append((first, second))
    return found


__all__ = ["divide_outputs", "equalize", "multiply_inputs"]
