"""Quantize: a float32 Relax graph becomes one of integer operators, as a plan says.

The pass walks the plain graph (`compiler.compress.sites`) in order. An operator that the plan
gives int8 is computed on integers and gives the tensor that the plan names; others stay as they
are, between a dequantization and a quantization of their own. Every number that the integer
graph holds (multipliers, shifts, zero points, tables) is worked out here, once, by
`compiler.compress.reference`: targets only execute it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from compiler.compress import low_bits, reference
from compiler.compress.apply.facts import (
    HEAVY,
    along,
    clip_limits,
    clip_real,
    marked_name,
    scale_inputs,
)
from compiler.compress.apply.floats import sum_in_order
from compiler.compress.operators import call
from compiler.compress.plan import (
    FLOATS,
    LIMITS,
    WEIGHT_LIMIT,
    WEIGHT_LIMITS,
    CompressionPlan,
    OperatorPlan,
    TensorPlan,
    base,
)
from compiler.compress.sites import PlainGraph, Site
from compiler.compress.turned import turn
from compiler.errors import PlanError
from schedules.tvm_adapter import GenericConst, relax

Array = npt.NDArray[Any]


class Constants(Protocol):
    """Makes constants of the module and knows their names, as `ParameterTable` does."""

    def constant(self, value: Array, name: str, encoding: str = "") -> Any:
        """A constant that is known by a name, of codes that kernels store as `encoding` says."""

    def name_of(self, constant: Any) -> str | None:
        """The name of a constant."""


@dataclass(slots=True)
class Applied:
    """What the pass did, for the log and the report.

    Attributes:
        integer: Names of the operators that compute on integers.
        real: Names of the operators that stay in float32.
        borders: Conversions between float32 and integers that stand in the graph.
        shifts: Requantizations that are a shift alone.
        weights: Bytes of the weights as integers, by parameter.
    """

    integer: list[str] = field(default_factory=list)
    real: list[str] = field(default_factory=list)
    borders: int = 0
    shifts: int = 0
    weights: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """One line."""
        return (
            f"{len(self.integer)} operators on integers, {len(self.real)} in float32, "
            f"{self.borders} conversions between them"
        )


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What an operator computes before its one requantization.

    Attributes:
        bias: Real numbers, one a channel; None for none.
        low: Least real value of the result.
        high: Greatest.
        sites: The operators that are part of it.
    """

    bias: Array | None
    low: float
    high: float
    sites: tuple[Site, ...]


