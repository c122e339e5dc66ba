"""`CompressionPlan`: what each operator, parameter and activation of a model becomes, as data.

A plan is made by analysis (`compiler.compress.calibrate`), applied by Relax passes, saved in the
bundle as JSON, and meant to be read and edited by people. It speaks of the *plain graph*: the
model after batch normalization is folded, in float32 and NCHW, before any target is looked at
(`compiler.compress.sites` gives the names). So no target changes a plan.

What the numbers mean, for a real value ``r`` and a stored integer ``q``:

- activations: ``r = scale * (q - zero_point)``, one scale a tensor;
- weights: ``r = scale[c] * q``, symmetric, one scale an output channel or one in all;
- bias: int32 at ``scale_of_data * scale_of_weight[c]``, derived, never stored;
- a scale is a float32 number; with `power_of_two` it is an exact power of two.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.codec import DecodeError, decode, encode
from compiler.errors import FileError, PlanError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Name and version of the format; another version is refused.
SCHEMA = "tilewright.plan/2"

#: Least and greatest stored value of a dtype. Weights leave out -128: they are symmetric.
LIMITS: Mapping[str, tuple[int, int]] = {
    "uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767),
}  # fmt: skip
WEIGHT_LIMIT = 127
#: Behind the name of a tensor that is stored in 16 bits: its second form, in 8 bits, which
#: products read.
NARROW = "@int8"
#: Greatest magnitude of a stored weight, by dtype.
WEIGHT_LIMITS: Mapping[str, int] = {"int8": WEIGHT_LIMIT, "int4": 7}

#: Precisions of operators that the quantizer leaves as they are.
FLOATS = frozenset({"float32", "bfloat16", "float16"})
#: Precisions that an operator can be given: integer arithmetic with activations quantized by
#: the plan (``int8``) or row by row at run time (``dynamic``), on one bit (``binary``), float
#: arithmetic on compressed weights (``weight``), or plain float.
PRECISIONS = ("int8", "dynamic", "weight", "binary", "float32", "bfloat16", "float16")
#: Ways to store a weight, with the bits that one value takes; those of a codebook are its own.
WEIGHT_BITS: Mapping[str, int] = {
    "int8": 8, "int4": 4, "ternary": 2, "binary": 1, "codebook": 0, "float16": 16,
}  # fmt: skip
GRANULARITIES = ("tensor", "channel", "group")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_float32(value: float) -> bool:
    return abs(value) < 3e38 and struct.unpack("f", struct.pack("f", value))[0] == value


def _check_scale(scale: float, power_of_two: bool) -> None:
    _check(math.isfinite(scale) and scale > 0, f"scale {scale!r} is not a positive number")
    _check(
        struct.unpack("f", struct.pack("f", scale))[0] == scale if scale < 3e38 else False,
        f"scale {scale!r} is not a float32 number",
    )
    if power_of_two:
        _check(math.frexp(scale)[0] == 0.5, f"scale {scale!r} is no power of two")


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one activation tensor is stored.

    Attributes:
        dtype: ``uint8`` or ``int8``; ``int16`` for what is added up or normalized next.
        scale: Step between two stored values, a float32 number.
        zero_point: The stored value that means 0.0.
        method: How the range was chosen: a calibration method, ``shared`` with the tensors that
            it is concatenated with or that pass through unchanged, or ``given`` by hand.
        power_of_two: Whether the scale has to be a power of two.
        minimum: Least value seen in calibration, in units of the model.
        maximum: Greatest value seen.
        shared_with: The tensor whose range this one takes; empty for its own.
    """

    dtype: str
    scale: float
    zero_point: int
    method: str
    power_of_two: bool = False
    minimum: float = 0.0
    maximum: float = 0.0
    shared_with: str = ""

    def __post_init__(self) -> None:
        _check(self.dtype in LIMITS, f"dtype {self.dtype!r} is none of {', '.join(LIMITS)}")
        low, high = LIMITS[self.dtype]
        _check_scale(self.scale, self.power_of_two)
        _check(
            low <= self.zero_point <= high,
            f"zero_point {self.zero_point} is outside of {self.dtype}",
        )

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest stored value."""
        return LIMITS[self.dtype]

    @property
    def real_limits(self) -> tuple[float, float]:
        """Least and greatest value that can be stored, in units of the model."""
        low, high = self.limits
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """How the weight of one operator is stored.

    Attributes:
        parameter: The model's name of it, such as ``layer1.0.conv1.weight``.
        dtype: ``int8``, ``int4``, ``ternary``, ``binary``, ``codebook`` or ``float16``.
        granularity: What shares a scale: the whole ``tensor``, an output ``channel``, or a
            ``group`` of inputs of one output channel.
        axis: Axis of output channels in the plain graph's weight, counted from 0.
        scales: One scale a channel, or a single one; float32 numbers. Empty where they are
            derived from the weight by `method` as the plan is applied.
        method: How the scales were chosen, or are.
        power_of_two: Whether the scales have to be powers of two.
        group: Number of inputs in a group; 0 without groups.
        bits: Bits of an index into a codebook; 0 for others.
        low: Least stored value of int8: -127, or -128 where a model that was quantized elsewhere
            stores that.
    """

    parameter: str
    dtype: str
    granularity: str
    axis: int
    scales: tuple[float, ...]
    method: str
    power_of_two: bool = False
    group: int = 0
    bits: int = 0
    low: int = -WEIGHT_LIMIT

    def __post_init__(self) -> None:
        _check(
            self.dtype in WEIGHT_BITS, f"dtype {self.dtype!r} is none of {', '.join(WEIGHT_BITS)}"
        )
        _check(
            (self.granularity == "group") == (self.group > 0),
            f"group is {self.group} for granularity {self.granularity!r}",
        )
        _check(
            1 <= self.bits <= 8 if self.dtype == "codebook" else self.bits == 0,
            f"bits is {self.bits} for dtype {self.dtype!r}",
        )
        _check(
            self.granularity in GRANULARITIES,
            f"granularity {self.granularity!r} is none of {', '.join(GRANULARITIES)}",
        )
        _check(self.axis >= 0, "axis is negative")
        _check(self.low in (-WEIGHT_LIMIT, -WEIGHT_LIMIT - 1), f"low is {self.low}")
        _check(
            self.granularity == "channel" or len(self.scales) <= 1,
            f"{len(self.scales)} scales for granularity {self.granularity!r}",
        )
        for scale in self.scales:
            _check_scale(scale, self.power_of_two)


@dataclass(frozen=True, slots=True)
class OperatorPlan:
    """What one operator of the plain graph becomes.

    Attributes:
        kind: The Relax operator, such as ``nn.conv2d``, ``matmul``, ``add``.
        precision: One of `PRECISIONS`. ``int8`` is integer arithmetic with int32 sums, whatever
            the weight is stored as.
        inputs: Names of the activation tensors that it reads, in order.
        output: Name of the tensor that it, with its epilogue, gives. An int8 operator whose
            output has no entry among the plan's tensors gives float32, out of its int32 sums.
        epilogue: Names of the operators after it that it computes before the one
            requantization: a bias ``add`` of a constant, then ``clip`` or ``nn.relu``.
        weight: Of an operator whose constant weight is compressed.
        why: Why it has its precision, or a remark.
        sqnr_db: Signal to quantization noise ratio of its output, the whole model quantized,
            in decibels, as calibration measured it; None where it was not.
        sign_scale: Of a binary operator: the magnitude that its input's signs stand for, a
            float32 number.
        sign_threshold: Of a binary operator: from here on a number counts as positive, a float32
            number. Activations behind a ReLU have no other signs.
    """

    kind: str
    precision: str
    inputs: tuple[str, ...]
    output: str
    epilogue: tuple[str, ...] = ()
    weight: WeightPlan | None = None
    why: str = ""
    sqnr_db: float | None = None
    sign_scale: float | None = None
    sign_threshold: float = 0.0

    def __post_init__(self) -> None:
        _check(
            self.precision in PRECISIONS,
            f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}",
        )
        _check(
            (self.precision == "binary") == (self.sign_scale is not None),
            f"sign_scale is {self.sign_scale!r} for precision {self.precision!r}",
        )
        _check(
            self.sign_threshold == 0.0
            or (self.precision == "binary" and _is_float32(self.sign_threshold)),
            f"sign_threshold {self.sign_threshold!r} is not a float32 number, or not of a binary "
            "operator",
        )
        if self.sign_scale is not None:
            _check_scale(self.sign_scale, power_of_two=False)
            stored = self.weight.dtype if self.weight is not None else "float32"
            _check(
                stored == "binary",
                f"precision 'binary' multiplies signs, and the weight is {stored}, not binary",
            )
        _check(
            self.precision not in FLOATS or self.weight is None,
            f"an operator in {self.precision} has no plan for its weight",
        )
        _check(
            self.precision != "int8"
            or self.weight is None
            or self.weight.dtype not in ("int8", "int4")
            or len(self.weight.scales) > 0,
            "no scales",
        )


@dataclass(frozen=True, slots=True)
class Equalization:
    """Two weights in a row whose channels are scaled against each other, exactly.

    The outputs of `first` are divided by `factors`, the inputs of `second` multiplied; between
    them stand only operators that a positive factor passes through.

    Attributes:
        first: Name of the operator before.
        second: Name of the operator after.
        factors: One positive factor a channel between them.
    """

    first: str
    second: str
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        _check(
            len(self.factors) > 0 and all(math.isfinite(f) and f > 0 for f in self.factors),
            "factors are not positive numbers",
        )


@dataclass(frozen=True, slots=True)
class Smoothing:
    """An activation whose channels are stored divided by factors, its readers' weights multiplied.

    Attributes:
        tensor: The plan's name of it: the result of a layer normalization, or its form in 8
            bits.
        readers: Names of the products with weights that read it.
        factors: One positive factor a channel, along the last axis.
    """

    tensor: str
    readers: tuple[str, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        _check(
            len(self.factors) > 0 and all(math.isfinite(f) and f > 0 for f in self.factors),
            "factors are not positive numbers",
        )


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model a plan is for.

    Attributes:
        name: For people; not compared.
        interface: SHA-256 of the names, shapes and dtypes of all parameters and inputs.
        values: SHA-256 of the parameters' values too. Another one is no error, since weights
            may have been trained on, but is reported.
    """

    name: str
    interface: str
    values: str


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """What each operator, parameter and activation of one model becomes.

    Attributes:
        model: Which model it is for.
        recipe: The options it was made with, for people.
        tensors: Quantized activations by name. Others stay float32.
        operators: All operators of the plain graph that compute something, by name.
        equalizations: Applied to the weights first, in order.
        bias_corrections: Added to the outputs of operators, by name: one number a channel, in
            units of the model, before the epilogue's activation.
        smoothings: Activations with factors for their channels.
        roundings: Which weights of an operator are not rounded to the nearest, by its name, as
            `compiler.compress.rounding` packs it.
        schema: Name and version of the format.
    """

    model: ModelIdentity
    recipe: Mapping[str, Any]
    tensors: Mapping[str, TensorPlan]
    operators: Mapping[str, OperatorPlan]
    equalizations: tuple[Equalization, ...] = ()
    bias_corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    smoothings: tuple[Smoothing, ...] = ()
    roundings: Mapping[str, str] = field(default_factory=dict)
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        _check(self.schema == SCHEMA, f"schema {self.schema!r} is not {SCHEMA!r}")
        for name, operator in self.operators.items():
            if operator.precision == "int8":
                for read in operator.inputs:
                    _check(
                        read in self.tensors,
                        f"operator {name!r} is int8, but its input {read!r} is no tensor of "
                        "the plan",
                    )
        for smoothing in self.smoothings:
            for name in smoothing.readers:
                _check(
                    name in self.operators and smoothing.tensor in self.operators[name].inputs,
                    f"operator {name!r} does not read {smoothing.tensor!r}, which is smoothed",
                )
            others = [
                name
                for name, o in self.operators.items()
                if smoothing.tensor in o.inputs
                and o.precision not in FLOATS
                and name not in smoothing.readers
            ]
            _check(
                not others,
                f"{smoothing.tensor!r} is smoothed, but {', '.join(others)} does not know",
            )
        for name in self.roundings:
            _check(name in self.operators, f"rounding of an unknown operator {name!r}")
        for name in self.bias_corrections:
            _check(name in self.operators, f"bias correction of an unknown operator {name!r}")
        for name, tensor in self.tensors.items():
            other = self.tensors.get(tensor.shared_with) if tensor.shared_with else None
            _check(
                not tensor.shared_with or other is not None,
                f"tensor {name!r} shares the range of {tensor.shared_with!r}, which is not here",
            )
            if other is not None:
                _check(
                    (other.scale, other.zero_point, other.dtype)
                    == (tensor.scale, tensor.zero_point, tensor.dtype),
                    f"tensor {name!r} differs from {tensor.shared_with!r}, whose range it shares",
                )

    def quantized(self) -> tuple[str, ...]:
        """Names of the operators that are compressed, in order."""
        return tuple(n for n, o in self.operators.items() if o.precision not in FLOATS)

    def to_json(self) -> str:
        """The plan as a JSON document: the same plan is always the same text."""
        return json.dumps(encode(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "plan") -> CompressionPlan:
        """Read what `to_json` wrote, or what a person made of it.

        Raises:
            PlanError: It is no plan; the message names the place in the document.
        """
        try:
            data = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_refuse)
        except ValueError as error:
            raise PlanError(f"it is not JSON: {error}", where=where, hint=_HINT) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise PlanError(
                f"it is no compression plan of this release: its schema is {found!r}, not "
                f"{SCHEMA!r}",
                where=where,
                hint=_HINT,
            )
        try:
            return decode(cls, data)
        except DecodeError as error:
            raise PlanError(str(error), where=where, hint=_HINT) from error

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON.

        Raises:
            FileError: It cannot be written.
        """
        path = Path(path)
        try:
            path.write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise FileError(
                f"the plan cannot be written: {error.strerror or error}",
                where=str(path),
                hint="name a file in a folder that exists and can be written to",
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> CompressionPlan:
        """Read a plan from a file.

        Raises:
            FileError: It cannot be read.
            PlanError: It is no plan.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise FileError(
                f"the plan cannot be read: {reason}", where=str(path), hint=_HINT
            ) from error
        return cls.from_json(text, str(path))

    def check_model(self, identity: ModelIdentity) -> str:
        """Refuse a plan that was made for another model.

        Returns:
            A remark if the weights' values are not those it was made with, else nothing.

        Raises:
            PlanError: Names, shapes or dtypes of parameters or inputs differ.
        """
        if identity.interface != self.model.interface:
            raise PlanError(
                f"it was made for another model, {self.model.name!r}: names, shapes or dtypes "
                f"of parameters or inputs are not those of {identity.name!r}",
                where="plan",
                hint="calibrate this model: quantize='int8' with calibration=...",
            )
        if identity.values != self.model.values:
            return "the plan was made with other values of the weights"
        return ""

    def check_operators(self, names: Iterable[str]) -> None:
        """Refuse a plan that names operators that the model's plain graph does not have.

        Raises:
            PlanError: Names them.
        """
        known = set(names)
        if unknown := [name for name in self.operators if name not in known]:
            raise PlanError(
                f"it names operators that the model does not have: {', '.join(unknown[:5])}",
                where="plan",
                hint=_HINT,
            )

    def with_operator(self, name: str, **changes: Any) -> CompressionPlan:
        """A copy in which fields of one operator are others."""
        operators = dict(self.operators)
        operators[name] = replace(operators[name], **changes)
        return replace(self, operators=operators)


