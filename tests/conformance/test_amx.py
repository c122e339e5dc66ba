"""AMX kernels on the emulator: bit for bit what NumPy gives, on random shapes and choices.

Nothing here is timed: the tile instructions run in software.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from schedules.cpu.amx import cost
from schedules.cpu.amx.plan import Geometry, geometry, instruction_for
from schedules.cpu.compute.canonical import placeholders
from schedules.cpu.default import schedule_function
from schedules.cpu.templates.amx import Amx
from schedules.space import Choice
from schedules.tvm_adapter import IRModule, te, tirx, tvm
from schedules.tvm_adapter import target as tvm_target
from schedules.workload import Workload
from targets import get_target, missing_features
from tests.support.amx import Emulator, emulator_library

pytestmark = pytest.mark.compile

SAPPHIRE_RAPIDS = get_target("x86/sapphirerapids")
#: Without the one extension that LLVM uses unasked and AMD's AVX-512 processors lack.
SPEC = replace(
    SAPPHIRE_RAPIDS,
    features=SAPPHIRE_RAPIDS.features - {"avx512fp16"},
    tvm={**SAPPHIRE_RAPIDS.tvm, "mattr": ["-avx512fp16"]},
)
AMX = Amx()
U8, S8 = ("uint8", "int8", "int32"), ("int8", "int8", "int32")
BF16 = ("bfloat16", "bfloat16", "float32")
Array = np.ndarray[Any, Any]
EXAMPLES = settings(
    max_examples=int(os.environ.get("TILEWRIGHT_EXAMPLES", "6")),
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    """The emulator, where this processor runs everything but the tiles."""
    wide = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "avx512vnni"}
    if lacking := wide.intersection(missing_features(SPEC)):
        pytest.skip(f"this CPU lacks {', '.join(sorted(lacking))}")
    emulator_library()
    return Emulator()


def dense(m: int, k: int, n: int, dtypes: tuple[str, str, str] = U8, batch: int = 0) -> Workload:
    lead = (batch,) if batch else ()
    return Workload("dense", (*lead, m, k), (k, n), (*lead, m, n), dtypes, "row-major", {})


def conv2d(
    size: tuple[int, int],
    inner: int,
    outer: int,
    kernel: tuple[int, int] = (3, 3),
    dtypes: tuple[str, str, str] = U8,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
    dilation: tuple[int, int] = (1, 1),
    batch: int = 1,
) -> Workload:
    top, left, bottom, right = padding
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padded = (size[0] + top + bottom, size[1] + left + right)
    out = [(p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True)]
    attributes = {"strides": list(stride), "padding": list(padding), "dilation": list(dilation),
                  "groups": 1}  # fmt: skip
    return Workload("conv2d", (batch, *size, inner), (outer, inner, *kernel),
                    (batch, *out, outer), dtypes, "NHWC", attributes)  # fmt: skip


def shape_of(workload: Workload, choice: Choice) -> Geometry:
    instruction = instruction_for(workload, SPEC)
    assert instruction is not None
    return geometry(workload, choice, instruction)


def pick(workload: Workload, seed: int) -> Choice:
    """The default for seed 0, else a random choice."""
    (space,) = AMX.spaces(workload, SPEC)
    if seed == 0:
        return space.default
    rng = np.random.default_rng(seed)
    choice: Choice = {"algorithm": "amx"}
    for decision in space.decisions:
        choice[decision.name] = decision.options[int(rng.integers(len(decision.options)))]
    assert space.refusal(choice) is None
    return choice


def build(workload: Workload, choice: Choice, *, epilogue: bool = True) -> Any:
    data, _ = placeholders(workload)
    weight = te.placeholder(*AMX.packed(workload, choice, SPEC)[0], "weight")
    out = AMX.compute(workload, choice, SPEC, data, weight)
    if epilogue:
        raw = out
        zero = tirx.const(0, raw.dtype)
        out = te.compute(workload.output, lambda *i: tirx.max(raw[i], zero), name="relu")
    function = te.create_prim_func([data, weight, out])
    scheduled, decision = schedule_function(function, "main", SPEC)
    assert decision.rule == "amx"
    return tvm.compile(IRModule({"main": scheduled}), target=tvm_target.Target(SPEC.tvm_dict()))


def random_arrays(workload: Workload) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)

    def draw(shape: tuple[Any, ...], dtype: str) -> Array:
        if dtype == "bfloat16":
            return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape, dtype=dtype)

    return draw(workload.data, workload.dtypes[0]), draw(workload.weight, workload.dtypes[1])


def run(library: Any, workload: Workload, data: Array, packed: Array) -> Array:
    out = tvm.runtime.empty(workload.output, workload.dtypes[2])
    library["main"](tvm.runtime.tensor(data), tvm.runtime.tensor(packed), out)
    result: Array = out.numpy()
    return result


def rows_of(workload: Workload, data: Array) -> Array:
    """The data as a matrix: a row for each output position, in the order of the reduction."""
    if workload.operator == "dense":
        return data.reshape(-1, data.shape[-1])
    a = workload.attributes
    top, left, bottom, right = a["padding"]
    (stride_h, stride_w), (dilation_h, dilation_w) = a["strides"], a["dilation"]
    batch, height, width, _ = (int(v) for v in workload.output)
    _, channels, kh, kw = (int(v) for v in workload.weight)
    source = np.pad(data, ((0, 0), (top, bottom), (left, right), (0, 0)))
    columns = np.empty((batch, height, width, kh, kw, channels), data.dtype)
    for y in range(kh):
        for x in range(kw):
            y0, x0 = y * dilation_h, x * dilation_w
            columns[:, :, :, y, x] = source[
                :, y0 : y0 + (height - 1) * stride_h + 1 : stride_h,
                x0 : x0 + (width - 1) * stride_w + 1 : stride_w,
            ]  # fmt: skip
    return columns.reshape(batch * height * width, kh * kw * channels)


def matrix_of(workload: Workload, weight: Array) -> Array:
    """The weight as a matrix of the same reduction by the output's columns."""
    if workload.operator == "dense":
        return weight
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def tile_model(workload: Workload, choice: Choice, data: Array, weight: Array) -> Array:
    """What `tdpbf16ps` gives step by step: even and odd elements are summed apart."""
    shape = shape_of(workload, choice)
    left, right = rows_of(workload, data), matrix_of(workload, weight)
    kernel = (1, 1) if workload.operator == "dense" else workload.weight[2:]
    kh, kw = (int(v) for v in kernel)
    channels, filled = right.shape[0] // (kh * kw), shape.run.channels
    extra = ((0, 0), (0, 0), (0, 0), (0, filled - channels))
    left = np.pad(left.reshape(-1, kh, kw, channels), extra).astype(np.float32)
    right = right.reshape(kh, kw, channels, -1).astype(np.float32)
    right = np.pad(right, ((0, 0), (0, 0), (0, filled - channels), (0, 0)))
    step = shape.plan.step_bytes // 2
    left = left.reshape(left.shape[0], -1, step)
    right = right.reshape(-1, step, right.shape[-1])
    total = np.zeros((left.shape[0], right.shape[-1]), np.float32)
    for number in range(left.shape[1]):
        sums = [np.zeros_like(total), np.zeros_like(total)]
        for k in range(step):
            # The product of two bfloat16 is exact in float32, so one rounding follows it.
            sums[k % 2] += left[:, number, k, None] * right[number, k]
        total += sums[0] + sums[1]
    return total.reshape(workload.output)


