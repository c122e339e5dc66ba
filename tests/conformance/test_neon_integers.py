"""Epilogues and depthwise kernels of bytes in NEON's instructions: NumPy's bits, also at limits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from compiler.compress import reference
from compiler.deploy.runner import build_kernel_program
from compiler.estimate.counting import emulator
from compiler.linker import find_linker
from schedules.cpu import templates
from schedules.cpu.compute import images, integers, tables
from schedules.cpu.default import schedule_function
from schedules.cpu.templates.lanes import bounded
from schedules.tvm_adapter import IRModule, target, te, tvm
from schedules.workload import Workload
from targets import get_target
from tests.support.boards import emulates

A72, N1 = "arm/cortex-a72", "arm/neoverse-n1"
_CODES = {"i": 0, "u": 1, "f": 2}
pytestmark = [pytest.mark.compile, emulates]


def run(function, spec, arrays, result, folder: Path):
    """Compile a function for a target, and call it on the target's processor, emulated."""
    scheduled, found = schedule_function(function, "main", spec)
    assert not found.fallback, found.remark
    compiled = tvm.compile(IRModule({"main": scheduled}), target=target.Target(spec.tvm_dict()))
    compiled.export_library(str(folder / "kernel.so"), fcompile=find_linker(spec))
    lines = []
    for i, array in enumerate([*arrays, result]):
        role = "output" if i == len(arrays) else "data"
        file = folder / f"{i}.bin"
        file.write_bytes(np.ascontiguousarray(array).tobytes())
        words = [role, _CODES[array.dtype.kind], array.dtype.itemsize * 8, array.ndim]
        lines.append(" ".join(map(str, [*words, *array.shape, file])))
    (folder / "arguments").write_text("\n".join(lines) + "\n")
    program = build_kernel_program(spec.machine)
    command = [*emulator(spec), str(program), str(folder / "kernel.so"), str(folder / "arguments")]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    return np.frombuffer(file.read_bytes(), result.dtype).reshape(result.shape)


def requantized(sums, bias, multiplier, form):
    shift, zero_point, low, high, dtype = form
    wide = (sums.astype(object) + bias) * multiplier + (1 << (shift - 1)) >> shift
    return np.clip(wide + zero_point, low, high).astype(dtype)


