"""Two small networks for 28 x 28 grey images: one in the style of ResNet, one of MobileNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.conv2 = _conv(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        return self.relu(y + self.shortcut(x))


class SmallResNet(nn.Module):
    """Batch, 1, 28, 28 to the logits of 10 classes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = _conv(1, 16, 3, stride=2)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(
            BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.relu(self.stem(x)))
        return self.head(self.pool(x).flatten(1))


class InvertedResidual(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down, as in MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.up = _conv(inputs, hidden, 1)
        self.depthwise = _conv(hidden, hidden, 3, stride, groups=hidden)
        self.down = _conv(hidden, outputs, 1)
        self.act = nn.ReLU6()
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(self.act(self.depthwise(self.act(self.up(x)))))
        return x + y if self.residual else y


class SmallMobileNet(nn.Module):
    """Batch, 1, 28, 28 to the logits of 10 classes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = _conv(1, 16, 3, stride=2)
        self.blocks = nn.Sequential(
            InvertedResidual(16, 16, 1, 2),
            InvertedResidual(16, 32, 2, 4),
            InvertedResidual(32, 32, 1, 4),
            InvertedResidual(32, 32, 1, 4),
        )
        self.last = _conv(32, 128, 1)
        self.act = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.last(self.blocks(self.act(self.stem(x)))))
        return self.head(self.pool(x).flatten(1))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "fashion-resnet": SmallResNet,
    "fashion-mobilenet": SmallMobileNet,
}