_HINT = "make a new plan: compile(..., quantize='int8', calibration=...) saves one in the bundle"


def base(name: str) -> str:
    """The activation behind the name of one of its forms."""
    return name.removesuffix(NARROW)


def model_identity(
    name: str,
    parameters: Mapping[str, npt.NDArray[np.generic]],
    inputs: Iterable[tuple[str, tuple[int | str, ...], str]],
) -> ModelIdentity:
    """Fingerprints of a model.

    Args:
        name: Its name, for people.
        parameters: All of its parameters and buffers, as imported.
        inputs: Name, shape and dtype of each input.
    """
    interface, values = hashlib.sha256(), hashlib.sha256()
    for kind, entries in (
        ("input", [(n, tuple(s), d) for n, s, d in inputs]),
        ("parameter", [(n, tuple(a.shape), str(a.dtype)) for n, a in sorted(parameters.items())]),
    ):
        for entry in entries:
            interface.update(json.dumps([kind, *entry]).encode())
    values.update(interface.digest())
    for _, array in sorted(parameters.items()):
        values.update(array.tobytes())
    return ModelIdentity(name, interface.hexdigest(), values.hexdigest())


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"{key!r} stands there twice")
        result[key] = value
    return result


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


__all__ = [
    "FLOATS",
    "LIMITS",
    "PRECISIONS",
    "SCHEMA",
    "WEIGHT_BITS",
    "WEIGHT_LIMIT",
    "WEIGHT_LIMITS",
    "CompressionPlan",
    "Equalization",
    "ModelIdentity",
    "OperatorPlan",
    "Smoothing",
    "TensorPlan",
    "WeightPlan",
    "base",
    "model_identity",
]