def reference(workload: Workload, choice: Choice, data: Array, weight: Array) -> Array:
    if workload.dtypes == BF16:
        return tile_model(workload, choice, data, weight)
    product = rows_of(workload, data).astype(np.int32) @ matrix_of(workload, weight).astype(
        np.int32
    )
    return product.reshape(workload.output)


def check(workload: Workload, choice: Choice, emulator: Emulator) -> None:
    data, weight = random_arrays(workload)
    library = build(workload, choice)
    (packed,) = AMX.pack(workload, choice, SPEC, weight)
    assert packed.shape == AMX.packed(workload, choice, SPEC)[0][0]
    emulator.install()
    emulator.reset_counts()
    got = run(library, workload, data, packed)
    want = np.maximum(reference(workload, choice, data, weight), 0)
    assert np.array_equal(got, want), f"{workload} with {choice}"
    shape = shape_of(workload, choice)
    counts = cost.count(shape)
    assert emulator.count(shape.plan.instruction) == counts.multiplications
    loads = counts.data_loads + counts.weight_loads + counts.accumulator_loads
    assert emulator.count("tileloadd") == loads
    assert emulator.count("tilestored") == counts.stores
    assert emulator.count("ldtilecfg") == emulator.count("tilerelease") >= 1
    assert not emulator.is_configured()


dtypes = st.sampled_from([U8, S8, BF16])


@EXAMPLES
@given(
    m=st.integers(1, 70), k=st.integers(1, 200), n=st.integers(1, 70), dtypes=dtypes,
    batch=st.integers(0, 2), seed=st.integers(0, 1000),
)  # fmt: skip
def test_dense(emulator: Emulator, m, k, n, dtypes, batch, seed) -> None:
    workload = dense(m, k, n, dtypes, batch)
    check(workload, pick(workload, seed), emulator)


