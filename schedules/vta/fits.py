"""Whether a layer can run on a VTA at all, and with which tiling."""

from __future__ import annotations

from schedules.vta.defaults import default_tiling
from schedules.vta.layers import Layer, MaxPool2d, Region
from schedules.vta.work import Refused, normalize
from targets.vta.config import VtaConfig


def refusal(layer: Layer, region: Region, config: VtaConfig) -> str:
    """Why a layer cannot be lowered to a VTA; empty if it can."""
    why = refused_config(config)
    if why:
        return why
    if isinstance(layer, MaxPool2d):
        return "pooling is not lowered"
    try:
        default_tiling(normalize(layer, region, config), config)
    except Refused as error:
        return str(error)
    return ""


def refused_config(config: VtaConfig) -> str:
    """Why nothing can be lowered to a VTA of this kind; empty if something can."""
    widths = {
        "inputs": config.inp_bits, "weights": config.wgt_bits, "outputs": config.out_bits
    }  # fmt: skip
    wrong = [f"{name} of {bits} bits" for name, bits in widths.items() if bits != 8]
    return f"only 8-bit integers are lowered; this VTA has {', '.join(wrong)}" if wrong else ""


__all__ = ["refusal", "refused_config"]
