"""Step sizes and weights of a model that is trained for a plan, as modules.

A module holds what is learned beside the model's own parameters: the scale of an activation, the
scales of a weight. Scales follow LSQ (arXiv 1902.08153); ternary weights follow their plan's rule
(Ternary Weight Networks, or learned scales), binary ones XNOR-Net.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compiler.compress import low_bits, weight_codes
from compiler.compress.plan import TensorPlan, WeightPlan
from compiler.train.constants import along
from compiler.train.functions import lsq_factor, quantize_steps, scale_gradient, signs

Floats = npt.NDArray[np.float64]

#: Most steps to either side of 0 that a weight's dtype has.
WEIGHT_STEPS = {"int8": 127, "int4": 7, "ternary": 1, "binary": 1}
#: From many values to few, for progressive training.
ORDER = ("float32", "int8", "int4", "ternary", "binary")
#: Half the width of the ramp whose slope stands for that of a sign, in units of the signs' scale.
SIGN_WIDTH = 1.5
#: A scale never gets smaller than this share of what it was at first.
_LEAST = 2.0**-10
#: Shares of the largest weight that are tried as the end of its range.
_SHARES = np.linspace(1.0, 0.3, 36)


class ActivationStep(nn.Module):
    """Scale and zero point of one activation, or of several that share them.

    Args:
        plan: Of the tensor.
        learned: Whether the scale is trained.
    """

    def __init__(self, plan: TensorPlan, *, learned: bool) -> None:
        super().__init__()
        self.zero_point = plan.zero_point
        self.limits = plan.limits
        self.dtype = plan.dtype
        self.least = plan.scale * _LEAST
        self.scale = nn.Parameter(torch.tensor(plan.scale), requires_grad=learned)

    def value(self) -> torch.Tensor:
        """The scale; it stays positive."""
        return self.scale.clamp_min(self.least)

    def number(self) -> float:
        """The scale as a Python number, a float32 one."""
        return float(self.value().detach())

    def round(
        self, x: torch.Tensor, low: int | None = None, high: int | None = None
    ) -> torch.Tensor:
        """Real numbers as what the stored ones mean.

        Args:
            x: Real numbers.
            low: Least stored value, of a result that is clipped.
            high: Greatest.
        """
        least, greatest = self.limits
        low = least if low is None else low
        high = greatest if high is None else high
        features = x.numel() // max(x.shape[0] if x.ndim else 1, 1)
        return quantize_steps(
            x.float(), self.value(), low - self.zero_point, high - self.zero_point,
            features=features,
        )  # fmt: skip


class SignStep(nn.Module):
    """Where the signs of an activation change, and what they stand for.

    Args:
        threshold: From here on a number counts as positive.
        scale: Magnitude of the signs.
        learned: Whether the threshold is trained.
    """

    def __init__(self, threshold: float, scale: float, *, learned: bool) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold), requires_grad=learned)
        self.register_buffer("scale", torch.tensor(scale))
        self.scale: torch.Tensor

    def number(self) -> float:
        """The threshold as a Python number, a float32 one."""
        return float(self.threshold.detach())

    def start(self, x: torch.Tensor) -> None:
        """Choose threshold and magnitude by a batch of activations.

        Activations that are negative as well have their threshold at 0; those behind a ReLU, which
        would all count as positive, at their mean.
        """
        with torch.no_grad():
            low, high = float(x.min()), float(x.max())
            threshold = 0.0 if low < -0.25 * high else float(x.mean())
            self.threshold.fill_(threshold)
            self.scale.fill_(max(float((x - threshold).abs().mean()), 1e-6))

    def forward(self, x: torch.Tensor, step: float | None = None) -> torch.Tensor:
        """Signs times their magnitude, with a clipped straight-through gradient.

        Args:
            x: Real numbers.
            step: Scale of a stored tensor: the threshold then lies between two of its numbers.
        """
        scale = float(self.scale)
        features = x.numel() // max(x.shape[0], 1)
        threshold = scale_gradient(self.threshold, lsq_factor(features, 1))
        if step is not None:
            between = (torch.round(threshold.double() / step) - 0.5) * step
            threshold = threshold + (between.float() - threshold).detach()
        return scale * signs(x - threshold, SIGN_WIDTH * scale)


class WeightStep(nn.Module):
    """How one weight is rounded.

    Args:
        plan: Of the weight.
        weight: Its value in the plain graph, at first.
        learned: Whether scales are trained; otherwise the plan's stay, or those of ternary and
            binary weights follow from the weights.
    """

    def __init__(self, plan: WeightPlan, weight: torch.Tensor, *, learned: bool) -> None:
        super().__init__()
        self.plan = plan
        self.dtype = plan.dtype
        self.learned = learned
        count = 1 if plan.granularity == "tensor" else weight.shape[plan.axis]
        self.per_scale = weight.numel() // count
        scales = plan.scales or self._fresh(weight, plan.dtype)
        #: Whether the plan's rule gives the scales from the weights.
        self.derived = plan.dtype in ("ternary", "binary") and (
            not learned or plan.dtype == "binary"
        )
        values = torch.tensor(scales, dtype=torch.float32)
        if len(values) != count:
            values = values.expand(count).clone()
        self.scales = nn.Parameter(values, requires_grad=learned and not self.derived)
        self.register_buffer("least", values * _LEAST, persistent=True)
        self.least: torch.Tensor

    def _fresh(self, weight: torch.Tensor, dtype: str) -> tuple[float, ...]:
        """Scales of a weight as a plan would choose them."""
        real = weight.detach().double().numpy()
        axis = None if self.plan.granularity == "tensor" else self.plan.axis
        if dtype == "ternary":
            return low_bits.ternary_scales(real, axis)[1]
        if dtype == "binary":
            return low_bits.binary_scales(real, axis)[1]
        return fresh_scales(real, axis, WEIGHT_STEPS[dtype])

    def change(self, dtype: str, weight: torch.Tensor) -> None:
        """Round to another dtype from now on, with scales of the weight as it is."""
        if dtype == self.dtype:
            return
        self.dtype = dtype
        self.derived = dtype in ("ternary", "binary") and (not self.learned or dtype == "binary")
        if dtype != "float32":
            fresh = torch.tensor(self._fresh(weight, dtype), dtype=torch.float32)
            with torch.no_grad():
                self.scales.copy_(fresh.expand(self.scales.shape))
                self.least.copy_(self.scales * _LEAST)
        self.scales.requires_grad_(self.learned and not self.derived and dtype != "float32")

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as its stored values give it back, with straight-through gradients."""
        if self.dtype == "float32":
            return weight
        if self.dtype == "binary":
            return self._binary(weight)
        if self.derived:
            return self._ternary(weight)
        scale = torch.maximum(self.scales, self.least)
        steps = WEIGHT_STEPS[self.dtype]
        return quantize_steps(
            weight, self._shape(scale, weight.ndim), -steps, steps, features=self.per_scale
        )  # fmt: skip

    def _binary(self, weight: torch.Tensor) -> torch.Tensor:
        """Signs times mean magnitudes, which are part of the gradient, as in XNOR-Net."""
        scale = weight.abs().mean(dim=self._inner(weight), keepdim=True)
        return signs(weight) * scale

    def _ternary(self, weight: torch.Tensor) -> torch.Tensor:
        """Ternary Weight Networks; the gradient passes to all weights."""
        with torch.no_grad():
            inner = self._inner(weight)
            magnitude = weight.abs()
            kept = magnitude > low_bits.TERNARY_SHARE * magnitude.mean(inner, keepdim=True)
            count = kept.sum(inner, keepdim=True).clamp_min(1)
            scale = (magnitude * kept).sum(inner, keepdim=True) / count
            value = torch.sign(weight) * kept * scale
        return weight + (value - weight).detach()

    def _inner(self, weight: torch.Tensor) -> tuple[int, ...]:
        if self.plan.granularity == "tensor":
            return tuple(range(weight.ndim))
        return tuple(i for i in range(weight.ndim) if i != self.plan.axis)

    def _shape(self, scale: torch.Tensor, rank: int) -> torch.Tensor:
        if scale.numel() == 1:
            return scale.reshape([1] * rank)
        return along(scale, rank, self.plan.axis)

    def numbers(self) -> tuple[float, ...]:
        """The scales that a plan stores: empty where they follow from the weights."""
        if self.derived:
            return ()
        return tuple(float(v) for v in torch.maximum(self.scales, self.least).detach())

    def stored(self, weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], Floats]:
        """The integers that a plan stores, and the scales, one a channel.

        Args:
            weight: Float32, of the plain graph.
        """
        scales = self.numbers()
        real = weight.astype(np.float64)
        if self.dtype in ("ternary", "binary"):
            integers, found = low_bits.stored_weight(
                real, self.dtype, scales, self.plan.axis,
                tensor=self.plan.granularity == "tensor", method=self.method,
            )  # fmt: skip
        else:
            steps = np.asarray(scales, np.float64)
            shape = [1] * real.ndim
            shape[self.plan.axis] = -1
            limit = WEIGHT_STEPS[self.dtype]
            integers = np.clip(np.rint(real / steps.reshape(shape)), -limit, limit)
            found = scales
        channels = weight.shape[self.plan.axis]
        return integers, np.broadcast_to(np.asarray(found, np.float64), (channels,))

    @property
    def method(self) -> str:
        """How scales were chosen, in words of a plan."""
        if self.derived:
            return "twn" if self.dtype == "ternary" else "mean"
        return "lsq" if self.learned else self.plan.method


