"""Random integer operators, compiled through the whole pipeline and compared with the reference.

A case is one operator with its epilogue on shapes, constants and limits of its own. Several
cases share a module, each with its own input and output, so that building costs less.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.build import build
from compiler.compress import reference, rows
from compiler.compress.interpret import interpret
from compiler.compress.operators import call
from compiler.lower import lower
from compiler.lower.parameters import ParameterTable
from compiler.runtime import Executor
from compiler.stages import Imported, StageLog, TensorSpec
from schedules.tvm_adapter import IRModule, relax
from targets import TargetSpec

Array = np.ndarray[Any, Any]
#: Adds a case's operators, given the block builder and its inputs; returns its results.
Emit = Callable[[Any, list[Any]], list[Any]]
DTYPES = ("uint8", "int8")
#: With the wider one of sums that are added up or normalized next.
WIDE = (*DTYPES, "int16", "int16")


@dataclass(frozen=True)
class Case:
    """One operator.

    Attributes:
        text: What it is, for a failing test.
        inputs: Shape and dtype of each input.
        emit: Adds it to a module.
    """

    text: str
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    emit: Emit


class Maker:
    """Makes cases from a source of random numbers, which hypothesis may control."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.table = ParameterTable()
        self.numpy = np.random.default_rng(source.randrange(2**32))

    def case(self, kind: str | None = None) -> Case:
        """A random case, perhaps of a kind of `KINDS`."""
        case: Case = getattr(self, f"_{kind or self.source.choice(KINDS)}")()
        return case

    # Parts

    def _zero(self, dtype: str) -> int:
        low, high = _limits(dtype)
        return self.source.choice([low, high, 0, self.source.randint(low, high)])

    def _bounds(self, dtype: str) -> dict[str, Any]:
        """Zero point, limits and dtype of a result."""
        low, high = _limits(dtype)
        zero = self._zero(dtype)
        if self.source.random() < 0.4:
            low = zero
        if self.source.random() < 0.2:
            high = self.source.randint(low, high)
        return {"zero_point": zero, "low": low, "high": high, "dtype": dtype}

    def _weight(self, shape: tuple[int, ...]) -> Array:
        """Weights: any, of the extremes only, or all one extreme."""
        kind = self.source.choice(["any", "any", "extremes", "one"])
        if kind == "any":
            return self.numpy.integers(-127, 128, shape, np.int8)
        if kind == "extremes":
            return self.numpy.choice(np.array([-127, 0, 127], np.int8), shape)
        return np.full(shape, self.source.choice([-127, 127]), np.int8)

    def _requantize(
        self, sums: Any, weight: Array, axis: int, rank: int, dtype: str
    ) -> tuple[Callable[[Any], Any], str]:
        """A requantization, or a conversion to float32, of sums with this weight."""
        channels = weight.shape[axis]
        shape = [channels] + [1] * (rank - 1)
        room = reference.INT32.max - int(
            reference.sum_bound(weight, np.zeros(channels, np.int64), axis, dtype).max()
        )
        size = min(room, self.source.choice([0, 1 << 10, 1 << 20, room]))
        bias = self.numpy.integers(-size, size + 1, channels).astype(np.int32)
        bias[0] = -size
        largest = max(1, int(reference.sum_bound(weight, bias, axis, dtype).max()))
        constant = self.table.constant(bias.reshape(shape), "bias")
        form = self.source.choice(["multiplier", "multiplier", "shift", "float"])
        result = self._bounds(self.source.choice(DTYPES))
        if form == "float":
            factor = (self.numpy.random(channels) * 1e-3).astype(np.float32).reshape(shape)
            scale = self.table.constant(factor, "scale")
            return lambda x: call("sums_to_float", x, constant, scale), form
        if form == "shift":
            shifts = [s for s in range(31) if largest + (1 << s) // 2 <= reference.INT32.max]
            shift = self.source.choice(shifts)
            return lambda x: call("requantize", x, constant, shift=shift, **result), form
        # From results that are all near zero to ones that nearly all saturate.
        span = 2.0 ** self.source.uniform(-4, 22)
        scales = np.maximum(self.numpy.random(channels), 1e-6) * min(span / largest, 2.0**20)
        scales = np.minimum(scales, 2.0**30 / largest)
        multipliers, shift = reference.fixed_point(scales)
        if self.source.random() < 0.2:
            multipliers[0] = np.iinfo(np.int32).max if shift >= 32 else multipliers[0]
        multiplier = self.table.constant(multipliers.reshape(shape), "scale")
        return (
            lambda x: call("requantize", x, constant, multiplier, shift=shift, **result),
            f"multiplier, shift {shift}",
        )

    def _image(self) -> tuple[int, int, int]:
        return self.source.randint(1, 2), self.source.randint(1, 14), self.source.randint(1, 14)

    def _channels(self) -> int:
        return self.source.choice([1, 2, 3, 4, 7, 8, 12, 16, 17, 32, 33, 48, 64])

    # Kinds

    def _conv2d(self, *, depthwise: bool = False) -> Case:
        pick = self.source
        dtype = pick.choice(DTYPES)
        batch, height, width = self._image()
        kernel = (pick.randint(1, 5), pick.randint(1, 5))
        if depthwise:
            groups = inner = self._channels()
            outer, per_group = groups * pick.choice([1, 1, 2]), 1
        else:
            groups = pick.choice([1, 1, 1, 2, 4])
            per_group = self._channels() if groups == 1 else pick.choice([1, 4, 6, 16])
            inner = groups * per_group
            outer = groups * pick.choice([1, 3, 8, 16, 20]) if groups > 1 else self._channels()
        strides = (pick.randint(1, 3), pick.randint(1, 3))
        dilation = pick.choice([(1, 1), (1, 1), (2, 1), (2, 3)])
        padding = [pick.randint(0, 3) for _ in range(4)]
        for axis, size in enumerate((height, width)):  # at least one result
            reach = dilation[axis] * (kernel[axis] - 1) + 1
            missing = reach - size - padding[axis] - padding[axis + 2]
            padding[axis] += max(0, missing)
        zero = self._zero(dtype)
        weight = self._weight((outer, per_group, *kernel))
        finish, form = self._requantize(None, weight, 0, 3, dtype)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            data = inputs[0]
            if any(padding):
                top, left, bottom, right = padding
                width = [0, 0, 0, 0, top, bottom, left, right]
                data = bb.emit(relax.op.nn.pad(data, width, "constant", zero))
            sums = bb.emit(
                relax.op.nn.conv2d(
                    data, self.table.constant(weight, "weight"), strides, 0, dilation, groups,
                    out_dtype="int32",
                )
            )  # fmt: skip
            return [bb.emit(finish(sums))]

        shape = (batch, inner, height, width)
        text = (
            f"conv2d {dtype}{shape} by {weight.shape} stride {strides} padding {padding} of {zero} "
            f"dilation {dilation} groups {groups}, {form}"
        )
        return Case(text, ((shape, dtype),), emit)

    def _depthwise(self) -> Case:
        return self._conv2d(depthwise=True)

    def _residual(self) -> Case:
        """A 1x1 convolution, requantized and added to another tensor."""
        pick = self.source
        dtype = pick.choice(DTYPES)
        batch, height, width = self._image()
        inner, outer = self._channels(), self._channels()
        weight = self._weight((outer, inner, 1, 1))
        finish, form = self._requantize(None, weight, 0, 3, dtype)
        add = self._addition()

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            constant = self.table.constant(weight, "weight")
            sums = bb.emit(relax.op.nn.conv2d(inputs[0], constant, out_dtype="int32"))
            part = bb.emit(finish(sums))
            if form == "float":
                return [part]
            return [bb.emit(call("add", part, inputs[1], **add))]

        shape, other = (batch, inner, height, width), (batch, outer, height, width)
        return Case(
            f"residual {dtype}{shape} by {weight.shape}, {form}, add {add}",
            ((shape, dtype), (other, pick.choice(DTYPES))),
            emit,
        )

    def _dense(self) -> Case:
        pick = self.source
        dtype = pick.choice(DTYPES)
        lead = pick.choice([(1,), (3,), (17,), (2, 5), (1, 197)])
        inner = pick.choice([1, 3, 4, 16, 31, 64, 384])
        weight = self._weight((inner, self._channels()))
        finish, form = self._requantize(None, weight, 1, 1, dtype)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            constant = self.table.constant(weight, "weight")
            sums = bb.emit(relax.op.matmul(inputs[0], constant, out_dtype="int32"))
            return [bb.emit(finish(sums))]

        shape = (*lead, inner)
        return Case(f"dense {dtype}{shape} by {weight.shape}, {form}", ((shape, dtype),), emit)

    def _product(self) -> Case:
        """A product of two activations, the right one perhaps transposed."""
        pick = self.source
        dtype = pick.choice(DTYPES)
        batch = pick.choice([(1,), (3,), (2, 3)])
        m, k, n = pick.randint(1, 20), pick.choice([1, 4, 5, 32, 64]), pick.choice([1, 7, 16, 49])
        transpose = pick.random() < 0.5
        stand_in = np.full((k, 1), -128, np.int8)  # for the bound of the sums
        finish, form = self._requantize(None, stand_in, 1, 1, dtype)
        right = (*batch, n, k) if transpose else (*batch, k, n)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            a, b = inputs
            if transpose:
                rank = len(right)
                b = bb.emit(relax.op.permute_dims(b, [*range(rank - 2), rank - 1, rank - 2]))
            return [bb.emit(finish(bb.emit(relax.op.matmul(a, b, out_dtype="int32"))))]

        return Case(
            f"product {dtype}{(*batch, m, k)} by {right}, {form}",
            (((*batch, m, k), dtype), (right, "int8")),
            emit,
        )

    def _addition(self) -> dict[str, Any]:
        spread = [2.0 ** self.source.uniform(-8, 8) for _ in range(2)]
        if self.source.random() < 0.3:
            spread = [2.0 ** self.source.randint(-6, 3)] * 2
        (left, right), shift = reference.small_factors(spread)
        return {
            "zero_a": self.source.randint(-128, 255),
            "factor_a": left,
            "zero_b": self.source.randint(-128, 255),
            "factor_b": right,
            "shift": shift,
            **self._bounds(self.source.choice(DTYPES)),
        }

    def _add(self) -> Case:
        attributes = self._addition()
        return self._between("add", attributes)

    def _multiply(self) -> Case:
        ratio = 2.0 ** self.source.uniform(-24, 10)
        multiplier, shift = reference.fixed_point([ratio])
        attributes = {
            "zero_a": self.source.randint(0, 127),
            "zero_b": self.source.randint(0, 127),
            "multiplier": int(multiplier[0]),
            "shift": shift,
            **self._bounds(self.source.choice(DTYPES)),
        }
        return self._between("multiply", attributes)

    def _between(self, name: str, attributes: dict[str, Any]) -> Case:
        batch, height, width = self._image()
        channels = self._channels()
        left = (batch, channels, height, width)
        right = self.source.choice([left, left, (batch, channels, 1, 1)])
        dtypes = [self.source.choice(DTYPES) for _ in range(2)]
        return Case(
            f"{name} {left} {right} {dtypes} {attributes}",
            ((left, dtypes[0]), (right, dtypes[1])),
            lambda bb, inputs: [bb.emit(call(name, *inputs, **attributes))],
        )

    def _rescale(self) -> Case:
        (factor,), shift = reference.small_factors([2.0 ** self.source.uniform(-8, 8)])
        attributes = {
            "zero_in": self.source.randint(-128, 255),
            "factor": factor,
            "shift": shift,
            **self._bounds(self.source.choice(DTYPES)),
        }
        return self._alone("rescale", attributes, self.source.choice(DTYPES))

    def _quantize(self) -> Case:
        inverse = float(np.float32(2.0 ** self.source.uniform(-8, 12)))
        attributes = {"inverse": inverse, **self._bounds(self.source.choice(DTYPES))}
        return self._alone("quantize", attributes, "float32")

    def _dequantize(self) -> Case:
        dtype = self.source.choice(DTYPES)
        scale = float(np.float32(2.0 ** self.source.uniform(-12, 4)))
        return self._alone("dequantize", {"scale": scale, "zero_point": self._zero(dtype)}, dtype)

    def _alone(self, name: str, attributes: dict[str, Any], dtype: str) -> Case:
        batch, height, width = self._image()
        shape = (batch, self._channels(), height, width)
        return Case(
            f"{name} {dtype}{shape} {attributes}",
            ((shape, dtype),),
            lambda bb, inputs: [bb.emit(call(name, inputs[0], **attributes))],
        )

    def _lookup(self) -> Case:
        dtype, result = self.source.choice(DTYPES), self.source.choice(DTYPES)
        low, high = _limits(result)
        table = self.numpy.integers(low, high + 1, 256).astype(result)
        batch, height, width = self._image()
        shape = (batch, self._channels(), height, width)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            constant = self.table.constant(table, "table")
            return [bb.emit(call("lookup", inputs[0], constant, dtype=result))]

        return Case(f"lookup {dtype}{shape} to {result}", ((shape, dtype),), emit)

    def _max_pool(self) -> Case:
        pick = self.source
        dtype = pick.choice(DTYPES)
        batch, height, width = self._image()
        kernel = (pick.randint(1, min(3, height)), pick.randint(1, min(3, width)))
        padding = pick.randint(0, min(kernel) // 2)
        strides, ceil = (pick.randint(1, 3), pick.randint(1, 3)), pick.random() < 0.5
        shape = (batch, self._channels(), height, width)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            # The pooling shall see channels-last data, as between convolutions.
            data = bb.emit(call("rescale", inputs[0], **_identity(dtype)))
            pooled = relax.op.nn.max_pool2d(
                data, list(kernel), list(strides), [padding] * 4, ceil_mode=ceil
            )
            return [bb.emit(pooled)]

        return Case(
            f"max_pool {dtype}{shape} {kernel} stride {strides} padding {padding} ceil {ceil}",
            ((shape, dtype),),
            emit,
        )

    def _concat(self) -> Case:
        pick = self.source
        dtype = pick.choice(DTYPES)
        batch, height, width = self._image()
        shapes = [(batch, self._channels(), height, width) for _ in range(2)]
        attributes = {
            "zero_in": self._zero(dtype), "factor": 3, "shift": 1, **self._bounds(dtype)
        }  # fmt: skip

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            rescaled = bb.emit(call("rescale", inputs[0], **attributes))
            return [bb.emit(relax.op.concat([rescaled, inputs[1]], 1))]

        return Case(f"concat {dtype}{shapes}", tuple((s, dtype) for s in shapes), emit)

    # Rows

    def _row(self) -> tuple[int, ...]:
        pick = self.source
        lead = pick.choice([(1,), (3,), (2, 5), (1, 3, 7)])
        return (*lead, pick.choice([1, 2, 5, 16, 31, 32, 49, 64, 100, 197, 384]))

    def _exponentials(self) -> Case:
        numbers = rows.exponent_numbers(2.0 ** self.source.uniform(-14, 3))
        names = ("factor", "shift", "limit")
        dtype = self.source.choice(WIDE)
        attributes = dict(zip(names, numbers, strict=True))
        return self._of_rows("exponentials", attributes, dtype)

    def _row_factors(self) -> Case:
        return self._of_rows("row_factors", {"ratio": self._real(-10, 10)}, "uint8")

    def _sum_rows(self) -> Case:
        scale = self.source.choice([1.0, self._real(-8, 0)])
        return self._of_rows("sum_rows", {"scale": scale}, "float32")

    def _of_rows(self, name: str, attributes: dict[str, Any], dtype: str) -> Case:
        shape = self._row()
        return Case(
            f"{name} {dtype}{shape} {attributes}",
            ((shape, dtype),),
            lambda bb, inputs: [bb.emit(call(name, inputs[0], **attributes))],
        )

    def _real(self, low: float, high: float) -> float:
        return float(np.float32(2.0 ** self.source.uniform(low, high)))

    def _layer_norm(self) -> Case:
        shape, dtype = self._row(), self.source.choice(WIDE)
        length = shape[-1]
        size = 2.0 ** self.source.uniform(2, 20)
        gain = (self.numpy.standard_normal(length) * size / length**0.5).astype(np.float32)
        bias = self.numpy.integers(-(2**20), 2**20, length).astype(np.int32)
        attributes = {
            "epsilon": rows.norm_epsilon(1e-6, length, 2.0 ** self.source.uniform(-12, 0)),
            **self._bounds(self.source.choice(WIDE)),
        }

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            constants = [self.table.constant(v, n) for v, n in ((gain, "gain"), (bias, "bias"))]
            return [bb.emit(call("layer_norm", inputs[0], *constants, **attributes))]

        return Case(f"layer_norm {dtype}{shape} {attributes}", ((shape, dtype),), emit)

    def _attention(self) -> Case:
        """Scores with a mask, their exponentials, and the product with the values."""
        pick = self.source
        batch, length, width = pick.randint(1, 3), pick.choice([4, 16, 33]), pick.choice([4, 32])
        numbers = dict(zip(("factor", "shift", "limit"), rows.exponent_numbers(0.002), strict=True))
        mask = {
            "zero_a": 0, "factor_a": 1, "zero_b": 0, "factor_b": 1, "shift": 0, "zero_point": 0,
            "low": -(2**15), "high": 2**15 - 1, "dtype": "int16",
        }  # fmt: skip
        ratio, bounds = self._real(-6, 4), self._bounds(pick.choice(DTYPES))

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            scores = bb.emit(call("add", *inputs[:2], **mask))
            weights = bb.emit(call("exponentials", scores, **numbers))
            factors = bb.emit(call("row_factors", weights, ratio=ratio))
            sums = bb.emit(relax.op.matmul(weights, inputs[2], out_dtype="int32"))
            return [bb.emit(call("requantize_rows", sums, factors, **bounds))]

        return Case(
            f"attention {batch} {length} {width} {ratio} {bounds}",
            (
                ((batch, length, length), "int16"), ((batch, 1, length), "int16"),
                ((batch, length, width), "int8"),
            ),
            emit,
        )  # fmt: skip


#: Kinds of cases, those that matter most several times.
KINDS = (
    "conv2d", "conv2d", "conv2d", "conv2d", "depthwise", "depthwise", "residual", "dense", "dense",
    "product", "add", "multiply", "rescale", "quantize", "dequantize", "lookup", "max_pool",
    "concat", "exponentials", "row_factors", "sum_rows", "layer_norm", "layer_norm", "attention",
)  # fmt: skip


def _limits(dtype: str) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _identity(dtype: str) -> dict[str, Any]:
    low, high = _limits(dtype)
    return {
        "zero_in": 0, "factor": 1, "shift": 0, "zero_point": 0, "low": low, "high": high,
        "dtype": dtype,
    }  # fmt: skip


def module_of(cases: Sequence[Case]) -> IRModule:
    """One module in which each case has its own inputs and outputs."""
    bb = relax.BlockBuilder()
    inputs = [
        [relax.Var(f"x{i}_{j}", relax.TensorType(s, d)) for j, (s, d) in enumerate(case.inputs)]
        for i, case in enumerate(cases)
    ]
    with bb.function("main", [v for part in inputs for v in part]):
        with bb.dataflow():
            results = [
                value
                for case, part in zip(cases, inputs, strict=True)
                for value in case.emit(bb, part)
            ]
            output = bb.emit_output(relax.Tuple(results))
        bb.emit_func_output(output)
    return bb.get()


def random_inputs(cases: Sequence[Case], numpy: np.random.Generator) -> list[Array]:
    """One array for each input: any numbers, extremes only, or all one extreme."""
    found = []
    for shape, dtype in (entry for case in cases for entry in case.inputs):
        if dtype == "float32":
            value = numpy.standard_normal(shape).astype(np.float32) * 100
            special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, 0.5, -1e-30], np.float32)
            mask = numpy.random(shape) < 0.1
            found.append(np.where(mask, numpy.choice(special, shape), value))
            continue
        low, high = _limits(dtype)
        kind = numpy.integers(4)
        if kind < 2:
            found.append(numpy.integers(low, high + 1, shape).astype(dtype))
        elif kind == 2:
            found.append(numpy.choice(np.array([low, 0, high], dtype), shape))
        else:
            found.append(np.full(shape, numpy.choice([low, high]), dtype))
    return found


