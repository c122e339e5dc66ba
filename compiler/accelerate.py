"""Targets that are an accelerator beside a processor: what is compiled for which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from compiler.errors import InputError
from targets import TargetSpec, get_target, host_target, require_available
from targets.vta.config import vta_config

if TYPE_CHECKING:
    from compiler.compress.plan import CompressionPlan
    from compiler.compress.recipe import Quantize
    from compiler.lower.vta.offload import Accelerator
    from schedules.records import RecordStore

#: What `compile(host=...)` takes.
HostOption: TypeAlias = "str | Path | TargetSpec | None"
#: The word for the processor that the accelerator's board has.
BOARD = "board"


@dataclass(frozen=True, slots=True)
class Devices:
    """What a target stands for.

    Attributes:
        target: The target.
        code: The processor that machine code is made for: the target itself, or the host of
            an accelerator.
        accelerator: A VTA beside it; None for none.
    """

    target: TargetSpec
    code: TargetSpec
    accelerator: Accelerator | None = None


def split_target(spec: TargetSpec, host: HostOption = None) -> Devices:
    """The processor and the accelerator of a target.

    Args:
        spec: The target.
        host: Processor that what VTA does not compute is compiled for: None for this machine,
            where VTA is simulated; ``"board"`` for the one that the target names; or a target.

    Raises:
        TargetError: The host is unknown or not available, or the VTA's configuration cannot be.
        InputError: `host` was given for a target that has none.
    """
    if spec.family != "vta":
        if host is not None:
            raise InputError(
                f"{spec.name} is a processor itself, and a host was given",
                where="host",
                hint="leave it out; it is for accelerators such as vta",
            )
        return Devices(spec, spec)
    from compiler.lower.vta.offload import Accelerator

    config = vta_config(spec)
    named = spec.extra.get("host")
    board = host_target() if named is None else get_target(str(named))
    code = host_target() if host is None else board if host == BOARD else get_target(host)
    require_available(code)
    if code.family not in ("x86", "arm"):
        raise InputError(
            f"{code.name} is no processor that can be VTA's host",
            where="host",
            hint="give an x86 or ARM target",
        )
    return Devices(spec, code, Accelerator(spec.name, config, board))


def with_records(devices: Devices, stores: Sequence[RecordStore]) -> Devices:
    """The devices, with tilings of VTA's layers from records.

    Args:
        devices: Of `split_target`.
        stores: Where to look.
    """
    if devices.accelerator is None or not stores:
        return devices
    from compiler.tune.vta import tilings_of

    tilings = tilings_of(devices.target, stores)
    return replace(devices, accelerator=replace(devices.accelerator, tilings=tilings))


def recipe_for(
    quantize: str | Path | Quantize | CompressionPlan | None, devices: Devices
) -> str | Path | Quantize | CompressionPlan | None:
    """What to quantize by: VTA takes int8 with scales that are powers of two.

    Raises:
        InputError: It is a recipe that VTA cannot compute.
    """
    from compiler.compress.plan import CompressionPlan
    from compiler.compress.recipe import Quantize

    if devices.accelerator is None or isinstance(quantize, (CompressionPlan, Path)):
        return quantize
    if quantize is None:
        return Quantize(power_of_two=True)
    recipe = Quantize.parse(quantize)
    if not isinstance(recipe, Quantize):
        return recipe
    name = devices.target.name
    if recipe.scheme != "int8":
        raise InputError(
            f"{name} computes on int8 activations with scales from calibration, and the recipe "
            f"has activations={recipe.activations!r}",
            where="quantize",
            hint="leave quantize out, or give Quantize(power_of_two=True)",
        )
    if not recipe.power_of_two:
        raise InputError(
            f"{name} only shifts, and the recipe's scales are no powers of two",
            where="quantize",
            hint="leave quantize out, or give Quantize(power_of_two=True) (--power-of-two)",
        )
    return recipe


__all__ = ["BOARD", "Devices", "HostOption", "recipe_for", "split_target", "with_records"]
