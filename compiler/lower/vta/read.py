"""Reads the integer graph: which of its operators are layers that VTA computes, and why not.

A layer is a convolution or matrix product with its requantization, and with the additions and
clippings behind it that nobody else reads the operands of; a maximum pooling; or an addition,
clipping or rescaling of its own. docs/integer-semantics.md says what the operators mean;
`schedules.vta.layers` what a layer does with the same numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler.compress.operators import PREFIX, attributes_of
from compiler.compress.sites import PlainGraph, Site
from schedules.tvm_adapter import GenericConst, relax, tirx
from schedules.vta.layers import Addend, Conv2d, Layer, MaxPool2d, Shift, Step, Sum, Tensor

_INT32_MAX = np.iinfo(np.int32).max
#: Largest left shifts of a value and of an addend, and right shift of a step.
_MAX_UP, _MAX_ADDEND, _MAX_SHIFT = 15, 20, 30
#: Operators that give their operand another shape, in the same order.
_RESHAPES = frozenset({"reshape", "flatten", "squeeze", "expand_dims"})
#: Operators that compute nothing that anybody would look for on VTA.
_SILENT = _RESHAPES | {
    "nn.pad", "permute_dims", "broadcast_to", "nn.dropout", f"{PREFIX}quantize",
    f"{PREFIX}dequantize", f"{PREFIX}sums_to_float", f"{PREFIX}requantize", "",
}  # fmt: skip


class NotOnVta(Exception):  # noqa: N818 - no error: it says why the host computes an operator
    """Why an operator is no layer of VTA's."""


