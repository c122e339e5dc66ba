"""Weights that a graph decodes (``tilewright.decode``), given to kernels as codes.

A convolution or product of a decoded weight becomes one kernel that reads the codes: scales of
groups and codebooks are further operands of it, one scale a channel is multiplied behind it. A
table of which rows are looked up is packed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler.compress.operators import PREFIX, attributes_of
from compiler.lower.graph import FunctionView, is_constant, operator_name
from compiler.lower.parameters import Array, ParameterTable, value_of
from schedules.cpu.compute import gather
from schedules.encodings import Encoding
from schedules.tvm_adapter import te, tirx

#: TVM's fusion pattern: others may be fused behind it.
INJECTIVE = 2


@dataclass(frozen=True)
class Compressed:
    """A weight as codes and factors, both in one layout; see `compiler.compress.weight_codes`.

    Attributes:
        codes: int8, uint8 for indices into a codebook, or float16 numbers.
        factors: Scales or a codebook; None for numbers.
        scales: Beside a codebook, one an output channel.
        axis: Of output channels.
        name: Of the parameter.
        encoding: How codes are to be stored, empty for a byte each or more.
    """

    codes: Array
    factors: Array | None
    axis: int
    name: str
    encoding: str
    scales: Array | None = None

    @property
    def codebook(self) -> bool:
        """Whether codes are indices."""
        return self.codes.dtype == np.uint8

    def mapped(self, function: Callable[[Array], Array], axis: int) -> Compressed:
        """In another layout: `function` moves axes, of codes and of scales alike."""
        factors = self.factors
        if factors is not None and not self.codebook:
            factors = function(factors)
        return replace(self, codes=function(self.codes), factors=factors, axis=axis)

    def by_channel(self) -> bool:
        """Whether there are scales, one an output channel or one in all."""
        if self.factors is None or self.codebook:
            return False
        others = np.delete(self.factors.shape, self.axis)
        return bool((others == 1).all())


@dataclass(frozen=True)
class KernelWeight:
    """What a kernel reads for a compressed weight.

    Attributes:
        operands: Constants.
        encoding: Of the workload; empty to look at the first constant's.
        attributes: Further ones of the workload.
        scales: Multiplied behind the kernel, one a channel; None for none.
    """

    operands: tuple[Any, ...]
    encoding: str
    attributes: dict[str, Any]
    scales: Any | None


def find(view: FunctionView, table: ParameterTable, expr: Any) -> Compressed | None:
    """The compressed weight that an expression decodes; None for anything else."""
    value = view.definition(expr)
    if operator_name(value) == "expand_dims":
        inner = find(view, table, value.args[0])
        if inner is None:
            return None
        places = tuple(int(v) for v in value.attrs.axis)
        return inner.mapped(lambda a: np.expand_dims(a, places), inner.axis)
    if operator_name(value) != f"{PREFIX}decode" or not all(is_constant(a) for a in value.args):
        return None
    codes, *factors = value.args
    return Compressed(
        value_of(codes),
        value_of(factors[0]) if factors else None,
        attributes_of(value)["axis"],
        table.name_of(codes) or "weight",
        table.encoding_of(codes),
        value_of(factors[1]) if len(factors) > 1 else None,
    )


def kernel_weight(
    weight: Compressed, table: ParameterTable, operator: str, groups: int = 1
) -> KernelWeight:
    """The operands for a kernel of ``conv2d``, ``depthwise_conv2d`` or ``dense``."""
    name = weight.name
    if weight.factors is None:
        return KernelWeight((table.constant(weight.codes, name),), "", {}, None)
    if weight.codebook:
        operands = (
            table.constant(weight.codes, name),
            table.constant(weight.factors, f"{name}.factors"),
        )
        scales = None
        if weight.scales is not None:
            scales = table.constant(weight.scales, f"{name}.scale")
        return KernelWeight(operands, "codebook", {"codebooks": len(weight.factors)}, scales)
    codes = table.constant(weight.codes, name, weight.encoding)
    if weight.by_channel():
        scales = np.broadcast_to(
            weight.factors.astype(np.float32).reshape(-1), (weight.codes.shape[weight.axis],)
        )
        constant = table.constant(np.ascontiguousarray(scales), f"{name}.scale")
        return KernelWeight((codes,), "", {}, constant)
    inputs = 0 if operator == "dense" else 1
    group = weight.codes.shape[inputs] // weight.factors.shape[inputs]
    packing = Encoding.parse(weight.encoding).packing
    whole = packing is None or (
        group % packing.per_byte == 0
        and (groups == 1 or weight.codes.shape[inputs] % packing.per_byte == 0)
    )
    encoding = f"{(weight.encoding if whole else '') or 'int8'}/{group}"
    factors = table.constant(weight.factors, f"{name}.factors")
    return KernelWeight((codes, factors), encoding, {}, None)


def take(bb: Any, call: Any, table: ParameterTable, weight: Compressed) -> Any:
    """Rows of a compressed table, decoded as they are looked up."""
    columns = int(weight.codes.shape[1])
    name = "codebook" if weight.codebook else weight.encoding
    encoding = Encoding.parse(name)
    operands = [table.constant(gather.pack_rows(weight.codes, encoding), f"{weight.name}.packed")]
    if weight.factors is not None:
        operands.append(table.constant(weight.factors, f"{weight.name}.factors"))
    if weight.scales is not None:
        operands.append(table.constant(weight.scales, f"{weight.name}.scale"))
    clip = str(call.attrs.mode) == "clip"
    indices = call.args[1]
    scalar = not indices.ty.shape.values

    def compute(indices_of: Any, *tensors: Any) -> Any:
        places = indices_of
        if scalar:  # one row: as if there were a list of one index
            one = tirx.IntImm("int64", 1)
            places = te.compute((one,), lambda _: indices_of[()], name="index")
        found = gather.gather(places, tensors, encoding, columns, clip=clip)
        if not scalar:
            return found
        width = tirx.IntImm("int64", columns)
        return te.compute((width,), lambda i: found[0, i], name="row")

    return bb.call_te(
        compute, indices, *operands, primfunc_name_hint="take",
        primfunc_attrs={"op_pattern": INJECTIVE},
    )  # fmt: skip


__all__ = ["Compressed", "KernelWeight", "find", "kernel_weight", "take"]
