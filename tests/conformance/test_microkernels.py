"""Micro-kernels for ARM alone, on emulated processors: NumPy's sums, for all bytes there are."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compiler.deploy.runner import build_kernel_program
from compiler.estimate.counting import emulator
from compiler.linker import find_linker
from compiler.lower.choose_kernels import kernel_function
from schedules.cpu import templates
from schedules.cpu.default import schedule_function
from schedules.space import Choice
from schedules.tvm_adapter import target as tvm_target
from schedules.tvm_adapter import tvm
from schedules.workload import Workload
from targets import get_target
from targets.spec import TargetSpec
from tests.support.boards import emulates

pytestmark = [pytest.mark.compile, emulates]

DTYPES = {
    "uint8": ("uint8", "int8", "int32"),
    "int8": ("int8", "int8", "int32"),
    "float32": ("float32", "float32", "float32"),
}
_CODES = {"i": 0, "u": 1, "f": 2}


def conv2d(dtype, data, outputs, kernel=(1, 1), stride=1, padding=0, dilation=1, groups=1):
    batch, height, width, channels = data
    high, wide = (
        (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for size, k in zip((height, width), kernel, strict=True)
    )
    attributes = {
        "strides": (stride, stride), "padding": (padding,) * 4, "dilation": (dilation, dilation),
        "groups": groups, **({"pad_value": 7} if dtype == "uint8" else {}),
    }  # fmt: skip
    return Workload(
        "conv2d", data, (outputs, channels // groups, *kernel), (batch, high, wide, outputs),
        DTYPES[dtype], "NHWC", attributes,
    )  # fmt: skip


def dense(dtype, m, k, n):
    return Workload("dense", (m, k), (k, n), (m, n), DTYPES[dtype], "row-major")


def batch_matmul(dtype, m, k, n, *, transpose):
    weight = (2, n, k) if transpose else (2, k, n)
    return Workload(
        "batch_matmul", (2, m, k), weight, (2, m, n), DTYPES[dtype], "row-major",
        {"transpose_rhs": transpose},
    )  # fmt: skip


def operands(workload, numbers):
    """Data and weight, with as many of the extreme bytes as of all others."""
    found = []
    least = -128 if workload.operator == "batch_matmul" else -127
    for shape, dtype in (
        (workload.data, workload.dtypes[0]),
        (workload.weight, workload.dtypes[1]),
    ):
        if dtype == "float32":
            found.append(numbers.standard_normal(shape).astype(dtype))
            continue
        low, high = (0, 255) if dtype == "uint8" else (least if found else -128, 127)
        values = numbers.integers(low, high, shape, endpoint=True)
        extreme = numbers.choice([low, high], shape)
        found.append(np.where(numbers.random(shape) < 0.5, extreme, values).astype(dtype))
    return found


def reference(workload, data, weight):
    wide = np.int64 if workload.is_integer else np.float64
    x, k = data.astype(wide), weight.astype(wide)
    a = workload.attributes
    if workload.operator != "conv2d":
        return x @ (k.swapaxes(-1, -2) if a.get("transpose_rhs") else k)
    edge, stride, dilation, groups = (
        a["padding"][0], a["strides"][0], a["dilation"][0], a["groups"]
    )  # fmt: skip
    x = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)),
               constant_values=a.get("pad_value", 0))  # fmt: skip
    _, high, wide_, _ = workload.output
    found = np.zeros(workload.output, wide)
    each, inner = workload.output[3] // groups, workload.weight[1]
    for dy in range(workload.weight[2]):
        for dx in range(workload.weight[3]):
            y, z = dy * dilation, dx * dilation
            part = x[:, y : y + (high - 1) * stride + 1 : stride,
                     z : z + (wide_ - 1) * stride + 1 : stride]  # fmt: skip
            for g in range(groups):
                outputs = slice(g * each, (g + 1) * each)
                found[..., outputs] += (
                    part[..., g * inner : (g + 1) * inner] @ k[outputs, :, dy, dx].T
                )
    return found


def run(workload: Workload, choice: Choice, spec: TargetSpec, folder: Path, data, weight):
    target = tvm_target.Target(spec.tvm_dict())
    with target:
        function = kernel_function(workload, choice, spec)
        function, decision = schedule_function(function, "main", spec)
        assert decision.rule == "micro-kernels", decision.remark
        library = tvm.compile(function.with_attr("tirx.is_scheduled", True), target=target)
    library.mod.write_to_file(str(folder / "kernel.o"))
    find_linker(spec)(folder / "kernel.so", [folder / "kernel.o"])
    lines = []
    packed = templates.pack(workload, choice, spec, weight)
    arrays = [data, *packed, np.zeros(workload.output, workload.dtypes[2])]
    roles = ["data", *["weight"] * len(packed), "output"]
    for number, (role, array) in enumerate(zip(roles, arrays, strict=True)):
        path = folder / f"argument{number}"
        np.ascontiguousarray(array).tofile(path)
        shape = " ".join(str(v) for v in array.shape)
        lines.append(
            f"{role} {_CODES[array.dtype.kind]} {8 * array.itemsize} {array.ndim} {shape} {path}"
        )
    (folder / "arguments").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [*emulator(spec), str(build_kernel_program(spec.machine))]
    done = subprocess.run(
        [*command, str(folder / "kernel.so"), str(folder / "arguments")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.fromfile(path, workload.dtypes[2]).reshape(workload.output)


def check(workload: Workload, target: str, folder: Path, source: random.Random, draws: int) -> None:
    """Each kernel's default choice and some others give the reference's sums."""
    spec = get_target(target)
    numbers = np.random.default_rng(source.randrange(1 << 30))
    data, weight = operands(workload, numbers)
    expected = reference(workload, data, weight)
    spaces = [s for s in templates.spaces(workload, spec) if s.algorithm == "lanes"]
    assert spaces
    for space in spaces:
        choices = [dict(space.default)]
        for _ in range(20 * draws):
            choice = {d.name: source.choice(d.options) for d in space.decisions}
            choice["algorithm"] = space.algorithm
            if len(choices) <= draws and np.isfinite(
                templates.estimated_cycles(workload, choice, spec)
            ):
                choices.append(choice)
        for choice in choices:
            found = run(workload, choice, spec, folder, data, weight)
            if workload.is_integer:
                np.testing.assert_array_equal(found, expected, err_msg=str(choice))
            else:
                error = np.abs(found - expected).max() / np.abs(expected).max()
                assert error < 1e-5, choice


WORKLOADS = {
    "stem": lambda d: conv2d(d, (1, 9, 11, 3), 8, (3, 3), 2, 1),
    "pointwise": lambda d: conv2d(d, (1, 5, 7, 24), 20),
    "odd": lambda d: conv2d(d, (2, 6, 5, 19), 7, (3, 3), 1, 1),
    "dilated": lambda d: conv2d(d, (1, 9, 9, 5), 6, (1, 3), 1, 1, 2),
    "grouped": lambda d: conv2d(d, (1, 5, 6, 10), 16, (3, 3), 1, 1, 1, 2),
    "narrow": lambda d: conv2d(d, (1, 4, 4, 2), 5),
    "dense": lambda d: dense(d, 7, 37, 13),
    "products": lambda d: batch_matmul(d, 5, 22, 9, transpose=False),
    "transposed": lambda d: batch_matmul(d, 6, 16, 8, transpose=True),
}


def test_a_pointwise_convolution_of_bytes(tmp_path):
    check(WORKLOADS["pointwise"]("uint8"), "arm/neoverse-n1", tmp_path, random.Random(0), 0)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["arm/cortex-a53", "arm/neoverse-n1", "arm/neoverse-v1"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WORKLOADS)
def test_sums_are_the_references(name, dtype, target, tmp_path):
    check(WORKLOADS[name](dtype), target, tmp_path, random.Random(name), 2)
