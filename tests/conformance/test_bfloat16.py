"""bfloat16 kernels through the whole pipeline, against a model of their arithmetic in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
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
#: Without the instructions convolutions alone are fast tests: they show what the others would.
FIRST = [TARGETS[0], pytest.param(TARGETS[1], marks=pytest.mark.slow)]
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
) -> tuple[torch.Tensor, ...]:
    spec, log = runnable(target), StageLog()
    lowered = lower(import_model(module.eval(), inputs, log=log), spec, log, precision="bfloat16")
    assert not [k.name for k in lowered.kernels if k.fallback]
    built = build(lowered, spec, log, workdir)
    result = Executor(built.library, built.inputs, built.outputs, built.parameters).run(*inputs)
    return result if isinstance(result, tuple) else (result,)


class Each(nn.Module):
    """Layers side by side, each with an input of its own: a compilation takes longer than they."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


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


CONVOLUTIONS = {
    "3x3": nn.Conv2d(24, 40, 3, padding=1),
    "stem": nn.Conv2d(3, 16, 7, 2, 3),
    "odd-channels": nn.Conv2d(33, 8, 1, bias=False),
    "depthwise": nn.Conv2d(32, 32, 3, padding=1, groups=32),
    "grouped": nn.Conv2d(16, 32, 3, groups=4),
    "transposed": nn.ConvTranspose2d(8, 12, 3, 2, 1),
}


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions_sum_up_in_float32(target, tmp_path):
    nets = [seeded(copy.deepcopy(conv)) for conv in CONVOLUTIONS.values()]
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(1, net.in_channels, 13, 11, generator=generator) for net in nets)
    found = run(Each(nets), inputs, target, tmp_path)
    for name, net, x, got in zip(CONVOLUTIONS, nets, inputs, found, strict=True):
        rounded = copy.deepcopy(net).double()
        with torch.no_grad():
            rounded.weight.copy_(stored(rounded.weight))
            want = rounded(stored(x).double())
        assert relative(got, want) < 1e-5, name


@pytest.mark.parametrize("target", FIRST)
def test_dense_sums_up_in_float32(target, tmp_path):
    nets = [seeded(nn.Linear(*sizes)) for sizes in ((64, 10), (33, 65), (128, 48))]
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(
        torch.randn(rows, net.in_features, generator=generator)
        for rows, net in zip((1, 37, 16), nets, strict=True)
    )
    found = run(Each(nets), inputs, target, tmp_path)
    for net, x, got in zip(nets, inputs, found, strict=True):
        with torch.no_grad():
            want = F.linear(stored(x).double(), stored(net.weight).double(), net.bias.double())
        assert relative(got, want) < 1e-5, net


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


class Between(nn.Module):
    """Product, kernel, product, for each kernel of `ROWS`."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.first = nn.ParameterList(torch.eye(length) * 2.0 for _ in ROWS)
        self.last = nn.ParameterList(torch.eye(length) for _ in ROWS)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = zip(ROWS.values(), self.first, self.last, strict=True)
        return tuple(kernel(x @ first) @ last for kernel, first, last in parts)


@pytest.mark.parametrize(
    ("target", "length"),
    [
        (TARGETS[0], 45),
        pytest.param(TARGETS[1], 45, marks=pytest.mark.slow),
        *(pytest.param(target, 32, marks=pytest.mark.slow) for target in TARGETS),
    ],
)
def test_kernels_between_products_read_and_write_bfloat16(length, target, tmp_path):
    x = torch.randn(3, 4, length, generator=torch.Generator().manual_seed(1))
    found = run(Between(length).eval(), (x,), target, tmp_path)
    for (name, kernel), got in zip(ROWS.items(), found, strict=True):
        # Multiplying by these matrices is exact, so what is left is what storing rounds.
        want = kernel(stored(x).double() * 2)
        assert got.dtype == torch.float32
        assert torch.equal(got, stored(got)), f"the operand of {name}'s product was no bfloat16"
        error = ((got.double() - want).abs() / want.abs().clamp(min=want.abs().max() / 256)).max()
        assert float(error) <= ROUNDING * 1.001, name


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "avg": nn.AvgPool2d(2),
    "avg-padded": nn.AvgPool2d(3, 2, 1),
    "global": nn.AdaptiveAvgPool2d(1),
}


@pytest.mark.parametrize("target", FIRST)
def test_pooling_between_convolutions(target, tmp_path):
    nets = []
    for pool in POOLS.values():
        first, last = (seeded(nn.Conv2d(16, 16, 1, bias=False)) for _ in range(2))
        with torch.no_grad():
            for conv in (first, last):
                conv.weight.copy_(torch.eye(16)[:, :, None, None])
        nets.append(nn.Sequential(first, pool, last).eval())
    x = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(1))
    found = run(Each(nets), (x,) * len(nets), target, tmp_path)
    for (name, pool), got in zip(POOLS.items(), found, strict=True):
        want = pool(stored(x).double())
        assert torch.equal(got, stored(got)), name
        error = ((got.double() - want).abs() / want.abs().clamp(min=want.abs().max() / 256)).max()
        assert float(error) <= ROUNDING, name


@pytest.mark.parametrize("target", FIRST)
def test_attention(target, tmp_path):
    net = Function(lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v)
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(1, 2, 17, 20, generator=generator) for _ in range(3))
    (got,) = run(net.eval(), inputs, target, tmp_path)
    with torch.no_grad():
        want = net(*(stored(v).double() for v in inputs))
    assert relative(got, want) < 2 * ROUNDING
