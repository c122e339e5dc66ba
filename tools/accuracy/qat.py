"""Training the small networks for fewer bits, from their float32 weights, with fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compiler import Quantize
from compiler.compress.plan import CompressionPlan
from compiler.train import Options, Training, fine_tune, finish, prepare
from tools.accuracy.fashion import Split
from tools.accuracy.train import BATCH, SEED, augment

#: Training images that are held out to choose the best epoch by.
HELD_OUT = 2500
#: Images of one inference, as plans are for.
INFERENCE = 100
_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one network is trained for one plan.

    Attributes:
        quantize: Word of the recipe.
        int8_layers: Layers that keep 8 bits.
        options: Of the training.
        share: Share of the training images that one epoch looks at.
    """

    quantize: str
    int8_layers: tuple[str, ...]
    options: Options
    share: float = 1.0


_SHORTCUTS = ("blocks.1.shortcut", "blocks.2.shortcut")
#: What goes down to few channels, behind which nothing clips, loses most by signs.
_PROJECTIONS = (*(f"blocks.{i}.down" for i in range(4)), "last")

#: By network and word.
RECIPES: Mapping[tuple[str, str], Recipe] = {
    ("fashion-resnet", "w4a8"): Recipe(
        "w4a8", ("ends",), Options(epochs=2, learning_rate=3e-4, seed=SEED)
    ),
    ("fashion-resnet", "ternary"): Recipe(
        "ternary", ("ends",), Options(epochs=4, learning_rate=1e-3, seed=SEED)
    ),
    ("fashion-resnet", "binary"): Recipe(
        "binary", ("ends", *_SHORTCUTS),
        Options(epochs=12, learning_rate=3e-3, seed=SEED, freeze_norms=0.25),
    ),
    ("fashion-mobilenet", "w4a8"): Recipe(
        "w4a8", ("ends",), Options(epochs=2, learning_rate=3e-4, seed=SEED), share=0.5
    ),
    ("fashion-mobilenet", "ternary"): Recipe(
        "ternary", ("ends",), Options(epochs=4, learning_rate=1e-3, seed=SEED), share=0.5
    ),
    ("fashion-mobilenet", "binary"): Recipe(
        "binary", ("ends", *_PROJECTIONS),
        Options(epochs=8, learning_rate=2e-3, seed=SEED, freeze_norms=0.17,
                progressive=("float32",)), share=0.6,
    ),
}  # fmt: skip


def train_for(
    name: str,
    word: str,
    model: nn.Module,
    data: Split,
    say: Callable[[str], None],
    checkpoint: Path | None = None,
) -> tuple[nn.Module, CompressionPlan, Training]:
    """Train a network for a recipe.

    Args:
        name: Of the network.
        word: Of the recipe.
        model: With its float32 weights.
        data: The training images.
        say: Receives lines of progress.
        checkpoint: File by which an interrupted training goes on.

    Returns:
        The trained network, its plan, and how training went.
    """
    recipe = RECIPES[name, word]
    torch.manual_seed(SEED)
    pool = Split(data.images[:-HELD_OUT], data.labels[:-HELD_OUT])
    held_out = Split(data.images[-HELD_OUT:], data.labels[-HELD_OUT:])
    qat = prepare(
        model,
        Quantize.parse(recipe.quantize) or "int8",
        example_inputs=(pool.images[:INFERENCE],),
        calibration=(pool.images[i : i + INFERENCE] for i in range(100, 1700, INFERENCE)),
        int8_layers=recipe.int8_layers,
    )
    teacher = model.eval()

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, Any]]:
        rng = np.random.default_rng([SEED, epoch])
        order = rng.permutation(len(pool.images))[: int(len(pool.images) * recipe.share)]
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            x = torch.from_numpy(augment(pool.images[chosen], rng))
            with torch.no_grad():
                wanted = teacher(x)
            yield x, (torch.from_numpy(pool.labels[chosen]), wanted)

    def accuracy(run: Callable[..., Any]) -> float:
        right = 0
        for start in range(0, HELD_OUT, INFERENCE):
            part = slice(start, start + INFERENCE)
            logits = np.asarray(run(held_out.images[part]))
            right += int((logits.argmax(axis=1) == held_out.labels[part]).sum())
        return right / HELD_OUT

    say(f"{name} {word}: {accuracy(_inference(qat)):.4f} of the held out images at first")
    result = fine_tune(
        qat, batches, distilled, recipe.options,
        evaluate=accuracy, checkpoint=checkpoint, progress=lambda s: say(f"{name} {word}: {s}"),
    )  # fmt: skip
    with torch.no_grad():  # as they are kept in files
        for value in (*qat.model.parameters(), *qat.model.buffers()):
            if value.is_floating_point():
                value.copy_(value.half().float())
    trained, plan = finish(qat)
    return trained, plan, result


def distilled(logits: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Half the loss of the labels, half that of the float32 network's opinion."""
    labels, wanted = target
    by_labels = nn.functional.cross_entropy(logits, labels, label_smoothing=0.05)
    t = _TEMPERATURE
    by_teacher = nn.functional.kl_div(
        nn.functional.log_softmax(logits / t, 1), nn.functional.log_softmax(wanted / t, 1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
    return 0.5 * by_labels + 0.5 * t * t * by_teacher


def _inference(qat: Any) -> Callable[..., Any]:
    def run(x: Any) -> Any:
        with qat.integers():
            return qat(torch.from_numpy(np.asarray(x))).numpy()

    return run


__all__ = ["RECIPES", "Recipe", "distilled", "train_for"]
