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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from compiler.compress import reference
from compiler.compress.operators import call
from compiler.compress.plan import CompressionPlan, OperatorPlan, TensorPlan
from compiler.compress.sites import PlainGraph, Site, plain_graph
from compiler.errors import PlanError
from schedules.tvm_adapter import GenericConst, IRModule, relax, tirx

Array = npt.NDArray[Any]

#: Operators that move or choose elements and give the same on integers.
MOVES = frozenset(
    {"reshape", "flatten", "squeeze", "expand_dims", "permute_dims", "strided_slice",
     "broadcast_to", "nn.dropout", "image.resize2d", "nn.max_pool2d"}
)  # fmt: skip


def _erf_gelu(x: float) -> float:
    return x / 2 * (1 + math.erf(x / math.sqrt(2)))


def _tanh_gelu(x: float) -> float:
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


#: Functions of one number that become tables of 256 entries.
TABLES: Mapping[str, Callable[[float], float]] = {
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "nn.silu": lambda x: x * _sigmoid(x),
    "nn.gelu": _erf_gelu,
    "nn.gelu_tanh": _tanh_gelu,
    "erf": math.erf,
}


class Constants(Protocol):
    """Makes constants of the module and knows their names, as `ParameterTable` does."""

    def constant(self, value: Array, name: str) -> Any:
        """A constant that is known by a name."""

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


def apply_plan(
    module: IRModule, constants: Constants, plan: CompressionPlan
) -> tuple[IRModule, Applied]:
    """Apply the pass to `main` of a plain graph, whose parameters are constants.

    Raises:
        PlanError: The plan asks for what the operator cannot do, or its sums would have more
            than 32 bits.
    """
    graph = plain_graph(module, constants.name_of)
    plan.check_operators(site.name for site in graph.sites)
    quantizer = _Quantizer(graph, constants, plan)
    function = quantizer.rewrite()
    result = module.clone()
    result.update_func(module.get_global_var("main"), function)
    return relax.transform.DeadCodeElimination(["main"])(result), quantizer.applied


@dataclass(frozen=True, slots=True)
class _Epilogue:
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