class EncodedWeight(nn.Module):
    """A weight of float arithmetic or of rows quantized at run time, as its reference encodes it.

    Scales and codebooks follow from the weight at every step; the gradient passes to it as it is.

    Args:
        plan: Of the weight.
        inputs: Its axis of input channels.
    """

    def __init__(self, plan: WeightPlan, inputs: int) -> None:
        super().__init__()
        self.plan, self.inputs, self.dtype = plan, inputs, plan.dtype

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as its codes give it back, with straight-through gradients."""
        decoded = torch.from_numpy(self.codes(weight).decoded())
        return weight + (decoded - weight).detach()

    def codes(self, weight: torch.Tensor) -> weight_codes.Codes:
        """Codes and factors, as the plan's application finds them."""
        return weight_codes.encode(weight.detach().float().numpy(), self.plan, self.inputs)


def fresh_scales(weight: Floats, axis: int | None, steps: int) -> tuple[float, ...]:
    """Symmetric scales of least squared error, float32 numbers.

    Args:
        weight: Real numbers.
        axis: Of output channels; None for one scale in all.
        steps: Most steps to either side of 0.
    """
    rows = weight.reshape(1, -1)
    if axis is not None:
        rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    largest = np.abs(rows).max(axis=1)
    largest = np.maximum(largest, max(float(largest.max()), 1e-12) * 2.0**-20)
    best, error = largest, np.full(len(rows), np.inf)
    for share in _SHARES:
        scale = (largest * share / steps).astype(np.float32).astype(np.float64)
        stored = np.clip(np.rint(rows / scale[:, None]), -steps, steps)
        found = ((stored * scale[:, None] - rows) ** 2).sum(axis=1)
        better = found < error
        best, error = np.where(better, scale, best), np.where(better, found, error)
    return tuple(float(v) for v in best)


__all__ = [
    "ORDER", "SIGN_WIDTH", "WEIGHT_STEPS", "ActivationStep", "EncodedWeight", "SignStep",
    "WeightStep",
    "fresh_scales",
]  # fmt: skip