@EXAMPLES
@given(
    size=st.tuples(st.integers(5, 18), st.integers(5, 18)),
    inner=st.sampled_from([1, 3, 4, 16, 20, 32, 33, 64, 80]),
    outer=st.sampled_from([1, 8, 16, 33, 48, 64]),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (3, 1)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    padding=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 1, 0, 3)]),
    dilation=st.sampled_from([(1, 1), (1, 2), (2, 1)]),
    dtypes=dtypes,
    batch=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_conv2d(
    emulator, size, inner, outer, kernel, stride, padding, dilation, dtypes, batch, seed
) -> None:
    if any(s < d * (k - 1) + 1 for s, d, k in zip(size, dilation, kernel, strict=True)):
        return
    workload = conv2d(
        size, inner, outer, kernel, dtypes, stride=stride, padding=padding, dilation=dilation,
        batch=batch,
    )  # fmt: skip
    check(workload, pick(workload, seed), emulator)


@pytest.mark.parametrize(
    "width", [7, 14, *(pytest.param(w, marks=pytest.mark.slow) for w in (28, 56))]
)
def test_widths_of_residual_networks(emulator: Emulator, width: int) -> None:
    workload = conv2d((width, width), 64, 64)
    check(workload, pick(workload, 0), emulator)


@pytest.mark.parametrize("dtypes", [U8, BF16], ids=["int8", "bf16"])
def test_a_reduction_in_passes(emulator: Emulator, dtypes: tuple[str, str, str]) -> None:
    workload = dense(32, 2048, 32, dtypes)
    choice = pick(workload, 0) | {"passes": 4, "blocking": [2, 2], "positions": 32}
    (space,) = AMX.spaces(workload, SPEC)
    assert space.refusal(choice) is None
    check(workload, choice, emulator)


def test_two_threads(emulator: Emulator) -> None:
    """Each task configures its own thread's tiles."""
    from schedules.tvm_adapter import configure_thread_pool

    workload = dense(256, 256, 256)
    if configure_thread_pool(2) != 2:
        pytest.skip("one CPU")
    try:
        check(workload, pick(workload, 0), emulator)
        assert emulator.count("ldtilecfg") == 2
    finally:
        configure_thread_pool(1)


@cache
def _page_end(size: int) -> tuple[mmap.mmap, int]:
    """Memory of `size` bytes that ends where nothing is mapped, and its address."""
    page = mmap.PAGESIZE
    pages = (size + page - 1) // page
    memory = mmap.mmap(-1, (pages + 1) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + pages * page), page, 0) == 0
    return memory, start + pages * page - size


