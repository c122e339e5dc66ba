"""Kernels of one layer in several precisions, each with the requantization behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from compiler.compress import low_bits
from schedules.cpu import templates
from schedules.cpu.annotations import IS_SCHEDULED
from schedules.cpu.compute import integers, signs
from schedules.cpu.compute.canonical import placeholders
from schedules.cpu.default import schedule_function
from schedules.space import Choice
from schedules.tvm_adapter import IRModule, te, tvm
from schedules.tvm_adapter import target as tvm_target
from schedules.workload import Workload
from targets import TargetSpec

Array = np.ndarray[Any, Any]
#: What is measured: the arithmetic, and how a weight is stored.
FORMS = ("float32", "int8", "w4a8", "w2a8", "w1a8", "w1a1")
_ENCODINGS = {"w4a8": "int4", "w2a8": "ternary", "w1a8": "binary"}


@dataclass(frozen=True)
class Layer:
    """A convolution of an image of equal sides, or, with a kernel of 0, a matrix product.

    Attributes:
        inputs: Channels, or length of the reduction.
        outputs: Channels, or columns.
        size: Height and width of image and result, or rows.
        kernel: Height and width of the kernel; 0 for a product.
    """

    inputs: int
    outputs: int
    size: int
    kernel: int

    def __str__(self) -> str:
        if self.kernel == 0:
            return f"{self.size} x {self.inputs} by {self.inputs} x {self.outputs}"
        kernel = f"{self.kernel}x{self.kernel}"
        return f"{kernel}, {self.inputs} to {self.outputs}, {self.size}x{self.size}"

    @property
    def products(self) -> int:
        """Multiply-adds."""
        rows = self.size if self.kernel == 0 else (self.size * self.kernel) ** 2
        return rows * self.inputs * self.outputs

    def workload(self, form: str) -> Workload:
        """The layer in one of `FORMS`."""
        inner = low_bits.words(self.inputs) if form == "w1a1" else self.inputs
        dtypes = {
            "float32": ("float32", "float32", "float32"), "w1a1": ("uint32", "uint32", "int32")
        }.get(form, ("uint8", "int8", "int32"))  # fmt: skip
        signs_of = {"channels": self.inputs, "fraction": 8} if form == "w1a1" else {}
        prefix = "binary_" if form == "w1a1" else ""
        encoding = _ENCODINGS.get(form, "")
        if self.kernel == 0:
            return Workload(
                f"{prefix}dense", (self.size, inner), (inner, self.outputs),
                (self.size, self.outputs), dtypes, "row-major", signs_of, ("requantize",),
                encoding,
            )  # fmt: skip
        pad = self.kernel // 2
        attributes = {
            "strides": [1, 1], "padding": [pad] * 4, "dilation": [1, 1], "groups": 1, **signs_of
        }  # fmt: skip
        size = (1, self.size, self.size)
        return Workload(
            f"{prefix}conv2d", (*size, inner), (self.outputs, inner, self.kernel, self.kernel),
            (*size, self.outputs), dtypes, "NHWC", attributes, ("requantize",), encoding,
        )  # fmt: skip


@dataclass
class Candidate:
    """A kernel, built, and its times.

    Attributes:
        choice: What it was built with.
        bytes: Of the packed weight.
        run: Calls it.
        seconds: One a run.
    """

    choice: Choice
    bytes: int
    run: Callable[[], None]
    seconds: list[float] = field(default_factory=list)

    def measure(self, repeats: int) -> None:
        """Run it, and keep the mean time of a few calls in a row."""
        start = perf_counter()
        for _ in range(repeats):
            self.run()
        self.seconds.append((perf_counter() - start) / repeats)

    @property
    def typical(self) -> float:
        """Lower quartile of its times, in seconds: a busy machine only ever adds to them."""
        return float(np.quantile(self.seconds, 0.25))


def choices(workload: Workload, spec: TargetSpec, count: int) -> list[Choice]:
    """The defaults of all algorithms and of their tiles, the most promising by the model first."""
    found: list[tuple[float, Choice]] = []
    for space in templates.spaces(workload, spec):
        tiles = next((d.options for d in space.decisions if d.name == "tile"), ())
        orders = next((d.options for d in space.decisions if d.name == "order"), ("",))
        for tile in tiles[:count]:
            for order in orders if tile in tiles[:2] else (space.default.get("order", ""),):
                choice = {**space.default, "tile": tile, **({"order": order} if order else {})}
                found.append((templates.estimated_cycles(workload, choice, spec), choice))
    default = templates.default_choice(workload, spec)
    found.sort(key=lambda entry: entry[0])
    ranked = [c for _, c in found if c != default]
    return [default, *ranked[: max(0, count - 1)]]


def build(layer: Layer, form: str, choice: Choice, spec: TargetSpec, seed: int = 0) -> Candidate:
    """Build one kernel on random numbers."""
    workload = layer.workload(form)
    numpy = np.random.default_rng(seed)
    data, weight = _numbers(workload, form, numpy)
    packed = templates.pack(workload, choice, spec, weight)
    tensors = placeholders(workload, templates.packed(workload, choice, spec))
    result = templates.compute(workload, choice, spec, *tensors)
    extra: list[Array] = []
    if form == "float32":
        extra = [numpy.standard_normal(layer.outputs, np.float32)]
        bias = te.placeholder((layer.outputs,), "float32", "bias")
        tensors = [*tensors, bias]
        sums = result
        result = te.compute(sums.shape, lambda *i: sums[i] + bias[i[-1]], name="add")
    else:
        extra = [np.zeros(layer.outputs, np.int32), np.full(layer.outputs, 1 << 22, np.int32)]
        operands = [te.placeholder((layer.outputs,), "int32", n) for n in ("bias", "scale")]
        tensors = [*tensors, *operands]
        result = integers.requantize(
            result, *operands, shift=34, zero_point=128, low=0, high=255, dtype="uint8"
        )
    function = _function([*tensors, result], spec)
    output = np.zeros([int(v) for v in workload.output], str(result.dtype))
    arguments = [tvm.runtime.tensor(a) for a in (data, *packed, *extra, output)]
    return Candidate(choice, sum(a.nbytes for a in packed), lambda: function(*arguments))


def build_signs(layer: Layer, spec: TargetSpec) -> Candidate:
    """Build the packing of the signs that a layer on one bit reads, from uint8."""
    rows = (layer.size,) if layer.kernel == 0 else (1, layer.size, layer.size)
    source = te.placeholder((*rows, layer.inputs), "uint8", "data")
    function = _function([source, signs.pack(source, zero_point=128)], spec)
    data = np.random.default_rng(0).integers(0, 256, (*rows, layer.inputs)).astype(np.uint8)
    words = np.zeros((*rows, low_bits.words(layer.inputs)), np.uint32)
    arguments = [tvm.runtime.tensor(a) for a in (data, words)]
    return Candidate({}, 0, lambda: function(*arguments))


def _function(tensors: list[Any], spec: TargetSpec) -> Any:
    function = te.create_prim_func(tensors, index_dtype_override="int64")
    function = function.with_attr("tirx.noalias", True)
    target = tvm_target.Target(spec.tvm_dict())
    with target:
        scheduled, decision = schedule_function(function, "main", spec)
    if decision.fallback:
        raise RuntimeError(f"no rule but the fallback fits: {decision.remark}")
    module = IRModule({"main": scheduled.with_attr(IS_SCHEDULED, True)})
    return tvm.compile(module, target=target)["main"]


def _numbers(workload: Workload, form: str, numpy: np.random.Generator) -> tuple[Array, Array]:
    data, weight = ([int(v) for v in shape] for shape in (workload.data, workload.weight))
    if form == "float32":
        return (numpy.standard_normal(data, np.float32), numpy.standard_normal(weight, np.float32))
    if form == "w1a1":
        words = [numpy.integers(0, 2**32, shape, np.uint32) for shape in (data, weight)]
        return words[0], words[1]
    values = {"w2a8": [-1, 0, 1], "w1a8": [-1, 1], "w4a8": list(range(-7, 8))}
    allowed = np.array(values.get(form, list(range(-127, 128))), np.int8)
    return numpy.integers(0, 256, data).astype(np.uint8), numpy.choice(allowed, weight)