#: Shifts around those where the instructions change, and shifts beyond what narrowing shifts by.
FORMS = [
    (39, 3, 3, 255, "uint8"),
    (31, 128, 0, 255, "uint8"),
    (32, -7, -128, 127, "int8"),
    (20, 0, 0, 200, "uint8"),
    (33, 255, 0, 255, "uint8"),
    (48, 10, -100, 90, "int8"),
    (62, 1, 0, 255, "uint8"),
]


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        pytest.param(form, columns, marks=[] if i == 0 and columns == 48 else pytest.mark.slow)
        for i, form in enumerate(FORMS)
        for columns in (48, 24, 4, 7)
    ],
)
def test_requantization_of_extreme_sums(form, columns: int, tmp_path: Path) -> None:
    shift, zero_point, low, high, dtype = form
    rng = np.random.default_rng(shift)
    rows = 64
    multiplier = rng.integers(1 << 30, 1 << 31, columns).astype(np.int32)
    multiplier[0], multiplier[-1] = 2**31 - 1, 1 << 30  # the second gives ties
    # Results as the semantics allow: below 2^30, here most of them near the limits of bytes.
    most = min(2**31 - 1001, 2 ** max(0, shift - 1))
    sums = rng.integers(-most, most, (rows, columns))
    near = min(most, max(4, 2 ** max(0, shift - 31) * 300))
    sums[rows // 2 :] = rng.integers(-near, near, (rows - rows // 2, columns))
    sums[0], sums[1] = most, -most
    bias = rng.integers(-1000, 1000, columns).astype(np.int32) if most > 10**6 else np.zeros(
        columns, np.int32)  # fmt: skip
    x, b, m = (
        te.placeholder(shape, "int32", name=name)
        for name, shape in (("x", (rows, columns)), ("b", (columns,)), ("m", (columns,)))
    )
    y = integers.requantize(
        x, b, m, shift=shift, zero_point=zero_point, low=low, high=high, dtype=dtype
    )
    expected = requantized(sums, bias.astype(object), multiplier.astype(object), form)
    arrays = [sums.astype(np.int32), bias, multiplier]
    function = te.create_prim_func([x, b, m, y])
    found = run(function, get_target(A72), arrays, np.zeros_like(expected), tmp_path)
    np.testing.assert_array_equal(found, expected)


def depthwise(shape, kernel: int, stride: int, dtype: str, dilation: int = 1, zero: int = 9):
    """A depthwise convolution whose size is that of the image."""
    n, h, w, c = shape
    padding = kernel // 2 * dilation
    out = [(v + 2 * padding - (kernel - 1) * dilation - 1) // stride + 1 for v in (h, w)]
    return Workload(
        "depthwise_conv2d", shape, (c, 1, kernel, kernel), (n, *out, c), (dtype, "int8", "int32"),
        "NHWC",
        {"strides": [stride] * 2, "padding": [padding] * 4, "dilation": [dilation] * 2,
         "groups": c, "pad_value": zero},
        ("requantize",),
    )  # fmt: skip


def sums_of(workload: Workload, data, weight):
    a = workload.attributes
    (stride, _), (dilation, _), top = a["strides"], a["dilation"], a["padding"][0]
    n, h, w, c = data.shape
    padded = np.full((n, h + 2 * top, w + 2 * top, c), a["pad_value"], np.int32)
    padded[:, top : top + h, top : top + w] = data
    rows, columns = workload.output[1:3]
    total = np.zeros(workload.output, np.int32)
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            part = padded[:, y * dilation :: stride, x * dilation :: stride]
            total += part[:, :rows, :columns] * weight[:, 0, y, x].astype(np.int32)
    return total


CASES = [
    ((1, 6, 7, 40), 3, 1, "uint8", 1),
    ((1, 9, 8, 16), 3, 2, "uint8", 1),
    ((2, 7, 7, 24), 5, 1, "uint8", 1),
    ((1, 9, 9, 8), 5, 2, "int8", 1),
    ((1, 9, 8, 32), 3, 1, "uint8", 2),
    ((2, 9, 7, 32), 3, 2, "uint8", 1),
    ((1, 8, 9, 16), 5, 1, "int8", 1),
]


def is_offered(case, choice) -> bool:
    """Rows are interleaved of whole vectors of channels, and without holes."""
    return choice.get("multiply") != "quads" or (case[0][3] % 16 == 0 and case[4] == 1)


@pytest.mark.parametrize(
    ("name", "case", "choice"),
    [
        pytest.param(
            name, case, choice, marks=[] if (i, j) in ((0, 0), (1, 2)) else pytest.mark.slow
        )
        for name, ways in ((A72, ("smull",)), (N1, ("sdot", "smull", "quads")))
        for i, case in enumerate(CASES)
        for j, choice in enumerate(
            [{"multiply": way} for way in ways]
            + [{"tile": [1, 4], "order": "rows", "strip": 2}, {"tile": [2, 2], "order": "blocks"}]
        )
        if is_offered(case, choice)
    ],
)
def test_depthwise_convolutions_of_extreme_bytes(name, case, choice, tmp_path: Path) -> None:
    spec, workload = get_target(name), depthwise(*case)
    spaces = [s for s in templates.spaces(workload, spec) if s.algorithm == "bytes"]
    ways = {
        way: s for s in spaces for d in s.decisions if d.name == "multiply" for way in d.options
    }
    space = ways[choice["multiply"]] if "multiply" in choice else spaces[-1]
    choice = {**space.default, **choice}
    if templates.refusal(workload, choice, spec) is not None:
        choice["tile"] = [1, 2]  # rows below each other need a window without holes
    rng = np.random.default_rng(0)
    limits = np.iinfo(workload.dtypes[0])
    data = rng.choice([limits.min, limits.max, 5], workload.data).astype(workload.dtypes[0])
    weight = rng.choice([-127, 127, -127, 3], workload.weight).astype(np.int8)
    bias = rng.integers(-5000, 5000, workload.output[3]).astype(np.int32)
    multiplier = rng.integers(1 << 28, 1 << 31, bias.size).astype(np.int32)
    x = te.placeholder(workload.data, workload.dtypes[0], name="x")
    packed = [te.placeholder(shape, dtype, name=f"w{i}") for i, (shape, dtype) in
              enumerate(templates.packed(workload, choice, spec))]  # fmt: skip
    b, m = (te.placeholder(bias.shape, "int32", name=n) for n in ("b", "m"))
    shift, zero_point, low, high, dtype = FORMS[0]
    y = integers.requantize(
        templates.compute(workload, choice, spec, x, *packed), b, m, shift=shift,
        zero_point=zero_point, low=low, high=high, dtype=dtype,
    )  # fmt: skip
    expected = reference.requantize(
        sums_of(workload, data, weight), bias, multiplier, shift=shift, zero_point=zero_point,
        low=low, high=high, dtype=dtype,
    )  # fmt: skip
    operands = templates.pack(workload, choice, spec, weight)
    assert [(v.shape, str(v.dtype)) for v in operands] == [
        (tuple(p.shape), str(p.dtype)) for p in packed
    ]
    arrays = [data, *operands, bias, multiplier]
    function = te.create_prim_func([x, *packed, b, m, y])
    found = run(function, spec, arrays, np.zeros(expected.shape, expected.dtype), tmp_path)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "padding", "zero", "dtype"),
    [
        ((1, 3, 5, 37), (1, 1, 1, 1), 114, "uint8"),
        pytest.param((2, 2, 4, 16), (0, 1, 0, 1), 255, "uint8", marks=pytest.mark.slow),
        pytest.param((2, 3, 3, 18), (0, 2, 1, 0), -7, "int8", marks=pytest.mark.slow),
        pytest.param((1, 3, 3, 9), (1, 1, 1, 1), 3, "uint8", marks=pytest.mark.slow),
    ],
)
def test_planes_become_pixels(shape, padding, zero, dtype, tmp_path: Path) -> None:
    limits, scale = np.iinfo(dtype), 0.25
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 50
    ties = (np.arange(12) - 5.5) * scale
    data.flat[:18] = [*ties, np.nan, np.inf, -np.inf, -0.0, 1e30, -1e30]
    x = te.placeholder(shape, "float32", name="x")
    low, high = limits.min + 1, limits.max - 1
    numbers = {"inverse": 1 / scale, "zero_point": zero, "low": low, "high": high, "dtype": dtype}
    y = images.image_bytes(x, padding=padding, fill=zero, **numbers)
    top, left, _, _ = padding
    expected = np.full([int(v) for v in y.shape], zero, dtype)
    limited = np.fmin(np.fmax(data / scale, low - zero), high - zero)  # the number beside a NaN
    inside = expected[:, top : top + shape[2], left : left + shape[3], : shape[1]]
    inside[:] = (np.rint(limited).astype(np.int32) + zero).transpose(0, 2, 3, 1)
    function = te.create_prim_func([x, y])
    assert schedule_function(function, "main", get_target(A72))[1].rule == "image-bytes"
    found = run(function, get_target(A72), [data], np.zeros_like(expected), tmp_path)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["int8", pytest.param("uint8", marks=pytest.mark.slow)])
