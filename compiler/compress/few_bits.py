"""Which operators get weights of one or two bits, or one bit for their activations too.

The first and the last layers of a network and its depthwise ones have few weights and lose
most: they stay at 8 bits unless the recipe says otherwise. Scales follow from the weights as
the plan is applied (`compiler.compress.low_bits`), so nothing is chosen here but dtypes; for
arithmetic on one bit, calibration sees what the signs of an activation stand for: the mean of
its magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention

from compiler.compress import low_bits
from compiler.compress.apply.facts import symmetric
from compiler.compress.groups import WEIGHT_AXIS, Group
from compiler.compress.plan import OperatorPlan, TensorPlan, WeightPlan
from compiler.compress.recipe import Quantize
from compiler.compress.sites import PlainGraph, Site

Array = npt.NDArray[Any]

#: How a plan names the rule that derives scales from weights.
METHODS: Mapping[str, str] = {"ternary": "twn", "binary": "xnor"}


def ends_of(graph: PlainGraph, groups: Iterable[Group]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the first and of the last operators with weights.

    The first have no operator with a weight before them, the last none behind.
    """
    weighted = {g.name for g in groups if g.weighted}
    before: dict[str, bool] = {}
    for site in graph.sites:
        before[site.name] = any(n in weighted or before.get(n, False) for n in site.data)
    readers = graph.readers()
    behind: dict[str, bool] = {}
    for site in reversed(graph.sites):
        after = [s.name for s in readers.get(site.name, ())]
        behind[site.name] = any(n in weighted or behind[n] for n in after)
    names = [s.name for s in graph.sites if s.name in weighted]
    return (
        tuple(n for n in names if not before[n]),
        tuple(n for n in names if not behind[n]),
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """What one operator gets.

    Attributes:
        precision: ``int8`` or ``binary``.
        dtype: Of its weight.
        why: Why it is not what the recipe asks for, or empty.
    """

    precision: str
    dtype: str
    why: str = ""


@dataclass(slots=True)
class FewBits:
    """Choices for a network, and what calibration saw for them.

    Attributes:
        recipe: The options.
        chosen: Operators with weights of few bits, by name.
        why: Why others stay at 8 bits.
    """

    recipe: Quantize
    chosen: dict[str, Choice] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    _inputs: dict[str, str] = field(default_factory=dict)
    _magnitudes: dict[str, float] = field(default_factory=dict)
    _samples: dict[str, int] = field(default_factory=dict)

    @classmethod
    def choose(cls, graph: PlainGraph, groups: Iterable[Group], recipe: Quantize) -> FewBits:
        """Choices for the groups of a graph; none where the recipe asks for 8 or 4 bits."""
        self = cls(recipe)
        dtype = recipe.weight_form.dtype
        if dtype not in METHODS:
            return self
        groups = [g for g in groups if g.integer and g.weighted]
        first, last = ends_of(graph, groups)
        for group in groups:
            if reason := self._at_8_bits(group, first, last):
                self.why[group.name] = reason
                continue
            binary = recipe.scheme == "binary"
            grouped = int(getattr(group.site.value.attrs, "groups", 1) or 1) > 1
            if binary and grouped:
                why = "a convolution in groups: only its weights are of one bit"
                self.chosen[group.name] = Choice("int8", dtype, why)
            else:
                self.chosen[group.name] = Choice("binary" if binary else "int8", dtype)
                self._inputs[group.name] = group.inputs[0]
        return self

    def _at_8_bits(self, group: Group, first: tuple[str, ...], last: tuple[str, ...]) -> str:
        if self.recipe.ends == "int8" and group.name in first + last:
            place = "first" if group.name in first else "last"
            return f"the {place} layer stays at 8 bits: ends='int8'"
        if group.site.kind != "matmul":
            inner = int(group.site.value.args[1].ty.shape.values[1])
            if inner == 1 and int(group.site.value.attrs.groups) > 1:
                return "a depthwise layer has few weights and stays at 8 bits"
        return ""

    def see(self, name: str, values: Array) -> None:
        """Look at an activation of one sample."""
        if name in self._inputs.values():
            magnitude = float(np.abs(values, dtype=np.float64).mean())
            self._magnitudes[name] = self._magnitudes.get(name, 0.0) + magnitude
            self._samples[name] = self._samples.get(name, 0) + 1

    def settle(self, minima: Mapping[str, float]) -> tuple[str, ...]:
        """Give up one bit where an activation is never negative, so that all signs are one.

        Args:
            minima: Least value that was seen of each activation.

        Returns:
            Remarks for the log.
        """
        given_up = []
        for name, choice in self.chosen.items():
            if choice.precision == "binary" and minima[self._inputs[name]] >= 0.0:
                why = "its input is never negative, its signs would say nothing: int8 activations"
                self.chosen[name] = replace(choice, precision="int8", why=why)
                given_up.append(name)
        if not given_up:
            return ()
        shown = ", ".join(given_up[:3]) + (", ..." if len(given_up) > 3 else "")
        count = f"{len(given_up)} layers read activations that are never negative"
        return (f"{count} and keep them in int8: {shown}",)

    def sign_scale(self, name: str) -> float | None:
        """What the signs that an operator reads stand for; None if it reads none."""
        choice = self.chosen.get(name)
        if choice is None or choice.precision != "binary":
            return None
        tensor = self._inputs[name]
        mean = np.float32(self._magnitudes[tensor] / self._samples[tensor])
        return float(mean) if mean > 0 else 1.0

    def weight(self, group: Group, parameter: str) -> WeightPlan:
        """The plan of the weight of a chosen operator."""
        dtype = self.chosen[group.name].dtype
        return WeightPlan(
            parameter, dtype, self.recipe.weight_granularity, WEIGHT_AXIS[group.site.kind], (),
            METHODS[dtype],
        )  # fmt: skip

    def operator(self, plan: OperatorPlan, name: str) -> OperatorPlan:
        """The plan of an operator with what was chosen for it."""
        if name in self.why:
            return replace(plan, why=self.why[name])
        choice = self.chosen.get(name)
        if choice is None:
            return plan
        return replace(
            plan, precision=choice.precision, why=choice.why, sign_scale=self.sign_scale(name)
        )


def real_weight(weight: Array, plan: WeightPlan) -> Array:
    """A weight as its one or two bits give it back, float32."""
    stored, scales = low_bits.stored_weight(
        weight, plan.dtype, plan.scales, plan.axis, tensor=plan.granularity == "tensor",
        method=plan.method,
    )  # fmt: skip
    shape = [1] * weight.ndim
    shape[plan.axis] = len(scales)
    steps = np.asarray(scales).reshape(shape if len(scales) > 1 else [1] * weight.ndim)
    return (stored * steps).astype(np.float32)


def evaluate_signs(site: Site, x: torch.Tensor, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """A convolution or product of the signs of `x`, which are worth `scale`."""
    signs = torch.where(x >= 0, scale, -scale)
    if site.kind == "matmul":
        return signs @ weight
    a = site.value.attrs
    spatial = weight.ndim - 2
    padding = symmetric(a.padding, spatial)
    pairs = [v for i in reversed(range(spatial)) for v in (padding[i], padding[spatial + i])]
    padded = F.pad(signs, pairs, value=scale)
    convolve = F.conv1d if spatial == 1 else F.conv2d
    strides, dilation = ([int(v) for v in values] for values in (a.strides, a.dilation))
    return convolve(padded, weight, None, strides, 0, dilation)


def without_signs(
    tensors: Mapping[str, TensorPlan], operators: Mapping[str, OperatorPlan], outputs: Iterable[str]
) -> dict[str, TensorPlan]:
    """The tensors but for those of which operators on one bit read the signs and nobody more.

    What gives them gives signs, or float32, then. An operator on integers without a weight
    can give neither: what it gives stays.
    """
    makers = {o.output: o for o in operators.values()}
    shared = {t.shared_with for t in tensors.values() if t.shared_with}
    readers: dict[str, list[OperatorPlan]] = {}
    for operator in operators.values():
        for name in operator.inputs:
            readers.setdefault(name, []).append(operator)

    def only_signs(name: str, tensor: TensorPlan) -> bool:
        maker = makers.get(name)
        stored = maker is not None and maker.precision == "int8" and maker.weight is None
        return (
            all(o.precision == "binary" for o in readers.get(name, ()))
            and not (stored or tensor.shared_with or name in shared)
            and name not in outputs
        )

    return {n: t for n, t in tensors.items() if not only_signs(n, t)}


__all__ = ["FewBits", "ends_of", "evaluate_signs", "real_weight", "without_signs"]