@dataclass(frozen=True, slots=True)
class Form:
    """How an array of the graph is one activation, or one for each image of a batch.

    Attributes:
        channels: Channels.
        height: Rows.
        width: Columns.
        rows: Whether the array has channels last, one row after another.
    """

    channels: int
    height: int
    width: int
    rows: bool = False

    @property
    def size(self) -> int:
        """Elements."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class Unit:
    """One layer, and the operators that it stands for.

    Attributes:
        layer: The layer; its tensors are named by the graph's tensors.
        sites: The operators, in order.
        inputs: Tensors of the graph that it reads.
        output: Tensor of the graph that it gives.
        position: Place of its last operator in the graph.
    """

    layer: Layer
    sites: tuple[Site, ...]
    inputs: tuple[str, ...]
    output: str
    position: int

    @property
    def name(self) -> str:
        """The name of its first operator."""
        return self.sites[0].name


class GraphReader:
    """Finds the layers of an integer graph.

    Attributes:
        graph: The graph.
        batch: Images that the graph computes at once; each runs by itself.
        reasons: Why an operator that computes something is no layer, by its name.
        forms: How each tensor that layers read or write lies.
        alias: The tensor that a tensor is, by another shape.
    """

    def __init__(self, graph: PlainGraph) -> None:
        self.graph = graph
        self.reasons: dict[str, str] = {}
        self.alias: dict[str, str] = {}
        self.forms: dict[str, Form] = {}
        self._sites = graph.by_name()
        self._order = {site.name: i for i, site in enumerate(graph.sites)}
        self._readers = graph.readers()
        self._shapes = {name: _shape(site.value) for name, site in self._sites.items()}
        for variable, name in graph.names.items():
            self._shapes.setdefault(name, _shape(variable))
        images = any(s is not None and len(s) == 4 for s in self._shapes.values())
        first = self._shapes.get(graph.inputs[0]) if graph.inputs else None
        self.batch = int(first[0] or 1) if images and first else 1
        self._images = images

    def units(self) -> list[Unit]:
        """The layers, in the order of the graph; `reasons` has what is none."""
        found: list[Unit] = []
        taken: set[str] = set()
        for site in self.graph.sites:
            self._note_alias(site)
        for site in self.graph.sites:
            if site.name in taken:
                continue
            try:
                unit = self._unit(site)
            except NotOnVta as why:
                self.reasons[site.name] = str(why)
                continue
            if unit is not None:
                found.append(unit)
                taken.update(s.name for s in unit.sites)
        for name in taken:
            self.reasons.pop(name, None)
        return sorted(found, key=lambda u: u.position)

    # Tensors

    def origin(self, name: str) -> str:
        """The tensor that this one is by another shape; itself if it is none."""
        while name in self.alias:
            name = self.alias[name]
        return name

    def form(self, name: str) -> Form:
        """How a tensor lies.

        Raises:
            NotOnVta: It cannot be one activation an image.
        """
        name = self.origin(name)
        if name not in self.forms:
            self.forms[name] = self._form(name)
        return self.forms[name]

    def _form(self, name: str) -> Form:
        shape = self._shapes.get(name)
        if shape is None or any(v is None for v in shape):
            raise NotOnVta("its sizes are not known")
        extents = [int(v) for v in shape if v is not None]
        if not self._images:
            rows = math.prod(extents[:-1])
            return Form(extents[-1], rows, 1, rows=True)
        if len(extents) > 1 and extents[0] == self.batch:
            if len(extents) == 4:
                return Form(extents[1], extents[2], extents[3])
            if len(extents) == 2:
                return Form(extents[1], 1, 1)
            if len(extents) == 3:
                return Form(extents[2], extents[1], 1, rows=True)
        if self.batch == 1 and len(extents) == 2:
            return Form(extents[1], extents[0], 1, rows=True)
        raise NotOnVta(f"a tensor of shape {extents} is no activation of {self.batch} images")

    def _note_alias(self, site: Site) -> None:
        """A reshape that leaves channels, rows and columns as they are is the same tensor."""
        if site.kind not in _RESHAPES or len(site.data) != 1:
            return
        try:
            same = self.form(site.data[0]) == self._form(site.name)
        except NotOnVta:
            return
        if same and _dtype(site.value) == "int8":
            self.alias[site.name] = self.origin(site.data[0])

    def tensor(self, name: str, title: str) -> Tensor:
        """A tensor of the graph as a region's."""
        form = self.form(name)
        return Tensor(title, form.channels, form.height, form.width)

    def limits(self, name: str) -> tuple[int, int]:
        """Least and greatest value of a tensor, as far as the operator that makes it says."""
        site = self._sites.get(self.origin(name))
        if site is not None and site.kind.startswith(PREFIX):
            a = attributes_of(site.value)
            if "low" in a and "high" in a:
                return max(-128, int(a["low"])), min(127, int(a["high"]))
        return -128, 127

    # Layers

    def _unit(self, site: Site) -> Unit | None:
        kind = site.kind
        if kind in ("nn.conv2d", "matmul"):
            return self._weighted(site)
        if kind == "nn.max_pool2d":
            return self._pool(site)
        if kind in (f"{PREFIX}add", f"{PREFIX}rescale"):
            step = self._step(site)
            name = site.name
            return self._extended(Sum(name, name, (step,)), (site,), name)
        if kind in _SILENT:
            return None
        if kind == "nn.conv1d":
            raise NotOnVta("VTA convolves images only")
        if isinstance(site.value.ty, relax.TensorType):
            if not kind.startswith(PREFIX) and _dtype(site.value) == "float32":
                raise NotOnVta("it computes in float32")
            raise NotOnVta("VTA has no such operation")
        return None

    def _weighted(self, site: Site) -> Unit:
        """A convolution or product, its requantization, and what follows."""
        if _dtype(site.value) != "int32":
            raise NotOnVta("it computes in float32")
        weight = site.value.args[1]
        if not isinstance(weight, GenericConst):
            raise NotOnVta("it multiplies two activations, and VTA needs weights")
        readers = self._readers.get(site.name, ())
        if len(readers) != 1 or site.name in self.graph.outputs:
            raise NotOnVta("its 32-bit sums are read by others, and VTA stores 8 bits")
        after = readers[0]
        if after.kind == f"{PREFIX}sums_to_float":
            raise NotOnVta("its result is float32, and VTA stores 8 bits")
        if after.kind != f"{PREFIX}requantize":
            raise NotOnVta("its 32-bit sums are not requantized")
        kernel = np.from_dlpack(weight.value)
        if kernel.dtype != np.int8:
            raise NotOnVta(f"its weights are {kernel.dtype}")
        layer = self._conv(site, kernel) if site.kind == "nn.conv2d" else self._dense(site, kernel)
        bias = np.from_dlpack(after.value.args[1].value).astype(np.int64).reshape(-1)
        bias = np.broadcast_to(bias, (layer.weight.shape[0],))
        step = self._requantization(after, layer.weight, bias)
        layer = replace(
            layer, output=after.name, bias=np.ascontiguousarray(bias, np.int32), steps=(step,)
        )
        self._require_int8(layer.data)
        self.form(after.name)
        return self._extended(layer, (site, after), after.name)

    def _conv(self, site: Site, kernel: Any) -> Conv2d:
        a = site.value.attrs
        if (str(a.data_layout), str(a.kernel_layout)) != ("NCHW", "OIHW"):
            raise NotOnVta(f"its layout is {a.data_layout}")
        data, padding = self._unpadded(site.data[0])
        own = _pair4(a.padding)
        total = tuple(p + q for p, q in zip(padding, own, strict=True))
        return Conv2d(
            site.name, data, "", kernel, np.zeros(kernel.shape[0], np.int32), (),
            strides=_pair(a.strides), padding=(total[0], total[1], total[2], total[3]),
            dilation=_pair(a.dilation), groups=int(a.groups),
        )  # fmt: skip

    def _dense(self, site: Site, kernel: Any) -> Conv2d:
        """A product with a constant matrix: a 1x1 convolution, or of whole flattened images."""
        if kernel.ndim != 2:
            raise NotOnVta("its weight is no matrix")
        bias = np.zeros(kernel.shape[1], np.int32)
        data = site.data[0]
        maker = self._sites.get(data)
        if maker is not None and maker.kind in _RESHAPES and data not in self.alias:
            source = self.form(maker.data[0])
            flat = self._shapes[data] or ()
            if flat == (self.batch, source.size) and not source.rows and self._images:
                image = kernel.T.reshape(-1, source.channels, source.height, source.width)
                weight = np.ascontiguousarray(image)
                return Conv2d(site.name, self.origin(maker.data[0]), "", weight, bias, ())
        weight = np.ascontiguousarray(kernel.T[:, :, None, None])
        return Conv2d(site.name, self.origin(data), "", weight, bias, ())

    def _unpadded(self, name: str) -> tuple[str, tuple[int, int, int, int]]:
        """What a convolution reads before zeros are put around it, and how many."""
        site = self._sites.get(self.origin(name))
        if site is None or site.kind != "nn.pad" or _dtype(site.value) != "int8":
            return self.origin(name), (0, 0, 0, 0)
        a = site.value.attrs
        width = [int(v) for v in a.pad_width]
        if str(a.pad_mode) != "constant" or float(a.pad_value) != 0.0 or any(width[:4]):
            return self.origin(name), (0, 0, 0, 0)
        return self.origin(site.data[0]), (width[4], width[6], width[5], width[7])

    def _requantization(self, site: Site, weight: Any, bias: Any) -> Step:
        a = attributes_of(site.value)
        self._require_symmetric(a)
        shift: Any = int(a["shift"])
        shifts = np.full(weight.shape[0], shift, np.int64)
        if len(site.value.args) == 3:
            factors = np.from_dlpack(site.value.args[2].value).astype(np.int64).reshape(-1)
            factors = np.broadcast_to(factors, shifts.shape)
            if (factors <= 0).any() or (factors & (factors - 1)).any():
                raise NotOnVta(_not_by_shifts(weight))
            shifts = shifts - np.asarray([int(f).bit_length() - 1 for f in factors])
        if shifts.min() < 0 or shifts.max() > _MAX_SHIFT:
            raise NotOnVta(
                f"it is shifted by {shifts.min()} to {shifts.max()} bits, and VTA shifts by 0 to "
                f"{_MAX_SHIFT}"
            )
        others = tuple(range(1, weight.ndim))
        bound = 128 * np.abs(weight.astype(np.int64)).sum(axis=others) + np.abs(bias)
        if (bound + (np.int64(1) << shifts) // 2).max() > _INT32_MAX:
            raise NotOnVta("its sums may need more than 32 bits with their rounding")
        same = bool((shifts == shifts[0]).all())
        chosen: Shift = int(shifts[0]) if same else tuple(int(s) for s in shifts)
        return Step(chosen, int(a["low"]), int(a["high"]))

    def _step(self, site: Site, chained: str | None = None) -> Step:
        """An addition, clipping or rescaling; `chained` is the operand that is at hand already.

        Raises:
            NotOnVta: Shifts are not enough for it.
        """
        a = attributes_of(site.value)
        self._require_symmetric(a)
        if site.kind == f"{PREFIX}add":
            zeros, factors = [a["zero_a"], a["zero_b"]], [a["factor_a"], a["factor_b"]]
        else:
            zeros, factors = [a["zero_in"]], [a["factor"]]
        shapes = {self._shapes.get(name) for name in site.data}
        if len(site.data) != len(factors) or len({*shapes, self._shapes[site.name]}) != 1:
            raise NotOnVta("its operands are of different shapes")
        if any(zeros):
            raise NotOnVta("its zero points are not 0")
        ups = [_exponent(int(f)) for f in factors]
        if any(up is None or up > _MAX_ADDEND for up in ups) or not 0 <= a["shift"] <= _MAX_SHIFT:
            raise NotOnVta("its scales differ by no powers of two that VTA can shift by")
        up, addends = 0, []
        for name, bits in zip(site.data, ups, strict=True):
            if chained is not None and name == chained:
                if bits is None or bits > _MAX_UP:
                    raise NotOnVta("a scale is too far from the other")
                up, chained = bits, None
            else:
                self._require_int8(name)
                addends.append(Addend(self.origin(name), bits or 0))
        self.form(site.name)
        return Step(int(a["shift"]), int(a["low"]), int(a["high"]), tuple(addends), up)

    def _extended(self, layer: Conv2d | Sum, sites: tuple[Site, ...], output: str) -> Unit:
        """The layer with all that follows it and that nobody else takes part in."""
        while True:
            following = self._following(output)
            if following is None:
                break
            try:
                step = self._step(following, output)
            except NotOnVta:
                break
            layer = replace(layer, output=following.name, steps=(*layer.steps, step))
            sites, output = (*sites, following), following.name
        return Unit(layer, sites, layer.inputs, output, self._order[sites[-1].name])

    def _following(self, output: str) -> Site | None:
        """The addition or clipping that is the only reader of a result, if it is this one's."""
        readers = self._readers.get(output, ())
        if len(readers) != 1 or output in self.graph.outputs:
            return None
        site = readers[0]
        if site.kind == f"{PREFIX}rescale":
            return site
        if site.kind != f"{PREFIX}add" or site.data.count(output) != 1:
            return None
        other = next(name for name in site.data if name != output)
        # Of two convolutions that are added the later one adds: the other's result is there.
        if self._order.get(other, -1) > self._order[output] and self._can_add(other):
            return None
        return site

    def _can_add(self, name: str) -> bool:
        """Whether a tensor is made by a layer that could do the addition itself."""
        site = self._sites.get(name)
        if site is None or len(self._readers.get(name, ())) != 1 or name in self.graph.outputs:
            return False
        return site.kind in (f"{PREFIX}requantize", f"{PREFIX}add", f"{PREFIX}rescale")

    def _pool(self, site: Site) -> Unit:
        a = site.value.attrs
        if _dtype(site.value) != "int8":
            raise NotOnVta("it computes in float32" if _dtype(site.value) == "float32"
                           else f"its numbers are {_dtype(site.value)}")  # fmt: skip
        if str(a.layout) != "NCHW" or bool(a.ceil_mode) or _pair(a.dilation) != (1, 1):
            raise NotOnVta("VTA pools dense windows that begin inside the image")
        kernel, padding = _pair(a.pool_size), _pair4(a.padding)
        if max(padding[0::2]) >= kernel[0] or max(padding[1::2]) >= kernel[1]:
            raise NotOnVta("its padding is as wide as its windows")
        data = self.origin(site.data[0])
        self._require_int8(data)
        self.form(site.name)
        layer = MaxPool2d(site.name, data, site.name, kernel, _pair(a.strides), padding)
        return Unit(layer, (site,), (data,), site.name, self._order[site.name])

    def _require_int8(self, name: str) -> None:
        site = self._sites.get(self.origin(name))
        dtype = "int8" if site is None else _dtype(site.value)
        if dtype != "int8":
            raise NotOnVta(f"it reads {dtype}, and VTA multiplies int8")
        self.form(name)

    def _require_symmetric(self, attributes: Mapping[str, Any]) -> None:
        if attributes["dtype"] != "int8" or attributes["zero_point"]:
            raise NotOnVta(
                f"its result is {attributes['dtype']} with zero point {attributes['zero_point']}, "
                "and VTA's is int8 with 0"
            )


def safe_names(names: Iterator[str]) -> dict[str, str]:
    """Names that VTA's buffers may have, for tensors and layers of the graph."""
    result: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        text = re.sub(r"[^A-Za-z0-9_.:/-]", "-", name.strip(":"))
        if not re.match(r"[A-Za-z_]", text):
            text = f"t.{text}"
        unique, number = text, 1
        while unique in taken:
            number += 1
            unique = f"{text}-{number}"
        taken.add(unique)
        result[name] = unique
    return result


def _not_by_shifts(weight: Any) -> str:
    """Why a requantization is no shift: averages divide by the size of their window."""
    pixels = int(np.prod(weight.shape[2:]))
    if weight.shape[1] == 1 and pixels > 1 and (weight == 1).all():
        return f"it divides by {pixels}, which is no power of two"
    return "its scales are no powers of two"


def _exponent(factor: int) -> int | None:
    """The power of two that a factor is."""
    return factor.bit_length() - 1 if factor > 0 and not factor & (factor - 1) else None


def _shape(expr: Any) -> tuple[int | None, ...] | None:
    kind = expr.ty
    if not isinstance(kind, relax.TensorType) or kind.shape is None:
        return None
    values = getattr(kind.shape, "values", None)
    if values is None:
        return None
    return tuple(int(v) if isinstance(v, (int, tirx.IntImm)) else None for v in values)


def _dtype(expr: Any) -> str:
    kind = expr.ty
    return str(kind.dtype.dtype) if isinstance(kind, relax.TensorType) else ""


def _pair(values: Any) -> tuple[int, int]:
    found = [int(v) for v in values]
    return (found[0], found[-1])


def _pair4(values: Any) -> tuple[int, int, int, int]:
    found = [int(v) for v in values]
    if len(found) == 1:
        found = found * 4
    elif len(found) == 2:
        found = found * 2
    return (found[0], found[1], found[2], found[3])


__all__ = ["Form", "GraphReader", "NotOnVta", "Unit", "safe_names"]
