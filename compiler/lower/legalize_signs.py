"""Legalizations of the operators on signs: packing, and kernels on words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.compress.operators import PREFIX, attributes_of
from compiler.lower.graph import is_constant, shape_of
from schedules.cpu.compute import signs
from schedules.cpu.compute.packed import ConvGeometry
from schedules.tvm_adapter import relax

OPAQUE = 8
#: Makes a kernel with a workload: builder, operator, operands, output, accumulator, attributes.
MakeKernel = Callable[..., Any]


def legalizations(kernel: MakeKernel) -> dict[str, Callable[[Any, Any, Any], Any]]:
    """Relax operator name -> legalization.

    Args:
        kernel: Makes a kernel that a choice is made for.
    """

    def convolution(bb: Any, call: Any, _original: Any) -> Any:
        data, weight = call.args
        a, shape = attributes_of(call), shape_of(data) or []
        known = is_constant(weight) and all(isinstance(v, int) for v in shape[1:])
        if a["layout"] != "NHWC" or not known:
            raise TypeError(f"a convolution of signs in {a['layout']} reached the kernels")
        outputs, _, kh, kw = shape_of(weight) or []
        padding = tuple(a["padding"])
        geometry = ConvGeometry(tuple(a["strides"]), padding, tuple(a["dilation"]))
        size = geometry.output_extent((shape[1], shape[2]), (kh, kw))
        return kernel(
            bb, "binary_conv2d", (data, weight), (shape[0], *size, outputs), "int32",
            {
                "strides": geometry.strides, "padding": padding, "dilation": geometry.dilation,
                "groups": 1, "channels": a["channels"], "fraction": a["fraction"],
            },
        )  # fmt: skip

    def product(bb: Any, call: Any, _original: Any) -> Any:
        data, weight = call.args
        a = attributes_of(call)
        output = (*(shape_of(data) or [])[:-1], (shape_of(weight) or [])[1])
        return kernel(
            bb, "binary_dense", (data, weight), output, "int32",
            {"channels": a["channels"], "fraction": a["fraction"]},
        )  # fmt: skip

    return {
        f"{PREFIX}sign": sign,
        f"{PREFIX}binary_conv2d": convolution,
        f"{PREFIX}binary_matmul": product,
    }


def sign(bb: Any, call: Any, _original: Any) -> Any:
    """Packing along the last dimension; another one is moved to the end first."""
    data, a = call.args[0], attributes_of(call)
    rank = len(shape_of(data) or [])
    order = [i for i in range(rank) if i != a["axis"] % rank] + [a["axis"] % rank]
    moved = order != list(range(rank))
    if moved:
        data = bb.emit(relax.op.permute_dims(data, order))
    packed = bb.call_te(
        lambda x: signs.pack(x, zero_point=a["zero_point"]),
        data,
        primfunc_name_hint="sign",
        primfunc_attrs={"op_pattern": OPAQUE},
    )
    if not moved:
        return packed
    back = [order.index(i) for i in range(rank)]
    return relax.op.permute_dims(bb.emit(packed), back)


__all__ = ["legalizations"]