@pytest.mark.parametrize(
    "workload",
    [
        dense(37, 192, 48), dense(24, 128, 33, S8), dense(20, 96, 16, BF16),
        conv2d((14, 14), 64, 32, (1, 1), padding=(0, 0, 0, 0)),
        conv2d((8, 8), 64, 32, (1, 1), padding=(0, 0, 0, 0), stride=(2, 2)),
        conv2d((9, 8), 64, 32, padding=(0, 0, 0, 0)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_reads_nothing_behind_the_operands(
    emulator: Emulator, workload: Workload, seed: int
) -> None:
    """The emulator ends the process at a byte that is not there: here everything is."""
    from compiler.runtime.tensors import numpy_to_tvm

    choice = pick(workload, seed)
    library = build(workload, choice)
    data, weight = random_arrays(workload)
    (packed,) = AMX.pack(workload, choice, SPEC, weight)

    def at_the_end(array: Array) -> Array:
        assert array.nbytes % 64 == 0  # so that it is aligned as any tensor is
        _, address = _page_end(array.nbytes)
        raw = (ctypes.c_uint8 * array.nbytes).from_address(address)
        placed = np.frombuffer(raw, array.dtype).reshape(array.shape)
        placed[...] = array
        return placed

    placed = [at_the_end(a) for a in (data, packed)]
    emulator.install()
    out = tvm.runtime.empty(workload.output, workload.dtypes[2])
    library["main"](*(numpy_to_tvm(a)[0] for a in placed), out)
    want = np.maximum(reference(workload, choice, data, weight), 0)
    assert np.array_equal(out.numpy(), want)


def hot_region(assembly: str, instruction: str) -> list[str]:
    """The lines from the first multiplication to the last one before a tile is stored."""
    lines = [line.strip() for line in assembly.splitlines() if not line.strip().startswith(".")]
    first = next(i for i, line in enumerate(lines) if line.startswith(instruction))
    store = next(i for i in range(first, len(lines)) if lines[i].startswith("tilestored"))
    last = max(i for i in range(first, store) if lines[i].startswith(instruction))
    return lines[first : last + 1]


@pytest.mark.parametrize(
    ("workload", "instruction"),
    [
        (dense(64, 4096, 64), "tdpbusd"), (dense(64, 4096, 64, S8), "tdpbssd"),
        (dense(64, 2048, 64, BF16), "tdpbf16ps"), (conv2d((56, 56), 64, 64), "tdpbusd"),
    ],
    ids=str,
)  # fmt: skip
def test_assembly_of_the_inner_loop(workload: Workload, instruction: str) -> None:
    """Four multiplications for four loads; no tile and no register is spilled between them."""
    choice = pick(workload, 0) | {"blocking": [2, 2]}
    hot = hot_region(build(workload, choice).mod.inspect_source("asm"), instruction)
    dots = sum(line.startswith(instruction) for line in hot)
    loads = sum(line.startswith("tileload") for line in hot)
    assert dots >= 4
    assert dots % 4 == 0
    assert loads == pytest.approx(dots, abs=3)  # the first ones stand before the region
    assert not [line for line in hot if re.search(r",\s*-?\d*\(%r[sb]p", line)]
    assert not [line for line in hot if line.startswith(("call", "tilestored", "vmov"))]
    others = [line for line in hot if not line.startswith(("tdp", "tileload"))]
    assert len(others) <= dots  # addresses: they need not wait for the tile unit


def test_only_targets_with_amx_offer_it() -> None:
    workload = dense(64, 64, 64)
    assert AMX.spaces(workload, SPEC)
    for name in ("x86/zen4", "x86/cascadelake", "x86/generic-avx2"):
        assert AMX.spaces(workload, get_target(name)) == ()
    assert AMX.spaces(dense(8, 8, 8, ("float32", "float32", "float32")), SPEC) == ()


def test_without_permission_there_is_an_error_and_no_crash(tmp_path) -> None:
    done = _in_a_process(tmp_path, preload=None)
    assert "the model needs AMX tiles, and the process may not use them" in done.stderr
    assert "TargetError" in done.stderr
    assert done.returncode == 1


@pytest.mark.slow
def test_with_permission_a_linked_module_runs(emulator: Emulator, tmp_path) -> None:
    done = _in_a_process(tmp_path, preload=str(emulator_library()))
    assert done.stdout.strip().endswith("equal"), done.stderr
    assert done.returncode == 0


_CHILD = """
import sys
from pathlib import Path
import numpy as np
from compiler.linker import find_linker
from compiler.native import AMX_PERMISSION_SOURCE, check_amx
from schedules.tvm_adapter import tvm
from tests.conformance.test_amx import AMX, SPEC, build, dense, pick, random_arrays, reference, run
path = Path(sys.argv[1]) / "module.so"
workload = dense(20, 64, 32)
choice = pick(workload, 0)
build(workload, choice, epilogue=False).export_library(
    str(path), fcompile=find_linker(), addons=[str(AMX_PERMISSION_SOURCE)]
)
module = tvm.runtime.load_module(str(path))
check_amx(path, "a product")
data, weight = random_arrays(workload)
got = run(module, workload, data, *AMX.pack(workload, choice, SPEC, weight))
print("equal" if np.array_equal(got, reference(workload, choice, data, weight)) else "different")
"""


_NETWORK = """
import sys
from pathlib import Path
import torch
from torch import nn
from compiler.build import build
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.runtime import Executor
from compiler.stages import StageLog
from tests.conformance.cases import seeded
from tests.conformance.test_amx import SPEC
net = seeded(nn.Sequential(
    nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(),
    nn.Conv2d(64, 40, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
data = torch.randn(1, 32, 20, 20, generator=torch.Generator().manual_seed(0))
log = StageLog()
lowered = lower(import_model(net, (data,), log=log), SPEC, log, precision="bfloat16")
assert sum(kernel.rule == "amx" for kernel in lowered.kernels) >= 2, lowered.kernels
built = build(lowered, SPEC, log, Path(sys.argv[1]))
executor = Executor(built.library, built.inputs, built.outputs, built.parameters, built.prepared)
with torch.no_grad():
    error = (executor.run(data) - net(data)).abs().max() / net(data).abs().max()
print("near" if error < 0.02 else f"off by {error}")
"""


def test_a_network_in_bfloat16(emulator: Emulator, tmp_path) -> None:
    """The whole pipeline: kernels chosen, permission asked when the module is loaded, run."""
    done = _in_a_process(tmp_path, str(emulator_library()), _NETWORK)
    assert done.stdout.strip().endswith("near"), done.stdout + done.stderr


@pytest.mark.slow
def test_a_network_without_permission(tmp_path) -> None:
    done = _in_a_process(tmp_path, None, _NETWORK)
    assert "TargetError: model: the model needs AMX tiles" in done.stderr
    assert done.returncode == 1


def _in_a_process(
    folder: Any, preload: str | None, script: str = _CHILD
) -> subprocess.CompletedProcess[str]:
    import os

    if "amx_tile" in _cpu_flags():
        pytest.skip("this CPU has AMX")
    environment = dict(os.environ)
    if preload is not None:
        environment["LD_PRELOAD"] = preload
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip


def _cpu_flags() -> str:
    from pathlib import Path

    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
