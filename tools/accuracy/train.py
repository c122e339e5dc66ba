"""Train the small networks: seeded, on one thread, minutes each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tools.accuracy.fashion import Split
from tools.accuracy.networks import NETWORKS

EPOCHS = 5
BATCH = 128
SEED = 20261122


def train(name: str, data: Split, say: Callable[[str], None], epochs: int = EPOCHS) -> nn.Module:
    """Train a network from scratch with shifts and mirror images, and give it for inference."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = NETWORKS[name]()
    steps = epochs * (len(data.images) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for epoch in range(epochs):
        order = rng.permutation(len(data.images))
        total = 0.0
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            x = torch.from_numpy(augment(data.images[chosen], rng))
            loss = loss_of(model(x), torch.from_numpy(data.labels[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        say(f"{name}: epoch {epoch + 1} of {epochs}, loss {total / (len(order) // BATCH):.3f}")
    return model.eval()


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of them, and shift each by at most two pixels."""
    images = images.copy()
    mirrored = rng.random(len(images)) < 0.5
    images[mirrored] = images[mirrored][..., ::-1]
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    offsets = rng.integers(0, 5, (len(images), 2))
    for i, (y, x) in enumerate(offsets):
        images[i] = padded[i, :, y : y + 28, x : x + 28]
    return images


def save(model: nn.Module, path: Path) -> None:
    """Keep weights and statistics in float16: half the size, and exactly what is read back."""
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path)


def load(name: str, path: Path) -> nn.Module:
    """A trained network in float32, for inference."""
    from safetensors.torch import load_file

    model = NETWORKS[name]()
    state = {key: value.float() for key, value in load_file(path).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return model.eval()


__all__ = ["augment", "load", "save", "train"]
