"""Rounding of weights as is best for a layer's sums, after AdaRound (Nagel et al. 2020).

A weight may be rounded up or down. To the nearest is best for the weight, not for the sums: the
errors of weights whose inputs come together add up. AdaRound's objective is the mean squared error
of the sums on calibration samples, a quadratic form of the errors ``e`` of one channel's weights:
``e H e`` with ``H`` the mean of ``x x^T`` over inputs ``x``. Where AdaRound relaxes up and down
to numbers in between and descends by gradients, this goes through the weights in blocks and turns
each rounding over that lowers the form, a few times: no step sizes, nothing random, and the result
is never worse than the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from compiler.compress.evaluate import Evaluator
from compiler.compress.groups import Group
from compiler.compress.turned import pack

Array = npt.NDArray[Any]

#: Times that all roundings are looked at, weights in a block, places of one sample that are
#: looked at, and bytes of matrices that are held together.
SWEEPS, BLOCK, PLACES, HELD = 3, 128, 1024, 256 << 20
#: Share of the mean of H's diagonal that is added to it, for inputs that samples never show.
DAMPING = 0.01


def find_turns(exact: Array, moment: Array, limit: int) -> Array:
    """Which roundings to turn over.

    Args:
        exact: Weights in steps of their scales, ``[groups, channels, inputs]``.
        moment: Mean products of inputs, ``[groups, inputs, inputs]``.
        limit: Greatest magnitude that is stored.

    Returns:
        Booleans in the shape of `exact`.
    """
    stored = np.clip(np.rint(exact), -limit, limit)
    other = stored + np.where(exact >= stored, 1.0, -1.0)
    free = np.abs(other) <= limit
    turned = np.zeros(exact.shape, bool)
    for g in range(len(exact)):
        h = moment[g].astype(np.float64)
        h = h + np.eye(len(h)) * (DAMPING * float(np.diag(h).mean()) + 1e-30)
        near, far = stored[g] - exact[g], other[g] - exact[g]
        error = near.copy()
        for _ in range(SWEEPS):
            changed = False
            for first in range(0, error.shape[1], BLOCK):
                block = slice(first, min(first + BLOCK, error.shape[1]))
                slope = error @ h[:, block]
                inner = h[block, block]
                for i in range(inner.shape[0]):
                    k = first + i
                    step = np.where(turned[g, :, k], near[:, k], far[:, k]) - error[:, k]
                    better = free[g, :, k] & (2 * step * slope[:, i] + step**2 * inner[i, i] < 0)
                    if better.any():
                        step = np.where(better, step, 0.0)
                        error[:, k] += step
                        slope += step[:, None] * inner[i][None]
                        turned[g, :, k] ^= better
                        changed = True
            if not changed:
                break
    return turned


def moments(
    evaluator: Evaluator,
    groups: Sequence[Group],
    samples: Sequence[tuple[torch.Tensor, ...]],
) -> Iterator[tuple[Group, Array]]:
    """For each layer the mean products of its inputs, ``[groups, inputs, inputs]``.

    As many layers at a time as fit into `HELD` bytes share a run through the graph.
    """
    batch: list[Group] = []
    held = 0
    for group in [*groups, None]:
        size = 0 if group is None else int(np.prod(_shape(group)[::2])) * _shape(group)[2] * 4
        if batch and (group is None or held + size > HELD):
            yield from _moments(evaluator, batch, samples)
            batch, held = [], 0
        if group is not None:
            batch.append(group)
            held += size


def _shape(group: Group) -> tuple[int, int, int]:
    """Groups, channels of a group, and inputs of a channel."""
    shape = [int(v) for v in group.site.value.args[1].ty.shape.values]
    if group.site.kind == "matmul":
        return 1, shape[1], shape[0]
    parts = int(group.site.value.attrs.groups)
    return parts, shape[0] // parts, int(np.prod(shape[1:]))


def grouped(weight: Array, group: Group) -> Array:
    """A weight as ``[groups, channels, inputs]``."""
    flat = weight.T if group.site.kind == "matmul" else weight
    return np.ascontiguousarray(flat).reshape(_shape(group))


def plain(value: Array, group: Group, shape: Sequence[int]) -> Array:
    """What `grouped` made, as it was."""
    if group.site.kind == "matmul":
        return np.ascontiguousarray(value.reshape(shape[1], shape[0]).T)
    return value.reshape(tuple(shape))


def _moments(
    evaluator: Evaluator,
    groups: Sequence[Group],
    samples: Sequence[tuple[torch.Tensor, ...]],
) -> Iterator[tuple[Group, Array]]:
    wanted: dict[str, list[Group]] = {}
    for group in groups:
        wanted.setdefault(group.inputs[0], []).append(group)
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def visit(name: str, value: torch.Tensor) -> None:
        for group in wanted.get(name, ()):
            rows = _inputs(value, group)
            product = torch.einsum("rgi,rgj->gij", rows, rows) if rows.shape[1] > 1 else (
                (rows[:, 0].T @ rows[:, 0])[None]
            )  # fmt: skip
            sums[group.name] = sums.get(group.name, 0) + product
            counts[group.name] = counts.get(group.name, 0) + len(rows)

    for sample in samples:
        evaluator.run(sample, visit)
    for group in groups:
        yield group, (sums.pop(group.name) / counts[group.name]).numpy()


def _inputs(value: torch.Tensor, group: Group) -> torch.Tensor:
    """What the channels of a layer multiply with their weights, ``[places, groups, inputs]``."""
    parts, _, inner = _shape(group)
    if group.site.kind == "matmul":
        rows = value.reshape(-1, 1, inner)
    else:
        a = group.site.value.attrs
        kernel = [int(v) for v in group.site.value.args[1].ty.shape.values[2:]]
        padding = [int(v) for v in a.padding]
        strides, dilation = [int(v) for v in a.strides], [int(v) for v in a.dilation]
        if len(kernel) == 1:
            value, kernel = value[:, :, None], [1, *kernel]
            padding = [0, padding[0], 0, padding[-1]]
            strides, dilation = [1, *strides], [1, *dilation]
        top, left, bottom, right = padding
        columns = F.unfold(
            F.pad(value, (left, right, top, bottom)),
            (kernel[0], kernel[1]), (dilation[0], dilation[1]), 0, (strides[0], strides[1]),
        )  # fmt: skip
        rows = columns.transpose(1, 2).reshape(-1, parts, inner)
    step = max(1, len(rows) // PLACES)
    return rows[::step].float()


def find_roundings(
    evaluator: Evaluator,
    layers: Mapping[str, tuple[Group, Array, int]],
    samples: Sequence[tuple[torch.Tensor, ...]],
    progress: Callable[[int, str], None],
    factors: Mapping[str, Array],
) -> tuple[dict[str, str], bool]:
    """Roundings for layers, by name, packed.

    Args:
        evaluator: Of the graph.
        layers: By name: the layer, its weight in steps of the scales, and their limit.
        samples: Inputs to look at.
        progress: Called as layers are done.
        factors: What inputs of a layer are divided by, one number a channel.

    Returns:
        The roundings, and whether all layers were done: Ctrl-C ends the search, and what was
        found is kept.
    """
    found: dict[str, str] = {}
    try:
        for group, moment in moments(
            evaluator, [group for group, _, _ in layers.values()], samples
        ):
            _, exact, limit = layers[group.name]
            if (smooth := factors.get(group.name)) is not None:
                moment = moment / (smooth[:, None] * smooth[None])  # noqa: PLW2901
            turned = plain(find_turns(grouped(exact, group), moment, limit), group, exact.shape)
            if turned.any():
                found[group.name] = pack(turned)
            progress(len(found), f"of {len(layers)} layers rounded")
    except KeyboardInterrupt:
        return found, False
    return found, True


__all__ = ["find_roundings", "find_turns", "grouped", "plain"]