class _Quantizer:
    """Builds the function again.

    Attributes:
        stored: Integer variables by the plan's name of the tensor.
        real: Expressions for the original variables, in float32.
    """

    def __init__(self, graph: PlainGraph, constants: Constants, plan: CompressionPlan) -> None:
        self.graph, self.constants, self.plan = graph, constants, plan
        self.sites = graph.by_name()
        self.builder = relax.BlockBuilder()
        self.stored: dict[str, Any] = {}
        self.real: dict[Any, Any] = {}
        self.applied = Applied()
        self.variables: dict[str, Any] = {}
        for variable, name in graph.names.items():
            self.variables.setdefault(name, variable)
        self.absorbed = {
            name
            for operator in plan.operators.values()
            if operator.precision == "int8"
            for name in operator.epilogue
        }
        self.handlers: dict[str, Callable[[Site, OperatorPlan], Any]] = {
            "nn.conv1d": self._convolution,
            "nn.conv2d": self._convolution,
            "matmul": self._matmul,
            "add": self._add,
            "multiply": self._multiply,
            "concat": self._concat,
            "nn.avg_pool2d": self._average,
            "nn.adaptive_avg_pool2d": self._average,
            "mean": self._average,
            "nn.relu": self._clip,
            "clip": self._clip,
            "nn.pad": self._pad,
            **dict.fromkeys(MOVES, self._move),
            **dict.fromkeys(TABLES, self._table),
        }

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
                            self._site(site)
                result = bb.emit_output(self._substitute(function.body.body))
            bb.emit_func_output(result)
        return bb.get()["main"]

    def _site(self, site: Site) -> None:
        operator = self.plan.operators.get(site.name)
        if site.name in self.absorbed:
            self.applied.integer.append(site.name)
            return
        if operator is None or operator.precision != "int8":
            if site.kind:
                self.applied.real.append(site.name)
            value = self._substitute(site.value)
            self.real[site.variable] = self._emit(value, site)
            return
        handler = self.handlers.get(site.kind)
        if handler is None:
            raise self._error(site, f"{site.kind or 'it'} has no integer form")
        self.applied.integer.append(site.name)
        result = handler(site, operator)
        if operator.output in self.plan.tensors:
            self.stored[operator.output] = result
        else:
            self.real[self.variables[operator.output]] = result

    # Variables

    def _emit(self, value: Any, site: Site) -> Any:
        return self.builder.emit(value, str(site.variable.name))

    def _original(self, variable: Any) -> Any:
        """The first variable of a tensor that has several."""
        name = self.graph.names.get(variable)
        return variable if name is None else self.variables[name]

    def _wide(self, variable: Any) -> Any:
        """A tensor in float32."""
        original = self._original(variable)
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

    def _narrow(self, name: str) -> Any:
        """A tensor of the plan as integers."""
        if name not in self.stored:
            tensor = self.plan.tensors[name]
            low, high = tensor.limits
            self.applied.borders += 1
            inverse = float(np.float32(1) / np.float32(tensor.scale))
            self.stored[name] = self.builder.emit(
                call(
                    "quantize", self._wide(self.variables[name]), inverse=inverse,
                    zero_point=tensor.zero_point, low=low, high=high, dtype=tensor.dtype,
                )
            )  # fmt: skip
        return self.stored[name]

    def _substitute(self, expr: Any) -> Any:
        """An expression of float32 on the new variables."""
        if isinstance(expr, relax.Var):
            return self._wide(expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._substitute(v) for v in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._substitute(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            arguments = [self._substitute(v) for v in expr.args]
            return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
        return expr

    def _tensor(self, name: str) -> TensorPlan:
        return self.plan.tensors[name]

    def _error(self, site: Site, message: str) -> PlanError:
        return PlanError(
            message,
            where=site.name,
            hint=f"keep it in float32: Quantize(keep=[{site.name!r}]), or edit the plan",
        )

    # Weights and requantization

    def _weight(self, site: Site, operator: OperatorPlan) -> tuple[Array, Array]:
        """The weight as real numbers, equalized, and the scales, one a channel."""
        constant = site.value.args[1]
        if not isinstance(constant, GenericConst) or operator.weight is None:
            raise self._error(site, "it has no constant weight with a plan of its own")
        weight = np.from_dlpack(constant.value).astype(np.float64)
        axis = operator.weight.axis
        for equalization in self.plan.equalizations:
            factors = np.asarray(equalization.factors, np.float64)
            if equalization.first == site.name:
                weight = weight / _along(factors, weight.ndim, axis)
            if equalization.second == site.name:
                weight = _scale_inputs(weight, factors, site)
        channels = weight.shape[axis]
        scales = np.asarray(operator.weight.scales, np.float64)
        if len(scales) not in (1, channels):
            raise self._error(site, f"{len(scales)} scales for {channels} channels")
        return weight, np.broadcast_to(scales, (channels,))

    def _epilogue(self, site: Site, operator: OperatorPlan, channels: int) -> _Epilogue:
        """What the operators after it add and clip."""
        bias: Array | None = None
        low, high = -math.inf, math.inf
        sites = tuple(self.sites[name] for name in operator.epilogue)
        for step in sites:
            if step.kind == "add":
                constants = [a for a in step.value.args if isinstance(a, GenericConst)]
                if len(constants) != 1 or low > -math.inf or high < math.inf:
                    raise self._error(step, "it is no bias in front of an activation")
                added = np.from_dlpack(constants[0].value).astype(np.float64).reshape(-1)
                if added.size not in (1, channels):
                    raise self._error(step, f"a bias of {added.size} for {channels} channels")
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
        return _Epilogue(bias, low, high, sites)

    def _finish(
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
        source = self._tensor(operator.inputs[0])
        channels = len(scales)
        epilogue = self._epilogue(site, operator, channels)
        others = tuple(i for i in range(weight.ndim) if i != weight_axis % weight.ndim)
        offset = -source.zero_point * weight.astype(np.int64).sum(axis=others)
        if epilogue.bias is not None:
            bias = np.rint(epilogue.bias / scales)
            if np.abs(bias).max() > 2.0**40:
                raise self._error(site, "its bias is too large for its scale")
            offset = offset + bias.astype(np.int64)
        bound = reference.sum_bound(weight, offset, weight_axis, source.dtype)
        if bound.max() > reference.INT32.max:
            raise self._error(
                site,
                f"its sums of {weight.size // channels} products with this bias may need more "
                "than 32 bits",
            )
        return self._requantize(site, operator, sums, scales, axis, offset, bound, epilogue)

    def _requantize(
        self,
        site: Site,
        operator: OperatorPlan,
        sums: Any,
        scales: Array,
        axis: int,
        offset: Array,
        bound: Array,
        epilogue: _Epilogue,
    ) -> Any:
        shape = [len(scales)] + [1] * (-axis - 1)
        owner = self._owner(site)
        bias = self.constants.constant(offset.astype(np.int32).reshape(shape), f"{owner}.bias")
        result = self.plan.tensors.get(operator.output)
        if result is None:
            factor = scales.astype(np.float32).reshape(shape)
            constant = self.constants.constant(factor, f"{owner}.scale")
            value = self._emit(call("sums_to_float", sums, bias, constant), site)
            self.applied.borders += 1
            if epilogue.low > -math.inf or epilogue.high < math.inf:
                value = self._emit(_clip_real(value, epilogue.low, epilogue.high), site)
            return value
        low, high = self._limits(result, epilogue)
        ratio = scales / result.scale
        common = {
            "zero_point": result.zero_point, "low": low, "high": high, "dtype": result.dtype,
        }  # fmt: skip
        if (bound * ratio).max() > 2.0**30:
            raise self._error(site, "its results are too large for the scale of its output")
        shift = reference.power_of_two(ratio)
        if shift is not None and bound.max() + (1 << shift) // 2 <= reference.INT32.max:
            self.applied.shifts += 1
            return self._emit(call("requantize", sums, bias, shift=shift, **common), site)
        multipliers, shift = reference.fixed_point(ratio)
        constant = self.constants.constant(multipliers.reshape(shape), f"{owner}.scale")
        return self._emit(call("requantize", sums, bias, constant, shift=shift, **common), site)

    def _limits(self, tensor: TensorPlan, epilogue: _Epilogue) -> tuple[int, int]:
        """Least and greatest stored value of a result."""
        least, greatest = tensor.limits
        low, high = (
            reference.quantized_number(v, tensor.scale, tensor.zero_point, least, greatest)
            for v in (epilogue.low, epilogue.high)
        )
        return low, high

    def _owner(self, site: Site) -> str:
        return site.name.partition(":")[0] or site.name.partition(":")[2]

    # Operators with weights

    def _convolution(self, site: Site, operator: OperatorPlan) -> Any:
        real, scales = self._weight(site, operator)
        if operator.weight is None:
            raise AssertionError
        source = self._tensor(operator.inputs[0])
        stored = reference.quantize_weight(real, tuple(scales), 0)
        data = self._narrow(operator.inputs[0])
        a = site.value.attrs
        spatial = stored.ndim - 2
        padding = _symmetric(a.padding, spatial)
        if any(padding):
            width = [0] * 4
            for i in range(spatial):
                width += [padding[i], padding[spatial + i]]
            data = self.builder.emit(relax.op.nn.pad(data, width, "constant", source.zero_point))
        weight = self.constants.constant(stored, operator.weight.parameter)
        self.applied.weights[operator.weight.parameter] = stored.nbytes
        function = relax.op.nn.conv2d if spatial == 2 else relax.op.nn.conv1d
        sums = self._emit(
            function(
                data, weight, a.strides, [0] * (2 * spatial), a.dilation, int(a.groups),
                data_layout=a.data_layout, kernel_layout=a.kernel_layout,
                out_layout=a.out_layout, out_dtype="int32",
            ),
            site,
        )  # fmt: skip
        return self._finish(site, operator, sums, source.scale * scales, -1 - spatial, stored, 0)

    def _matmul(self, site: Site, operator: OperatorPlan) -> Any:
        if operator.weight is None:
            return self._product(site, operator)
        real, scales = self._weight(site, operator)
        if real.ndim != 2 or operator.weight.axis != 1:
            raise self._error(site, "its weight is no matrix with output channels last")
        stored = reference.quantize_weight(real, tuple(scales), 1)
        weight = self.constants.constant(stored, operator.weight.parameter)
        self.applied.weights[operator.weight.parameter] = stored.nbytes
        data = self._narrow(operator.inputs[0])
        sums = self._emit(relax.op.matmul(data, weight, out_dtype="int32"), site)
        source = self._tensor(operator.inputs[0])
        return self._finish(site, operator, sums, source.scale * scales, -1, stored, 1)

    def _product(self, site: Site, operator: OperatorPlan) -> Any:
        """A product of two activations, the right one symmetric."""
        left, right = (self._tensor(name) for name in operator.inputs)
        if left.zero_point or right.zero_point or right.dtype != "int8":
            raise self._error(
                site,
                "a product of two activations needs zero points of 0 and int8 on the right side",
            )
        a, b = (self._narrow(name) for name in operator.inputs)
        length = _known(a.ty.shape.values[-1]) or 0
        largest = 255 if left.dtype == "uint8" else 128
        bound = np.asarray([float(length) * largest * 128])
        if not length or bound[0] > reference.INT32.max:
            raise self._error(site, f"its sums of {length or 'unknown many'} products may need "
                              "more than 32 bits")  # fmt: skip
        sums = self._emit(relax.op.matmul(a, b, out_dtype="int32"), site)
        scales = np.asarray([float(left.scale) * right.scale])
        epilogue = self._epilogue(site, operator, 1)
        if epilogue.bias is not None:
            raise self._error(site, "a product of two activations takes no bias")
        return self._requantize(
            site, operator, sums, scales, -1, np.zeros(1, np.int64), bound, epilogue
        )

    # Operators between tensors

    def _result(self, site: Site, operator: OperatorPlan) -> TensorPlan:
        tensor = self.plan.tensors.get(operator.output)
        if tensor is None:
            raise self._error(site, f"{site.kind} on integers has to give integers")
        return tensor

    def _bounds(self, site: Site, operator: OperatorPlan) -> dict[str, Any]:
        """Attributes of the result: zero point, limits (clipping included) and dtype."""
        tensor = self._result(site, operator)
        epilogue = self._epilogue(site, operator, 1)
        if epilogue.bias is not None:
            raise self._error(site, f"{site.kind} on integers takes no bias")
        low, high = self._limits(tensor, epilogue)
        return {"zero_point": tensor.zero_point, "low": low, "high": high, "dtype": tensor.dtype}

    def _add(self, site: Site, operator: OperatorPlan) -> Any:
        names = self._two(site, operator)
        a, b = (self._tensor(name) for name in names)
        bounds, result = self._bounds(site, operator), self._result(site, operator)
        (left, right), shift = self._factors(site, (a.scale, b.scale), result.scale)
        value = call(
            "add", *(self._narrow(n) for n in names), zero_a=a.zero_point, factor_a=left,
            zero_b=b.zero_point, factor_b=right, shift=shift, **bounds,
        )  # fmt: skip
        return self._emit(value, site)

    def _multiply(self, site: Site, operator: OperatorPlan) -> Any:
        names = self._two(site, operator)
        a, b = (self._tensor(name) for name in names)
        bounds, result = self._bounds(site, operator), self._result(site, operator)
        ratio = float(a.scale) * b.scale / result.scale
        if ratio * 2.0**16 > 2.0**30:
            raise self._error(site, "its results are too large for the scale of its output")
        multiplier, shift = reference.fixed_point([ratio])
        value = call(
            "multiply", *(self._narrow(n) for n in names), zero_a=a.zero_point,
            zero_b=b.zero_point, multiplier=int(multiplier[0]), shift=shift, **bounds,
        )  # fmt: skip
        return self._emit(value, site)

    def _two(self, site: Site, operator: OperatorPlan) -> tuple[str, str]:
        if len(operator.inputs) != 2:
            raise self._error(site, f"{site.kind} on integers needs two activations")
        return operator.inputs[0], operator.inputs[1]

    def _factors(
        self, site: Site, scales: tuple[float, ...], result: float
    ) -> tuple[tuple[int, ...], int]:
        try:
            return reference.small_factors([float(s) / result for s in scales])
        except ValueError:
            raise self._error(site, "its scales are too far from that of its result") from None

    def _rescaled(self, site: Site, name: str, result: TensorPlan, **limits: int) -> Any:
        """A tensor at the scale of another one; as it is where they are the same."""
        source = self._tensor(name)
        data = self._narrow(name)
        least, greatest = result.limits
        low, high = limits.get("low", least), limits.get("high", greatest)
        same = (source.scale, source.zero_point, source.dtype) == (
            result.scale, result.zero_point, result.dtype,
        )  # fmt: skip
        if same and (low, high) == (least, greatest):
            return data
        (factor,), shift = self._factors(site, (source.scale,), result.scale)
        value = call(
            "rescale", data, zero_in=source.zero_point, factor=factor, shift=shift,
            zero_point=result.zero_point, low=low, high=high, dtype=result.dtype,
        )  # fmt: skip
        return self._emit(value, site)

    def _clip(self, site: Site, operator: OperatorPlan) -> Any:
        bounds, result = self._bounds(site, operator), self._result(site, operator)
        below, above = clip_limits(site)
        low, high = self._limits(result, _Epilogue(None, below, above, ()))
        return self._rescaled(
            site, operator.inputs[0], result, low=max(low, bounds["low"]),
            high=min(high, bounds["high"]),
        )  # fmt: skip

    def _concat(self, site: Site, operator: OperatorPlan) -> Any:
        fields = site.value.args[0]
        if not isinstance(fields, relax.Tuple) or len(operator.inputs) != len(fields.fields):
            raise self._error(site, "it does not concatenate the plan's tensors")
        result = self._result(site, operator)
        parts = [self._rescaled(site, name, result) for name in operator.inputs]
        return self._emit(relax.op.concat(parts, site.value.attrs.axis), site)

    def _pad(self, site: Site, operator: OperatorPlan) -> Any:
        a = site.value.attrs
        result = self._result(site, operator)
        if a.pad_mode != "constant":
            raise self._error(site, f"padding by {a.pad_mode} has no integer form")
        fill = reference.quantized_number(
            float(a.pad_value), result.scale, result.zero_point, *result.limits
        )
        data = self._rescaled(site, operator.inputs[0], result)
        width = [int(v) for v in a.pad_width]
        return self._emit(relax.op.nn.pad(data, width, "constant", fill), site)

    def _move(self, site: Site, operator: OperatorPlan) -> Any:
        if site.kind == "image.resize2d" and str(site.value.attrs.method) != "nearest_neighbor":
            raise self._error(site, "only nearest neighbours are resized on integers")
        first, *rest = site.value.args
        if not isinstance(first, relax.Var):
            raise self._error(site, f"{site.kind} of more than one tensor has no integer form")
        result = self._result(site, operator)
        data = self._rescaled(site, operator.inputs[0], result)
        value = site.value
        moved = relax.Call(value.op, [data, *rest], value.attrs, value.ty_args)
        return self._emit(moved, site)

    def _table(self, site: Site, operator: OperatorPlan) -> Any:
        source, result = self._tensor(operator.inputs[0]), self._result(site, operator)
        table = reference.lookup_table(
            TABLES[site.kind],
            (source.dtype, source.scale, source.zero_point),
            (result.dtype, result.scale, result.zero_point),
        )
        bounds = self._bounds(site, operator)
        table = np.clip(table, bounds["low"], bounds["high"])
        constant = self.constants.constant(table, f"{self._owner(site)}.table")
        value = call("lookup", self._narrow(operator.inputs[0]), constant, dtype=result.dtype)
        return self._emit(value, site)

    def _average(self, site: Site, operator: OperatorPlan) -> Any:
        """Averages as sums over windows (a depthwise kernel of ones), then requantized."""
        data = self._narrow(operator.inputs[0])
        source = self._tensor(operator.inputs[0])
        shape = [_known(v) for v in data.ty.shape.values]
        window = average_window(site, shape)
        if window is None:
            raise self._error(site, "only averages over equal windows of images are on integers")
        kernel, strides, padding = window
        if any(padding):
            width = [0, 0, 0, 0, padding[0], padding[2], padding[1], padding[3]]
            data = self.builder.emit(relax.op.nn.pad(data, width, "constant", source.zero_point))
        channels = shape[1] or 0
        ones = self.constants.constant(
            np.ones((channels, 1, *kernel), np.int8), f"{self._owner(site)}.ones"
        )
        sums = self._emit(
            relax.op.nn.conv2d(data, ones, strides, 0, 1, channels, out_dtype="int32"), site
        )
        count = kernel[0] * kernel[1]
        scales = np.asarray([float(source.scale) / count])
        offset = np.asarray([-source.zero_point * count], np.int64)
        bound = np.asarray([512.0 * count])
        if bound[0] > reference.INT32.max:
            raise self._error(site, f"sums of {count} elements may need more than 32 bits")
        epilogue = self._epilogue(site, operator, 1)
        pooled = self._requantize(site, operator, sums, scales, -1, offset, bound, epilogue)
        wanted = site.value.ty.shape.values
        if len(wanted) == len(pooled.ty.shape.values):
            return pooled
        return self._emit(relax.op.reshape(pooled, list(wanted)), site)


def clip_limits(site: Site) -> tuple[float, float]:
    """Least and greatest real value behind an activation that only clips.

    Raises:
        PlanError: It does something else, or its limits are not numbers.
    """
    if site.kind == "nn.relu":
        return 0.0, math.inf
    if site.kind == "nn.relu6":
        return 0.0, 6.0
    if site.kind == "clip":
        low, high = (_number(v) for v in site.value.args[1:3])
        if low is not None and high is not None:
            return low, high
    raise PlanError(
        f"{site.kind} only clips between known numbers if it is a clip or relu",
        where=site.name,
        hint="take it out of the epilogue in the plan",
    )


def _clip_real(value: Any, low: float, high: float) -> Any:
    if low == 0.0 and high == math.inf:
        return relax.op.nn.relu(value)
    limits = (max(low, -3.4028234663852886e38), min(high, 3.4028234663852886e38))
    return relax.op.clip(value, *limits)


def average_window(
    site: Site, shape: list[int | None]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]] | None:
    """Kernel, strides and padding of an average over windows of an image, all of one size."""
    if len(shape) != 4 or any(v is None for v in shape[1:]):
        return None
    a = site.value.attrs
    height, width = int(shape[2] or 0), int(shape[3] or 0)
    if site.kind == "mean":
        axes = {int(v) % 4 for v in a.axis} if a.axis is not None else set()
        return ((height, width), (1, 1), (0, 0, 0, 0)) if axes == {2, 3} else None
    if site.kind == "nn.adaptive_avg_pool2d":
        if a.layout != "NCHW" or a.output_size is None:
            return None
        out = [int(v) for v in a.output_size] * 2
        if height % out[0] or width % out[1]:
            return None
        kernel = (height // out[0], width // out[1])
        return kernel, kernel, (0, 0, 0, 0)
    top, left, bottom, right = _symmetric(a.padding, 2)
    kernel = (int(a.pool_size[0]), int(a.pool_size[-1]))
    if a.layout != "NCHW" or a.ceil_mode or any(int(v) != 1 for v in a.dilation):
        return None
    if any((top, left, bottom, right)) and not a.count_include_pad:
        return None
    return kernel, (int(a.strides[0]), int(a.strides[-1])), (top, left, bottom, right)


def _symmetric(padding: Any, spatial: int) -> list[int]:
    """Padding before and after each spatial axis: all before, then all after."""
    values = [int(v) for v in padding]
    if len(values) == 1:
        return values * (2 * spatial)
    return values * 2 if len(values) == spatial else values


def _along(values: Array, rank: int, axis: int) -> Array:
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _scale_inputs(weight: Array, factors: Array, site: Site) -> Array:
    """A weight whose inputs are scaled by factors, one an input channel."""
    if site.kind == "matmul":
        return weight * factors[:, None]
    groups = int(site.value.attrs.groups)
    inner = weight.shape[1]
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    shaped = factors.reshape(groups, 1, inner, *([1] * (weight.ndim - 2)))
    return np.asarray((grouped * shaped).reshape(weight.shape))


def _known(extent: Any) -> int | None:
    return int(extent) if isinstance(extent, (int, tirx.IntImm)) else None


def _number(expr: Any) -> float | None:
    """The number in a scalar expression, None if it is not known."""
    value = expr
    while not isinstance(value, (int, float)):
        value = getattr(value, "value", None)
        if value is None:
            return None
    return float(value)


__all__ = ["MOVES", "TABLES", "Applied", "Constants", "apply_plan", "average_window", "clip_limits"]
