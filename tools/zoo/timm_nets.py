"""Networks that timm defines."""

from __future__ import annotations

from functools import partial
from typing import Any

from tools.zoo.entries import Built, Entry, image, seeded


def _build(name: str, size: int, options: dict[str, Any]) -> Built:
    from tools.zoo.packages import declare_torchvision_operators

    declare_torchvision_operators()
    import timm

    return seeded(lambda: timm.create_model(name, pretrained=False, **options)), image(size)


def _entry(name: str, kind: str, size: int = 64, **options: Any) -> Entry:
    return Entry(f"timm_{name}", kind, "timm", partial(_build, name, size, options))


ENTRIES: tuple[Entry, ...] = (
    _entry("edgenext_xx_small", "mobile hybrid"),
    _entry("mixer_s32_224", "MLP-Mixer", 224),
    _entry("mobilevit_xxs", "mobile hybrid"),
    _entry("levit_128s", "mobile hybrid", 224),
    _entry("ghostnet_100", "mobile CNN"),
    _entry("repvgg_a0", "CNN"),
    _entry("poolformer_s12", "MetaFormer"),
    _entry("pvt_v2_b0", "vision transformer"),
    _entry("mobilenetv4_conv_small", "mobile CNN"),
    _entry("resnest14d", "CNN"),
    _entry("hrnet_w18_small", "CNN"),
    _entry("eca_nfnet_l0", "CNN, weight standardization"),
    _entry("xcit_nano_12_p16_224", "vision transformer", 64),
    _entry("coatnet_pico_rw_224", "hybrid", 224),
)

__all__ = ["ENTRIES"]
