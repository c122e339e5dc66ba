"""Kernels of the AMX template, built outside a model, and what their assembly holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from schedules.cpu.amx import cost
from schedules.cpu.amx.plan import Geometry, geometry, instruction_for
from schedules.cpu.compute.canonical import placeholders
from schedules.cpu.default import schedule_function
from schedules.cpu.templates.amx import Amx
from schedules.space import Choice
from schedules.tvm_adapter import IRModule, te, tvm
from schedules.tvm_adapter import target as tvm_target
from schedules.workload import Workload
from targets import TargetSpec

INT8 = ("uint8", "int8", "int32")
BF16 = ("bfloat16", "bfloat16", "float32")


def product(size: int, dtypes: tuple[str, str, str]) -> Workload:
    """A square product."""
    shape = (size, size)
    return Workload("dense", shape, shape, shape, dtypes, "row-major", {})


def convolution(width: int, channels: int, dtypes: tuple[str, str, str]) -> Workload:
    """A 3x3 convolution of a residual network: as many channels out as in, padded by one."""
    attributes = {"strides": [1, 1], "padding": [1] * 4, "dilation": [1, 1], "groups": 1}
    shape = (1, width, width, channels)
    return Workload(
        "conv2d", shape, (channels, channels, 3, 3), shape, dtypes, "NHWC", attributes
    )  # fmt: skip


CASES = {
    "matmul 1024x1024x1024 int8": product(1024, INT8),
    "matmul 1024x1024x1024 bf16": product(1024, BF16),
    "conv 3x3 56x56x64 int8": convolution(56, 64, INT8),
    "conv 3x3 56x56x64 bf16": convolution(56, 64, BF16),
    "conv 3x3 28x28x128 bf16": convolution(28, 128, BF16),
    "conv 3x3 14x14x256 bf16": convolution(14, 256, BF16),
    "conv 3x3 7x7x512 bf16": convolution(7, 512, BF16),
}


@dataclass(frozen=True)
class Kernel:
    """A built kernel.

    Attributes:
        workload: What it computes.
        choice: The template's default for it.
        shape: Its geometry.
        library: The compiled module; its function is ``main``.
        assembly: Its assembly.
    """

    workload: Workload
    choice: Choice
    shape: Geometry
    library: Any
    assembly: str


def build(workload: Workload, spec: TargetSpec) -> Kernel:
    """The kernel that is built without a tuning record."""
    template = Amx()
    (space,) = template.spaces(workload, spec)
    choice, instruction = space.default, instruction_for(workload, spec)
    assert instruction is not None
    data, _ = placeholders(workload)
    weight = te.placeholder(*template.packed(workload, choice, spec)[0], "weight")
    out = template.compute(workload, choice, spec, data, weight)
    function, _ = schedule_function(te.create_prim_func([data, weight, out]), "main", spec)
    library = tvm.compile(
        IRModule({"main": function}), target=tvm_target.Target(spec.tvm_dict())
    )  # fmt: skip
    assembly = str(library.mod.inspect_source("asm"))
    return Kernel(workload, choice, geometry(workload, choice, instruction), library, assembly)


@dataclass(frozen=True)
class InnerLoop:
    """The instructions between two stores of accumulators.

    Attributes:
        multiplications: Tile multiplications.
        loads: Tile loads.
        others: What else there is: addresses and counters, in AT&T syntax.
    """

    multiplications: int
    loads: int
    others: tuple[str, ...]


def inner_loop(kernel: Kernel) -> InnerLoop:
    """The region of the assembly that multiplies, up to the first store of a tile."""
    lines = [line.strip() for line in kernel.assembly.splitlines()]
    lines = [line for line in lines if line and not re.match(r"[.#]|\S+:$", line)]
    name = kernel.shape.plan.instruction
    first = next(i for i, line in enumerate(lines) if line.startswith("tilezero"))
    end = next(i for i in range(first, len(lines)) if lines[i].startswith("tilestored"))
    region = lines[first:end]
    tiles = ("tile", name)
    jumps = tuple(line for line in region if not line.startswith((*tiles, "j", "call")))
    return InnerLoop(
        sum(line.startswith(name) for line in region),
        sum(line.startswith("tileload") for line in region),
        jumps,
    )


def tile_cycles(kernel: Kernel) -> float:
    """Cycles that the tile unit alone takes: what no schedule can go below with this plan."""
    return cost.MULTIPLY_CYCLES * cost.count(kernel.shape).multiplications
