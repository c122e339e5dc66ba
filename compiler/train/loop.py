"""`fine_tune`: train a prepared model, with checkpoints, and keep the best of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import torch

from compiler.errors import FileError, InputError, TrainingError
from compiler.package.atomic import file_error, write_file
from compiler.train.module import FakeQuantized
from compiler.train.steps import ORDER

#: Batches: pairs of inputs and target, the same for every epoch, or made anew for each.
Data: TypeAlias = "Iterable[tuple[Any, Any]] | Callable[[int], Iterable[tuple[Any, Any]]]"
#: ``loss(outputs, target)``, a scalar tensor.
Loss: TypeAlias = "Callable[[Any, Any], torch.Tensor]"

_SCHEMA = "tilewright.training/1"


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        number: Counted from 1.
        loss: Mean over its batches.
        metric: The user's metric in inference mode; None without one, and for stages of
            progressive training whose weights are float32.
        seconds: It took.
        stage: Finest weights of the epoch, in progressive training; empty otherwise.
    """

    number: int
    loss: float
    metric: float | None
    seconds: float
    stage: str = ""

    def __str__(self) -> str:
        metric = "" if self.metric is None else f", metric {self.metric:.4f}"
        stage = f", weights at least {self.stage}" if self.stage else ""
        return f"epoch {self.number}: loss {self.loss:.4f}{metric}, {self.seconds:.0f} s{stage}"


@dataclass(slots=True)
class Training:
    """How training went.

    Attributes:
        epochs: All epochs, those before an interruption included.
        best: Number of the epoch whose weights were kept; 0 if none was finished.
        interrupted: Whether Ctrl-C ended it.
        resumed: Epochs that came from a checkpoint.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    interrupted: bool = False
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How to train.

    Attributes:
        epochs: Passes over the data.
        learning_rate: Of weights, at first; it falls to 0 along a cosine.
        step_rate: Of scales and thresholds, as a share of that of weights; with ``adam`` in
            proportion to their size.
        weight_decay: Of weights of more than one dimension.
        freeze_norms: Share of the epochs, the last ones, in which batch normalization is folded
            by its running statistics.
        progressive: Least precise weights of each stage, such as ``("int8", "int4")``; stages have
            equal shares of the first half of the epochs, the plan's own precision the rest.
        amp: Convolutions and products in bfloat16 while training.
        optimizer: ``adam`` or ``sgd`` (momentum 0.9).
        seed: Of PyTorch's random numbers.
        clip: Largest norm of all gradients together; 0 for no limit.
    """

    epochs: int = 3
    learning_rate: float = 1e-3
    step_rate: float = 1.0
    weight_decay: float = 0.0
    freeze_norms: float = 0.34
    progressive: Sequence[str] = ()
    amp: bool = False
    optimizer: str = "adam"
    seed: int = 0
    clip: float = 0.0

    def __post_init__(self) -> None:
        def check(good: bool, name: str, hint: str) -> None:
            if not good:
                raise InputError(f"{name} is {getattr(self, name)!r}", where="training", hint=hint)

        whole = isinstance(self.epochs, int) and not isinstance(self.epochs, bool)
        check(whole and self.epochs >= 1, "epochs", "give a whole number of at least 1")
        for name in ("learning_rate", "step_rate", "weight_decay", "clip"):
            value = getattr(self, name)
            check(math.isfinite(value) and value >= 0, name, "give a number of at least 0")
        check(self.learning_rate > 0, "learning_rate", "give a positive number")
        check(0 <= self.freeze_norms <= 1, "freeze_norms", "give a share from 0 to 1")
        check(self.optimizer in ("adam", "sgd"), "optimizer", "give adam or sgd")
        ranks = [ORDER.index(d) if d in ORDER else -1 for d in self.progressive]
        check(
            -1 not in ranks and ranks == sorted(set(ranks)), "progressive",
            f"give some of {', '.join(ORDER)}, in this order",
        )  # fmt: skip

    def stage(self, epoch: int) -> str:
        """Least precise weights of an epoch (counted from 0); empty for the plan's own."""
        share = self.epochs / 2 / max(len(self.progressive), 1)
        number = int(epoch / share) if self.progressive else 0
        return self.progressive[number] if number < len(self.progressive) else ""

    def norms_are_live(self, epoch: int) -> bool:
        """Whether batch normalization goes by the batch in an epoch (counted from 0)."""
        return epoch < self.epochs - round(self.epochs * self.freeze_norms)