class Quantizer:
    """Builds the function again.

    Attributes:
        stored: Integer variables by the plan's name of the tensor.
        flags: Tensors of which only signs are read, as 0 and 1 for negative and positive.
        real: Expressions for the original variables, in float32.
        rows: Tensors quantized row by row at run time, by name: scales, and integers.
    """

    def __init__(
        self,
        graph: PlainGraph,
        constants: Constants,
        plan: CompressionPlan,
        handlers: Mapping[tuple[str, str], Handler],
    ) -> None:
        self.graph, self.constants, self.plan = graph, constants, plan
        self.sites = graph.by_name()
        self.builder = relax.BlockBuilder()
        self.stored: dict[str, Any] = {}
        self.flags: dict[str, Any] = {}
        self.packed: dict[tuple[str, int, float], Any] = {}
        self.real: dict[Any, Any] = {}
        self.rows: dict[str, tuple[Any, Any]] = {}
        self.applied = Applied()
        self.variables: dict[str, Any] = {}
        for variable, name in graph.names.items():
            self.variables.setdefault(name, variable)
        self.absorbed = {
            name
            for operator in plan.operators.values()
            if operator.precision not in FLOATS
            for name in operator.epilogue
        }
        self.handlers = handlers
        self.readers = graph.readers()
        self.sign_only: dict[str, bool] = {}

    def rewrite(self) -> Any:
        """The function on integers."""
        function, bb = self.graph.function, self.builder
        for parameter in function.params:
            self.real[parameter] = parameter
        attributes = dict(function.attrs.items()) if function.attrs is not None else {}
        attributes.pop("global_symbol", None)  # the builder sets it
        with bb.function("main", list(function.params), attrs=attributes):
            with bb.dataflow():
                sites = {site.variable: site for site in self.graph.sites}
                for block in function.body.blocks:
                    for binding in block.bindings:
                        site = sites.get(binding.var)
                        if site is not None:
                            self.visit(site)
                result = bb.emit_output(self.substitute(function.body.body))
            bb.emit_func_output(result)
        return bb.get()["main"]

    def visit(self, site: Site) -> None:
        """Build one operator."""
        operator = self.plan.operators.get(site.name)
        if site.name in self.absorbed:
            self.applied.integer.append(site.name)
            return
        if operator is None or operator.precision in FLOATS:
            if site.kind:
                self.applied.real.append(site.name)
            value = sum_in_order(self.substitute(site.value), site)
            precision = "float32" if operator is None else operator.precision
            if precision != "float32" and site.kind not in HEAVY:
                raise PlanError(
                    f"{site.kind or 'it'} has no form in {precision}",
                    where=site.name,
                    hint="only convolutions and products compute on numbers of 16 bits: give it "
                    "float32 in the plan",
                )
            name = marked_name(str(site.variable.name), precision)
            self.real[site.variable] = self.builder.emit(value, name)
            return
        handler = self.handlers.get((operator.precision, site.kind))
        if handler is None:
            raise self.error(site, f"{site.kind or 'it'} has no form in {operator.precision}")
        self.applied.integer.append(site.name)
        result = handler(self, site, operator)
        if operator.output in self.plan.tensors:
            self.stored[operator.output] = result
        elif self.only_signs_of(operator.output):
            self.flags[operator.output] = result
        else:
            self.real[self.variables[operator.output]] = result

    def emit(self, value: Any, site: Site) -> Any:
        """Bind an expression to a variable named as the site's."""
        return self.builder.emit(value, str(site.variable.name))

    def original(self, variable: Any) -> Any:
        """The first variable of a tensor that has several."""
        name = self.graph.names.get(variable)
        return variable if name is None else self.variables[name]

    def wide(self, variable: Any) -> Any:
        """A tensor in float32."""
        original = self.original(variable)
        if original not in self.real:
            name = self.graph.names[original]
            tensor = self.plan.tensors[name]
            self.applied.borders += 1
            self.real[original] = self.builder.emit(
                call(
                    "dequantize", self.stored[name], scale=tensor.scale,
                    zero_point=tensor.zero_point,
                ),
                str(getattr(original, "name", "x")),
            )  # fmt: skip
        return self.real[original]

    def narrow(self, name: str) -> Any:
        """A tensor of the plan as integers."""
        if name not in self.stored and base(name) in self.stored:
            self.stored[name] = self.narrowed(name)
        if name not in self.stored:
            tensor = self.plan.tensors[name]
            low, high = tensor.limits
            self.applied.borders += 1
            inverse = float(np.float32(1) / np.float32(tensor.scale))
            self.stored[name] = self.builder.emit(
                call(
                    "quantize", self.wide(self.variables[base(name)]), inverse=inverse,
                    zero_point=tensor.zero_point, low=low, high=high, dtype=tensor.dtype,
                )
            )  # fmt: skip
        return self.stored[name]

    def signs(self, name: str, axis: int, threshold: float = 0.0) -> Any:
        """The signs of a tensor, packed along an axis: 1 from the threshold on."""
        key = (name, axis, threshold)
        if key not in self.packed:
            zero: float
            if name in self.flags:
                data, zero = self.flags[name], 1
            elif name in self.plan.tensors:
                tensor = self.tensor(name)
                data, (low, high) = self.narrow(name), tensor.limits
                zero = reference.quantized_number(
                    threshold, tensor.scale, tensor.zero_point, low, high
                )
            else:
                data, zero = self.wide(self.variables[base(name)]), threshold
            self.packed[key] = self.builder.emit(call("sign", data, zero_point=zero, axis=axis))
        return self.packed[key]

    def only_signs_of(self, name: str) -> bool:
        """Whether integers give a tensor that no plan stores, and all that is read are signs."""
        if name not in self.sign_only:
            maker = next((o for o in self.plan.operators.values() if o.output == name), None)
            readers = [self.plan.operators.get(s.name) for s in self.readers.get(name, ())]
            self.sign_only[name] = (
                maker is not None
                and maker.precision in ("int8", "binary")
                and maker.weight is not None
                and name not in (*self.plan.tensors, *self.graph.outputs)
                and bool(readers)
                and all(
                    r is not None and r.precision == "binary" and r.sign_threshold == 0.0
                    for r in readers
                )
            )
        return self.sign_only[name]

    def smoothed(self, name: str) -> Array | None:
        """What the channels of a tensor are divided by; None for nothing."""
        found = (s for s in self.plan.smoothings if s.tensor == name)
        return next((np.asarray(s.factors, np.float64) for s in found), None)

    def narrowed(self, name: str) -> Any:
        """The form in 8 bits of a tensor that is stored in 16."""
        source, result = self.plan.tensors[base(name)], self.plan.tensors[name]
        ratio = float(source.scale) / result.scale
        factors = self.smoothed(name)
        if factors is not None:
            multipliers, shift = reference.fixed_point(ratio / factors)
            owner = base(name).partition(":")[0]
            low, high = result.limits
            value = call(
                "requantize", self.stored[base(name)],
                self.constants.constant(np.zeros(1, np.int32), f"{owner}.zero"),
                self.constants.constant(multipliers, f"{owner}.smooth"),
                shift=shift, zero_point=result.zero_point, low=low, high=high,
                dtype=result.dtype,
            )  # fmt: skip
            return self.builder.emit(value)
        try:
            (factor,), shift = reference.small_factors([ratio], reference.WIDE_FACTOR_BITS)
        except ValueError as error:
            raise PlanError(
                "its scales in 16 and in 8 bits are too far apart", where=name
            ) from error
        low, high = result.limits
        value = call(
            "rescale", self.stored[base(name)], zero_in=source.zero_point, factor=factor,
            shift=shift, zero_point=result.zero_point, low=low, high=high, dtype=result.dtype,
        )  # fmt: skip
        return self.builder.emit(value)

    def fixed(self, site: Site, constant: Any) -> tuple[Any, TensorPlan]:
        """A constant that an operator reads beside activations, in 16 bits."""
        value = np.from_dlpack(constant.value).astype(np.float64)
        largest = float(np.abs(value).max(initial=0.0)) or 1.0
        scale = float(np.float32(largest / LIMITS["int16"][1]))
        stored = np.clip(np.rint(value / scale), *LIMITS["int16"]).astype(np.int16)
        plan = TensorPlan("int16", scale, 0, "constant")
        return self.constants.constant(stored, f"{self.owner(site)}.constant"), plan

    def substitute(self, expr: Any) -> Any:
        """An expression of float32 on the new variables."""
        if isinstance(expr, relax.Var):
            return self.wide(expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.substitute(v) for v in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.substitute(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            arguments = [self.substitute(v) for v in expr.args]
            return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
        return expr

    def tensor(self, name: str) -> TensorPlan:
        """How the plan stores a tensor."""
        return self.plan.tensors[name]

    def error(self, site: Site, message: str) -> PlanError:
        """The error to raise for an operator that the plan asks too much of."""
        return PlanError(
            message,
            where=site.name,
            hint=f"keep it in float32: Quantize(keep=[{site.name!r}]), or edit the plan",
        )

    def weight(self, site: Site, operator: OperatorPlan) -> tuple[Array, Array]:
        """The weight as the plan stores it, int8, and the scales, one a channel."""
        real, plan = self.real_weight(site, operator), operator.weight
        if plan is None:
            raise AssertionError
        channels = real.shape[plan.axis]
        if len(plan.scales) not in (0, 1, channels):
            raise self.error(site, f"{len(plan.scales)} scales for {channels} channels")
        if plan.dtype in ("ternary", "binary"):
            stored, scales = low_bits.stored_weight(
                real, plan.dtype, plan.scales, plan.axis, tensor=plan.granularity == "tensor",
                method=plan.method,
            )  # fmt: skip
        else:
            stored = reference.quantize_weight(real, plan.scales, plan.axis, plan.low)
            limit = WEIGHT_LIMITS[plan.dtype]
            stored = stored if limit == WEIGHT_LIMIT else np.clip(stored, -limit, limit)
            scales = plan.scales
            if (packed := self.plan.roundings.get(site.name)) is not None:
                exact = real / along(np.asarray(scales, np.float64), real.ndim, plan.axis)
                try:
                    stored = turn(stored, exact, packed, limit)
                except ValueError as error:
                    raise self.error(site, str(error)) from error
        return stored, np.broadcast_to(np.asarray(scales, np.float64), (channels,))

    def real_weight(self, site: Site, operator: OperatorPlan) -> Array:
        """The weight as real numbers, equalized."""
        constant = site.value.args[1]
        if not isinstance(constant, GenericConst) or operator.weight is None:
            raise self.error(site, "it has no constant weight with a plan of its own")
        weight = np.from_dlpack(constant.value).astype(np.float64)
        axis = operator.weight.axis
        for equalization in self.plan.equalizations:
            factors = np.asarray(equalization.factors, np.float64)
            if equalization.first == site.name:
                weight = weight / along(factors, weight.ndim, axis)
            if equalization.second == site.name:
                weight = scale_inputs(weight, factors, site)
        for smoothing in self.plan.smoothings:
            if site.name in smoothing.readers:
                if len(smoothing.factors) != weight.shape[0] or site.kind != "matmul":
                    raise self.error(site, "the factors of its input do not fit")
                weight = scale_inputs(weight, np.asarray(smoothing.factors, np.float64), site)
        return weight

    def epilogue(self, site: Site, operator: OperatorPlan, channels: int) -> Epilogue:
        """What the operators after it add and clip."""
        bias: Array | None = None
        low, high = -math.inf, math.inf
        sites = tuple(self.sites[name] for name in operator.epilogue)
        for step in sites:
            if step.kind == "add":
                constants = [a for a in step.value.args if isinstance(a, GenericConst)]
                if len(constants) != 1 or low > -math.inf or high < math.inf:
                    raise self.error(step, "it is no bias in front of an activation")
                added = np.from_dlpack(constants[0].value).astype(np.float64).reshape(-1)
                if added.size not in (1, channels):
                    raise self.error(step, f"a bias of {added.size} for {channels} channels")
                bias = np.broadcast_to(added, (channels,)) + (0 if bias is None else bias)
            else:
                below, above = clip_limits(step)
                low, high = max(low, below), min(high, above)
        for equalization in self.plan.equalizations:
            if equalization.first == site.name and bias is not None:
                bias = bias / np.asarray(equalization.factors, np.float64)
        correction = self.plan.bias_corrections.get(site.name)
        if correction is not None:
            bias = np.asarray(correction, np.float64) + (0 if bias is None else bias)
        return Epilogue(bias, low, high, sites)

    def finish(
        self,
        site: Site,
        operator: OperatorPlan,
        sums: Any,
        scales: Array,
        axis: int,
        weight: Array,
        weight_axis: int,
    ) -> Any:
        """Bias, requantization and clipping behind int32 sums of a weighted operator.

        Args:
            site: The operator.
            operator: Its plan.
            sums: The int32 tensor.
            scales: Real value of one in the sums, a channel.
            axis: Axis of channels in the sums, counted from the last one: -1, -2, ...
            weight: The int8 weight.
            weight_axis: Its axis of output channels.
        """
        source = self.tensor(operator.inputs[0])
        channels = len(scales)
        epilogue = self.epilogue(site, operator, channels)
        others = tuple(i for i in range(weight.ndim) if i != weight_axis % weight.ndim)
        offset = -source.zero_point * weight.astype(np.int64).sum(axis=others)
        if epilogue.bias is not None:
            bias = np.rint(epilogue.bias / scales)
            if np.abs(bias).max() > 2.0**40:
                raise self.error(site, "its bias is too large for its scale")
            offset = offset + bias.astype(np.int64)
        bound = reference.sum_bound(weight, offset, weight_axis, source.dtype)
        if bound.max() > reference.INT32.max:
            raise self.error(
                site,
                f"its sums of {weight.size // channels} products with this bias may need more "
                "than 32 bits",
            )
        return self.requantize(site, operator, sums, scales, axis, offset, bound, epilogue)

    def requantize(
        self,
        site: Site,
        operator: OperatorPlan,
        sums: Any,
        scales: Array,
        axis: int,
        offset: Array,
        bound: Array,
        epilogue: Epilogue,
    ) -> Any:
        """int32 sums to the plan's tensor, or to float32 where it has none; see `finish`.

        Args:
            site: The operator.
            operator: Its plan.
            sums: The int32 tensor.
            scales: Real value of one in the sums, a channel.
            axis: Axis of channels in the sums, counted from the last one.
            offset: Added to the sums first, a channel.
            bound: Greatest magnitude of sum and offset together, a channel.
            epilogue: Clipping that comes with it.
        """
        shape = [len(scales)] + [1] * (-axis - 1)
        owner = self.owner(site)
        bias = self.constants.constant(offset.astype(np.int32).reshape(shape), f"{owner}.bias")
        result = self.plan.tensors.get(operator.output)
        if self.only_signs_of(operator.output):
            low, high = int(epilogue.low >= 0.0), int(epilogue.high >= 0.0)
            value = call(
                "requantize", sums, bias, shift=0, zero_point=1, low=low, high=max(low, high),
                dtype="uint8",
            )  # fmt: skip
            return self.emit(value, site)
        if result is None:
            factor = scales.astype(np.float32).reshape(shape)
            constant = self.constants.constant(factor, f"{owner}.scale")
            value = self.emit(call("sums_to_float", sums, bias, constant), site)
            self.applied.borders += 1
            if epilogue.low > -math.inf or epilogue.high < math.inf:
                value = self.emit(clip_real(value, epilogue.low, epilogue.high), site)
            return value
        low, high = self.limits(result, epilogue)
        ratio = scales / result.scale
        common = {
            "zero_point": result.zero_point, "low": low, "high": high, "dtype": result.dtype,
        }  # fmt: skip
        if (bound * ratio).max() > 2.0**30:
            raise self.error(site, "its results are too large for the scale of its output")
        shift = reference.power_of_two(ratio)
        if shift is not None and bound.max() + (1 << shift) // 2 <= reference.INT32.max:
            self.applied.shifts += 1
            return self.emit(call("requantize", sums, bias, shift=shift, **common), site)
        multipliers, shift = reference.fixed_point(ratio)
        constant = self.constants.constant(multipliers.reshape(shape), f"{owner}.scale")
        return self.emit(call("requantize", sums, bias, constant, shift=shift, **common), site)

    def limits(self, tensor: TensorPlan, epilogue: Epilogue) -> tuple[int, int]:
        """Least and greatest stored value of a result."""
        least, greatest = tensor.limits
        low, high = (
            reference.quantized_number(v, tensor.scale, tensor.zero_point, least, greatest)
            for v in (epilogue.low, epilogue.high)
        )
        return low, high

    def owner(self, site: Site) -> str:
        """What the constants of an operator are named after: its module path."""
        return site.name.partition(":")[0] or site.name.partition(":")[2]

    def result(self, site: Site, operator: OperatorPlan) -> TensorPlan:
        """How the plan stores what an operator gives, which has to be integers.

        Raises:
            PlanError: It is none of the plan's tensors.
        """
        tensor = self.plan.tensors.get(operator.output)
        if tensor is None:
            raise self.error(site, f"{site.kind} on integers has to give integers")
        return tensor

    def bounds(self, site: Site, operator: OperatorPlan) -> dict[str, Any]:
        """Attributes of the result: zero point, limits (clipping included) and dtype."""
        tensor = self.result(site, operator)
        epilogue = self.epilogue(site, operator, 1)
        if epilogue.bias is not None:
            raise self.error(site, f"{site.kind} on integers takes no bias")
        low, high = self.limits(tensor, epilogue)
        return {"zero_point": tensor.zero_point, "low": low, "high": high, "dtype": tensor.dtype}

    def factors(
        self, site: Site, sources: tuple[TensorPlan, ...], result: TensorPlan
    ) -> tuple[tuple[int, ...], int]:
        """Small integer factors and a shift that bring scales to that of a result."""
        wide = any(s.dtype == "int16" for s in sources)
        bits = reference.WIDE_FACTOR_BITS if wide else reference.FACTOR_BITS
        try:
            return reference.small_factors([float(s.scale) / result.scale for s in sources], bits)
        except ValueError:
            raise self.error(site, "its scales are too far from that of its result") from None

    def rescaled(
        self,
        site: Site,
        name: str,
        result: TensorPlan,
        *,
        source: TensorPlan | None = None,
        **limits: int,
    ) -> Any:
        """A tensor at the scale of another one; as it is where they are the same.

        Args:
            site: The operator.
            name: The tensor.
            result: What it becomes.
            source: What its stored values mean, if not what the plan says.
            limits: Least and greatest stored value, ``low`` and ``high``.
        """
        source = source or self.tensor(name)
        data = self.narrow(name)
        least, greatest = result.limits
        low, high = limits.get("low", least), limits.get("high", greatest)
        same = (source.scale, source.zero_point, source.dtype) == (
            result.scale, result.zero_point, result.dtype,
        )  # fmt: skip
        if same and (low, high) == (least, greatest):
            return data
        (factor,), shift = self.factors(site, (source,), result)
        value = call(
            "rescale", data, zero_in=source.zero_point, factor=factor, shift=shift,
            zero_point=result.zero_point, low=low, high=high, dtype=result.dtype,
        )  # fmt: skip
        return self.emit(value, site)


#: Builds one operator in one precision: gives integers where the plan has a tensor for its
#: output, else float32.
Handler: TypeAlias = "Callable[[Quantizer, Site, OperatorPlan], Any]"

__all__ = ["Applied", "Constants", "Epilogue", "Handler", "Quantizer"]
