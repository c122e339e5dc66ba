"""Convolutional networks beyond classification, in plain PyTorch and small."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class LeNet(nn.Module):
    """The classic digit classifier; ``float32[N, 1, 28, 28]``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1)).log_softmax(-1)


class MLP(nn.Module):
    """Three linear layers with BatchNorm1d and a residual connection."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.GELU())
        self.last = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x + self.second(x))


def _double(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1),
    )


class UNet(nn.Module):
    """Segmentation with skip connections and transposed convolutions."""

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        widths = [width << level for level in range(4)]
        self.down = nn.ModuleList(
            _double(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, 2) for w in widths[:0:-1])
        self.merge = nn.ModuleList(_double(w, w // 2) for w in widths[:0:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class DiffusionBlock(nn.Module):
    """GroupNorm, SiLU and a shift that depends on the time step."""

    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(time, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.norm2(y) * (1 + scale) + shift
        return x + self.conv2(functional.silu(y))


class DiffusionUNet(nn.Module):
    """The denoiser of a diffusion model: time embedding, GroupNorm, attention in the middle."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, 64))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = DiffusionBlock(width, 64)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.second = DiffusionBlock(2 * width, 64)
        self.norm = nn.GroupNorm(8, 2 * width)
        self.attend = nn.MultiheadAttention(2 * width, 4, batch_first=True)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.third = DiffusionBlock(2 * width, 64)
        self.head = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        rates = torch.exp(torch.arange(half) * (-9.2103 / half))
        angles = step[:, None].float() * rates[None]
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        skip = self.first(self.stem(x), time)
        y = self.second(self.down(skip), time)
        batch, channels, height, width = y.shape
        flat = self.norm(y).flatten(2).transpose(1, 2)
        flat, _ = self.attend(flat, flat, flat, need_weights=False)
        y = y + flat.transpose(1, 2).reshape(batch, channels, height, width)
        y = self.up(functional.interpolate(y, scale_factor=2, mode="nearest"))
        return self.head(self.third(torch.cat([y, skip], 1), time))


class ConvAct(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.silu(self.bn(self.conv(x)))


class CrossStage(nn.Module):
    """Cross-stage partial block: split, residual bottlenecks, concatenate."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.first = ConvAct(channels_in, channels)
        self.deep = nn.Sequential(
            ConvAct(channels // 2, channels // 2, 3), ConvAct(channels // 2, channels // 2, 3)
        )
        self.last = ConvAct(channels + channels // 2, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.first(x).chunk(2, 1)
        return self.last(torch.cat([left, right, right + self.deep(right)], 1))


class YoloLike(nn.Module):
    """One-stage detector: backbone, pyramid with upsampling, boxes decoded on a grid.

    Output ``float32[N, anchors, 5 + classes]``: centre, size, confidence and classes.
    """

    anchors: torch.Tensor

    def __init__(self, width: int = 16, classes: int = 8) -> None:
        super().__init__()
        w = width
        self.classes = classes
        self.stem = ConvAct(3, w, 3, 2)
        self.stage1 = nn.Sequential(ConvAct(w, 2 * w, 3, 2), CrossStage(2 * w, 2 * w))
        self.stage2 = nn.Sequential(ConvAct(2 * w, 4 * w, 3, 2), CrossStage(4 * w, 4 * w))
        self.stage3 = nn.Sequential(ConvAct(4 * w, 8 * w, 3, 2), CrossStage(8 * w, 8 * w))
        self.reduce = ConvAct(8 * w, 4 * w)
        self.expand = ConvAct(16 * w, 8 * w)
        self.merge = CrossStage(12 * w, 4 * w)
        self.heads = nn.ModuleList(
            [nn.Conv2d(4 * w, 3 * (5 + classes), 1), nn.Conv2d(8 * w, 3 * (5 + classes), 1)]
        )
        sizes = torch.tensor([[[10.0, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]]])
        self.register_buffer("anchors", sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = self.stage2(self.stage1(self.stem(x)))
        deep = self.stage3(middle)
        pools = [self.reduce(deep)]
        for _ in range(3):
            pools.append(functional.max_pool2d(pools[-1], 5, 1, 2))
        deep = self.expand(torch.cat(pools, 1))
        up = functional.interpolate(deep, size=middle.shape[-2:], mode="nearest")
        middle = self.merge(torch.cat([up, middle], 1))
        rows = []
        for level, (features, stride) in enumerate(((middle, 8), (deep, 16))):
            rows.append(self._decode(self.heads[level](features), level, stride))
        return torch.cat(rows, 1)

    def _decode(self, y: torch.Tensor, level: int, stride: int) -> torch.Tensor:
        batch, _, height, width = y.shape
        y = y.view(batch, 3, 5 + self.classes, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        # Integers shifted by a fraction: this is what importers get wrong.
        grid = torch.stack((columns, rows), 2).expand(1, 3, height, width, 2) - 0.5
        anchors = self.anchors[level].view(1, 3, 1, 1, 2)
        centre = (y[..., :2] * 2 + grid) * stride
        size = (y[..., 2:4] * 2) ** 2 * anchors
        return torch.cat([centre, size, y[..., 4:]], -1).reshape(batch, -1, 5 + self.classes)


class Generator(nn.Module):
    """DCGAN generator: transposed convolutions from noise to a picture."""

    def __init__(self, latent: int = 64, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = latent
        for index in range(4):
            out = width << (3 - index)
            stride, padding = (1, 0) if index == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(channels, out, 4, stride, padding, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            channels = out
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.body(z)


class SuperResolution(nn.Module):
    """ESPCN: convolutions at low resolution, then a pixel shuffle."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(64, 32, 3, padding=1, padding_mode="replicate"),
            nn.PReLU(32),
            nn.Conv2d(32, factor * factor, 3, padding=1, padding_mode="reflect"),
            nn.PixelShuffle(factor),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bicubic = functional.interpolate(x, scale_factor=3, mode="bicubic")
        return self.body(x) + bicubic


class PointNet(nn.Module):
    """Point clouds: pointwise Conv1d and a maximum over all points; ``float32[N, 3, points]``."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((3, 64), (64, 128), (128, 512)):
            layers += [nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.points(x).amax(-1))


__all__ = [
    "MLP",
    "DiffusionUNet",
    "Generator",
    "LeNet",
    "PointNet",
    "SuperResolution",
    "UNet",
    "YoloLike",
]
