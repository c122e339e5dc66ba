"""Training: real numbers, rounded to what the stored integers mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from compiler.compress import dynamic
from compiler.compress.apply.facts import symmetric
from compiler.compress.plan import OperatorPlan
from compiler.compress.sites import Site
from compiler.train.constants import along, guarded
from compiler.train.functions import round_through
from compiler.train.operators import evaluate
from compiler.train.steps import ActivationStep
from compiler.train.walk import Epilogue, Walk


class Simulated(Walk):
    """A stored tensor is a float32 one whose values are multiples of its scale."""

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """The outputs for these inputs; images lie with channels last, which is faster."""
        last = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
                for x in inputs]  # fmt: skip
        return super().run(last)

    def quantized(self, value: Any, step: ActivationStep) -> Any:
        """A float32 tensor as it is stored."""
        return step.round(value)

    def dequantized(self, value: Any, step: ActivationStep) -> Any:
        """A stored tensor in float32: it is one."""
        return value

    def weighted(self, site: Site, operator: OperatorPlan) -> Any:
        """A convolution or product with a constant weight on integers."""
        data = self.narrow(operator.inputs[0])
        scale = self.model.step(operator.inputs[0]).number()
        return self._weighted(site, operator, data, scale)

    def compressed(self, site: Site, operator: OperatorPlan) -> Any:
        """A float operator on a compressed weight."""
        return self._encoded(site, self.argument(site.value.args[0]))

    def rows(self, site: Site, operator: OperatorPlan) -> Any:
        """A product of rows that are quantized at run time."""
        data = self.argument(site.value.args[0]).float()
        scale = data.detach().abs().amax(-1, keepdim=True) / dynamic.LIMIT
        scale = torch.where(scale > dynamic.LEAST_SCALE, scale, torch.ones_like(scale))
        return self._encoded(site, round_through(data / scale) * scale)

    def _encoded(self, site: Site, data: torch.Tensor) -> torch.Tensor:
        weight = self.model.encoded(site.name)(self.model.real_weight(site.name))
        norm = self.norm(site)
        if norm is None or not self.model.live(norm):
            return self._product(site, data, weight, padded=False)
        factor = guarded(norm.factor(torch.float32).detach())
        weight = weight / along(factor, weight.ndim, norm.fold.axis)
        return norm.normalize(self._product(site, data, weight, padded=False).float())

    def binary(self, site: Site, operator: OperatorPlan) -> Any:
        """A convolution or product of signs; beyond the edges stands +1."""
        name = operator.inputs[0]
        data = self.narrow(name) if name in self.plan.tensors else self.wide(name)
        step = self.model.sign_step(site.name)
        if self.model.starting:
            step.start(data)
        stored = name in self.plan.tensors
        data = step(data, self.model.step(name).number() if stored else None)
        if site.kind != "matmul":
            spatial = data.ndim - 2
            padding = symmetric(site.value.attrs.padding, spatial)
            sides = [
                v for i in reversed(range(spatial)) for v in (padding[i], padding[spatial + i])
            ]
            data = F.pad(data, sides, value=float(step.scale))
        return self._weighted(site, operator, data, None, padded=True)

    def _weighted(
        self,
        site: Site,
        operator: OperatorPlan,
        data: torch.Tensor,
        data_scale: float | None,
        *,
        padded: bool = False,
    ) -> torch.Tensor:
        """Rounded weight, normalization or rounded bias, clipping and rounding.

        Args:
            site: The operator.
            operator: Its plan.
            data: What it reads.
            data_scale: Scale of the data, for biases in int32; None where biases stay real.
            padded: Whether the data are padded already.
        """
        step = self.model.weight_step(site.name)
        axis = step.plan.axis
        real = self.model.real_weight(site.name)
        epilogue = self.epilogue(site, operator)
        norm = self.norm(site)
        weight = step(self.equalized(site, real, axis))
        if norm is not None and self.model.live(norm):
            # The weight is rounded as it is folded by the running statistics; what comes out
            # is divided by their factor, and normalized by the statistics of the batch.
            factor = guarded(norm.factor(torch.float32).detach())
            divisor = self.output_factors(site, factor)
            weight = weight * along((divisor / factor).expand(factor.shape), weight.ndim, axis)
            result = norm.normalize(self._product(site, data, weight, padded=padded).float())
            result = result / _channels(divisor, result, site)
            correction = self.plan.bias_corrections.get(site.name)
            if correction is not None:
                result = result + _channels(torch.tensor(correction), result, site)
        else:
            result = self._product(site, data, weight, padded=padded).float()
            if epilogue.bias is not None:
                bias = epilogue.bias
                if data_scale is not None and step.numbers():
                    unit = data_scale * torch.tensor(step.numbers())
                    bias = round_through(bias / unit) * unit
                result = result + _channels(bias, result, site)
        return self._clipped(operator, epilogue, result)

    def _clipped(
        self, operator: OperatorPlan, epilogue: Epilogue, result: torch.Tensor
    ) -> torch.Tensor:
        if operator.output in self.plan.tensors:
            low, high = self.stored_limits(operator, epilogue.low, epilogue.high)
            return self.model.step(operator.output).round(result, low, high)
        if math.isfinite(epilogue.low) or math.isfinite(epilogue.high):
            return result.clamp(epilogue.low, epilogue.high)
        return result

    def _product(
        self, site: Site, data: torch.Tensor, weight: torch.Tensor, *, padded: bool
    ) -> torch.Tensor:
        if not padded or site.kind == "matmul":
            result: torch.Tensor = evaluate(site, [data, weight])
            return result
        a = site.value.attrs
        function = F.conv2d if site.kind == "nn.conv2d" else F.conv1d
        strides, dilation = ([int(v) for v in values] for values in (a.strides, a.dilation))
        return function(data, weight, None, strides, 0, dilation, int(a.groups))

    def two(self, site: Site, operator: OperatorPlan) -> Any:
        """A sum or a product of two stored tensors."""
        values = [self.narrow(name) for name in operator.inputs]
        return self._clipped(operator, self.epilogue(site, operator), evaluate(site, values))

    def average(self, site: Site, operator: OperatorPlan) -> Any:
        """An average over windows."""
        result = evaluate(site, [self.narrow(operator.inputs[0])])
        return self._clipped(operator, self.epilogue(site, operator), result)

    def table(self, site: Site, operator: OperatorPlan) -> Any:
        """A function of one number."""
        return self.average(site, operator)

    def rescaled(self, name: str, output: str, limits: tuple[float, float]) -> Any:
        """A stored tensor at the scale of another one, clipped."""
        value = self.narrow(name)
        source, result = self.model.step(name), self.model.step(output)
        if source is result and limits == (-math.inf, math.inf):
            return value
        least, greatest = self.stored_limits(self._operator_of(output), *limits)
        return result.round(value, least, greatest)

    def _operator_of(self, output: str) -> OperatorPlan:
        return next(o for o in self.plan.operators.values() if o.output == output)

    def moved(self, site: Site, operator: OperatorPlan) -> Any:
        """What moves, chooses or joins elements."""
        infinite = (-math.inf, math.inf)
        parts = [self.rescaled(name, operator.output, infinite) for name in operator.inputs]
        if site.kind == "concat":
            return torch.cat(parts, int(site.value.attrs.axis))
        value = evaluate(site, parts)
        if site.kind == "nn.pad":
            return self.model.step(operator.output).round(value)
        return value


def _channels(values: torch.Tensor, like: torch.Tensor, site: Site) -> torch.Tensor:
    """One number a channel, shaped against a result."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    return along(values, like.ndim, like.ndim - 1 if site.kind == "matmul" else 1)


__all__ = ["Simulated"]
