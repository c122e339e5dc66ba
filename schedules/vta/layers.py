"""What is put on VTA: a *region*, layers over named tensors. Plain data, NumPy only.

The contract between whoever cuts regions out of a model and the lowering:

- `Region` holds `Tensor` and layers in an order in which they can run. Every activation is
  ``int8`` with zero point 0, one image. In DRAM it is packed as
  ``[C / block][H][W][batch * block]`` (`packing.pack_tensor`); channels beyond ``C`` are zero.
- `program.build_program(region, config, choices=None) -> Built` lowers it;
  `reference.reference_run(region, inputs)` says what comes out, bit for bit;
  `fits.refusal(layer, region, config) -> str` says why a layer cannot be lowered ("": it can).

Every layer but pooling is a sum in ``int32`` and one or more requantizations::

    value = convolution(data, weight) + bias[c]                 Sum: no convolution, only `adds`
    for step in steps:                                          in this order
        value = (value << step.up) + sum(x << a.shift for a in step.adds)
        value = (value + ((1 << step.shift[c]) >> 1)) >> step.shift[c]
        value = min(max(value, step.low), step.high)
    output = value                                              fits into int8 after the last step

which is `compiler.compress.reference.requantize` without multiplier, then `add` with factors that
are powers of two. A residual that is added to the ``int32`` sum itself, before any rounding, is an
`adds` of the first step: the cheapest there is (one cycle for 16 numbers). A residual that is
added to the rounded 8-bit result of the convolution is an `adds` of a second step.

Depthwise and grouped convolutions run on the matrix unit with diagonal weights: one cycle for 16
products instead of 256, which is still as fast as a vector unit of 16 lanes; the ALU of the
hardware cannot multiply. Average pooling over a power of two of pixels is a depthwise
convolution with ones. A dense layer is a 1x1 convolution of a 1x1 image; a matrix product with
constant weights one of an image of ``height`` = rows, ``width`` = 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]

#: A shift for all channels, or one for each.
Shift: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An activation of one image: int8, zero point 0, ``(channels, height, width)``.

    Attributes:
        name: Unique in its region: letters, digits and ``_.:/-``.
        channels: Channels.
        height: Rows; 1 for a vector.
        width: Columns; 1 for a vector or a matrix of ``height`` rows.
        low: No value is less. Given for a region's inputs; a layer's output follows from its
            last step.
        high: No value is greater.
    """

    name: str
    channels: int
    height: int = 1
    width: int = 1
    low: int = -128
    high: int = 127

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, slots=True)
class Addend:
    """A tensor of the output's shape that is added as ``x << shift``.

    Attributes:
        tensor: Its name.
        shift: From 0 to 20; up to 6 costs a cycle for 16 numbers, each further bit may cost more.
    """

    tensor: str
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One requantization; see the module's formula.

    Attributes:
        shift: Right shift with rounding, 0 to 30, for all channels or one for each.
        low: Least result.
        high: Greatest result.
        adds: Added before the shift, in the scale of the sum.
        up: Left shift of the value that comes in, 0 to 15.
    """

    shift: Shift
    low: int = -128
    high: int = 127
    adds: tuple[Addend, ...] = ()
    up: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Conv2d:
    """A convolution with what follows it. Dense layers and constant matrix products, too.

    Attributes:
        name: Unique in its region.
        data: Name of the activation that is convolved.
        output: Name of the result.
        weight: int8 ``(out channels, in channels / groups, kernel height, kernel width)``.
        bias: int32, one for each output channel; everything but the roundings is in it.
        steps: At least one.
        strides: Of height and width.
        padding: Top, left, bottom, right; zeros.
        dilation: Of height and width.
        groups: Of channels; the number of channels: depthwise.
    """

    name: str
    data: str
    output: str
    weight: Int8
    bias: Int32
    steps: tuple[Step, ...]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads, the convolved one first."""
        return (self.data, *_added(self.steps))


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """Shifted tensors of one shape, added and requantized: addition, clipping, rescaling.

    Attributes:
        name: Unique in its region.
        output: Name of the result.
        steps: At least one; the first has at least one addend and ``up`` 0.
    """

    name: str
    output: str
    steps: tuple[Step, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return tuple(_added(self.steps))


@dataclass(frozen=True, slots=True, eq=False)
class MaxPool2d:
    """Maxima of windows; beyond the edges nothing counts.

    Attributes:
        name: Unique in its region.
        data: Name of the activation.
        output: Name of the result.
        kernel: Height and width of a window.
        strides: Of height and width.
        padding: Top, left, bottom, right; each less than the kernel.
        low: Results are clipped to at least this (a ReLU behind the pooling: 0).
        high: Results are clipped to at most this.
    """

    name: str
    data: str
    output: str
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    low: int = -128
    high: int = 127

    @property
    def inputs(self) -> tuple[str, ...]:
        """Name of the tensor that it reads."""
        return (self.data,)


Layer: TypeAlias = Conv2d | Sum | MaxPool2d


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Layers that become one VTA program.

    Attributes:
        name: For messages and reports.
        tensors: Every activation that the layers read or write.
        layers: In an order in which they can run.
        inputs: Names of the tensors that come from the host.
        outputs: Names of the tensors that the host reads; others are never copied.

    Raises:
        ValueError: The parts do not fit together.
    """

    name: str
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(f"region {self.name!r}: {problem}")

    def tensor(self, name: str) -> Tensor:
        """The tensor of a name.

        Raises:
            KeyError: There is none.
        """
        for item in self.tensors:
            if item.name == name:
                return item
        raise KeyError(name)

    def limits(self, name: str) -> tuple[int, int]:
        """Least and greatest value that a tensor can have."""
        for layer in self.layers:
            if layer.output == name:
                last = layer if isinstance(layer, MaxPool2d) else layer.steps[-1]
                return max(-128, last.low), min(127, last.high)
        item = self.tensor(name)
        return item.low, item.high


def dense(
    name: str, data: str, output: str, weight: Int8, bias: Int32, steps: tuple[Step, ...]
) -> Conv2d:
    """A dense layer or constant matrix product: ``weight`` is ``(outputs, inputs)``."""
    return Conv2d(name, data, output, weight[:, :, None, None], bias, steps)


def average_pool(
    name: str,
    data: Tensor,
    output: str,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int],
    shift: int = 0,
    low: int = -128,
    high: int = 127,
) -> Conv2d:
    """Means of windows of a power of two of pixels: sums, shifted with rounding.

    Args:
        name: Of the layer.
        data: What is pooled.
        output: Name of the result.
        kernel: Height and width of a window.
        strides: Of height and width.
        shift: Right shift beyond the division by the window's pixels, for another scale.
        low: Least result.
        high: Greatest result.

    Raises:
        ValueError: The window has no power of two of pixels.
    """
    pixels = kernel[0] * kernel[1]
    if pixels & (pixels - 1):
        raise ValueError(f"a window of {pixels} pixels: VTA divides by powers of two only")
    ones = np.ones((data.channels, 1, *kernel), dtype=np.int8)
    step = Step(pixels.bit_length() - 1 + shift, low, high)
    zero = np.zeros(data.channels, dtype=np.int32)
    return Conv2d(
        name, data.name, output, ones, zero, (step,), strides=strides, groups=data.channels
    )


def output_shape(layer: Layer, region: Region) -> tuple[int, int, int]:
    """Channels, height and width of a layer's result, by its operands."""
    if isinstance(layer, Sum):
        return region.tensor(layer.inputs[0]).shape
    data = region.tensor(layer.data)
    top, left, bottom, right = layer.padding
    if isinstance(layer, Conv2d):
        channels, spans = layer.weight.shape[0], layer.weight.shape[2:]
        spans = tuple(d * (k - 1) + 1 for d, k in zip(layer.dilation, spans, strict=True))
    else:
        channels, spans = data.channels, layer.kernel
    height = (data.height + top + bottom - spans[0]) // layer.strides[0] + 1
    width = (data.width + left + right - spans[1]) // layer.strides[1] + 1
    return channels, height, width


def _added(steps: tuple[Step, ...]) -> list[str]:
    return [addend.tensor for step in steps for addend in step.adds]


def _problems(region: Region) -> Iterator[str]:
    names = [t.name for t in region.tensors]
    yield from (f"two tensors {n!r}" for n in sorted({n for n in names if names.count(n) > 1}))
    titles = [layer.name for layer in region.layers]
    yield from (f"two layers {n!r}" for n in sorted({n for n in titles if titles.count(n) > 1}))
    for item in region.tensors:
        if min(item.shape) < 1 or not -128 <= item.low <= item.high <= 127:
            yield f"tensor {item.name!r} cannot be: {item}"
    known = set(region.inputs)
    yield from (f"no tensor {n!r}" for n in (*region.inputs, *region.outputs) if n not in names)
    for layer in region.layers:
        yield from (f"{layer.name} reads {n!r}, which nobody wrote before"
                    for n in layer.inputs if n not in known)  # fmt: skip
        if layer.output in known or layer.output not in names:
            yield f"{layer.name} writes {layer.output!r}, which is no tensor of its own"
        known.add(layer.output)
        yield from (f"{layer.name}: {text}" for text in _layer_problems(layer, region))
    yield from (f"nobody writes {n!r}" for n in region.outputs if n not in known)


def _layer_problems(layer: Layer, region: Region) -> Iterator[str]:
    if isinstance(layer, MaxPool2d):
        if min(layer.kernel + layer.strides) < 1 or min(layer.padding) < 0:
            yield f"kernel {layer.kernel}, strides {layer.strides}, padding {layer.padding}"
            return
        if (
            max(layer.padding[0::2]) >= layer.kernel[0]
            or max(layer.padding[1::2]) >= layer.kernel[1]
        ):
            yield f"padding {layer.padding} as wide as its kernel {layer.kernel}"
        if not layer.low <= layer.high:
            yield f"limits {layer.low} and {layer.high}"
    else:
        yield from _step_problems(layer, region)
    if isinstance(layer, Conv2d):
        yield from _conv_problems(layer, region)
    made, wanted = output_shape(layer, region), region.tensor(layer.output).shape
    if made != wanted or min(made) < 1:
        yield f"its result is {made}, tensor {layer.output!r} is {wanted}"


def _step_problems(layer: Conv2d | Sum, region: Region) -> Iterator[str]:
    output = region.tensor(layer.output)
    if not layer.steps:
        yield "no requantization"
        return
    first, last = layer.steps[0], layer.steps[-1]
    if isinstance(layer, Sum) and (not first.adds or first.up):
        yield "the first step of a sum adds tensors, and has nothing to shift left"
    if last.low < -128 or last.high > 127:
        yield f"its result, {last.low} to {last.high}, is no int8"
    for step in layer.steps:
        shifts = (step.shift,) if isinstance(step.shift, int) else step.shift
        if not isinstance(step.shift, int) and len(shifts) != output.channels:
            yield f"{len(shifts)} shifts for {output.channels} channels"
        if not all(0 <= s <= 30 for s in shifts) or not 0 <= step.up <= 15:
            yield f"shifts {step.shift} to the right, {step.up} to the left"
        if not -32768 <= step.low <= step.high <= 32767:
            yield f"limits {step.low} and {step.high}"
        for addend in step.adds:
            if not 0 <= addend.shift <= 20:
                yield f"addend {addend.tensor!r} shifted by {addend.shift}"
            if region.tensor(addend.tensor).shape != output.shape:
                yield f"addend {addend.tensor!r} is of another shape than the result"


def _conv_problems(layer: Conv2d, region: Region) -> Iterator[str]:
    weight, data = layer.weight, region.tensor(layer.data)
    if weight.dtype != np.int8 or weight.ndim != 4 or not weight.size:
        yield f"weights are {weight.dtype} {weight.shape}"
        return
    if layer.bias.dtype != np.int32 or layer.bias.shape != weight.shape[:1]:
        yield f"bias is {layer.bias.dtype} {layer.bias.shape}"
    if min(layer.strides + layer.dilation) < 1 or min(layer.padding) < 0 or layer.groups < 1:
        yield f"strides {layer.strides}, padding {layer.padding}, dilation {layer.dilation}"
    elif weight.shape[1] * layer.groups != data.channels or weight.shape[0] % layer.groups:
        yield f"weights {weight.shape} in {layer.groups} groups for {data.channels} channels"


__all__ = [
    "Addend",
    "Conv2d",
    "Layer",
    "MaxPool2d",
    "Region",
    "Shift",
    "Step",
    "Sum",
    "Tensor",
    "average_pool",
    "dense",
    "output_shape",
]
