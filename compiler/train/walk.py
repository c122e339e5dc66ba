"""The walk over a plain graph that both kinds of arithmetic share.

As `compiler.compress.apply` does: operators that the plan compresses go to a handler, others are
computed in float32, and tensors are brought from one to the other where they are read.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from compiler.compress import reference
from compiler.compress.apply import MOVES, TABLES, clip_limits
from compiler.compress.plan import FLOATS, CompressionPlan, OperatorPlan
from compiler.compress.sites import PlainGraph, Site
from compiler.train.constants import Norm, along, guarded
from compiler.train.operators import DIFFERENTIABLE, evaluate
from compiler.train.steps import ActivationStep
from schedules.tvm_adapter import GenericConst, relax

_CONVOLUTIONS = ("nn.conv1d", "nn.conv2d")
_AVERAGES = ("mean", "nn.avg_pool2d", "nn.adaptive_avg_pool2d")
_CLIPS = ("clip", "nn.relu", "nn.relu6")
_MOVES = tuple(sorted((MOVES & set(DIFFERENTIABLE)) | {"concat", "nn.pad"}))

#: Precisions and operators that can be trained.
HANDLED = frozenset(
    [("int8", kind) for kind in (*_CONVOLUTIONS, "matmul", "add", "multiply", *_AVERAGES)]
    + [("int8", kind) for kind in (*_CLIPS, *_MOVES, *TABLES)]
    + [(precision, kind) for precision in ("binary", "weight") for kind in _CONVOLUTIONS]
    + [(precision, "matmul") for precision in ("binary", "weight", "dynamic")]
)


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What an operator computes before its one requantization.

    Attributes:
        bias: One number a channel, with the plan's correction; None without one.
        low: Least real value of the result.
        high: Greatest.
    """

    bias: torch.Tensor | None
    low: float
    high: float


class Trained(Protocol):
    """What a walk asks of the module that is trained; `FakeQuantized` says what each is."""

    plan: CompressionPlan

    @property
    def graph(self) -> PlainGraph:
        """The plain graph."""

    @property
    def absorbed(self) -> Any:
        """Names of the operators that others compute as their epilogue."""

    @property
    def constants(self) -> Any:
        """The graph's constants, as they are trained."""

    @property
    def sites(self) -> Any:
        """The operators by name."""

    @property
    def starting(self) -> bool:
        """Whether scales of signs are still to be found."""

    def step(self, name: str) -> ActivationStep:
        """Of a stored tensor."""

    def sign_step(self, name: str) -> Any:
        """Of an operator's activations of one bit."""

    def weight_step(self, name: str) -> Any:
        """Of an operator's integer weight."""

    def encoded(self, name: str) -> Any:
        """An operator's compressed weight."""

    def real_weight(self, name: str, dtype: torch.dtype = ...) -> torch.Tensor:
        """An operator's weight, equalized."""

    def live(self, norm: Norm) -> bool:
        """Whether a normalization takes its statistics from the batch."""


