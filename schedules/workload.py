"""What a kernel computes, in our own words: the identity of tuning tasks and records.

TVM's structural hash of a function changes between its releases; this description does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from schedules.encodings import Encoding

#: An extent, or the name of a symbolic one.
Extent: TypeAlias = int | str
#: A JSON value.
Json: TypeAlias = Any

#: Attribute of a convolution of integers: bits that are proven to hold each of its sums, the
#: sign's included. Only there where an algorithm of the target asks for it.
SUM_BITS = "sum_bits"
#: Attribute of an operator on int8 weights: the least of them, if it is -128 and that matters.
LEAST = "least"
_PRODUCTS = frozenset({"dense", "batch_matmul"})
#: Operators on words, each the signs of 32 channels.
_SIGNS = frozenset({"binary_conv2d", "binary_dense"})


@dataclass(frozen=True)
class Workload:
    """An operator on given shapes, and what is fused behind it.

    Attributes:
        operator: ``conv2d``, ``depthwise_conv2d``, ``dense``, ``batch_matmul`` or ``pool2d``;
            ``binary_conv2d`` or ``binary_dense`` of signs, whose attribute ``channels`` says
            how many are in the words of data and weight.
        data: Shape of the activations: ``NHWC``, or ``[..., m, k]`` for products.
        weight: Shape of the other operand: ``OIHW`` for convolutions, ``[k, n]`` for ``dense``,
            ``[..., k, n]`` or, if transposed, ``[..., n, k]`` for ``batch_matmul``; empty for
            pooling.
        output: Shape of the operator's own output, before the epilogue.
        dtypes: Of ``data``, ``weight`` and the ``accumulator``, in this order.
        layout: Layout of the activations: ``NHWC`` or ``row-major``.
        attributes: What else decides the result, by name: ``strides``, ``padding`` (top, left,
            bottom, right), ``dilation``, ``groups``, ``transpose_rhs``, ...
        epilogue: Names of the operators fused behind it, in order.
        weight_encoding: How the weight is stored, see `schedules.encodings`; empty for a weight
            that is what it seems.
    """

    operator: str
    data: tuple[Extent, ...]
    weight: tuple[Extent, ...]
    output: tuple[Extent, ...]
    dtypes: tuple[str, str, str]
    layout: str
    attributes: Mapping[str, Json] = field(default_factory=dict)
    epilogue: tuple[str, ...] = ()
    weight_encoding: str = ""

    def __post_init__(self) -> None:
        plain = json.loads(json.dumps(dict(self.attributes)))
        object.__setattr__(self, "attributes", MappingProxyType(plain))

    def __hash__(self) -> int:
        return hash(self.canonical())

    def __reduce__(self) -> tuple[Any, ...]:
        return Workload.from_json, (self.to_json(),)

    @property
    def is_static(self) -> bool:
        """Whether every extent is known."""
        return all(isinstance(v, int) for v in (*self.data, *self.weight, *self.output))

    @property
    def flops(self) -> float:
        """Arithmetic operations of the operator itself, a multiply-add counts as two.

        Symbolic extents count as one. Comparisons and additions of pooling count as one each.
        """
        count = 1.0
        for extent in self.output:
            count *= extent if isinstance(extent, int) else 1
        if self.operator == "pool2d":
            kh, kw = self.attributes["kernel"]
            return count * kh * kw
        if self.operator in _SIGNS:
            kernel = self.weight[2:] if self.operator == "binary_conv2d" else ()
            reduction: tuple[Extent, ...] = (self.attributes["channels"], *kernel)
        else:
            reduction = self.data[-1:] if self.operator in _PRODUCTS else self.weight[1:]
        for extent in reduction:
            count *= extent if isinstance(extent, int) else 1
        return 2.0 * count

    def with_epilogue(self, epilogue: tuple[str, ...]) -> Workload:
        """The same operator with other operators behind it."""
        return replace(self, epilogue=epilogue)

    @property
    def tuned_as(self) -> Workload:
        """The workload that records know it by: without what changes no kernel's speed.

        A quantized activation's zero point stands beyond the edges of an image. It differs
        from one calibration to the next.
        """
        if "pad_value" not in self.attributes:
            return self
        rest = {k: v for k, v in self.attributes.items() if k != "pad_value"}
        return replace(self, attributes=rest)

    @property
    def is_integer(self) -> bool:
        """Whether the products are of integers."""
        return self.dtypes[0] in ("uint8", "int8")

    @property
    def in_float(self) -> Workload:
        """The same operator on float32, with nothing fused behind it."""
        floats = ("float32", "float32", "float32")
        rest = {k: v for k, v in self.tuned_as.attributes.items() if k not in (SUM_BITS, LEAST)}
        return replace(self, dtypes=floats, epilogue=(), weight_encoding="", attributes=rest)

    def to_json(self) -> dict[str, Json]:
        """The description as a JSON object; a plain weight's encoding is left out."""
        encoding = {"weight_encoding": self.weight_encoding} if self.weight_encoding else {}
        return {
            "operator": self.operator,
            "data": list(self.data),
            "weight": list(self.weight),
            "output": list(self.output),
            "dtypes": list(self.dtypes),
            "layout": self.layout,
            "attributes": dict(self.attributes),
            "epilogue": list(self.epilogue),
            **encoding,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Json]) -> Workload:
        """The description in a JSON object that `to_json` made.

        Raises:
            ValueError: A field is missing, unknown or of another type.
        """
        fields = {"operator", "data", "weight", "output", "dtypes", "layout", "attributes",
                  "epilogue"}  # fmt: skip
        encoding = document.get("weight_encoding", "")
        if set(document) - ({"weight_encoding"} if encoding else set()) != fields:
            wrong = ", ".join(sorted(set(document) ^ fields))
            raise ValueError(f"a workload with missing or unknown fields: {wrong}")
        shapes = {}
        for name in ("data", "weight", "output"):
            extents = document[name]
            if not isinstance(extents, list) or not all(_is_extent(v) for v in extents):
                raise ValueError(f"a workload whose {name} is no list of extents: {extents!r}")
            shapes[name] = tuple(extents)
        dtypes, epilogue = document["dtypes"], document["epilogue"]
        if not _are_strings(dtypes) or len(dtypes) != 3:
            raise ValueError(f"a workload whose dtypes are no three names: {dtypes!r}")
        if not _are_strings(epilogue):
            raise ValueError(f"a workload whose epilogue is no list of names: {epilogue!r}")
        if not _are_strings([document["operator"], document["layout"]]):
            raise ValueError("a workload whose operator or layout is no name")
        Encoding.parse(str(encoding))
        if not isinstance(document["attributes"], dict):
            raise ValueError("a workload whose attributes are no object")  # noqa: TRY004
        return cls(
            operator=document["operator"],
            **shapes,
            dtypes=(dtypes[0], dtypes[1], dtypes[2]),
            layout=document["layout"],
            attributes=document["attributes"],
            epilogue=tuple(epilogue),
            weight_encoding=str(encoding),
        )

    def canonical(self) -> str:
        """The description as canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def __str__(self) -> str:
        def shape(extents: tuple[Extent, ...]) -> str:
            return "x".join(map(str, extents))

        text = f"{self.operator} {shape(self.data)} {self.dtypes[0]}"
        if self.weight:
            text += f" by {shape(self.weight)}"
            text += f" {self.weight_encoding}" if self.weight_encoding else ""
        strides = self.attributes.get("strides")
        if strides and any(v != 1 for v in strides):
            text += f" stride {shape(tuple(strides))}"
        return text + "".join(f" + {name}" for name in self.epilogue)


def _is_extent(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and value > 0) or (isinstance(value, str) and value != "")


def _are_strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, str) for v in values)