def test_every_byte_is_looked_up(dtype, tmp_path: Path) -> None:
    data = np.arange(256, dtype=np.uint8).view(dtype)
    table = np.random.default_rng(0).permutation(data)
    x, entries = (te.placeholder((256,), dtype, name=name) for name in ("x", "table"))
    function = te.create_prim_func([x, entries, tables.lookup(x, entries, dtype=dtype)])
    found = run(function, get_target(A72), [data, table], np.zeros_like(table), tmp_path)
    offset = 128 if dtype == "int8" else 0
    np.testing.assert_array_equal(found, table[data.astype(np.int32) + offset])


def test_bytes_are_the_choice_on_aarch64_alone() -> None:
    workload = depthwise((1, 14, 14, 96), 3, 1, "uint8")
    for name, way in ((A72, "smull"), (N1, "quads")):
        choice = templates.default_choice(workload, get_target(name))
        assert (choice["algorithm"], choice["multiply"]) == ("bytes", way)
    for name in ("arm/armv7", "x86/sapphirerapids"):
        offered = {s.algorithm for s in templates.spaces(workload, get_target(name))}
        assert "bytes" not in offered


def test_pairs_of_products_with_least_weights_are_not_added_in_16_bits() -> None:
    plain = depthwise((1, 14, 14, 96), 3, 1, "uint8")
    weight = np.zeros(plain.weight, np.int8)
    assert bounded(plain, get_target(N1), lambda: weight) == plain
    weight[5, 0, 1, 1] = -128
    for name, ways in ((A72, set()), (N1, {"sdot", "quads"})):
        workload = bounded(plain, get_target(name), lambda: weight)
        offered = templates.spaces(workload, get_target(name))
        found = {v for s in offered for d in s.decisions if d.name == "multiply" for v in d.options}
        assert found == ways
    choice = templates.default_choice(plain, get_target(A72))
    with pytest.raises(ValueError, match="at least -127"):
        templates.pack(plain, choice, get_target(A72), weight)
