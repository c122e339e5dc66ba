"""Networks that torchvision defines."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from tools.zoo.entries import Built, Entry, image, seeded


class First(nn.Module):
    """The first or the named output of a model that returns several."""

    def __init__(self, model: nn.Module, key: str | int) -> None:
        super().__init__()
        self.model = model
        self.key = key

    def forward(self, x: Any) -> Any:
        return self.model(x)[self.key]


def _build(name: str, size: int, options: dict[str, Any]) -> Built:
    from tools.zoo.packages import declare_torchvision_operators

    declare_torchvision_operators()
    from torchvision import models

    return seeded(lambda: models.get_model(name, weights=None, **options)), image(size)


def _segmentation(name: str) -> Built:
    from tools.zoo.packages import declare_torchvision_operators

    declare_torchvision_operators()
    from torchvision import models

    def make() -> nn.Module:
        return First(models.get_model(name, weights=None, weights_backbone=None), "out")

    return seeded(make), image(64)


def _entry(name: str, kind: str, size: int = 64, **options: Any) -> Entry:
    return Entry(f"tv_{name}", kind, "torchvision", partial(_build, name, size, options))


_NO_AUX: dict[str, Any] = {"init_weights": False, "aux_logits": False}

ENTRIES: tuple[Entry, ...] = (
    _entry("alexnet", "CNN", 96),
    _entry("vgg11_bn", "CNN", 32),
    _entry("densenet121", "CNN"),
    _entry("squeezenet1_1", "mobile CNN"),
    _entry("shufflenet_v2_x1_0", "mobile CNN"),
    _entry("mobilenet_v3_small", "mobile CNN"),
    _entry("mnasnet0_5", "mobile CNN"),
    _entry("efficientnet_b0", "mobile CNN"),
    _entry("regnet_y_400mf", "CNN"),
    _entry("resnext50_32x4d", "CNN"),
    _entry("googlenet", "CNN", **_NO_AUX),
    _entry("inception_v3", "CNN", 96, **_NO_AUX),
    _entry("convnext_tiny", "ConvNeXt"),
    _entry("swin_t", "Swin"),
    _entry("swin_v2_t", "Swin"),
    Entry(
        "tv_deeplabv3_mobilenet_v3",
        "segmentation",
        "torchvision",
        partial(_segmentation, "deeplabv3_mobilenet_v3_large"),
    ),
    Entry(
        "tv_lraspp_mobilenet_v3",
        "segmentation",
        "torchvision",
        partial(_segmentation, "lraspp_mobilenet_v3_large"),
    ),
)

__all__ = ["ENTRIES", "First"]
