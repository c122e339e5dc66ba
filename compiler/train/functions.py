"""Rounding with straight-through gradients: what quantization-aware training is made of.

Each function gives, forward, exactly what the stored numbers mean; backward it pretends that
rounding is the identity within the range (Bengio et al. 2013), and gives scales the gradient
of learned step size quantization (LSQ, arXiv 1902.08153).
"""

from __future__ import annotations

import math
from typing import Any

import torch


class _Steps(torch.autograd.Function):
    """``x`` as ``scale * clamp(round(x / scale), low, high)``, scales of any shape."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: int, high: int, factor: float
    ) -> torch.Tensor:
        steps = x / scale
        stored = torch.round(steps).clamp_(low, high)
        inside = (steps >= low) & (steps <= high)
        ctx.factor, ctx.shape, ctx.learned = factor, scale.shape, scale.requires_grad
        # d(out)/d(scale): the rounded number less the exact one within the range, the limit
        # outside of it.
        ctx.save_for_backward(inside, *([stored - steps * inside] if ctx.learned else []))
        return stored * scale

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        inside, *rest = ctx.saved_tensors
        of_scale = (gradient * rest[0]).sum_to_size(ctx.shape) * ctx.factor if rest else None
        return gradient * inside, of_scale, None, None, None


class _ScalarSteps(torch.autograd.Function):
    """The same for one scale and many numbers, in as few passes over memory as there can be."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: int, high: int, factor: float
    ) -> torch.Tensor:
        number = float(scale)
        result = torch.mul(x, 1.0 / number).round_().clamp_(low, high).mul_(number)
        ctx.limits, ctx.factor, ctx.number = (low * number, high * number), factor, number
        ctx.shape, ctx.learned = scale.shape, scale.requires_grad
        ctx.save_for_backward(x, *([result] if ctx.learned else []))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, *rest = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.limits)
        of_scale = None
        if rest:
            # The sum of gradient times (stored - steps inside), without a tensor of its own.
            total = _dot(gradient, rest[0]) - _dot(passed, x)
            of_scale = (total * (ctx.factor / ctx.number)).reshape(ctx.shape)
        return passed, of_scale, None, None, None


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The sum of products, without a copy where both lie in memory in the same way."""
    if a.ndim == 4 and not a.is_contiguous() and a.stride() == b.stride():
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.flatten(), b.flatten())


def quantize_steps(
    x: torch.Tensor,
    scale: torch.Tensor,
    low: int,
    high: int,
    *,
    features: int,
) -> torch.Tensor:
    """Numbers as whole steps of a scale, within limits; ties go to the even step.

    Requantization of integers rounds ties up. In training that is no difference, since its
    sums are never just between two steps.

    Args:
        x: Real numbers.
        scale: Of one step; broadcasts against `x`.
        low: Least number of steps: the least stored value less the zero point; at most 0.
        high: Greatest number of steps; at least 0.
        features: Numbers that share one scale, for the gradient's factor 1/sqrt(N * Qp).
    """
    factor = lsq_factor(features, high)
    function = _ScalarSteps if scale.ndim == 0 else _Steps
    result: torch.Tensor = function.apply(x, scale, low, high, factor)
    return result


def lsq_factor(features: int, high: int) -> float:
    """The factor of a step size's gradient: ``1 / sqrt(N * Qp)``."""
    return 1.0 / math.sqrt(max(features, 1) * max(high, 1))


class _Signs(torch.autograd.Function):
    """Signs, 1 for 0; the gradient passes where ``|x| <= width``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, width: float) -> torch.Tensor:
        ctx.width = width
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype).mul_(2.0).sub_(1.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradient, x, -ctx.width, ctx.width)
        return passed.mul_(1.0 / ctx.width), None


def signs(x: torch.Tensor, width: float = math.inf) -> torch.Tensor:
    """+1 or -1, +1 for 0; the straight-through gradient is clipped to ``|x| <= width``.

    Args:
        x: Real numbers.
        width: Half the width of the ramp that the gradient is taken of: ``clamp(x / width)``.
            Infinite: the gradient passes unchanged everywhere.
    """
    if math.isinf(width):
        return x + (torch.where(x >= 0, 1.0, -1.0) - x).detach()
    result: torch.Tensor = _Signs.apply(x, width)
    return result


class _Slower(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient * ctx.factor, None


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """The same number, with its gradient times a factor."""
    result: torch.Tensor = _Slower.apply(x, factor)
    return result


def round_through(x: torch.Tensor) -> torch.Tensor:
    """The nearest whole number, ties to the even one; the gradient passes."""
    return x + (torch.round(x) - x).detach()


__all__ = ["lsq_factor", "quantize_steps", "round_through", "scale_gradient", "signs"]
