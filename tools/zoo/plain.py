"""Networks that this folder defines itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tools.zoo.entries import Built, Entry, image, seeded
from tools.zoo.nets import build as build_benchmark
from tools.zoo.nets import sequence, vision
from tools.zoo.nets.transformers import ViT
from tools.zoo.nets.weights import example, tokens


def _benchmark(name: str) -> Built:
    module, inputs = build_benchmark(name)
    if inputs[0].ndim == 4:
        inputs = image(96)
    return module, inputs


def _vit() -> Built:
    return seeded(lambda: ViT(image=64)), image(64)


def _net(make: Callable[[], Any], inputs: Callable[[], tuple[torch.Tensor, ...]]) -> Built:
    return seeded(make), inputs()


def _entry(
    name: str,
    kind: str,
    make: Callable[[], Any],
    inputs: Callable[[], tuple[torch.Tensor, ...]],
) -> Entry:
    return Entry(name, kind, "plain", partial(_net, make, inputs))


def _step() -> tuple[torch.Tensor, ...]:
    return (*image(32), torch.tensor([17]))


def _graph() -> tuple[torch.Tensor, ...]:
    return example(1, 24, 16), (example(1, 24, 24, seed=2) > 0.8).float()


ENTRIES: tuple[Entry, ...] = (
    *(
        Entry(name, kind, "plain", partial(_benchmark, name))
        for name, kind in (
            ("resnet18", "CNN"),
            ("resnet50", "CNN"),
            ("mobilenet_v2", "mobile CNN"),
            ("efficientnet_lite0", "mobile CNN"),
            ("minilm_l6", "text encoder"),
        )
    ),
    Entry("vit_tiny", "vision transformer", "plain", _vit),
    _entry("lenet", "CNN", vision.LeNet, lambda: image(28, 1)),
    _entry("mlp", "MLP", vision.MLP, lambda: (example(4, 64),)),
    _entry("unet", "segmentation", vision.UNet, image),
    _entry("diffusion_unet", "diffusion, GroupNorm", vision.DiffusionUNet, _step),
    _entry("yolo_like", "detection", vision.YoloLike, lambda: image(96)),
    _entry("dcgan", "generator", vision.Generator, lambda: (example(1, 64, 1, 1),)),
    _entry("espcn", "super-resolution", vision.SuperResolution, lambda: image(24, 1)),
    _entry("pointnet", "point cloud", vision.PointNet, lambda: (example(2, 3, 256),)),
    _entry("bilstm_tagger", "LSTM", sequence.Tagger, lambda: (tokens(2, 12, vocabulary=1000),)),
    _entry("gru_forecaster", "GRU", sequence.Forecaster, lambda: (example(2, 16, 8),)),
    _entry("crnn", "CNN and LSTM", sequence.CRNN, lambda: (example(1, 1, 32, 64),)),
    _entry("m5_audio", "audio, Conv1d", sequence.RawAudio, lambda: (example(1, 1, 8000),)),
    _entry("wavenet", "audio, Conv1d", sequence.WaveNet, lambda: (example(1, 1, 256),)),
    _entry("enhancer", "audio, LSTM", sequence.SpeechEnhancer, lambda: (example(1, 1, 512),)),
    _entry(
        "nn_transformer",
        "encoder and decoder",
        sequence.Translator,
        lambda: (tokens(1, 12, vocabulary=500), tokens(1, 9, vocabulary=500, seed=2)),
    ),
    _entry(
        "wide_and_deep",
        "recommendation",
        sequence.WideAndDeep,
        lambda: (tokens(4, 6, vocabulary=100), example(4, 13)),
    ),
    _entry("gcn", "graph", sequence.GraphConvolution, _graph),
)

__all__ = ["ENTRIES"]
