"""`Quantize`: how a model is to be quantized, parsed at the edge into one typed object."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from compiler.errors import InputError

#: Ways to choose the range of an activation; see `compiler.compress.observers`.
METHODS = ("minmax", "average", "percentile", "mse", "kl")
#: Ways to store weights, with the granularities that each can have, the usual one first. A
#: group has a number behind it, as in ``int4/group32``; a codebook the bits of an index.
WEIGHT_FORMS: Mapping[str, tuple[str, ...]] = {
    "int8": ("channel", "tensor", "group"),
    "int4": ("group", "channel"),
    "ternary": ("channel", "tensor"),
    "binary": ("channel", "tensor"),
    "codebook": ("tensor", "group"),
    "float16": ("tensor",),
}
#: What activations become: integers with ranges from calibration, integers with a range for
#: each row found at run time, one bit, or nothing: they stay float.
ACTIVATIONS: Mapping[str, str] = {
    "int8": "int8", "int8/tensor": "int8", "int8/dynamic": "dynamic", "binary": "binary",
    "float32": "weight",
}  # fmt: skip
GROUP = 32
CODEBOOK_BITS = 4
#: Recipes that have a name of their own: weights and activations.
WORDS: Mapping[str, tuple[str, str]] = {
    "int8": ("int8/channel", "int8/tensor"),
    "int8-dynamic": ("int8/channel", "int8/dynamic"),
    "int8-weights": ("int8/channel", "float32"),
    "int4-weights": (f"int4/group{GROUP}", "float32"),
    "float16-weights": ("float16", "float32"),
    "codebook-weights": (f"codebook{CODEBOOK_BITS}", "float32"),
    "ternary-weights": ("ternary/channel", "float32"),
    "binary-weights": ("binary/channel", "float32"),
    "w4a8": ("int4/channel", "int8/tensor"),
    "ternary": ("ternary/channel", "int8/tensor"),
    "binary": ("binary/channel", "binary"),
    "w2a8": ("ternary/channel", "int8/tensor"),
    "w1a8": ("binary/channel", "int8/tensor"),
    "w1a1": ("binary/channel", "binary"),
}
#: What the first and the last layers get where others have weights of one or two bits.
ENDS = ("int8", "float32", "same")
#: Ways to round weights.
ROUNDINGS = ("nearest", "adaround")
#: Samples below which the report says that there were few.
FEW_SAMPLES = 16

#: What `compile(quantize=...)` takes: a word, options, a plan's file, or nothing.
QuantizeOption: TypeAlias = "str | Path | Quantize | None"


@dataclass(frozen=True, slots=True)
class WeightForm:
    """How weights are stored.

    Attributes:
        dtype: One of `WEIGHT_FORMS`.
        granularity: ``channel``, ``tensor`` or ``group``.
        group: Inputs that share a scale; 0 without groups.
        bits: Bits of an index into a codebook; 0 for others.
    """

    dtype: str
    granularity: str
    group: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Quantize:
    """Options of post-training quantization.

    Attributes:
        weights: How weights are stored, and what shares a scale: ``"int8/channel"`` (an output
            channel), ``"int8/tensor"``, ``"int4/group32"`` (32 inputs of a channel),
            ``"ternary/channel"``, ``"binary/channel"``, ``"codebook4"`` (indices of 4 bits),
            ``"float16"``; see `WEIGHT_FORMS`.
        activations: ``"int8/tensor"``: one scale and zero point a tensor, from calibration;
            ``"int8/dynamic"``: a scale for each row, found at run time; ``"float32"``: only
            weights are compressed; ``"binary"``: one bit, with binary weights.
        calibrate: How ranges of activations are chosen: ``minmax``, ``average``,
            ``percentile``, ``mse`` or ``kl``.
        percentile: Share of the values, in percent, that ``percentile`` keeps.
        keep: Layers that stay in float32: module paths (all that is under them stays), or
            names of operators as a plan writes them.
        ends: What the first and the last layers with weights get where others have weights of
            one or two bits: ``int8`` weights and activations, ``float32``, or the ``same``.
        power_of_two: All scales are powers of two, and zero points 0, for hardware that only
            shifts.
        equalize: Equalize the channels of neighbouring layers first, where that is exact.
        smooth: Share of the difficulty that moves from the channels of normalized activations
            to the weights that read them (SmoothQuant), 0 to 1; 0 for none of it. By default
            0.5 where activations have ranges from calibration and scales are no powers of two.
        rounding: How weights are rounded: to the ``nearest``, or as is best for the sums of the
            layer on calibration samples (``adaround``).
        correct_bias: Correct the mean error that rounded weights make in each channel.
        samples: Most calibration samples to look at.
        max_drop: How much of the metric may be lost, in its own units: each layer is then given
            the fastest precision of int4 weights, int8, bfloat16 and float32 that allows it.
        max_evaluations: Most models to compile and judge for that.
        resume: A file that keeps what was judged, so that an interrupted search goes on.
    """

    weights: str = "int8/channel"
    activations: str = "int8/tensor"
    calibrate: str = "mse"
    percentile: float = 99.99
    keep: Sequence[str] = ()
    ends: str = "int8"
    power_of_two: bool = False
    equalize: bool = False
    correct_bias: bool = True
    smooth: float | None = None
    rounding: str = "nearest"
    samples: int = 512
    max_drop: float | None = None
    max_evaluations: int = 16
    resume: str | Path | None = None

    def __post_init__(self) -> None:
        _one_of("activations", self.activations, tuple(ACTIVATIONS))
        form = _weight_form(self.weights)
        if self.scheme == "binary" and form.dtype != "binary":
            raise InputError(
                f"activations of one bit need weights of one bit, not {self.weights!r}",
                where="quantize",
                hint='give weights="binary/channel", or other activations',
            )
        if self.scheme in ("int8", "dynamic") and (
            form.dtype in ("codebook", "float16") or form.granularity == "group"
        ):
            raise InputError(
                f"weights as {self.weights!r} cannot be multiplied with int8 activations",
                where="quantize",
                hint='give weights="int8/channel" or "int4/channel", or activations="float32"',
            )
        _one_of("calibrate", self.calibrate, METHODS)
        _one_of("ends", self.ends, ENDS)
        if self.ends != "int8" and form.dtype not in ("ternary", "binary"):
            raise InputError(
                f"ends is {self.ends!r}, but weights as {self.weights!r} are of 4 bits or more",
                where="quantize",
                hint='leave it out, or give weights="ternary/channel" or "binary/channel"',
            )
        if self.power_of_two and form.dtype in ("ternary", "binary"):
            raise InputError(
                f"weights as {self.weights!r} have the scales that follow from them, no powers "
                "of two",
                where="quantize",
                hint='leave out power_of_two, or give weights="int8/tensor"',
            )
        if self.scheme in ("weight", "dynamic") and (self.power_of_two or self.equalize):
            name = "power_of_two" if self.power_of_two else "equalize"
            raise InputError(
                f"{name} is for activations with ranges from calibration, and these are "
                f"{self.activations!r}",
                where="quantize",
                hint=f'leave out {name}, or give activations="int8/tensor"',
            )
        number = isinstance(self.percentile, int | float) and math.isfinite(self.percentile)
        if not number or not 50.0 < self.percentile <= 100.0:
            raise InputError(
                f"percentile is {self.percentile!r}",
                where="quantize",
                hint="give a number above 50, at most 100, such as 99.99",
            )
        number = isinstance(self.smooth, int | float) and not isinstance(self.smooth, bool)
        if self.smooth is not None and not (number and 0.0 <= self.smooth <= 1.0):
            raise InputError(
                f"smooth is {self.smooth!r}",
                where="quantize",
                hint="give a share from 0 to 1, such as 0.5",
            )
        _one_of("rounding", self.rounding, ROUNDINGS)
        if self.rounding != "nearest" and form.dtype not in ("int8", "int4"):
            raise InputError(
                f"weights as {self.weights!r} are not rounded to steps of a scale",
                where="quantize",
                hint="leave out rounding, or give int8 or int4 weights",
            )
        if (self.smooth or self.rounding != "nearest") and self.scheme != "int8":
            raise InputError(
                "smooth and rounding belong to activations with ranges from calibration",
                where="quantize",
                hint='leave them out, or give activations="int8/tensor"',
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
        self._check_search()
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 2:
            raise InputError(
                f"samples is {self.samples!r}", where="quantize", hint="give a number of at least 2"
            )

    def _check_search(self) -> None:
        """Refuse options of the search for precisions that make no sense.

        Raises:
            InputError: Names the option.
        """
        drop, count = self.max_drop, self.max_evaluations
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise InputError(
                f"max_evaluations is {count!r}",
                where="quantize",
                hint="give a number of at least 2: all float32 and all int8 are the first two",
            )
        if drop is None:
            if self.resume is not None:
                raise InputError(
                    "resume belongs to a search, which max_drop asks for",
                    where="quantize",
                    hint="give max_drop, or leave resume out",
                )
            return
        number = isinstance(drop, int | float) and not isinstance(drop, bool)
        if not number or not math.isfinite(drop) or drop < 0:
            raise InputError(
                f"max_drop is {drop!r}",
                where="quantize",
                hint="give what the metric may lose, 0 or more, in the metric's units: 0.01 for "
                "one percent of right answers",
            )
        if (self.scheme, self.weight_form.dtype) != ("int8", "int8"):
            raise InputError(
                f"max_drop starts from int8 weights and activations, not from {self.weights!r} "
                f"with {self.activations!r}",
                where="quantize",
                hint='leave weights and activations out, or give weights="int8/channel"',
            )

    @property
    def scheme(self) -> str:
        """Precision that operators get: ``int8``, ``dynamic``, ``weight`` or ``binary``."""
        return ACTIVATIONS[self.activations]

    @property
    def needs_calibration(self) -> bool:
        """Whether ranges of activations have to be seen first."""
        return self.scheme in ("int8", "binary")

    @property
    def weight_form(self) -> WeightForm:
        """How weights are stored."""
        return _weight_form(self.weights)

    @property
    def weight_granularity(self) -> str:
        """``channel``, ``tensor`` or ``group``."""
        return self.weight_form.granularity

    @property
    def smoothing(self) -> float:
        """`smooth`, or its default."""
        if self.smooth is not None:
            return self.smooth
        return 0.5 if self.scheme == "int8" and not self.power_of_two else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values, for the plan."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        del values["resume"]  # a path of this machine
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
            if option in WORDS:
                weights, activations = WORDS[option]
                return cls(weights=weights, activations=activations)
            if option.endswith(".json"):
                return Path(option)
        raise InputError(
            f"cannot quantize by {option!r}",
            where="quantize",
            hint=f"give one of {', '.join(WORDS)}, a Quantize(...), or the path of a plan, a "
            ".json file",
        )


def _weight_form(text: str) -> WeightForm:
    """Read a form such as ``int4/group32`` or ``codebook4/channel``.

    Raises:
        InputError: There is no such form.
    """
    match = re.fullmatch(r"([a-z]+?\d*?)(\d*)(?:/([a-z]+)(\d*))?", str(text))
    name, number, granularity, size = match.groups() if match else ("", "", "", "")
    if name != "codebook":
        name, number = name + number, ""
    forms = WEIGHT_FORMS.get(name, ())
    granularity = granularity or (forms[0] if forms else "")
    bits = int(number or CODEBOOK_BITS) if name == "codebook" else 0
    group = int(size or GROUP) if granularity == "group" else 0
    known = granularity in forms and (not size or granularity == "group")
    if (
        not known
        or (name == "codebook" and not 1 <= bits <= CODEBOOK_BITS)
        or (granularity == "group" and group < 2)
    ):
        given = [f"{n}/{g}" for n, all_of in WEIGHT_FORMS.items() for g in all_of]
        raise InputError(
            f"weights is {text!r}",
            where="quantize",
            hint=f"give one of {', '.join(given)}; a group with its size, as in int4/group64, a "
            "codebook with its bits, as in codebook4",
        )
    return WeightForm(name, granularity, group, bits)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"{name} is {value!r}", where="quantize", hint=f"give one of {', '.join(known)}"
        )


__all__ = [
    "FEW_SAMPLES",
    "METHODS",
    "WEIGHT_FORMS",
    "WORDS",
    "Quantize",
    "QuantizeOption",
    "WeightForm",
]
