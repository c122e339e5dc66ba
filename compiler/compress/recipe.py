"""`Quantize`: how a model is to be quantized, parsed at the edge into one typed object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from compiler.errors import InputError

#: Ways to choose the range of an activation; see `compiler.compress.observers`.
METHODS = ("minmax", "average", "percentile", "mse", "kl")
_WEIGHTS = {"int8": "channel", "int8/channel": "channel", "int8/tensor": "tensor"}
_ACTIVATIONS = ("int8", "int8/tensor")
#: Samples below which the report says that there were few.
FEW_SAMPLES = 16

#: What `compile(quantize=...)` takes: a word, options, a plan's file, or nothing.
QuantizeOption: TypeAlias = "str | Path | Quantize | None"


@dataclass(frozen=True, slots=True)
class Quantize:
    """Options of post-training static quantization.

    Attributes:
        weights: ``"int8/channel"`` (one scale an output channel) or ``"int8/tensor"``.
        activations: ``"int8/tensor"``: one scale and zero point a tensor, stored as uint8.
        calibrate: How ranges of activations are chosen: ``minmax``, ``average``,
            ``percentile``, ``mse`` or ``kl``.
        percentile: Share of the values, in percent, that ``percentile`` keeps.
        keep: Layers that stay in float32: module paths (all that is under them stays), or
            names of operators as a plan writes them.
        power_of_two: All scales are powers of two, for hardware that only shifts.
        equalize: Equalize the channels of neighbouring layers first, where that is exact.
        correct_bias: Correct the mean error that rounded weights make in each channel.
        samples: Most calibration samples to look at.
    """

    weights: str = "int8/channel"
    activations: str = "int8/tensor"
    calibrate: str = "mse"
    percentile: float = 99.99
    keep: Sequence[str] = ()
    power_of_two: bool = False
    equalize: bool = False
    correct_bias: bool = True
    samples: int = 512

    def __post_init__(self) -> None:
        _one_of("weights", self.weights, tuple(_WEIGHTS))
        _one_of("activations", self.activations, _ACTIVATIONS)
        _one_of("calibrate", self.calibrate, METHODS)
        number = isinstance(self.percentile, int | float) and math.isfinite(self.percentile)
        if not number or not 50.0 < self.percentile <= 100.0:
            raise InputError(
                f"percentile is {self.percentile!r}",
                where="quantize",
                hint="give a number above 50, at most 100, such as 99.99",
            )
        keep = [self.keep] if isinstance(self.keep, str) else list(self.keep)
        if not all(isinstance(name, str) and name for name in keep):
            raise InputError(
                f"keep is {self.keep!r}",
                where="quantize",
                hint='give names of modules: keep=["head"]',
            )
        object.__setattr__(self, "keep", tuple(keep))
        for name in ("power_of_two", "equalize", "correct_bias"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(
                    f"{name} is {getattr(self, name)!r}",
                    where="quantize",
                    hint="give True or False",
                )
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 2:
            raise InputError(
                f"samples is {self.samples!r}", where="quantize", hint="give a number of at least 2"
            )

    @property
    def weight_granularity(self) -> str:
        """``channel`` or ``tensor``."""
        return _WEIGHTS[self.weights]

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values, for the plan."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "keep": list(self.keep)}

    @classmethod
    def parse(cls, option: QuantizeOption) -> Quantize | Path | None:
        """What a user gave as `quantize`: options, the path of a plan, or None for neither.

        Raises:
            InputError: It is none of them.
        """
        if option is None or isinstance(option, Quantize):
            return option
        if isinstance(option, Path):
            return option
        if isinstance(option, str):
            if option == "int8":
                return cls()
            if option.endswith(".json"):
                return Path(option)
        raise InputError(
            f"cannot quantize by {option!r}",
            where="quantize",
            hint='give "int8", a Quantize(...), or the path of a plan, a .json file',
        )


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"{name} is {value!r}", where="quantize", hint=f"give one of {', '.join(known)}"
        )


__all__ = ["FEW_SAMPLES", "METHODS", "Quantize", "QuantizeOption"]
