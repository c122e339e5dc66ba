"""Inference: the integers themselves, bit for bit as `compiler.compress.reference` defines them.

A stored tensor is a float32 one that holds whole numbers, stored value less zero point. Sums are
exact in double precision, requantization is done in 64-bit integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from compiler.compress import dynamic, low_bits, reference, weight_codes
from compiler.compress.apply import TABLES, average_window
from compiler.compress.apply.facts import symmetric
from compiler.compress.plan import OperatorPlan
from compiler.compress.sites import Site
from compiler.errors import TrainingError
from compiler.train.constants import along
from compiler.train.operators import evaluate
from compiler.train.steps import ActivationStep
from compiler.train.walk import Epilogue, Walk


class Exact(Walk):
    """Numbers of the compiled model."""

    dtype = torch.float64

    def quantized(self, value: Any, step: ActivationStep) -> Any:
        """A float32 tensor as it is stored; NaN becomes the least."""
        scale, (low, high) = step.number(), step.limits
        inverse = float(np.float32(1) / np.float32(scale))
        steps = value.float() * torch.tensor(inverse)
        least, greatest = float(low - step.zero_point), float(high - step.zero_point)
        steps = torch.where(steps > least, steps, torch.tensor(least))
        return torch.round(steps.clamp_max(greatest))

    def dequantized(self, value: Any, step: ActivationStep) -> Any:
        """A stored tensor in float32."""
        return value * torch.tensor(step.number())

    def weighted(self, site: Site, operator: OperatorPlan) -> Any:
        """A convolution or product with a constant weight on integers."""
        data = self.narrow(operator.inputs[0])
        weight, scales = self._weight(site, operator)
        sums = evaluate(site, [data.double(), weight])
        units = self.model.step(operator.inputs[0]).number() * scales
        return self._finish(site, operator, sums, units, self.epilogue(site, operator))

    def binary(self, site: Site, operator: OperatorPlan) -> Any:
        """A convolution or product of signs; beyond the edges stands +1."""
        name = operator.inputs[0]
        step = self.model.sign_step(site.name)
        threshold = step.number()
        if name in self.plan.tensors:
            stored = self.model.step(name)
            limit = reference.quantized_number(
                threshold, stored.number(), stored.zero_point, *stored.limits
            )
            positive = self.narrow(name) >= limit - stored.zero_point
        else:
            positive = self.wide(name) >= torch.tensor(threshold)
        data = torch.where(positive, 1.0, -1.0).double()
        weight, scales = self._weight(site, operator)
        if site.kind == "matmul":
            reduction = weight.shape[0]
            sums = data @ weight
        else:
            a, spatial = site.value.attrs, weight.ndim - 2
            reduction = weight[0].numel()
            padding = symmetric(a.padding, spatial)
            sides = [
                v for i in reversed(range(spatial)) for v in (padding[i], padding[spatial + i])
            ]
            function = F.conv2d if spatial == 2 else F.conv1d
            strides, dilation = ([int(v) for v in values] for values in (a.strides, a.dilation))
            sums = function(F.pad(data, sides, value=1.0), weight, None, strides, 0, dilation)
        fraction = low_bits.fraction_bits(reduction)
        units = scales * float(step.scale) * 2.0**-fraction
        epilogue = self.epilogue(site, operator)
        return self._finish(site, operator, sums * 2.0**fraction, units, epilogue)

    def compressed(self, site: Site, operator: OperatorPlan) -> Any:
        """A float operator on a compressed weight."""
        decoded = torch.from_numpy(self._codes(site).decoded())
        return evaluate(site, [self.argument(site.value.args[0]), decoded])

    def rows(self, site: Site, operator: OperatorPlan) -> Any:
        """A product of rows that are quantized at run time."""
        data = self.argument(site.value.args[0]).float().numpy()
        codes = self._codes(site)
        scales = dynamic.row_scales(data)
        integers = dynamic.quantize_rows(data, scales).astype(np.float64) - dynamic.ZERO_POINT
        sums = (integers @ codes.codes.astype(np.float64)).astype(np.int64)
        factor = np.asarray(codes.factors).reshape(-1)
        return torch.from_numpy(dynamic.rows_to_float(sums, np.zeros(1, np.int64), scales, factor))

    def _codes(self, site: Site) -> weight_codes.Codes:
        real = self.model.real_weight(site.name, torch.float64).float()
        return self.model.encoded(site.name).codes(real)

    def _weight(self, site: Site, operator: OperatorPlan) -> tuple[torch.Tensor, Any]:
        """Whole numbers in double precision, and scales."""
        step = self.model.weight_step(site.name)
        if step.dtype == "float32":
            raise TrainingError(
                "its weight is not rounded in this stage, so there are no integers of it",
                where=site.name,
                hint="end progressive training with raise_weights('binary') first",
            )
        real = self.model.real_weight(site.name, torch.float64).float().double()
        real = self.equalized(site, real, step.plan.axis)
        integers, scales = step.stored(real.detach().numpy())
        return torch.from_numpy(integers.astype(np.float64)), scales

    def _finish(
        self, site: Site, operator: OperatorPlan, sums: torch.Tensor, units: Any, epilogue: Epilogue
    ) -> torch.Tensor:
        """Bias and requantization, or the result in float32.

        Args:
            site: The operator.
            operator: Its plan.
            sums: Whole numbers.
            units: Real value of one in the sums, a channel.
            epilogue: Bias and limits.
        """
        axis = sums.ndim - 1 if site.kind == "matmul" else 1
        total = sums.long()
        if epilogue.bias is not None:
            bias = np.rint(epilogue.bias.detach().numpy() / units).astype(np.int64)
            total = total + along(torch.from_numpy(bias), sums.ndim, axis)
        if operator.output not in self.plan.tensors:
            factor = torch.from_numpy(np.broadcast_to(units, units.shape).astype(np.float32))
            shaped = along(factor, sums.ndim, axis) if factor.numel() > 1 else factor
            result = total.float() * shaped
            return result.clamp(epilogue.low, epilogue.high)
        return self._requantized(operator, total, units, axis, epilogue)

    def _requantized(
        self, operator: OperatorPlan, total: torch.Tensor, units: Any, axis: int, epilogue: Epilogue
    ) -> torch.Tensor:
        step = self.model.step(operator.output)
        try:
            multipliers, shift = reference.fixed_point(np.asarray(units) / step.number())
        except ValueError as error:
            raise TrainingError(
                f"its scales have left what integers can hold: {error}", where=operator.output,
                hint="train with a smaller learning rate",
            ) from error  # fmt: skip
        factor = torch.from_numpy(multipliers.astype(np.int64))
        shaped = along(factor, total.ndim, axis) if factor.numel() > 1 else factor
        value = (total * shaped + (1 << (shift - 1))) >> shift
        low, high = self.stored_limits(operator, epilogue.low, epilogue.high)
        return value.clamp(low - step.zero_point, high - step.zero_point).float()

    def two(self, site: Site, operator: OperatorPlan) -> Any:
        """A sum or a product of two stored tensors."""
        a, b = (self.narrow(name).long() for name in operator.inputs)
        left, right = (self.model.step(name).number() for name in operator.inputs)
        epilogue = self.epilogue(site, operator)
        if site.kind == "add":
            result = self.model.step(operator.output)
            (first, second), shift = reference.small_factors(
                [left / result.number(), right / result.number()]
            )
            value = (a * first + b * second + ((1 << shift) >> 1)) >> shift
            low, high = self.stored_limits(operator, epilogue.low, epilogue.high)
            return value.clamp(low - result.zero_point, high - result.zero_point).float()
        units = np.asarray([float(left) * right])
        if site.kind == "multiply":
            return self._requantized(operator, a * b, units, 1, epilogue)
        sums = a.double() @ b.double()
        return self._finish(site, operator, sums, units, epilogue)

    def average(self, site: Site, operator: OperatorPlan) -> Any:
        """An average over windows: a sum, requantized."""
        data = self.narrow(operator.inputs[0])
        window = average_window(site, list(data.shape))
        if window is None:
            raise TrainingError("it is no average over equal windows", where=site.name)
        kernel, strides, (top, left, bottom, right) = window
        padded = F.pad(data.double(), (left, right, top, bottom))
        count = kernel[0] * kernel[1]
        sums = F.avg_pool2d(padded, kernel, strides, divisor_override=1)
        units = np.asarray([float(self.model.step(operator.inputs[0]).number()) / count])
        result = self._finish(site, operator, sums, units, self.epilogue(site, operator))
        rank = len(site.value.ty.shape.values)
        return result if rank == result.ndim else result.flatten(rank - 1)

    def table(self, site: Site, operator: OperatorPlan) -> Any:
        """A function of one number, looked up."""
        source, result = self.model.step(operator.inputs[0]), self.model.step(operator.output)
        table = reference.lookup_table(
            TABLES[site.kind],
            (source.dtype, source.number(), source.zero_point),
            (result.dtype, result.number(), result.zero_point),
        ).astype(np.float32)
        epilogue = self.epilogue(site, operator)
        low, high = self.stored_limits(operator, epilogue.low, epilogue.high)
        values = torch.from_numpy(np.clip(table, low, high) - result.zero_point)
        index = self.narrow(operator.inputs[0]).long() + source.zero_point
        return values[index + (128 if source.dtype == "int8" else 0)]

    def rescaled(self, name: str, output: str, limits: tuple[float, float]) -> Any:
        """A stored tensor at the scale of another one, clipped."""
        value = self.narrow(name)
        source, result = self.model.step(name), self.model.step(output)
        if source is result and limits == (-math.inf, math.inf):
            return value
        operator = next(o for o in self.plan.operators.values() if o.output == output)
        low, high = self.stored_limits(operator, *limits)
        (factor,), shift = reference.small_factors([source.number() / result.number()])
        moved = (value.long() * factor + ((1 << shift) >> 1)) >> shift
        return moved.clamp(low - result.zero_point, high - result.zero_point).float()

    def moved(self, site: Site, operator: OperatorPlan) -> Any:
        """What moves, chooses or joins elements."""
        infinite = (-math.inf, math.inf)
        parts = [self.rescaled(name, operator.output, infinite) for name in operator.inputs]
        if site.kind == "concat":
            return torch.cat(parts, int(site.value.attrs.axis))
        if site.kind == "nn.pad":
            step = self.model.step(operator.output)
            fill = reference.quantized_number(
                float(site.value.attrs.pad_value), step.number(), step.zero_point, *step.limits
            )
            width = [int(v) for v in site.value.attrs.pad_width]
            pairs = [width[i : i + 2] for i in range(0, len(width), 2)][::-1]
            sides = [v for pair in pairs for v in pair]
            return F.pad(parts[0], sides, value=float(fill - step.zero_point))
        return evaluate(site, parts)


__all__ = ["Exact"]
