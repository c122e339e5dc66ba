"""The constants of a plain graph, computed from the parameters of the module that is trained.

A plan speaks of the plain graph, whose weights hold folded batch normalization, transposed
matrices and the like. Here each of its constants becomes an expression of the module's own
parameters, found by name, so that gradients reach them. Constants that come from no parameter
stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn

from compiler.compress.sites import PlainGraph
from compiler.lower.fold_batch_norm import Fold
from schedules.tvm_adapter import GenericConst, relax

#: Smallest magnitude of a normalization's factor while its statistics are live: the weight is
#: multiplied with it, and the sums divided by it.
LEAST_FACTOR = 1e-6


class Parameters:
    """Parameters and buffers of a module by name, read anew each time."""

    def __init__(self, model: nn.Module) -> None:
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self.momenta: dict[str, float | None] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            prefix = f"{path}." if path else ""
            for name in (*module._parameters, *module._buffers):
                if getattr(module, name) is not None:
                    self._owners[f"{prefix}{name}"] = (module, name)
            if hasattr(module, "running_mean"):
                self.momenta[f"{prefix}running_mean"] = module.momentum

    def __contains__(self, name: str) -> bool:
        return name in self._owners

    def __getitem__(self, name: str) -> torch.Tensor:
        owner, attribute = self._owners[name]
        value: torch.Tensor = getattr(owner, attribute)
        return value


class Constant(Protocol):
    """Gives the value of one constant."""

    def value(self, dtype: torch.dtype) -> torch.Tensor:
        """The value, from the parameters as they are now."""


@dataclass(frozen=True, slots=True)
class FixedConstant:
    """One that comes from no parameter."""

    tensor: torch.Tensor

    def value(self, dtype: torch.dtype) -> torch.Tensor:
        """The tensor."""
        return self.tensor.to(dtype) if self.tensor.is_floating_point() else self.tensor


@dataclass(frozen=True, slots=True)
class ParameterConstant:
    """A parameter, perhaps transposed and reshaped.

    Attributes:
        parameters: All of the module's.
        name: Of the parameter.
        axes: Of the transposition; empty for none.
        shape: Of the constant.
    """

    parameters: Parameters
    name: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def value(self, dtype: torch.dtype) -> torch.Tensor:
        """The parameter as it lies in the graph."""
        value = self.parameters[self.name]
        if value.is_floating_point():
            value = value.to(dtype)
        return (value.permute(self.axes) if self.axes else value).reshape(self.shape)


class Norm:
    """A batch normalization that was folded into a weight and a bias."""

    def __init__(self, fold: Fold, parameters: Parameters) -> None:
        self.fold, self._parameters = fold, parameters
        self.momentum = parameters.momenta.get(fold.statistics[2])

    def _read(self, index: int) -> torch.Tensor:
        return self._parameters[self.fold.statistics[index]]

    def factor(self, dtype: torch.dtype) -> torch.Tensor:
        """``gamma / sqrt(variance + epsilon)`` by the running statistics, one a channel."""
        variance = self._read(3).to(dtype)
        gamma = self._read(0).to(dtype) if self.fold.scale else torch.ones_like(variance)
        return gamma / torch.sqrt(variance + self.fold.epsilon)

    def bias(self, dtype: torch.dtype) -> torch.Tensor:
        """What is added behind the folded weight, one a channel."""
        factor = self.factor(dtype)
        mean = self._read(2).to(dtype)
        beta = self._read(1).to(dtype) if self.fold.center else torch.zeros_like(mean)
        shift = beta - mean * factor
        if self.fold.source_bias:
            shift = self._parameters[self.fold.source_bias].to(dtype).reshape(-1) * factor + shift
        return shift

    def normalize(self, sums: torch.Tensor) -> torch.Tensor:
        """Normalize by the statistics of the batch, and update the running ones.

        A bias before the normalization does not change the result; the running mean, which
        folding subtracts it from, has it added.
        """
        mean, variance = self._read(2), self._read(3)
        if self.fold.source_bias:
            before = self._parameters[self.fold.source_bias].reshape(-1)
            sums = sums + along(before, sums.ndim, 1)
        return torch.nn.functional.batch_norm(
            sums, mean, variance,
            self._read(0) if self.fold.scale else None,
            self._read(1) if self.fold.center else None,
            training=True, momentum=0.1 if self.momentum is None else self.momentum,
            eps=self.fold.epsilon,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FoldedWeight:
    """A weight times the factor of the normalization behind it."""

    source: ParameterConstant
    norm: Norm

    def value(self, dtype: torch.dtype) -> torch.Tensor:
        """The folded weight, by the running statistics."""
        weight = self.source.value(dtype)
        return weight * along(self.norm.factor(dtype), weight.ndim, self.norm.fold.axis)


@dataclass(frozen=True, slots=True)
class FoldedBias:
    """The bias of a folded weight."""

    norm: Norm
    shape: tuple[int, ...]

    def value(self, dtype: torch.dtype) -> torch.Tensor:
        """The folded bias, by the running statistics."""
        return self.norm.bias(dtype).reshape(self.shape)


class Constants:
    """The constants of a graph by name.

    Args:
        graph: The plain graph.
        folds: What was folded into which weight.
        model: The module that is trained.

    Attributes:
        entries: How each is computed.
        untrained: Parameters that the graph holds in a form that no gradient can follow; they
            stay as they are.
    """

    def __init__(self, graph: PlainGraph, folds: Sequence[Fold], model: nn.Module) -> None:
        self.parameters = Parameters(model)
        self.untrained: list[str] = []
        self.entries: dict[str, Constant] = {}
        self._graph = graph
        constants = _constants(graph)
        by_weight = {fold.weight: fold for fold in folds}
        norms: dict[str, Norm] = {}
        for name, value in constants.items():
            fold = by_weight.get(name)
            folded = self._folded(fold, value) if fold is not None else None
            if fold is not None and folded is not None:
                norms[fold.bias] = folded.norm
                self.entries[name] = folded
        for name, value in constants.items():
            if name in norms:
                self.entries[name] = FoldedBias(norms[name], tuple(value.shape))
            elif name not in self.entries:
                self.entries[name] = self._plain(name, value)

    def name(self, constant: Any) -> str:
        """The name of a constant of the graph."""
        return self._graph.constants(constant) or _anonymous(constant)

    def value(self, constant: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The value of a constant of the graph, by the parameters as they are now."""
        return self.entries[self.name(constant)].value(dtype)

    def norm(self, constant: Any) -> Norm | None:
        """The normalization that is folded into a weight or bias, if there is one."""
        entry = self.entries[self.name(constant)]
        return entry.norm if isinstance(entry, FoldedWeight | FoldedBias) else None

    def _folded(self, fold: Fold, value: torch.Tensor) -> FoldedWeight | None:
        fold = replace(
            fold, source=_base(fold.source), source_bias=_base(fold.source_bias),
            statistics=cast("Any", tuple(map(_base, fold.statistics))),
        )  # fmt: skip
        base = fold.source
        named = [n for n in (*fold.statistics, fold.source_bias) if n]
        if base not in self.parameters or not all(n in self.parameters for n in named):
            return None
        if len(named) < 4:
            return None
        norm = Norm(fold, self.parameters)
        with torch.no_grad():
            factor = along(norm.factor(torch.float64), value.ndim, fold.axis)
            source = self._match(base, value.double(), factor)
        return None if source is None else FoldedWeight(source, norm)

    def _plain(self, name: str, value: torch.Tensor) -> Constant:
        base = _base(name)
        if base in self.parameters:
            with torch.no_grad():
                found = self._match(base, value.double(), torch.ones(()))
            if found is not None:
                return found
            if self.parameters[base].requires_grad:
                self.untrained.append(base)
        return FixedConstant(value)

    def _match(
        self, name: str, value: torch.Tensor, factor: torch.Tensor
    ) -> ParameterConstant | None:
        """The layout in which a parameter, times a factor, is a constant's value."""
        parameter = self.parameters[name]
        shape = tuple(value.shape)
        if parameter.numel() != value.numel():
            return None
        for axes in ((), tuple(range(parameter.ndim))[::-1]):
            candidate = ParameterConstant(self.parameters, name, axes, shape)
            if torch.allclose(candidate.value(torch.float64) * factor, value, 1e-4, 1e-7):
                return candidate
        return None


def _constants(graph: PlainGraph) -> Mapping[str, torch.Tensor]:
    """All tensor constants that operators read, by name."""
    found: dict[str, torch.Tensor] = {}

    def visit(expr: Any) -> None:
        if isinstance(expr, GenericConst):
            name = graph.constants(expr) or _anonymous(expr)
            if name not in found:
                found[name] = torch.from_numpy(np.array(expr.value.numpy()))
        elif isinstance(expr, relax.Call):
            for argument in expr.args:
                visit(argument)
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                visit(field)

    for site in graph.sites:
        visit(site.value)
    return found


def _base(name: str) -> str:
    """A parameter's name, of which a graph holds several forms."""
    return name.partition("#")[0]


def _anonymous(constant: Any) -> str:
    return f"@{int(constant.value.data_ptr()):x}"


def guarded(factor: torch.Tensor) -> torch.Tensor:
    """Factors of normalizations that can be divided by."""
    small = factor.abs() < LEAST_FACTOR
    return torch.where(small, torch.full_like(factor, LEAST_FACTOR), factor)


def along(values: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """A vector shaped to lie along one of `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


__all__ = ["Constants", "FoldedBias", "FoldedWeight", "Norm", "Parameters", "along", "guarded"]
