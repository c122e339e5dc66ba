"""LegalizeKernels: operators become compute definitions that the schedule rules know.

What is not in the map here takes TVM's own definition. Convolutions, products and pooling
become canonical definitions with their workload beside them; how they are computed is chosen
after fusion (`compiler.lower.choose_kernels`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from compiler.compress.operators import PREFIX
from compiler.lower.compressed_weights import Compressed, find, kernel_weight, take
from compiler.lower.graph import (
    FunctionView,
    dtype_of,
    is_constant,
    operator_name,
    shape_of,
    static_shape,
)
from compiler.lower.legalize_images import image_operands
from compiler.lower.legalize_integers import LEGALIZATIONS as INTEGER_LEGALIZATIONS
from compiler.lower.legalize_rows import legalizations as row_legalizations
from compiler.lower.legalize_signs import legalizations as sign_legalizations
from compiler.lower.parameters import Array, ParameterTable, value_of
from schedules.cpu import bfloat16
from schedules.cpu.annotations import WORKLOAD
from schedules.cpu.compute import activations, rows, tables
from schedules.cpu.compute.activations import ACTIVATIONS
from schedules.cpu.compute.canonical import canonical
from schedules.cpu.compute.packed import ConvGeometry
from schedules.cpu.templates.lanes import bounded
from schedules.cpu.templates.winograd_tiles import proven
from schedules.encodings import Encoding
from schedules.tvm_adapter import IRModule, relax, tirx, topi
from schedules.workload import Workload
from targets.spec import TargetSpec

#: Called with the block builder, the call on new operands, and the call as it was.
Legalize = Callable[[Any, Any, Any], Any]

#: TVM's fusion patterns: what may follow a kernel in the same function.
ELEMENTWISE, INJECTIVE, OUT_ELEMENTWISE_FUSABLE, OPAQUE = 0, 2, 4, 8


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(
        self, module: IRModule, table: ParameterTable, spec: TargetSpec, view: FunctionView
    ) -> None:
        super().__init__(module)
        kernels = KernelLegalizer(table, spec, view, self.visit_expr)
        self.legalizations = kernels.legalizations()

    def visit_call_(self, op: Any) -> Any:
        legalize = self.legalizations.get(operator_name(op))
        if legalize is None:
            return super().visit_call_(op)
        call = self.builder_.normalize(self.visit_expr_post_order(op))
        return legalize(self.builder_, call, op)


def legalize_kernels(module: IRModule, table: ParameterTable, spec: TargetSpec) -> IRModule:
    """Apply the pass to `main`; what no kernel of ours fits stays a Relax operator."""
    variable = module.get_global_var("main")
    rewriter = _Rewriter(module, table, spec, FunctionView(module[variable]))
    function = rewriter.visit_expr(module[variable])
    result = rewriter.builder_.get()
    result.update_func(variable, function)
    return relax.transform.DeadCodeElimination(["main"])(result)


@dataclass(frozen=True, slots=True)
class KernelLegalizer:
    """Legalizations for one target.

    Attributes:
        table: Names of the constants.
        spec: The target, which decides on tiles.
        view: The function as it was, to look through operators that a kernel absorbs.
        visit: Gives the new expression for an original one.
    """

    table: ParameterTable
    spec: TargetSpec
    view: FunctionView
    visit: Callable[[Any], Any]

    def legalizations(self) -> dict[str, Legalize]:
        """Relax operator name -> legalization."""
        return {
            "nn.conv2d": self.conv2d,
            "nn.conv2d_transpose": self.conv2d_transpose,
            "nn.max_pool2d": self.pool2d,
            "nn.avg_pool2d": self.pool2d,
            "nn.adaptive_avg_pool2d": self.adaptive_avg_pool2d,
            "matmul": self.matmul,
            "take": self.take,
            "nn.softmax": self.softmax,
            "nn.log_softmax": self.softmax,
            "nn.layer_norm": self.layer_norm,
            "nn.rms_norm": self.rms_norm,
            "nn.group_norm": self.group_norm,
            "nn.instance_norm": self.instance_norm,
            "mean": self.reduce,
            "sum": self.reduce,
            "max": self.reduce,
            "min": self.reduce,
            **dict.fromkeys(ACTIVATIONS, self.activation),
            "clip": self.clip,
            "nn.pad": self.pad,
            "astype": self.astype,
            **INTEGER_LEGALIZATIONS,
            f"{PREFIX}lookup": self.lookup,
            **row_legalizations(self.spec),
            **sign_legalizations(self._kernel),
        }

    def lookup(self, bb: Any, call: Any, original: Any) -> Any:
        """A function of a byte: a pass of its own where a table is looked up in registers."""
        shape = shape_of(call)
        lanes = tables.lanes(self.spec)
        if not lanes or shape is None or not _is_static(shape):
            return INTEGER_LEGALIZATIONS[f"{PREFIX}lookup"](bb, call, original)
        if prod(shape) % lanes:
            return INTEGER_LEGALIZATIONS[f"{PREFIX}lookup"](bb, call, original)
        dtype = dtype_of(call)
        flat = bb.call_te(
            lambda x, table: tables.lookup(x, table, dtype=dtype),
            bb.emit(relax.op.reshape(call.args[0], [prod(shape)])),
            call.args[1],
            primfunc_name_hint="lookup",
            primfunc_attrs={"op_pattern": OPAQUE},
        )
        return relax.op.reshape(bb.emit(flat), shape)

    # Convolutions and matrix products

    def conv2d(self, bb: Any, call: Any, original: Any) -> Any:
        """``NHWC`` convolutions with known weights; depthwise ones have a kernel of their own."""
        data, weight = call.args
        a = call.attrs
        shape = shape_of(data)
        compressed = find(self.view, self.table, original.args[1])
        if (
            a.data_layout != "NHWC"
            or a.kernel_layout != "OIHW"
            or not (is_constant(weight) or compressed)
            or shape is None
            or not all(isinstance(v, int) for v in shape[1:])
        ):
            return call
        data, padding, fill = self._absorb_padding(data, original.args[0], _quad(a.padding))
        if int(a.groups) == 1 and not compressed:
            source = self._before_padding(original.args[0], padding, _quad(a.padding))
            image = image_operands(
                self.view, self.table, self.visit, bb, source, weight, padding, fill
            )
            if image is not None:
                data, weight = image
                padding, fill = (0, 0, 0, 0), 0
        shape = shape_of(data) or shape
        geometry = ConvGeometry(_pair(a.strides), padding, _pair(a.dilation), int(a.groups))
        out_channels, inner, *kernel = static_shape(weight) or []
        size = geometry.output_extent((shape[1], shape[2]), (kernel[0], kernel[1]))
        depthwise = geometry.groups == shape[3] and inner == 1 and geometry.groups > 1
        return self._weighted(
            bb,
            "depthwise_conv2d" if depthwise else "conv2d",
            (data, compressed or weight),
            (shape[0], *size, out_channels),
            dtype_of(call),
            {
                "strides": geometry.strides,
                "padding": padding,
                "dilation": geometry.dilation,
                "groups": geometry.groups,
                **({"pad_value": fill} if fill else {}),
            },
        )

    def _weighted(
        self,
        bb: Any,
        operator: str,
        operands: tuple[Any, Any],
        output: tuple[Any, ...],
        accumulator: str,
        attributes: dict[str, Any],
    ) -> Any:
        """A kernel whose weight is a constant, or compressed: then it reads codes."""
        data, weight = operands
        if not isinstance(weight, Compressed):
            return self._kernel(bb, operator, operands, output, accumulator, attributes)
        parts = kernel_weight(weight, self.table, operator, int(attributes.get("groups", 1)))
        result = self._kernel(
            bb, operator, (data, *parts.operands), output, accumulator,
            {**attributes, **parts.attributes}, parts.encoding,
        )  # fmt: skip
        if parts.scales is None:
            return result
        return relax.op.multiply(bb.emit(result), parts.scales)

    def _kernel(
        self,
        bb: Any,
        operator: str,
        operands: tuple[Any, ...],
        output: tuple[Any, ...],
        accumulator: str,
        attributes: dict[str, Any],
        encoding: str = "",
    ) -> Any:
        """A call of the operator's canonical definition, with its workload as an attribute.

        Args:
            bb: The block builder.
            operator: Of the workload.
            operands: The data, then the operands of the weight if there is one.
            output: Shape of the result.
            accumulator: Its dtype.
            attributes: Of the workload.
            encoding: Of a weight whose operands are codes; otherwise the table of constants says.
        """
        shapes = [_extents(shape_of(v) or []) for v in operands[:2]]
        dtypes = [dtype_of(v) for v in operands[:2]]
        if not encoding and len(operands) > 1 and is_constant(operands[1]):
            encoding = self._storable(operator, operands[1], attributes)
        workload = Workload(
            operator=operator,
            data=shapes[0],
            weight=shapes[1] if len(shapes) > 1 else (),
            output=_extents(output),
            dtypes=(dtypes[0], dtypes[-1], accumulator),
            layout="NHWC" if operator.endswith(("conv2d", "pool2d")) else "row-major",
            attributes=attributes,
            weight_encoding=encoding,
        )
        products = ("conv2d", "dense", "depthwise_conv2d")
        if operator in products and is_constant(operands[1]):
            workload = bounded(workload, self.spec, lambda: value_of(operands[1]))
        if operator == "conv2d" and is_constant(operands[1]):
            workload = proven(workload, self.spec, lambda: value_of(operands[1]))
        return bb.call_te(
            lambda *tensors: canonical(workload, *tensors),
            *operands,
            primfunc_name_hint=operator,
            primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE, WORKLOAD: workload.canonical()},
        )

    def _storable(self, operator: str, weight: Any, attributes: dict[str, Any]) -> str:
        """The encoding that a weight of integer arithmetic is stored in; empty for a plain one.

        Depthwise kernels and groups of channels that do not fill whole bytes read plain ones.
        """
        encoding = self.table.encoding_of(weight)
        packing = Encoding.parse(encoding).packing
        if packing is None or operator not in ("conv2d", "dense"):
            return ""
        groups = int(attributes.get("groups", 1))
        if groups > 1 and (static_shape(weight) or [0, 1])[1] % packing.per_byte:
            return ""
        return encoding

    def _absorb_padding(
        self, data: Any, original: Any, padding: tuple[int, int, int, int]
    ) -> tuple[Any, tuple[int, int, int, int], int]:
        """The data before a padding of height and width, the padding together, and its value.

        Floating-point numbers are padded by zero only, integers by what stands for it.
        """
        producer = self.view.definition(original)
        if operator_name(producer) != "nn.pad":
            return data, padding, 0
        a = producer.attrs
        width = [int(v) for v in a.pad_width]
        fill = int(a.pad_value) if dtype_of(producer) in ("uint8", "int8") else 0
        if (
            a.pad_mode != "constant"
            or float(a.pad_value) != fill
            or (fill != 0 and any(padding))
            or any(width[0:2] + width[6:8])
            or min(width) < 0
        ):
            return data, padding, 0
        top, left, bottom, right = padding
        padding = (top + width[2], left + width[4], bottom + width[3], right + width[5])
        return self.visit(producer.args[0]), padding, fill

    def _before_padding(self, original: Any, padding: tuple[int, ...], own: tuple[int, ...]) -> Any:
        """What a convolution reads, before a padding that it has absorbed."""
        return original if padding == own else self.view.definition(original).args[0]

    def conv2d_transpose(self, bb: Any, call: Any, original: Any) -> Any:
        """A transposed convolution as a convolution over the input with zeros in between."""
        data, weight = call.args
        a = call.attrs
        shape, out = shape_of(data), shape_of(call)
        compressed = find(self.view, self.table, original.args[1])
        if (
            a.data_layout != "NHWC"
            or a.kernel_layout != "IOHW"
            or not (is_constant(weight) or compressed)
            or shape is None
            or out is None
            or not all(isinstance(v, int) for v in [*shape[1:], *out[1:]])
        ):
            return call
        groups = int(a.groups)
        _, per_group, kh, kw = static_shape(weight) or []

        def turned(value: Array) -> Array:
            flipped = value[:, :, ::-1, ::-1]
            parts = np.split(flipped, groups, axis=0) if len(flipped) % groups == 0 else [flipped]
            return np.concatenate([g.transpose(1, 0, 2, 3) for g in parts], axis=0)

        dilation = _pair(a.dilation)
        padding = _quad(a.padding)
        top = dilation[0] * (kh - 1) - padding[0]
        left = dilation[1] * (kw - 1) - padding[1]
        kernel: Any
        if compressed is not None:
            kernel = compressed.mapped(turned, 0)
        else:
            name = self.table.name_of(weight) or "weight"
            kernel = self.table.constant(turned(value_of(weight)), name)
        return self._weighted(
            bb,
            "conv2d",
            (data, kernel),
            (shape[0], out[1], out[2], per_group * groups),
            dtype_of(call),
            {
                "strides": (1, 1),
                "padding": (top, left, 0, 0),
                "dilation": dilation,
                "groups": groups,
                "input_dilation": _pair(a.strides),
            },
        )

    def matmul(self, bb: Any, call: Any, original: Any) -> Any:
        """Products with a constant matrix (packed now) and between activations (packed inside)."""
        lhs, rhs = call.args
        left, right = shape_of(lhs), shape_of(rhs)
        if left is None or right is None or len(right) < 2 or not left:
            return call
        integers = dtype_of(lhs) in ("uint8", "int8") and dtype_of(rhs) == "int8"
        floats = dtype_of(lhs) == dtype_of(rhs) and dtype_of(lhs).startswith(("float", "bfloat"))
        if not floats and not (integers and dtype_of(call) == "int32"):
            return call
        if len(left) == 1:
            wide = bb.emit(relax.op.expand_dims(lhs, 0))
            inner = bb.normalize(relax.op.matmul(wide, rhs, dtype_of(call)))
            product = bb.emit(self.matmul(bb, inner, original))
            return relax.op.squeeze(product, [len(right) - 2])
        compressed = find(self.view, self.table, original.args[1])
        if (is_constant(rhs) or compressed) and len(right) == 2:
            operands = (lhs, compressed or rhs)
            shape = (*left[:-1], right[1])
            return self._weighted(bb, "dense", operands, shape, dtype_of(call), {})
        return self._batch_matmul(bb, lhs, rhs, original.args[1], dtype_of(call))

    def take(self, bb: Any, call: Any, original: Any) -> Any:
        """Rows of a compressed table; others take TVM's definition."""
        compressed = find(self.view, self.table, original.args[0])
        return call if compressed is None else take(bb, call, self.table, compressed)

    def _batch_matmul(self, bb: Any, lhs: Any, rhs: Any, original: Any, dtype: str) -> Any:
        transpose = False
        producer = self.view.definition(original)
        rank = len(shape_of(rhs) or [])
        if operator_name(producer) == "permute_dims" and producer.attrs.axes is not None:
            axes = [int(v) % rank for v in producer.attrs.axes]
            if axes == [*range(rank - 2), rank - 1, rank - 2]:
                rhs, transpose = self.visit(producer.args[0]), True
        left, right = shape_of(lhs) or [], shape_of(rhs) or []
        full = max(len(left), len(right))
        if len(left) < full:
            lhs = bb.emit(relax.op.reshape(lhs, [1] * (full - len(left)) + left))
        if len(right) < full:
            rhs = bb.emit(relax.op.reshape(rhs, [1] * (full - len(right)) + right))
        if full == 2:
            lhs = bb.emit(relax.op.expand_dims(lhs, 0))
            rhs = bb.emit(relax.op.expand_dims(rhs, 0))
        left, right = shape_of(lhs) or [], shape_of(rhs) or []
        n = right[-2] if transpose else right[-1]
        batch = [a if b == 1 else b for a, b in zip(left[:-2], right[:-2], strict=True)]
        product = self._kernel(
            bb, "batch_matmul", (lhs, rhs), (*batch, left[-2], n), dtype,
            {"transpose_rhs": transpose},
        )  # fmt: skip
        if full == 2:
            return relax.op.squeeze(bb.emit(product), [0])
        return product

    # Pooling

    def pool2d(self, bb: Any, call: Any, original: Any) -> Any:
        """Max and average pooling in ``NHWC``."""
        a = call.attrs
        shape = shape_of(call.args[0])
        if a.layout != "NHWC" or shape is None or not all(isinstance(v, int) for v in shape[1:]):
            return call
        return self._pool(
            bb,
            call,
            original,
            "max" if operator_name(call) == "nn.max_pool2d" else "avg",
            _pair(a.pool_size),
            ConvGeometry(_pair(a.strides), _quad(a.padding), _pair(a.dilation)),
            ceil_mode=bool(a.ceil_mode),
            count_include_pad=bool(a.count_include_pad),
        )

    def _pool(
        self,
        bb: Any,
        call: Any,
        original: Any,
        kind: str,
        kernel: tuple[int, int],
        geometry: ConvGeometry,
        **modes: bool,
    ) -> Any:
        out = shape_of(call) or []
        attributes = {
            "kind": kind,
            "kernel": kernel,
            "strides": geometry.strides,
            "padding": geometry.padding,
            "dilation": geometry.dilation,
            **modes,
        }
        data = self._narrow_source(call.args[0], original.args[0])
        return self._kernel(bb, "pool2d", (data,), tuple(out), dtype_of(call), attributes)

    def adaptive_avg_pool2d(self, bb: Any, call: Any, original: Any) -> Any:
        """Average pooling whose window divides the input, else TVM's own definition."""
        shape = shape_of(call.args[0])
        size = call.attrs.output_size
        if call.attrs.layout != "NHWC" or shape is None or size is None:
            return call
        out = _pair(size)
        if (
            not all(isinstance(v, int) for v in shape[1:3])
            or shape[1] % out[0]
            or shape[2] % out[1]
        ):
            return call
        if out == (1, 1):
            return relax.op.mean(call.args[0], [1, 2], True)
        kernel = (shape[1] // out[0], shape[2] // out[1])
        return self._pool(
            bb, call, original, "avg", kernel, ConvGeometry(kernel),
            ceil_mode=False, count_include_pad=False,
        )  # fmt: skip

    def pad(self, bb: Any, call: Any, original: Any) -> Any:
        """Constant padding; TVM's own definition looks elementwise to its fusion."""
        if call.attrs.pad_mode != "constant":
            return call
        width = [int(v) for v in call.attrs.pad_width]
        value = float(call.attrs.pad_value)
        return bb.call_te(
            lambda x: topi.nn.pad(x, width[0::2], width[1::2], value),
            call.args[0],
            primfunc_name_hint="pad",
            primfunc_attrs={"op_pattern": INJECTIVE},
        )

    # Rows

    def softmax(self, bb: Any, call: Any, original: Any) -> Any:
        """Softmax over the last dimension; over another one, that is moved to the end first."""
        shape = shape_of(call.args[0])
        if shape is None or dtype_of(call.args[0]) != "float32":
            return call
        data = self._narrow_source(call.args[0], original.args[0])
        store = self._store(original)
        axis = int(call.attrs.axis) % len(shape)
        log = operator_name(call) == "nn.log_softmax"
        order = [i for i in range(len(shape)) if i != axis] + [axis]
        moved = axis != len(shape) - 1
        if moved:
            data = bb.emit(relax.op.permute_dims(data, order))
        lanes = self.spec.vector_lanes("float32")
        result = bb.call_te(
            lambda x: rows.softmax(x, lanes, log=log, store=store),
            data,
            primfunc_name_hint="log_softmax" if log else "softmax",
            primfunc_attrs={"op_pattern": OPAQUE},
        )
        if not moved:
            return result
        back = [order.index(i) for i in range(len(shape))]
        return relax.op.permute_dims(bb.emit(result), back)

    def layer_norm(self, bb: Any, call: Any, original: Any) -> Any:
        """Layer normalization over trailing dimensions, seen as one."""
        data, gamma, beta = call.args
        a = call.attrs
        normalized = self._normalize_rows(
            bb, self._narrow_source(data, original.args[0]), gamma if a.scale else None,
            beta if a.center else None, [int(v) for v in a.axes], float(a.epsilon), rms=False,
            store=self._store(original),
        )  # fmt: skip
        return call if normalized is None else normalized

    def rms_norm(self, bb: Any, call: Any, original: Any) -> Any:
        """RMS normalization over trailing dimensions, seen as one."""
        data, gamma = call.args
        axes = [int(v) for v in call.attrs.axes]
        data = self._narrow_source(data, original.args[0])
        normalized = self._normalize_rows(
            bb, data, gamma, None, axes, float(call.attrs.epsilon), rms=True,
            store=self._store(original),
        )  # fmt: skip
        return call if normalized is None else normalized

    def _normalize_rows(
        self,
        bb: Any,
        data: Any,
        gamma: Any,
        beta: Any,
        axes: list[int],
        epsilon: float,
        *,
        rms: bool,
        store: rows.Store = rows.as_it_is,
    ) -> Any | None:
        shape = shape_of(data)
        if shape is None or dtype_of(data) not in ("float32", *bfloat16.DTYPES):
            return None
        rank = len(shape)
        axes = sorted(v % rank for v in axes)
        if axes != list(range(rank - len(axes), rank)) or not all(
            isinstance(shape[v], int) for v in axes
        ):
            return None
        length = prod(shape[v] for v in axes)
        lead = shape[: axes[0]]
        if len(axes) > 1:
            data = bb.emit(relax.op.reshape(data, [*lead, length]))
        operands = []
        for operand in (gamma, beta):
            if operand is not None and len(axes) > 1:
                operand = bb.emit(relax.op.reshape(operand, [length]))  # noqa: PLW2901
            operands.append(operand)
        gamma, beta = operands
        lanes = self.spec.vector_lanes("float32")

        def compute(x: Any, *affine: Any) -> Any:
            rest = list(affine)
            g = rest.pop(0) if gamma is not None else None
            b = rest.pop(0) if beta is not None else None
            return rows.layer_norm(x, g, b, epsilon, lanes, rms=rms, store=store)

        result = bb.call_te(
            compute,
            data,
            *(v for v in operands if v is not None),
            primfunc_name_hint="rms_norm" if rms else "layer_norm",
            primfunc_attrs={"op_pattern": OPAQUE},
        )
        return result if len(axes) == 1 else relax.op.reshape(bb.emit(result), shape)

    def group_norm(self, bb: Any, call: Any, original: Any) -> Any:
        """Group normalization of ``NC...`` data: rows of one group, then channels' affine."""
        a = call.attrs
        groups = int(a.num_groups)
        return self._normalize_groups(bb, call, groups)

    def instance_norm(self, bb: Any, call: Any, original: Any) -> Any:
        """Instance normalization: every channel is a group."""
        shape = shape_of(call.args[0]) or []
        channels = shape[1] if len(shape) > 1 and isinstance(shape[1], int) else 0
        return self._normalize_groups(bb, call, channels)

    def _normalize_groups(self, bb: Any, call: Any, groups: int) -> Any:
        data, gamma, beta = call.args
        a = call.attrs
        shape = shape_of(data)
        if shape is None or len(shape) < 2 or groups < 1 or not _is_static(shape[1:]):
            return call
        rank = len(shape)
        spatial = sorted(int(v) % rank for v in a.axes)
        if int(a.channel_axis) % rank != 1 or spatial != list(range(2, rank)):
            return call
        rows_shape = [shape[0], groups, prod(shape[1:]) // groups]
        flat = bb.emit(relax.op.reshape(data, rows_shape))
        normalized = self._normalize_rows(bb, flat, None, None, [-1], float(a.epsilon), rms=False)
        if normalized is None:
            return call
        result = bb.emit(relax.op.reshape(bb.emit(normalized), shape))
        per_channel = [1, shape[1], *([1] * (rank - 2))]
        for enabled, operand, function in (
            (a.scale, gamma, relax.op.multiply),
            (a.center, beta, relax.op.add),
        ):
            if enabled:
                value = (
                    self.table.constant(
                        value_of(operand).reshape(per_channel),
                        self.table.name_of(operand) or "norm",
                    )
                    if is_constant(operand)
                    else bb.emit(relax.op.reshape(operand, per_channel))
                )
                result = bb.emit(function(result, value))
        return result

    def reduce(self, bb: Any, call: Any, original: Any) -> Any:
        """Reductions of trailing dimensions, row by row; others take TVM's definition."""
        data = call.args[0]
        shape = shape_of(data)
        if shape is None or dtype_of(data) != "float32":
            return call
        rank = len(shape)
        axes = list(range(rank)) if call.attrs.axis is None else sorted(
            int(v) % rank for v in call.attrs.axis
        )  # fmt: skip
        if (
            not axes
            or axes != list(range(rank - len(axes), rank))
            or not _is_static(shape[axes[0] :])
        ):
            return call
        length = prod(shape[axes[0] :])
        lead = shape[: axes[0]]
        kind = operator_name(call)
        data = self._narrow_source(data, original.args[0])
        lanes = self.spec.vector_lanes("float32")
        if len(axes) > 1 or not lead:
            data = bb.emit(relax.op.reshape(data, [*(lead or [1]), length]))
        result = bb.call_te(
            lambda x: rows.reduce_last(x, kind, lanes),
            data,
            primfunc_name_hint=kind,
            primfunc_attrs={"op_pattern": OPAQUE},
        )
        out = shape_of(call)
        if (not call.attrs.keepdims and lead) or out is None:
            return result
        return relax.op.reshape(bb.emit(result), out)

    # Elementwise

    def astype(self, bb: Any, call: Any, original: Any) -> Any:
        """Between float32 and 16 bits; nothing where the kernel before has stored these."""
        data, have, dtype = call.args[0], dtype_of(call.args[0]), dtype_of(call)
        if have == dtype:
            return data
        if "float32" not in (have, dtype) or not {have, dtype} & bfloat16.DTYPES:
            return call
        return bb.call_te(
            lambda x: bfloat16.cast(x, dtype, self.spec),
            data,
            primfunc_name_hint="narrow" if dtype in bfloat16.DTYPES else "widen",
            primfunc_attrs={"op_pattern": ELEMENTWISE},
        )

    def _narrow_source(self, data: Any, original: Any) -> Any:
        """What `data` was widened from, for kernels that widen as they read; else `data`."""
        producer = self.view.definition(original)
        if operator_name(producer) == "astype" and dtype_of(producer) == "float32":
            source = self.visit(producer.args[0])
            if dtype_of(source) in bfloat16.DTYPES:
                return source
        return data

    def _store(self, original: Any) -> rows.Store:
        """How a kernel stores its elements: on 16 bits where that is all that is read."""
        for dtype in bfloat16.DTYPES:
            if self.view.only_cast_to(original, dtype):
                return partial(bfloat16.narrow, spec=self.spec, dtype=dtype)
        return rows.as_it_is

    def clip(self, bb: Any, call: Any, original: Any) -> Any:
        """Clipping between two numbers, for float32."""
        data, *limits = call.args
        numbers = [n for n in map(_number, limits) if n is not None]
        if dtype_of(data) != "float32" or len(numbers) != 2:
            return call
        low, high = numbers
        return bb.call_te(
            lambda x: activations.clip(x, low, high),
            data,
            primfunc_name_hint="clip",
            primfunc_attrs={"op_pattern": ELEMENTWISE},
        )

    def activation(self, bb: Any, call: Any, original: Any) -> Any:
        """Activations by approximations that vectorize, for float32."""
        if dtype_of(call.args[0]) != "float32":
            return call
        name = operator_name(call)
        return bb.call_te(
            ACTIVATIONS[name],
            call.args[0],
            primfunc_name_hint=name.removeprefix("nn."),
            primfunc_attrs={"op_pattern": ELEMENTWISE},
        )


def _number(expr: Any) -> float | None:
    """The number in a scalar expression, None if it is not known."""
    value = expr
    while not isinstance(value, (int, float)):
        value = getattr(value, "value", None)
        if value is None:
            return None
    return float(value)


def _pair(values: Any) -> tuple[int, int]:
    first, *rest = (int(v) for v in values)
    return first, rest[0] if rest else first


def _quad(values: Any) -> tuple[int, int, int, int]:
    numbers = [int(v) for v in values]
    if len(numbers) == 2:
        numbers = numbers * 2
    if len(numbers) == 1:
        numbers = numbers * 4
    top, left, bottom, right = numbers
    return top, left, bottom, right


def _extents(shape: Iterable[Any]) -> tuple[int | str, ...]:
    return tuple(int(v) if isinstance(v, (int, tirx.IntImm)) else str(v) for v in shape)


def _is_static(shape: list[Any]) -> bool:
    return all(isinstance(v, int) for v in shape)