def fine_tune(
    qat: FakeQuantized,
    data: Data,
    loss: Loss,
    options: Options | None = None,
    *,
    evaluate: Callable[[Callable[..., Any]], float] | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Training:
    """Train a prepared model; afterwards it holds the best weights that were found.

    The best epoch is the one of the highest metric, or without `evaluate` of the lowest mean loss,
    among those with the plan's own precision. With a checkpoint, training that was interrupted
    goes on where the last whole epoch ended, and gives what it would have given.

    Args:
        qat: From `compiler.train.prepare`.
        data: Batches of inputs (a tensor or a tuple of them) and target. A function is called with
            the number of the epoch, from 0, and gives that epoch's batches: shuffle there, by
            the number, so that training can be resumed.
        loss: Gives a scalar of outputs and target.
        options: How to train.
        evaluate: As in `compile`: called with something that runs the model, the higher the
            better. The model runs on integers there, as it will when it is compiled.
        checkpoint: File that is written after every epoch, and read first if it is there.
        progress: Called with a line of text after every epoch, and now and then in between.

    Raises:
        InputError: The options have no meaning.
        TrainingError: There are no data, the loss is not a finite number, or the checkpoint is of
            another training.
        FileError: The checkpoint cannot be read or written.
    """
    options = options or Options()
    work = _Trainer(qat, data, loss, options, evaluate, progress or (lambda _: None))
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        work.restore(path)
    try:
        for epoch in range(len(work.result.epochs), options.epochs):
            work.epoch(epoch)
            if path is not None:
                work.save(path)
    except KeyboardInterrupt:
        work.result.interrupted = True
    work.keep_best()
    return work.result


class _Trainer:
    def __init__(
        self,
        qat: FakeQuantized,
        data: Data,
        loss: Loss,
        options: Options,
        evaluate: Callable[[Callable[..., Any]], float] | None,
        progress: Callable[[str], None],
    ) -> None:
        self.qat, self.data, self.loss, self.options = qat, data, loss, options
        self.metric, self.progress = evaluate, progress
        self.result = Training()
        self.best_state: dict[str, Any] | None = None
        self.best_value = -math.inf
        self.first_state = _copy(qat.state_dict())
        torch.manual_seed(options.seed)
        self.optimizer = _optimizer(qat, options)

    def epoch(self, number: int) -> None:
        """Train for one epoch, and take the metric."""
        start = perf_counter()
        options, qat = self.options, self.qat
        stage = options.stage(number)
        qat.live_norms = options.norms_are_live(number)
        qat.raise_weights(stage or ORDER[-1])
        qat.train()
        torch.manual_seed(options.seed * 1000003 + number)
        batches = self.data(number) if callable(self.data) else self.data
        total, count = 0.0, 0
        length = len(batches) if isinstance(batches, Sized) else None
        for inputs, target in batches:
            done = number + (count / length if length else 0.0)
            rate = options.learning_rate * 0.5 * (1 + math.cos(math.pi * done / options.epochs))
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["share"]
            total += self._step(inputs, target, number, count)
            count += 1
            if count % 100 == 0:
                self.progress(f"epoch {number + 1}, batch {count}: loss {total / count:.4f}")
        if count == 0:
            raise TrainingError(
                f"there are no batches for epoch {number + 1}",
                where="data",
                hint="give something that can be gone through once for every epoch, such as a "
                "DataLoader or a function of the epoch's number; a generator is empty after the "
                "first",
            )
        value = None
        # Weights that are not rounded yet have no integer form to take a metric of.
        if self.metric is not None and stage != "float32":
            value = self._metric()
        row = Epoch(number + 1, total / count, value, perf_counter() - start, stage)
        self.result.epochs.append(row)
        self.progress(str(row))
        rank = value if value is not None else -row.loss
        # Ties go to the later epoch, which saw more. Losses of live and frozen normalization
        # differ, so that without a metric frozen epochs replace earlier ones.
        first_frozen = value is None and not qat.live_norms and options.norms_are_live(number - 1)
        if not stage and (rank >= self.best_value or first_frozen):
            self.best_value, self.result.best = rank, number + 1
            self.best_state = _copy(qat.state_dict())

    def _step(self, inputs: Any, target: Any, epoch: int, batch: int) -> float:
        given = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        scope = torch.autocast("cpu", torch.bfloat16) if self.options.amp else nullcontext()
        with scope:
            outputs = self.qat(*given)
            value = self.loss(outputs, target)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise TrainingError(
                "the loss is no scalar tensor",
                where="loss",
                hint="return one number with gradients, such as that of nn.CrossEntropyLoss",
            )
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingError(
                f"the loss is {number} at epoch {epoch + 1}, batch {batch + 1}",
                where="loss",
                hint="look at the batch for NaN; give a smaller learning_rate, or clip=1.0",
            )
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.options.clip:
            torch.nn.utils.clip_grad_norm_(self.qat.parameters(), self.options.clip)
        self.optimizer.step()
        return number

    def _metric(self) -> float:
        from compiler.quantization import metric_of

        qat = self.qat

        def run(*inputs: Any, **named: Any) -> Any:
            import numpy as np
            from torch.utils import _pytree as pytree

            arrays = any(isinstance(v, np.ndarray) for v in (*inputs, *named.values()))
            args, kwargs = pytree.tree_map_only(np.ndarray, torch.from_numpy, (inputs, named))
            outputs = qat(*args, **kwargs)
            return pytree.tree_map(lambda v: v.numpy(), outputs) if arrays else outputs

        if self.metric is None:
            raise AssertionError
        with qat.integers():
            return metric_of(self.metric, run, "the model that is trained")

    def keep_best(self) -> None:
        """Put the best weights into the model; at the end, all weights have their own precision."""
        self.qat.raise_weights(ORDER[-1])
        state = self.best_state if self.best_state is not None else None
        if state is not None:
            self.qat.load_state_dict(state)
        elif not self.result.epochs:
            self.qat.load_state_dict(self.first_state)

    def fingerprint(self) -> str:
        """What a checkpoint has to agree with."""
        text = f"{_SCHEMA} {self.options} {self.qat.plan.to_json()} {self.qat.learn_steps}"
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "schema": _SCHEMA,
            "fingerprint": self.fingerprint(),
            "epochs": [
                (e.number, e.loss, e.metric, e.seconds, e.stage) for e in self.result.epochs
            ],
            "best": self.result.best,
            "best_value": self.best_value,
            "best_state": self.best_state,
            "state": self.qat.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "dtypes": {name: self.qat.weight_step(name).dtype for name in self.qat.weighted()},
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(error, path, "write the checkpoint") from error
        write_file(path, lambda file: torch.save(state, file))

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint."""
        try:
            state = torch.load(path, weights_only=True)
        except OSError as error:
            raise file_error(error, path, "read the checkpoint") from error
        except Exception as error:
            raise FileError(
                f"it is no checkpoint: {type(error).__name__}",
                where=str(path),
                hint="remove it to start anew",
            ) from error
        if not isinstance(state, dict) or state.get("fingerprint") != self.fingerprint():
            raise TrainingError(
                "the checkpoint is of another training: plan or options differ",
                where=str(path),
                hint="remove it to start anew, or give another file",
            )
        for name, dtype in state["dtypes"].items():
            with torch.no_grad():
                self.qat.weight_step(name).change(dtype, self.qat.real_weight(name))
        self.qat.load_state_dict(state["state"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.result.epochs = [Epoch(*row) for row in state["epochs"]]
        self.result.best, self.best_value = state["best"], state["best_value"]
        self.best_state = state["best_state"]
        self.result.resumed = len(self.result.epochs)
        self.progress(f"resumed after epoch {self.result.resumed}")


def _optimizer(qat: FakeQuantized, options: Options) -> torch.optim.Optimizer:
    matrices = [p for p in qat.model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in qat.model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay, "share": 1.0},
        {"params": vectors, "weight_decay": 0.0, "share": 1.0},
    ]
    # All scales, those included that only a later stage of progressive training learns. Adam
    # moves each number by about its learning rate, whatever the gradient: that of a scale has to
    # be in proportion to the scale.
    for name, value in qat.steps():
        size = float(value.detach().abs().mean()) if options.optimizer == "adam" else 1.0
        if name.startswith("signs"):
            size = float(qat.get_buffer(name.replace("threshold", "scale")))
        share = options.step_rate * size
        groups.append({"params": [value], "weight_decay": 0.0, "share": share})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrainingError("the model has no parameters that can be trained", where="model")
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups, lr=options.learning_rate)


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.detach().clone() for key, value in state.items()}


__all__ = ["Data", "Epoch", "Loss", "Options", "Training", "fine_tune"]
