"""Training: progress, checkpoints, interruption, and data that do not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compiler.errors import FileError, InputError, TrainingError
from compiler.train import FakeQuantized, Options, fine_tune, finish, prepare

LOSS = nn.CrossEntropyLoss()


@pytest.fixture(scope="module")
def plan() -> Any:
    return _prepare("ternary").plan


def _model() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, 3),
    ).eval()  # fmt: skip


def _prepare(recipe: Any) -> FakeQuantized:
    samples = None if not isinstance(recipe, str) else [torch.randn(4, 6) for _ in range(4)]
    return prepare(_model(), recipe, example_inputs=(torch.randn(4, 6),), calibration=samples)


def _batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(8):
        x = torch.randn(16, 6, generator=generator)
        yield x, (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def _accuracy(run: Callable[..., Any]) -> float:
    right = [(run(x).argmax(1) == y).float().mean() for x, y in _batches(1000)]
    return float(torch.stack(right).mean())


def test_training_makes_it_better_and_keeps_the_best(plan: Any) -> None:
    qat = _prepare(plan)
    with qat.integers():
        before = _accuracy(qat)
    lines: list[str] = []
    result = fine_tune(
        qat, _batches, LOSS, Options(epochs=6, learning_rate=1e-2), evaluate=_accuracy,
        progress=lines.append,
    )  # fmt: skip
    metrics = [e.metric or 0.0 for e in result.epochs]
    assert max(metrics) > before + 0.1
    assert metrics[result.best - 1] == max(metrics)
    with qat.integers():
        assert _accuracy(qat) == max(metrics)
    assert not qat.live_norms
    assert len(lines) == 6
    assert lines[0].startswith("epoch 1: loss ")
    assert not result.interrupted


def test_interrupted_training_goes_on_as_if_nothing_had_happened(plan: Any, tmp_path: Path) -> None:
    options = Options(epochs=4, learning_rate=1e-2, progressive=("int8",))
    whole = _prepare(plan)
    fine_tune(whole, _batches, LOSS, options, evaluate=_accuracy)

    def stops(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number, batch in enumerate(_batches(epoch)):
            if (epoch, number) == (2, 3):
                raise KeyboardInterrupt
            yield batch

    file = tmp_path / "deep" / "training.ckpt"
    first = _prepare(plan)
    result = fine_tune(first, stops, LOSS, options, evaluate=_accuracy, checkpoint=file)
    assert (result.interrupted, len(result.epochs)) == (True, 2)
    # What is kept has the plan's own precision, although that was not trained for yet.
    finish(first)
    second = _prepare(plan)
    result = fine_tune(second, _batches, LOSS, options, evaluate=_accuracy, checkpoint=file)
    assert (result.resumed, len(result.epochs), result.interrupted) == (2, 4, False)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert finish(whole)[1] == finish(second)[1]
    # All epochs are done: nothing is left to do.
    again = _prepare(plan)
    assert fine_tune(again, _batches, LOSS, options, checkpoint=file).resumed == 4
    assert [e.stage for e in result.epochs] == ["int8", "int8", "", ""]
    assert list(file.parent.iterdir()) == [file]


def test_interruption_keeps_the_best_so_far(plan: Any) -> None:
    def stops(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if epoch == 1:
            raise KeyboardInterrupt
        return _batches(epoch)

    qat = _prepare(plan)
    result = fine_tune(qat, stops, LOSS, Options(epochs=3), evaluate=_accuracy)
    assert (result.interrupted, result.best) == (True, 1)
    with qat.integers():
        assert _accuracy(qat) == result.epochs[0].metric


def test_a_stage_of_float32_weights_has_no_metric(plan: Any) -> None:
    options = Options(epochs=2, progressive=("float32",))
    result = fine_tune(_prepare(plan), _batches, LOSS, options, evaluate=_accuracy)
    assert [(e.stage, e.metric is None) for e in result.epochs] == [("float32", True), ("", False)]
    assert result.best == 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_mixed_precision_and_optimizers(plan: Any, optimizer: str) -> None:
    qat = _prepare(plan)
    options = Options(
        epochs=2, learning_rate=1e-2, amp=True, optimizer=optimizer, weight_decay=1e-4, clip=1.0
    )
    result = fine_tune(qat, list(_batches(0)), LOSS, options)
    assert result.epochs[1].loss < result.epochs[0].loss
    finish(qat)


def test_without_data(plan: Any) -> None:
    with pytest.raises(TrainingError, match="no batches for epoch 1"):
        fine_tune(_prepare(plan), [], LOSS)
    with pytest.raises(TrainingError, match=r"(?s)no batches for epoch 2.*DataLoader"):
        fine_tune(_prepare(plan), _batches(0), LOSS)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y, _: y.sum() * float("nan"), r"the loss is nan at epoch 1, batch 1"),
        (lambda y, _: y.sum() / 0.0, r"the loss is -?inf"),
        (lambda y, _: y, "the loss is no scalar tensor"),
        (lambda _, __: 1.0, "the loss is no scalar tensor"),
    ],
)
def test_losses_that_are_no_numbers(plan: Any, loss: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        fine_tune(_prepare(plan), _batches, loss)


def test_a_metric_that_fails(plan: Any) -> None:
    with pytest.raises(InputError, match="the metric gave nan"):
        fine_tune(
            _prepare(plan), _batches, LOSS, Options(epochs=1), evaluate=lambda _: float("nan")
        )


def test_checkpoints_of_something_else(plan: Any, tmp_path: Path) -> None:
    file = tmp_path / "training.ckpt"
    fine_tune(_prepare(plan), _batches, LOSS, Options(epochs=1), checkpoint=file)
    with pytest.raises(TrainingError, match="of another training"):
        fine_tune(_prepare(plan), _batches, LOSS, Options(epochs=2), checkpoint=file)
    file.write_bytes(b"nothing")
    with pytest.raises(FileError, match="no checkpoint"):
        fine_tune(_prepare(plan), _batches, LOSS, Options(epochs=1), checkpoint=file)
    with pytest.raises(FileError):
        fine_tune(_prepare(plan), _batches, LOSS, Options(epochs=1), checkpoint=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"epochs": 1.5}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
        {"freeze_norms": 1.5}, {"optimizer": "lbfgs"}, {"progressive": ("int4", "int8")},
        {"progressive": ("int3",)}, {"clip": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Options(**change)
