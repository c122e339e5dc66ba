"""An ONNX convolutional network as a .tflite file, in fp32 and, calibrated, in full int8.

    python -m tools.arm_peers.convert.tflite MODEL.onnx FLOAT.tflite INT8.tflite

The file is written by LiteRT's own schema, since its converter needs packages that weigh
gigabytes. What is written is what that converter would give: NHWC tensors, activations that clip
fused into what computes them, padding by operators of its own where it is not TensorFlow's
"same"; in int8 a scale for each output channel of the weights, zero points for activations only,
and operators at both ends that quantize and dequantize.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import onnx
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import numpy_helper, shape_inference

from tools.arm_peers.convert.calibration import smooth_noise

Array = npt.NDArray[Any]
_CODES = schema.BuiltinOperator
_ACTIVATIONS = schema.ActivationFunctionType
#: Versions of operators that have int8.
_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "PAD": 2,
    "MAX_POOL_2D": 2, "MEAN": 2, "RESHAPE": 1, "QUANTIZE": 1, "DEQUANTIZE": 2,
}  # fmt: skip
_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


@dataclass(slots=True)
class Scale:
    """Quantization of a tensor: value = scale * (stored - zero)."""

    scale: Array
    zero: int = 0
    axis: int = 0


@dataclass(slots=True)
class Step:
    """An operator of the network, before it is written.

    Attributes:
        kind: LiteRT's name.
        inputs: Activations that it reads.
        output: What it writes.
        options: Name of the class of its options, and their values.
        constants: Further operands, fp32 weights or int32 numbers.
    """

    kind: str
    inputs: list[str]
    output: str
    options: tuple[str, dict[str, Any]] | None = None
    constants: list[Array] = field(default_factory=list)


def read_steps(path: Path) -> tuple[list[Step], dict[str, tuple[int, ...]]]:
    """The operators of an ONNX network in order, and the NHWC shape of each activation.

    Raises:
        ValueError: The network has an operator that is not known here.
    """
    model = shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    weights = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        shapes[value.name] = (dims[0], *dims[2:], dims[1]) if len(dims) == 4 else dims
    users: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    steps: list[Step] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        activations = [renamed.get(n, n) for n in node.input if n not in weights]
        constants = [weights[name] for name in node.input if name in weights]
        output = node.output[0]
        if node.op_type in ("Relu", "Clip"):
            _fuse(steps, node, constants, renamed, users)
        elif node.op_type == "Conv":
            steps += _convolution(activations[0], output, attributes, constants, shapes)
        elif node.op_type == "Add":
            options = ("AddOptions", {"fusedActivationFunction": _ACTIVATIONS.NONE})
            steps.append(Step("ADD", activations, output, options))
        elif node.op_type == "MaxPool":
            steps += _max_pool(activations[0], output, attributes, shapes)
        elif node.op_type == "ReduceMean":
            axes = np.array([1, 2], np.int32)
            options = ("ReducerOptions", {"keepDims": True})
            steps.append(Step("MEAN", activations, output, options, [axes]))
        elif node.op_type in ("Reshape", "Flatten"):
            size = np.array(shapes[output], np.int32)
            options = ("ReshapeOptions", {"newShape": size.tolist()})
            steps.append(Step("RESHAPE", activations, output, options, [size]))
        elif node.op_type == "Gemm" and attributes.get("transB"):
            options = ("FullyConnectedOptions", {"fusedActivationFunction": _ACTIVATIONS.NONE})
            steps.append(Step("FULLY_CONNECTED", activations, output, options, constants))
        else:
            raise ValueError(f"{path.name}: {node.op_type} is not known here")
    return steps, shapes


def _fuse(
    steps: list[Step],
    node: Any,
    constants: Sequence[Array],
    renamed: dict[str, str],
    users: Mapping[str, int],
) -> None:
    """Let the operator before an activation apply it."""
    limits = [float(value) for value in constants]
    if node.op_type == "Clip" and limits != [0.0, 6.0]:
        raise ValueError(f"{node.name}: only clipping to 0 and 6 is known here, not to {limits}")
    before = steps[-1]
    if before.output != node.input[0] or users[before.output] != 1 or before.options is None:
        raise ValueError(f"{node.name}: the activation cannot be fused")
    kind = _ACTIVATIONS.RELU if node.op_type == "Relu" else _ACTIVATIONS.RELU6
    before.options[1]["fusedActivationFunction"] = kind
    renamed[node.output[0]] = before.output


def _padding(
    source: str, pads: Sequence[int], same: Sequence[int], shapes: dict[str, tuple[int, ...]]
) -> tuple[list[Step], str, int]:
    """Steps that pad, what they give, and the padding that is left to the operator."""
    if not any(pads):
        return [], source, schema.Padding.VALID
    if list(pads) == list(same):
        return [], source, schema.Padding.SAME
    top, left, bottom, right = pads
    name = f"{source}_padded"
    n, height, width, channels = shapes[source]
    shapes[name] = (n, height + top + bottom, width + left + right, channels)
    amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    return [Step("PAD", [source], name, ("PadOptions", {}), [amounts])], name, schema.Padding.VALID


def _same(size: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """TensorFlow's "same" as ONNX writes it: top, left, bottom, right."""
    total = [
        max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(size, kernel, strides, strict=True)
    ]
    return [total[0] // 2, total[1] // 2, *(n - n // 2 for n in total)]


def _convolution(
    source: str,
    output: str,
    attributes: Mapping[str, Any],
    constants: Sequence[Array],
    shapes: dict[str, tuple[int, ...]],
) -> list[Step]:
    weights, bias = constants
    strides, kernel = attributes["strides"], attributes["kernel_shape"]
    same = _same(shapes[source][1:3], kernel, strides)
    steps, source, padding = _padding(source, attributes["pads"], same, shapes)
    values = {
        "padding": padding,
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": 1,
        "dilationWFactor": 1,
        "fusedActivationFunction": _ACTIVATIONS.NONE,
    }
    if attributes["group"] == 1:
        kernels = weights.transpose(0, 2, 3, 1)
        return [*steps, Step("CONV_2D", [source], output, ("Conv2DOptions", values),
                             [kernels, bias])]  # fmt: skip
    if attributes["group"] != weights.shape[0]:
        raise ValueError(f"{output}: grouped convolutions are not known here")
    kernels = weights.transpose(1, 2, 3, 0)
    options = ("DepthwiseConv2DOptions", {**values, "depthMultiplier": 1})
    return [*steps, Step("DEPTHWISE_CONV_2D", [source], output, options, [kernels, bias])]


def _max_pool(
    source: str, output: str, attributes: Mapping[str, Any], shapes: dict[str, tuple[int, ...]]
) -> list[Step]:
    strides, kernel = attributes["strides"], attributes["kernel_shape"]
    # Zeros are as good as the least number after an activation that clips at zero.
    same = _same(shapes[source][1:3], kernel, strides)
    steps, source, padding = _padding(source, attributes["pads"], same, shapes)
    values = {
        "padding": padding,
        "strideH": strides[0],
        "strideW": strides[1],
        "filterHeight": kernel[0],
        "filterWidth": kernel[1],
        "fusedActivationFunction": _ACTIVATIONS.NONE,
    }
    return [*steps, Step("MAX_POOL_2D", [source], output, ("Pool2DOptions", values))]


class Writer:
    """A .tflite file that is being made."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = b"tilewright peers"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.name = b"main"
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self._codes: dict[str, int] = {}
        self._tensors: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any,
        scale: Scale | None = None,
        data: Array | None = None,
    ) -> int:
        """Number of the tensor of a name, made when it is first asked for."""
        if name in self._tensors:
            return self._tensors[name]
        made = schema.TensorT()
        made.name, made.shape, made.type = name.encode(), list(shape), _TYPES[np.dtype(dtype)]
        made.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scale.scale.astype(np.float32).ravel()
            made.quantization.zeroPoint = np.full(scale.scale.size, scale.zero, np.int64)
            made.quantization.quantizedDimension = scale.axis
        self.graph.tensors.append(made)
        self._tensors[name] = len(self.graph.tensors) - 1
        return self._tensors[name]

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        output: int,
        options: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        if kind not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(_CODES, kind)
            code.deprecatedBuiltinCode = min(127, code.builtinCode)
            code.version = _VERSIONS[kind]
            self._codes[kind] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = self._codes[kind]
        made.inputs, made.outputs = list(inputs), [output]
        if options is not None:
            name, values = options
            made.builtinOptions = getattr(schema, f"{name}T")()
            made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            for key, value in values.items():
                setattr(made.builtinOptions, key, value)
        self.graph.operators.append(made)

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1 << 24)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))


def write_float(
    path: Path, steps: Sequence[Step], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Write the network in fp32."""
    writer = Writer()
    first = writer.tensor(source, shapes[source], np.float32)
    for step in steps:
        inputs = [writer.tensor(name, shapes[name], np.float32) for name in step.inputs]
        for i, constant in enumerate(step.constants):
            name = f"{step.output}/{i}"
            inputs.append(writer.tensor(name, constant.shape, constant.dtype, data=constant))
        output = writer.tensor(step.output, shapes[step.output], np.float32)
        writer.operator(step.kind, inputs, output, step.options)
    last = writer.tensor(steps[-1].output, (), np.float32)
    writer.write(path, [first], [last])


def write_int8(
    path: Path,
    steps: Sequence[Step],
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
    ranges: Mapping[str, tuple[float, float]],
) -> None:
    """Write the network in int8, fp32 at both ends."""
    writer, scales = Writer(), _scales(steps, source, ranges)
    first = writer.tensor(f"{source}/float", shapes[source], np.float32)
    quantized = writer.tensor(source, shapes[source], np.int8, scales[source])
    writer.operator("QUANTIZE", [first], quantized, ("QuantizeOptions", {}))
    for step in steps:
        inputs = [writer.tensor(n, shapes[n], np.int8, scales[n]) for n in step.inputs]
        if step.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            inputs += _weights(writer, step, scales[step.inputs[0]])
        else:
            for i, constant in enumerate(step.constants):
                name = f"{step.output}/{i}"
                inputs.append(writer.tensor(name, constant.shape, constant.dtype, data=constant))
        output = writer.tensor(step.output, shapes[step.output], np.int8, scales[step.output])
        writer.operator(step.kind, inputs, output, step.options)
    name = steps[-1].output
    last = writer.tensor(f"{name}/float", shapes[name], np.float32)
    writer.operator("DEQUANTIZE", [writer.tensor(name, (), np.int8)], last,
                    ("DequantizeOptions", {}))  # fmt: skip
    writer.write(path, [first], [last])


def _scales(
    steps: Sequence[Step], source: str, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, Scale]:
    scales: dict[str, Scale] = {}
    for name in (source, *(step.output for step in steps)):
        low, high = min(0.0, ranges[name][0]), max(0.0, ranges[name][1])
        scale = max(high - low, 1e-6) / 255
        scales[name] = Scale(np.array([scale]), round(-128 - low / scale))
    for step in steps:
        if step.kind in ("PAD", "MAX_POOL_2D", "RESHAPE"):  # they move values as they are
            scales[step.output] = scales[step.inputs[0]]
    return scales


def _weights(writer: Writer, step: Step, source: Scale) -> list[int]:
    kernels, bias = step.constants
    axis = 3 if step.kind == "DEPTHWISE_CONV_2D" else 0
    others = tuple(i for i in range(kernels.ndim) if i != axis)
    scale = np.abs(kernels).max(axis=others) / 127
    shape = [-1 if i == axis else 1 for i in range(kernels.ndim)]
    stored = np.rint(kernels / scale.reshape(shape)).astype(np.int8)
    product = scale * source.scale[0]
    return [
        writer.tensor(f"{step.output}/0", stored.shape, np.int8, Scale(scale, 0, axis), stored),
        writer.tensor(f"{step.output}/1", bias.shape, np.int32, Scale(product),
                      np.rint(bias / product).astype(np.int32)),
    ]  # fmt: skip


def calibrate(path: Path, inputs: Array) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each activation of a fp32 file. The inputs are NHWC."""
    # A delegate would keep what is inside to itself.
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    ranges: dict[str, tuple[float, float]] = {}
    for value in inputs:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value[None])
        interpreter.invoke()
        for tensor in interpreter.get_tensor_details():
            if tensor["dtype"] is not np.float32 or not tensor["name"]:
                continue
            try:
                found = interpreter.get_tensor(tensor["index"])
            except ValueError:  # constants, and what a delegate made for itself
                continue
            low, high = ranges.get(tensor["name"], (0.0, 0.0))
            ranges[tensor["name"]] = (min(low, float(found.min())), max(high, float(found.max())))
    return ranges


def main() -> None:
    """Convert one network."""
    source, floating, int8 = map(Path, sys.argv[1:4])
    steps, shapes = read_steps(source)
    first = steps[0].inputs[0].removesuffix("_padded")
    write_float(floating, steps, shapes, first)
    images = np.ascontiguousarray(smooth_noise().transpose(0, 2, 3, 1))
    write_int8(int8, steps, shapes, first, calibrate(floating, images))


if __name__ == "__main__":
    main()
