"""Random operators on weights of one and two bits, and on signs."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.compress import low_bits, reference
from compiler.compress.operators import call
from schedules.tvm_adapter import relax
from tests.support.integer_cases import DTYPES, Array, Case, Maker

LOW_KINDS = (
    "low_sign", "low_signs_conv2d", "low_signs_dense", "low_conv2d", "low_dense",
    "low_signs_residual",
)  # fmt: skip


class LowMaker(Maker):
    """Cases of `LOW_KINDS`, and of 8 bits where they are asked for."""

    def case(self, kind: str | None = None) -> Case:
        """A random case of `LOW_KINDS`, or of the kind that is asked for."""
        return super().case(kind or self.source.choice(LOW_KINDS))

    def _signs(self, shape: tuple[int, ...]) -> Array:
        """Truth values: any, or all of one kind."""
        kind = self.source.choice(["any", "any", "any", "zeros", "ones"])
        values = self.numpy.random(shape) > 0.5
        return values if kind == "any" else np.full(shape, kind == "ones")

    def _codes(self, shape: tuple[int, ...], encoding: str) -> Array:
        if encoding == "binary":
            return (self._signs(shape) * 2 - 1).astype(np.int8)
        kind = self.source.choice(["any", "any", "zero"])
        codes = self.numpy.integers(-1, 2, shape, np.int8)
        return codes if kind == "any" else np.zeros_like(codes)

    def _finish(self, reduction: int, outputs: int, fraction: int, rank: int) -> tuple[Any, str]:
        """A requantization of sums of signs, a conversion to float32, or their signs."""
        form = self.source.choice(["multiplier", "flags", "float"])
        shape = [outputs] + [1] * (rank - 1)
        reach = reduction << fraction
        bias = self.numpy.integers(-reach, reach + 1, outputs).astype(np.int32).reshape(shape)
        constant = self.table.constant(bias, "bias")
        if form == "flags":
            limits = {"shift": 0, "zero_point": 1, "low": 0, "high": 1, "dtype": "uint8"}
            return lambda x: call("requantize", x, constant, **limits), form
        if form == "float":
            factor = (self.numpy.random(outputs) * 1e-3).astype(np.float32).reshape(shape)
            scale = self.table.constant(factor, "scale")
            return lambda x: call("sums_to_float", x, constant, scale), form
        result = self._bounds(self.source.choice(DTYPES))
        span = 2.0 ** self.source.uniform(2, 12)
        scales = np.maximum(self.numpy.random(outputs), 1e-3) * span / reach
        multipliers, shift = reference.fixed_point(scales)
        factor = self.table.constant(multipliers.reshape(shape), "scale")
        return lambda x: call("requantize", x, constant, factor, shift=shift, **result), form

    def _low_sign(self) -> Case:
        pick = self.source
        dtype = pick.choice([*DTYPES, "float32"])
        batch, height, width = self._image()
        channels = pick.choice([1, 3, 16, 31, 32, 33, 64, 100])
        shape, axis = pick.choice(
            [((batch, channels, height, width), 1), ((batch, height, channels), 2)]
        )
        zero = pick.choice([0.0, 0.5]) if dtype == "float32" else self._zero(dtype)
        return Case(
            f"sign {dtype}{shape} from {zero} along {axis}", ((shape, dtype),),
            lambda bb, inputs: [bb.emit(call("sign", inputs[0], zero_point=zero, axis=axis))],
        )  # fmt: skip

    def _low_signs_conv2d(self) -> Case:
        pick = self.source
        dtype = pick.choice([*DTYPES, "float32"])
        batch, height, width = self._image()
        kernel = (pick.randint(1, 4), pick.randint(1, 4))
        channels = pick.choice([1, 7, 16, 32, 33, 64, 96, 130])
        outputs = pick.choice([1, 8, 16, 17, 32, 40, 64])
        strides = (pick.randint(1, 3), pick.randint(1, 3))
        dilation = pick.choice([(1, 1), (1, 1), (2, 1), (2, 3)])
        padding = [pick.randint(0, 3) for _ in range(4)]
        for axis, size in enumerate((height, width)):
            reach = dilation[axis] * (kernel[axis] - 1) + 1
            padding[axis] += max(0, reach - size - padding[axis] - padding[axis + 2])
        reduction = channels * kernel[0] * kernel[1]
        fraction = low_bits.fraction_bits(reduction)
        packed = low_bits.pack_signs(self._signs((outputs, channels, *kernel)), 1)
        finish, form = self._finish(reduction, outputs, fraction, 3)
        zero = 0 if dtype == "float32" else self._zero(dtype)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            words = bb.emit(call("sign", inputs[0], zero_point=zero, axis=1))
            sums = call(
                "binary_conv2d", words, self.table.constant(packed, "signs"), channels=channels,
                fraction=fraction, strides=strides, padding=padding, dilation=dilation,
                layout="NCHW",
            )  # fmt: skip
            return [bb.emit(finish(bb.emit(sums)))]

        shape = (batch, channels, height, width)
        text = (
            f"signs of {dtype}{shape} by {outputs} of {kernel} stride {strides} padding {padding} "
            f"dilation {dilation}, {form}"
        )
        return Case(text, ((shape, dtype),), emit)

    def _low_signs_dense(self) -> Case:
        pick = self.source
        dtype = pick.choice([*DTYPES, "float32"])
        lead = pick.choice([(1,), (3,), (17,), (2, 5), (1, 65)])
        channels = pick.choice([1, 16, 31, 64, 100, 384])
        outputs = pick.choice([1, 8, 17, 64, 100])
        fraction = low_bits.fraction_bits(channels)
        packed = low_bits.pack_signs(self._signs((channels, outputs)), 0)
        finish, form = self._finish(channels, outputs, fraction, 1)
        zero = 0 if dtype == "float32" else self._zero(dtype)
        rank = len(lead)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            words = bb.emit(call("sign", inputs[0], zero_point=zero, axis=rank))
            constant = self.table.constant(packed, "signs")
            sums = call("binary_matmul", words, constant, channels=channels, fraction=fraction)
            return [bb.emit(finish(bb.emit(sums)))]

        shape = (*lead, channels)
        return Case(f"signs of {dtype}{shape} by {outputs}, {form}", ((shape, dtype),), emit)

    def _low_signs_residual(self) -> Case:
        """A convolution of signs, added to the tensor that they are the signs of."""
        pick = self.source
        dtype = pick.choice(DTYPES)
        batch, height, width = self._image()
        channels = pick.choice([16, 32, 40])
        reduction = channels * 9
        fraction = low_bits.fraction_bits(reduction)
        packed = low_bits.pack_signs(self._signs((channels, channels, 3, 3)), 1)
        multipliers, shift = reference.fixed_point([40.0 / (reduction << fraction)] * channels)
        bias = self.table.constant(np.zeros((channels, 1, 1), np.int32), "bias")
        factor = self.table.constant(multipliers.reshape(-1, 1, 1), "scale")
        result, add, zero = self._bounds(dtype), self._addition(), self._zero(dtype)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            words = bb.emit(call("sign", inputs[0], zero_point=zero, axis=1))
            sums = call(
                "binary_conv2d", words, self.table.constant(packed, "signs"), channels=channels,
                fraction=fraction, strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1],
                layout="NCHW",
            )  # fmt: skip
            part = call("requantize", bb.emit(sums), bias, factor, shift=shift, **result)
            return [bb.emit(call("add", bb.emit(part), inputs[0], **add))]

        shape = (batch, channels, height, width)
        return Case(f"signs and residual {dtype}{shape}", ((shape, dtype),), emit)

    def _low_conv2d(self) -> Case:
        """A convolution of integers whose weight is stored in one or two bits."""
        pick = self.source
        dtype, encoding = pick.choice(DTYPES), pick.choice(["ternary", "binary"])
        batch, height, width = self._image()
        size = pick.choice([1, 3])
        groups = pick.choice([1, 1, 1, 2])
        inner = pick.choice([3, 16, 20, 32, 48]) if groups == 1 else pick.choice([16, 32])
        outputs = groups * pick.choice([8, 16, 33]) if groups == 1 else groups * 16
        padding, zero = pick.choice([0, 1]) if size == 3 else 0, self._zero(dtype)
        height, width = max(height, size), max(width, size)
        weight = self._codes((outputs, inner, size, size), encoding)
        finish, form = self._requantize(None, weight, 0, 3, dtype)
        strides = (pick.randint(1, 2), pick.randint(1, 2))

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            data = inputs[0]
            if padding:
                data = bb.emit(relax.op.nn.pad(data, [0, 0, 0, 0, 1, 1, 1, 1], "constant", zero))
            constant = self.table.constant(weight, encoding, encoding)
            sums = relax.op.nn.conv2d(data, constant, strides, 0, 1, groups, out_dtype="int32")
            return [bb.emit(finish(bb.emit(sums)))]

        shape = (batch, groups * inner, height, width)
        text = f"conv2d {dtype}{shape} by {encoding} {weight.shape} groups {groups}, {form}"
        return Case(text, ((shape, dtype),), emit)

    def _low_dense(self) -> Case:
        """A product of integers with a matrix that is stored in one or two bits."""
        pick = self.source
        dtype, encoding = pick.choice(DTYPES), pick.choice(["ternary", "binary"])
        lead = pick.choice([(1,), (3,), (17,), (2, 5)])
        inner = pick.choice([1, 4, 31, 64, 200])
        weight = self._codes((inner, self._channels()), encoding)
        finish, form = self._requantize(None, weight, 1, 1, dtype)

        def emit(bb: Any, inputs: list[Any]) -> list[Any]:
            constant = self.table.constant(weight, encoding, encoding)
            sums = relax.op.matmul(inputs[0], constant, out_dtype="int32")
            return [bb.emit(finish(bb.emit(sums)))]

        shape = (*lead, inner)
        text = f"dense {dtype}{shape} by {encoding} {weight.shape}, {form}"
        return Case(text, ((shape, dtype),), emit)
