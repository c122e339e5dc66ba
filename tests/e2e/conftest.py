"""One small network, compiled once for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compiler import Bundle, compile

MODEL_FILE = """
import torch
from torch import nn

print("a model's file may print")


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()


def make_with_inputs():
    return make(), (torch.randn(1, 3, 8, 8),)


def other():
    return nn.Linear(8, 4)
"""


class TwoInputs(nn.Module):
    """Two inputs, three outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.embed(ids) * scale
        logits = self.head(hidden.mean(1))
        return {"logits": logits, "best": logits.argmax(-1), "hidden": hidden}


@pytest.fixture(scope="session")
def image() -> torch.Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.py"
    path.write_text(MODEL_FILE)
    return path


@pytest.fixture(scope="session")
def model() -> nn.Module:
    scope: dict[str, object] = {}
    exec(MODEL_FILE, scope)  # noqa: S102 - the text stands above
    made = scope["make"]()  # type: ignore[operator]
    assert isinstance(made, nn.Module)
    return made


@pytest.fixture(scope="session")
def bundle(model: nn.Module, image: torch.Tensor) -> Bundle:
    return compile(model, target="x86", example_inputs=(image,), name="small")


@pytest.fixture
def two_inputs() -> TwoInputs:
    torch.manual_seed(0)
    return TwoInputs().eval()
