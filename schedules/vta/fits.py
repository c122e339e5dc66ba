"""Whether a layer can run on a VTA at all, and with which tiling."""

from __future__ import annotations

from schedules.vta.defaults import default_tiling
from schedules.vta.estimate import estimated_cycles
from schedules.vta.layers import Layer, Region
from schedules.vta.tiling import Layout
from schedules.vta.work import Refused, normalize
from targets.vta.config import VtaConfig


def refusal(layer: Layer, region: Region, config: VtaConfig) -> str:
    """Why a layer cannot be lowered to a VTA; empty if it can."""
    why = refused_config(config)
    if why:
        return why
    try:
        default_tiling(normalize(layer, region, config), config)
    except Refused as error:
        return str(error)
    return ""


def cycles(layer: Layer, region: Region, config: VtaConfig) -> float:
    """Cycles that a layer takes with its default tiling, estimated.

    Raises:
        Refused: It cannot be lowered.
    """
    work = normalize(layer, region, config)
    return estimated_cycles(Layout(work, default_tiling(work, config), config))


def refused_config(config: VtaConfig) -> str:
    """Why nothing can be lowered to a VTA of this kind; empty if something can."""
    widths = {
        "inputs": config.inp_bits, "weights": config.wgt_bits, "outputs": config.out_bits
    }  # fmt: skip
    wrong = [f"{name} of {bits} bits" for name, bits in widths.items() if bits != 8]
    return f"only 8-bit integers are lowered; this VTA has {', '.join(wrong)}" if wrong else ""


__all__ = ["cycles", "refusal", "refused_config"]
