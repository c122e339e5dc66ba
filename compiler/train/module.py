"""`FakeQuantized`: a model that computes, in PyTorch, what its plan makes of it.

The plain graph that the plan speaks of is run operator by operator, with weights computed from
the parameters of the user's own module. In training mode numbers are real, and rounded to what
their stored integers mean, with straight-through gradients (`compiler.train.simulated`). In
inference mode they are the integers themselves (`compiler.train.exact`): outputs have the bits
that a compiled bundle gives, wherever the graph computes on integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from compiler.compress.plan import FLOATS, CompressionPlan, OperatorPlan
from compiler.compress.sites import PlainGraph, Site
from compiler.errors import TrainingError
from compiler.lower.fold_batch_norm import Fold
from compiler.train.constants import Constants, Norm
from compiler.train.operators import trainable
from compiler.train.steps import ORDER, ActivationStep, EncodedWeight, SignStep, WeightStep
from compiler.train.walk import HANDLED
from schedules.tvm_adapter import GenericConst

#: Activations of more bits, which only transformers have, are not trained.
EIGHT_BITS = ("uint8", "int8")


def inputs_axis(kind: str) -> int:
    """Axis of input channels in the weight of an operator of the plain graph."""
    return 0 if kind == "matmul" else 1


@dataclass(frozen=True, slots=True)
class Program:
    """What is run.

    Attributes:
        graph: The plain graph.
        folds: Normalizations that were folded into its weights.
        names: Names of the model's inputs, in order.
    """

    graph: PlainGraph
    folds: tuple[Fold, ...]
    names: tuple[str, ...]


class FakeQuantized(nn.Module):
    """A model with the arithmetic of a plan.

    Args:
        model: The module whose parameters are trained; it becomes part of this one.
        program: Its plain graph.
        plan: What each operator becomes.
        learn_steps: Whether scales of activations and weights are trained (LSQ).

    Attributes:
        model: The user's module, with its own names of parameters.
        plan: The plan as it was given; `current_plan` has what was learned.
        activations: Scales of activations.
        weights: Scales of weights, and how they are rounded.
        example_inputs: Those that it was prepared with.
        starting: Whether thresholds of signs are chosen by what is seen.
        live_norms: Whether training mode normalizes by the statistics of the batch.
    """

    def __init__(
        self, model: nn.Module, program: Program, plan: CompressionPlan, *, learn_steps: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.learn_steps = learn_steps
        self.live_norms = True
        self.example_inputs: Any = None
        self.starting = False
        self._program = program
        self._sites = program.graph.by_name()
        self._check(plan)
        self._constants = Constants(program.graph, program.folds, model)
        self.activations = nn.ModuleDict()
        self._step_names: dict[str, str] = {}
        for name, tensor in plan.tensors.items():
            if not tensor.shared_with:
                key = str(len(self.activations))
                self._step_names[name] = key
                self.activations[key] = ActivationStep(
                    tensor, learned=learn_steps and not tensor.power_of_two
                )
        for name, tensor in plan.tensors.items():
            if tensor.shared_with:
                self._step_names[name] = self._step_names[self._root(name)]
        self.weights = nn.ModuleDict()
        self._weight_names: dict[str, str] = {}
        for name, operator in plan.operators.items():
            if operator.weight is not None and operator.precision not in FLOATS:
                key = str(len(self.weights))
                self._weight_names[name] = key
                if operator.precision in ("weight", "dynamic"):
                    self.weights[key] = EncodedWeight(operator.weight, inputs_axis(operator.kind))
                    continue
                with torch.no_grad():
                    value = self.real_weight(name)
                self.weights[key] = WeightStep(
                    operator.weight, value,
                    learned=learn_steps and not operator.weight.power_of_two,
                )  # fmt: skip

        self.signs = nn.ModuleDict()
        self._sign_names: dict[str, str] = {}
        for operator in plan.operators.values():
            if operator.precision == "binary" and operator.inputs[0] not in self._sign_names:
                key = str(len(self.signs))
                self._sign_names[operator.inputs[0]] = key
                self.signs[key] = SignStep(
                    operator.sign_threshold, operator.sign_scale or 1.0, learned=learn_steps
                )

    def _root(self, name: str) -> str:
        seen = [name]
        while shared := self.plan.tensors[seen[-1]].shared_with:
            if shared in seen:
                raise TrainingError(f"tensors share ranges in a circle: {', '.join(seen)}")
            seen.append(shared)
        return seen[-1]

    def _check(self, plan: CompressionPlan) -> None:
        """Refuse what cannot be trained, all of it at once.

        Raises:
            TrainingError: Names the operators.
            PlanError: The plan names operators that there are not.
        """
        plan.check_operators(self._sites)
        absorbed = self.absorbed
        bad = []
        for site in self._program.graph.sites:
            operator = plan.operators.get(site.name)
            if site.name in absorbed:
                continue
            if operator is not None and operator.precision not in FLOATS:
                fits = (operator.precision, site.kind) in HANDLED
            else:
                fits = trainable(site)
            if not fits:
                precision = "float32" if operator is None else operator.precision
                bad.append(f"{site.name} ({precision})")
        bad += [f"{s.tensor} (smoothed)" for s in plan.smoothings]
        bad += [f"{n} ({t.dtype})" for n, t in plan.tensors.items() if t.dtype not in EIGHT_BITS]
        if bad:
            raise TrainingError(
                f"operators and tensors that have no gradient here: {', '.join(bad[:5])}",
                where=plan.model.name,
                hint="train the part of the model without them, or keep the layer in float32 if "
                "it is named with another precision",
            )

    @property
    def absorbed(self) -> frozenset[str]:
        """Names of operators that another one computes in its epilogue."""
        return frozenset(
            name
            for operator in self.plan.operators.values()
            if operator.precision not in FLOATS
            for name in operator.epilogue
        )

    @property
    def graph(self) -> PlainGraph:
        """The plain graph."""
        return self._program.graph

    @property
    def constants(self) -> Constants:
        """The graph's constants, computed from the parameters."""
        return self._constants

    @property
    def sites(self) -> Mapping[str, Site]:
        """The operators by name."""
        return self._sites

    def step(self, tensor: str) -> ActivationStep:
        """Scale and zero point of a tensor of the plan."""
        return cast("ActivationStep", self.activations[self._step_names[tensor]])

    def weight_step(self, operator: str) -> WeightStep:
        """How the weight of an operator is rounded."""
        return cast("WeightStep", self.weights[self._weight_names[operator]])

    def weighted(self) -> tuple[str, ...]:
        """Names of the operators whose weight is rounded to whole steps."""
        return tuple(
            name
            for name, key in self._weight_names.items()
            if isinstance(self.weights[key], WeightStep)
        )

    def steps(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Scales and thresholds, by name, whether they are trained now or not."""
        for part in ("activations", "weights", "signs"):
            for name, value in getattr(self, part).named_parameters():
                yield f"{part}.{name}", value

    def sign_step(self, operator: str) -> SignStep:
        """Where the signs that a binary operator reads change."""
        key = self._sign_names[self.plan.operators[operator].inputs[0]]
        return cast("SignStep", self.signs[key])

    def start_signs(self, inputs: Sequence[torch.Tensor]) -> None:
        """Choose thresholds and magnitudes of signs by a batch of inputs."""
        if not self.signs:
            return
        live, training = self.live_norms, self.training
        self.starting, self.live_norms = True, False
        try:
            with torch.no_grad():
                self.train()(*inputs)
        finally:
            self.starting, self.live_norms = False, live
            self.train(training)

    def encoded(self, operator: str) -> EncodedWeight:
        """How the weight of an operator of float arithmetic is encoded."""
        return cast("EncodedWeight", self.weights[self._weight_names[operator]])

    def real_weight(self, operator: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight of an operator in the plain graph, before equalization."""
        constant = self._sites[operator].value.args[1]
        if not isinstance(constant, GenericConst):
            raise TrainingError("its weight is no constant", where=operator)
        return self._constants.value(constant, dtype)

    def live(self, norm: Norm | None) -> bool:
        """Whether a normalization goes by the statistics of the batch now."""
        return norm is not None and self.training and self.live_norms

    def freeze_norms(self) -> None:
        """From now on, batch normalization is folded by its running statistics in training, too.

        What is trained then is what is compiled; factors and offsets stay trainable. Usual for
        the last epochs.
        """
        self.live_norms = False

    def raise_weights(self, dtype: str) -> None:
        """Round weights to no less than `dtype`, for progressive training.

        Args:
            dtype: ``float32``, ``int8``, ``int4``, ``ternary`` or ``binary``, from fine to
                coarse. A weight whose plan is coarser takes this one for now.

        Raises:
            TrainingError: There is no such dtype.
        """
        if dtype not in ORDER:
            raise TrainingError(f"no weights of {dtype!r}", hint=f"give one of {', '.join(ORDER)}")
        for name in self.weighted():
            step = self.weight_step(name)
            with torch.no_grad():
                weight = self.real_weight(name)
                step.change(min(step.plan.dtype, dtype, key=ORDER.index), weight)

    @contextmanager
    def integers(self) -> Iterator[FakeQuantized]:
        """A scope of inference, in which outputs are those of the compiled model."""
        before = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield self
        finally:
            self.train(before)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Run the model; inputs as the module itself takes them, tensors only."""
        values = self._ordered(inputs, named)
        if self.training:
            from compiler.train.simulated import Simulated

            outputs = Simulated(self).run(values)
        else:
            from compiler.train.exact import Exact

            with torch.no_grad():
                outputs = Exact(self).run(values)
        return outputs[0] if len(outputs) == 1 else outputs

    def _ordered(
        self, inputs: Sequence[torch.Tensor], named: Mapping[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        names = self._program.names
        values = dict(zip(names, inputs, strict=False))
        if len(inputs) + len(named) != len(names) or set(values) | set(named) != set(names):
            raise TrainingError(
                f"{len(inputs) + len(named)} inputs were given, and the model takes "
                f"{', '.join(names)}",
                hint="give every input once, by position or by name",
            )
        values.update(named)
        return [values[name] for name in names]

    def current_plan(self) -> CompressionPlan:
        """The plan with the scales as they are now; it still names the model as it was."""
        tensors = {
            name: replace(
                tensor, scale=self.step(name).number(),
                method="lsq" if self._is_learned(name) else tensor.method,
            )
            for name, tensor in self.plan.tensors.items()
        }  # fmt: skip
        operators = {
            name: self._current_operator(name, operator)
            for name, operator in self.plan.operators.items()
        }
        return replace(self.plan, tensors=tensors, operators=operators)

    def _is_learned(self, tensor: str) -> bool:
        return self.step(tensor).scale.requires_grad

    def _current_operator(self, name: str, operator: OperatorPlan) -> OperatorPlan:
        if name not in self.weighted():
            return operator
        step = self.weight_step(name)
        if step.dtype != step.plan.dtype:
            raise TrainingError(
                f"its weight is still {step.dtype}, and the plan says {step.plan.dtype}",
                where=name,
                hint="end progressive training with raise_weights('binary')",
            )
        if operator.precision == "binary":
            signs = self.sign_step(name)
            operator = replace(
                operator, sign_threshold=signs.number(), sign_scale=float(signs.scale)
            )
        return replace(
            operator, sqnr_db=None,
            weight=replace(step.plan, scales=step.numbers(), method=step.method),
        )  # fmt: skip


__all__ = ["FakeQuantized", "Program"]
