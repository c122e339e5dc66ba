"""Sequences: recurrent networks, audio, text and tables, in plain PyTorch and small."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations


class Tagger(nn.Module):
    """Embedding, two bidirectional LSTM layers, one label a token."""

    def __init__(self, vocabulary: int = 1000, width: int = 64, labels: int = 9) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0])


class Forecaster(nn.Module):
    """GRU over a time series; the last state gives the forecast."""

    def __init__(self, features: int = 8, width: int = 48, horizon: int = 4) -> None:
        super().__init__()
        self.gru = nn.GRU(features, width, 2, batch_first=True)
        self.head = nn.Linear(width, horizon)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(series)[1][-1])


class CRNN(nn.Module):
    """Text recognition: convolutions, then a bidirectional LSTM along the line."""

    def __init__(self, classes: int = 40) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, pool in (
            (1, 32, (2, 2)),
            (32, 64, (2, 2)),
            (64, 128, (2, 1)),
            (128, 128, (4, 1)),
        ):
            layers += [
                nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.MaxPool2d(pool),
            ]
        self.features = nn.Sequential(*layers)
        self.lstm = nn.LSTM(128, 64, bidirectional=True)
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        line = self.features(x).squeeze(2).permute(2, 0, 1)
        return self.head(self.lstm(line)[0]).log_softmax(-1)


class RawAudio(nn.Module):
    """M5: a classifier of raw audio by Conv1d; ``float32[N, 1, samples]``."""

    def __init__(self, classes: int = 35, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, kernel, stride in (
            (1, width, 80, 16),
            (width, width, 3, 1),
            (width, 2 * width, 3, 1),
            (2 * width, 2 * width, 3, 1),
        ):
            layers += [
                nn.Conv1d(a, b, kernel, stride),
                nn.BatchNorm1d(b),
                nn.ReLU(),
                nn.MaxPool1d(4),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean(-1)).log_softmax(-1)


class CausalBlock(nn.Module):
    """Dilated causal convolution with weight normalisation and a gate."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = dilation
        conv = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.conv = parametrizations.weight_norm(conv)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.glu(self.conv(functional.pad(x, (self.reach, 0))), 1)
        return x + self.mix(y)


class WaveNet(nn.Module):
    """A stack of gated dilated causal convolutions."""

    def __init__(self, channels: int = 32, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, channels, 1)
        self.blocks = nn.Sequential(*(CausalBlock(channels, 1 << level) for level in range(depth)))
        self.head = nn.Conv1d(channels, 64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.blocks(self.stem(x))))


class SpeechEnhancer(nn.Module):
    """Encoder, LSTM bottleneck and decoder on audio with skip connections (Demucs-like)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1 = nn.Conv1d(1, width, 8, 4, 2)
        self.down2 = nn.Conv1d(width, 2 * width, 8, 4, 2)
        self.lstm = nn.LSTM(2 * width, 2 * width, batch_first=True)
        self.up2 = nn.ConvTranspose1d(2 * width, width, 8, 4, 2)
        self.up1 = nn.ConvTranspose1d(width, 1, 8, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = functional.elu(self.down1(x))
        second = functional.elu(self.down2(first))
        y = self.lstm(second.transpose(1, 2))[0].transpose(1, 2) + second
        return torch.tanh(self.up1(functional.elu(self.up2(y)) + first))


class Translator(nn.Module):
    """`nn.Transformer`: encoder and decoder with a causal mask."""

    def __init__(self, vocabulary: int = 500, width: int = 64) -> None:
        super().__init__()
        self.source = nn.Embedding(vocabulary, width)
        self.target = nn.Embedding(vocabulary, width)
        self.transformer = nn.Transformer(width, 4, 2, 2, 128, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        # Said outright: nn.Transformer would otherwise compare the mask's values.
        y = self.transformer(
            self.source(source), self.target(target), tgt_mask=mask, tgt_is_causal=True
        )
        return self.head(y)


class WideAndDeep(nn.Module):
    """Recommendation: embeddings of categories beside numbers."""

    offsets: torch.Tensor

    def __init__(self, fields: int = 6, values: int = 100, numbers: int = 13) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(values, 16) for _ in range(fields))
        self.wide = nn.Embedding(values * fields, 1)
        self.deep = nn.Sequential(
            nn.Linear(16 * fields + numbers, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, 1)
        self.register_buffer("offsets", torch.arange(fields) * values)

    def forward(self, categories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        parts = [table(categories[:, i]) for i, table in enumerate(self.embeddings)]
        deep = self.head(self.deep(torch.cat([*parts, torch.log1p(numbers.abs())], 1)))
        return torch.sigmoid(deep + self.wide(categories + self.offsets).sum(1))


class GraphConvolution(nn.Module):
    """Two graph convolutions over a dense adjacency matrix."""

    def __init__(self, features: int = 16, width: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        adjacency = adjacency + torch.eye(adjacency.shape[-1])
        scale = adjacency.sum(-1).pow(-0.5)
        normal = scale[:, :, None] * adjacency * scale[:, None, :]
        y = torch.relu(normal @ self.first(x))
        return (normal @ self.second(y)).softmax(-1)


__all__ = [
    "CRNN",
    "Forecaster",
    "GraphConvolution",
    "RawAudio",
    "SpeechEnhancer",
    "Tagger",
    "Translator",
    "WaveNet",
    "WideAndDeep",
]