class Walk(ABC):
    """Runs the graph once.

    Attributes:
        model: What is run.
        real: Tensors in float32, by name.
        stored: Tensors as the plan stores them, by name.
    """

    #: Of weights and biases.
    dtype = torch.float32

    def __init__(self, model: Trained) -> None:
        self.model, self.plan, self.graph = model, model.plan, model.graph
        self.real: dict[str, Any] = {}
        self.stored: dict[str, Any] = {}

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """The outputs for these inputs."""
        self.real.update(zip(self.graph.inputs, inputs, strict=True))
        absorbed = self.model.absorbed
        for site in self.graph.sites:
            if site.name not in absorbed:
                self._visit(site)
        return tuple(self.wide(name) for name in self.graph.outputs)

    def _visit(self, site: Site) -> None:
        operator = self.plan.operators.get(site.name)
        if operator is None or operator.precision in FLOATS:
            self.real[site.name] = self._float(site, operator)
            return
        kind = site.kind
        if operator.precision == "weight":
            result = self.compressed(site, operator)
        elif operator.precision == "dynamic":
            result = self.rows(site, operator)
        elif operator.precision == "binary":
            result = self.binary(site, operator)
        elif operator.weight is not None:
            result = self.weighted(site, operator)
        elif kind in _AVERAGES:
            result = self.average(site, operator)
        elif kind in TABLES:
            result = self.table(site, operator)
        elif kind in ("add", "multiply", "matmul"):
            result = self.two(site, operator)
        elif kind in _CLIPS:
            result = self.rescaled(operator.inputs[0], operator.output, clip_limits(site))
        else:
            result = self.moved(site, operator)
        if operator.output in self.plan.tensors:
            self.stored[operator.output] = result
        else:
            self.real[operator.output] = result

    # Tensors

    def wide(self, name: str) -> Any:
        """A tensor in float32."""
        if name not in self.real:
            self.real[name] = self.dequantized(self.stored[name], self.model.step(name))
        return self.real[name]

    def narrow(self, name: str) -> Any:
        """A tensor as the plan stores it."""
        if name not in self.stored:
            self.stored[name] = self.quantized(self.wide(name), self.model.step(name))
        return self.stored[name]

    def argument(self, expr: Any) -> Any:
        """An argument of a float operator."""
        if isinstance(expr, relax.Var):
            return self.wide(self.graph.names[expr])
        if isinstance(expr, GenericConst):
            return self.model.constants.value(expr)
        if isinstance(expr, relax.Tuple):
            return tuple(self.argument(field) for field in expr.fields)
        raise TypeError(f"{type(expr).__name__} is no argument that can be evaluated")

    def _float(self, site: Site, operator: OperatorPlan | None) -> Any:
        """An operator in float32, or on operands of half precision."""
        value = site.value
        if isinstance(value, relax.TupleGetItem):
            return self.argument(value.tuple_value)[int(value.index)]
        if isinstance(value, (relax.Tuple, GenericConst)):
            return self.argument(value)
        arguments = [self.argument(a) for a in value.args if not isinstance(a, relax.ShapeExpr)
                     and isinstance(a.ty, (relax.TensorType, relax.TupleType))]  # fmt: skip
        norm = self.norm(site)
        if norm is not None and self.model.live(norm):
            if site.kind == "add":  # the folded offset is part of the normalization
                return next(self.argument(a) for a in value.args if not isinstance(a, GenericConst))
            weight = arguments[1]
            factor = along(norm.factor(self.dtype), weight.ndim, norm.fold.axis).detach()
            arguments[1] = weight / guarded(factor)
            return norm.normalize(evaluate(site, arguments))
        if operator is not None and operator.precision in ("bfloat16", "float16"):
            half = getattr(torch, operator.precision)
            arguments = [
                a.to(half).float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
                for a in arguments
            ]
        return evaluate(site, arguments)

    def norm(self, site: Site) -> Norm | None:
        """The normalization that is folded into a weight or a bias that an operator reads."""
        constants = [a for a in getattr(site.value, "args", ()) if isinstance(a, GenericConst)]
        return self.model.constants.norm(constants[-1]) if constants else None

    # Weights

    def epilogue(self, site: Site, operator: OperatorPlan) -> Epilogue:
        """What the operators after it add and clip, in real numbers."""
        bias: torch.Tensor | None = None
        low, high = -math.inf, math.inf
        for step in (self.model.sites[name] for name in operator.epilogue):
            if step.kind == "add":
                constant = next(a for a in step.value.args if isinstance(a, GenericConst))
                value = self.model.constants.value(constant, torch.float64)
                value = value.to(torch.float32).to(self.dtype).reshape(-1)
                bias = value if bias is None else bias + value
            else:
                below, above = clip_limits(step)
                low, high = max(low, below), min(high, above)
        if bias is not None:
            bias = bias / self.output_factors(site, bias)
        correction = self.plan.bias_corrections.get(site.name)
        if correction is not None:
            added = torch.tensor(correction, dtype=self.dtype)
            bias = added if bias is None else bias + added
        return Epilogue(bias, low, high)

    def output_factors(self, site: Site, like: torch.Tensor) -> torch.Tensor:
        """What equalization divides the output channels by."""
        result = torch.ones((), dtype=like.dtype)
        for pair in self.plan.equalizations:
            if pair.first == site.name:
                result = result * torch.tensor(pair.factors, dtype=like.dtype)
        return result

    def equalized(self, site: Site, weight: torch.Tensor, axis: int) -> torch.Tensor:
        """A weight with its channels scaled as the plan says."""
        for pair in self.plan.equalizations:
            factors = torch.tensor(pair.factors, dtype=weight.dtype)
            if pair.first == site.name:
                weight = weight / along(factors, weight.ndim, axis)
            if pair.second == site.name and site.kind == "matmul":
                weight = weight * factors[:, None]
            elif pair.second == site.name:
                groups = int(site.value.attrs.groups)
                shaped = factors.reshape(groups, 1, -1, *([1] * (weight.ndim - 2)))
                grouped = weight.reshape(groups, -1, *weight.shape[1:]) * shaped
                weight = grouped.reshape(weight.shape)
        return weight

    def stored_limits(self, operator: OperatorPlan, low: float, high: float) -> tuple[int, int]:
        """Least and greatest stored value of a result that is clipped."""
        step = self.model.step(operator.output)
        least, greatest = step.limits
        return (
            reference.quantized_number(low, step.number(), step.zero_point, least, greatest),
            reference.quantized_number(high, step.number(), step.zero_point, least, greatest),
        )

    # What the two kinds of arithmetic do

    @abstractmethod
    def quantized(self, value: Any, step: ActivationStep) -> Any:
        """A float32 tensor as it is stored."""

    @abstractmethod
    def dequantized(self, value: Any, step: ActivationStep) -> Any:
        """A stored tensor in float32."""

    @abstractmethod
    def weighted(self, site: Site, operator: OperatorPlan) -> Any:
        """A convolution or product with a constant weight on integers."""

    @abstractmethod
    def binary(self, site: Site, operator: OperatorPlan) -> Any:
        """A convolution or product of signs."""

    @abstractmethod
    def compressed(self, site: Site, operator: OperatorPlan) -> Any:
        """A float operator on a compressed weight."""

    @abstractmethod
    def rows(self, site: Site, operator: OperatorPlan) -> Any:
        """A product of rows that are quantized at run time."""

    @abstractmethod
    def two(self, site: Site, operator: OperatorPlan) -> Any:
        """A sum or a product of two stored tensors."""

    @abstractmethod
    def average(self, site: Site, operator: OperatorPlan) -> Any:
        """An average over windows."""

    @abstractmethod
    def table(self, site: Site, operator: OperatorPlan) -> Any:
        """A function of one number."""

    @abstractmethod
    def rescaled(self, name: str, output: str, limits: tuple[float, float]) -> Any:
        """A stored tensor at the scale of another one, clipped."""

    @abstractmethod
    def moved(self, site: Site, operator: OperatorPlan) -> Any:
        """What moves, chooses or joins elements."""


__all__ = ["HANDLED", "Epilogue", "Walk"]
