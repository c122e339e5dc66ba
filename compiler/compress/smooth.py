"""SmoothQuant: channels of activations and weights meet half way (Xiao et al. 2022, section 4).

Some channels of what a layer normalization gives are far larger than the others. Dividing each
by a factor and multiplying the weights that read it with the same leaves the float model as it
is, and the activations fit into 8 bits. The division costs nothing: it goes into the
normalization's own factors, or into the step from 16 to 8 bits where the normalized tensor is
also a term of the residual path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from compiler.compress.evaluate import Evaluator
from compiler.compress.groups import Group
from compiler.compress.plan import Smoothing, base
from compiler.compress.widths import Widths

Array = npt.NDArray[np.float64]
#: Largest factor, and one over the smallest, against their geometric mean.
LIMIT = 64.0


def candidates(
    groups: Sequence[Group], widths: Widths, without: frozenset[str] = frozenset()
) -> dict[str, tuple[Group, ...]]:
    """Results of layer normalization, by the plan's name, that only products with weights read."""
    integers = [g for g in groups if g.integer]
    norms = {g.output for g in integers if g.site.kind == "nn.layer_norm"}
    readers: dict[str, list[Group]] = {}
    for group in integers:
        for name in widths.reads[group.name]:
            if base(name) in norms and name not in widths.wide:
                readers.setdefault(name, []).append(group)
    return {
        name: tuple(found)
        for name, found in readers.items()
        if all(g.weighted and g.site.kind == "matmul" and g.name not in without for g in found)
    }


def find_smoothings(
    evaluator: Evaluator,
    found: Mapping[str, tuple[Group, ...]],
    weights: Mapping[str, npt.NDArray[np.float32]],
    samples: Sequence[tuple[torch.Tensor, ...]],
    strength: float,
) -> tuple[Smoothing, ...]:
    """Factors for the candidates.

    Args:
        evaluator: Of the graph.
        found: What `candidates` found.
        weights: Weights by the operators' names.
        samples: Inputs to look at.
        strength: Share of the difficulty that moves from activations to weights, 0 to 1.
    """
    largest: dict[str, Array] = {}
    wanted = {base(name) for name in found}

    def visit(name: str, value: torch.Tensor) -> None:
        if name in wanted:
            rows = value.reshape(-1, value.shape[-1]).abs().amax(0).double().numpy()
            largest[name] = np.maximum(largest.get(name, 0.0), rows)

    for sample in samples:
        evaluator.run(sample, visit)
    result = []
    for name, groups in found.items():
        seen = largest[base(name)]
        # The weights' input channels, over all that read the tensor.
        heavy = np.max([np.abs(weights[g.name].astype(np.float64)).max(1) for g in groups], axis=0)
        live = (seen > 0) & (heavy > 0) & np.isfinite(seen)
        if not live.any():
            continue
        seen, heavy = np.where(live, seen, 1.0), np.where(live, heavy, 1.0)
        factors = seen**strength / heavy ** (1.0 - strength)
        mean = np.exp(np.log(factors[live]).mean())
        factors = np.where(live, np.clip(factors / mean, 1 / LIMIT, LIMIT), 1.0)
        values = tuple(float(v) for v in factors.astype(np.float32))
        result.append(Smoothing(name, tuple(g.name for g in groups), values))
    return tuple(result)


__all__ = ["candidates", "find_smoothings"]