def _bits(value: Array) -> bytes:
    """The bytes of an array; there are many numbers that are none, and all count as one."""
    if value.dtype == np.float32:
        value = np.where(np.isnan(value), np.float32(np.nan), value)
    return np.ascontiguousarray(value).tobytes()


def check(
    cases: Sequence[Case],
    spec: TargetSpec,
    draws: int,
    seed: int = 0,
    executors: Sequence[Callable[..., Any]] = (Executor,),
) -> tuple[Any, ...]:
    """Compile the cases for a target, run them on `draws` inputs, and compare every bit.

    Args:
        cases: The cases.
        spec: The target.
        draws: Inputs of each case.
        seed: Of the inputs.
        executors: What runs the code, one after the other: this machine by default.

    Returns:
        The kernels that they became.
    """
    module = module_of(cases)
    main = module["main"]
    inputs = tuple(
        TensorSpec(str(v.name), tuple(int(e) for e in v.ty.shape.values), str(v.ty.dtype))
        for v in main.params
    )
    outputs = tuple(
        TensorSpec(f"y{i}", tuple(int(e) for e in ty.shape.values), str(ty.dtype))
        for i, ty in enumerate(main.ret_ty.fields)
    )
    log = StageLog()
    lowered = lower(Imported(module, inputs, outputs, {}, "cases"), spec, log)
    numpy = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        built = build(lowered, spec, log, Path(folder))
        drawn = [random_inputs(cases, numpy) for _ in range(draws)]
        expected = [interpret(module, arrays) for arrays in drawn]
        for make in executors:
            executor = make(
                built.library, built.inputs, built.outputs, built.parameters, built.prepared
            )
            for arrays, wanted in zip(drawn, expected, strict=True):
                given = executor.run(*arrays)
                given = given if isinstance(given, (tuple, list)) else [given]
                for case, want, have in zip(cases, wanted, given, strict=True):
                    array = np.asarray(have)
                    assert array.dtype == want.dtype, case.text
                    assert _bits(array) == _bits(want), case.text
    return lowered.kernels
