"""bfloat16 kernels through the whole pipeline, against a model of their arithmetic in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import nn

from compiler.build import build
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.runtime import Executor
from compiler.stages import StageLog
from schedules.cpu import bfloat16
from schedules.tvm_adapter import IRModule, Schedule, te, tvm
from schedules.tvm_adapter import target as tvm_target
from targets import TargetSpec, get_target, missing_features
from tests.conformance.cases import Function, seeded

pytestmark = pytest.mark.compile

TARGETS = ["x86", "x86/generic-avx2"]
#: Largest relative error of one rounding to bfloat16, which has eight significant bits.
ROUNDING = 2.0**-8


def runnable(name: str) -> TargetSpec:
    spec = get_target(name)
    missing = missing_features(spec)
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    return spec


def run(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], target: str, workdir: Path
) -> torch.Tensor:
    spec, log = runnable(target), StageLog()
    lowered = lower(import_model(module, inputs, log=log), spec, log, precision="bfloat16")
    assert not [k.name for k in lowered.kernels if k.fallback]
    built = build(lowered, spec, log, workdir)
    result = Executor(
        built.library, built.inputs, built.outputs, built.parameters, built.prepared
    ).run(*inputs)
    assert isinstance(result, torch.Tensor)
    return result


def stored(x: torch.Tensor) -> torch.Tensor:
    """What is left of a tensor that is stored as bfloat16."""
    return x.to(torch.bfloat16).to(x.dtype)


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


@pytest.mark.parametrize(
    ("target", "lanes"),
    [("x86", 32), ("x86", 16), ("x86", 8), ("x86", 4), ("x86", 1), ("x86/generic-avx2", 8),
     ("x86/cascadelake", 16)],
)  # fmt: skip
def test_conversion_rounds_to_the_nearest_even_and_keeps_nan(target, lanes):
    spec = runnable(target)
    bits = np.concatenate(
        [
            np.arange(0x0080_0000, 0x7F80_0000, 65521, np.uint32),
            np.arange(0x3F80_0000, 0x3F82_0000, 64, np.uint32) | np.uint32(0x8000_0000),
            np.array([0, 1 << 31, 0x7F7F_FFFF, 0x7F80_0000, 0xFF80_0000], np.uint32),
            np.array([0x7F80_0001, 0x7FC0_0000, 0x7FFF_FFFF, 0xFFFF_FFFF], np.uint32),
        ]
    )
    values = np.resize(bits, -(-len(bits) // 32) * 32).view(np.float32)
    source = te.placeholder(values.shape, "float32", "A")
    sch = Schedule(te.create_prim_func([source, bfloat16.cast(source, "bfloat16", spec)]))
    (loop,) = sch.get_loops(sch.get_sblock("cast"))
    if lanes > 1:
        sch.vectorize(sch.split(loop, [None, lanes])[1])
    function = sch.mod["main"].with_attr("global_symbol", "main")
    library = tvm.compile(IRModule({"main": function}), tvm_target.Target(spec.tvm_dict()))
    result = tvm.runtime.empty(values.shape, "bfloat16")
    library["main"](tvm.runtime.tensor(values), result)
    got = result.numpy()
    with np.errstate(over="ignore"):
        want = values.astype(ml_dtypes.bfloat16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got[~nan].view(np.uint16), want[~nan].view(np.uint16))
    if lanes in (8, 16, 32) and bfloat16.has_conversion(spec):
        assert "vcvtne" in library.mod.inspect_source("asm")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(24, 40, 3, padding=1), nn.Conv2d(3, 16, 7, 2, 3), nn.Conv2d(33, 8, 1, bias=False),
     nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(16, 32, 3, groups=4),
     nn.ConvTranspose2d(8, 12, 3, 2, 1)],
    ids=["3x3", "stem", "odd-channels", "depthwise", "grouped", "transposed"],
)  # fmt: skip
def test_convolutions_sum_up_in_float32(conv, target, tmp_path):
    net = seeded(copy.deepcopy(conv))
    x = torch.randn(1, conv.in_channels, 13, 11, generator=torch.Generator().manual_seed(1))
    got = run(net, (x,), target, tmp_path)
    rounded = copy.deepcopy(net).double()
    with torch.no_grad():
        rounded.weight.copy_(stored(rounded.weight))
        want = rounded(stored(x).double())
    assert relative(got, want) < 1e-5


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 64, 10), (37, 33, 65), (16, 128, 48)])
def test_dense_sums_up_in_float32(rows, inner, outer, target, tmp_path):
    net = seeded(nn.Linear(inner, outer))
    x = torch.randn(rows, inner, generator=torch.Generator().manual_seed(1))
    got = run(net, (x,), target, tmp_path)
    with torch.no_grad():
        want = F.linear(stored(x).double(), stored(net.weight).double(), net.bias.double())
    assert relative(got, want) < 1e-5


ROWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": lambda x: torch.softmax(x, -1),
    "softmax-middle": lambda x: torch.softmax(x, 1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "gelu": F.gelu,
    "mean": lambda x: x.mean(-1, keepdim=True) * torch.ones_like(x),
    "add-and-relu": lambda x: F.relu(x + 0.5) + x,
    "concat": lambda x: torch.cat([x, x * 2], -2).reshape(x.shape[0], x.shape[1] * 2, x.shape[2]),
    "split": lambda x: x.chunk(2, 1)[0] + x.chunk(2, 1)[1],
}


@pytest.mark.parametrize(
    ("target", "length"),
    [
        *(("x86", length) for length in (32, 45)),
        (TARGETS[1], 45),
        pytest.param(TARGETS[1], 32, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", list(ROWS))
def test_kernels_between_products_read_and_write_bfloat16(name, length, target, tmp_path):
    """The middle of: product, kernel, product."""
    first, last = torch.eye(length) * 2.0, torch.eye(length)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Parameter(first), nn.Parameter(last)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ROWS[name](x @ self.first) @ self.last

    x = torch.randn(3, 4, length, generator=torch.Generator().manual_seed(1))
    got = run(Net().eval(), (x,), target, tmp_path)
    # Multiplying by these matrices is exact, so what is left is what storing rounds.
    want = ROWS[name](stored(x).double() * 2)
    assert got.dtype == torch.float32
    assert torch.equal(got, stored(got)), "the product's operand was no bfloat16"
    error = ((got.double() - want).abs() / want.abs().clamp(min=want.abs().max() / 256)).max()
    assert float(error) <= ROUNDING * 1.001


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)],
    ids=["max", "avg", "avg-padded", "global"],
)
def test_pooling_between_convolutions(pool, target, tmp_path):
    first, last = (seeded(nn.Conv2d(16, 16, 1, bias=False)) for _ in range(2))
    with torch.no_grad():
        for conv in (first, last):
            conv.weight.copy_(torch.eye(16)[:, :, None, None])
    x = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(1))
    got = run(nn.Sequential(first, pool, last).eval(), (x,), target, tmp_path)
    want = pool(stored(x).double())
    assert torch.equal(got, stored(got))
    error = ((got.double() - want).abs() / want.abs().clamp(min=want.abs().max() / 256)).max()
    assert float(error) <= ROUNDING


@pytest.mark.parametrize("target", TARGETS)
def test_attention(target, tmp_path):
    net = Function(lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v)
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(1, 2, 17, 20, generator=generator) for _ in range(3))
    got = run(net.eval(), inputs, target, tmp_path)
    with torch.no_grad():
        want = net(*(stored(v).double() for v in inputs))
    assert relative(got, want) < 2 * ROUNDING
