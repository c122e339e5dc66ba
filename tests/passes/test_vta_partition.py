"""Cutting VTA's regions out of integer graphs: layers, reasons, placement, convexity."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from itertools import product
from math import inf
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compiler.compress.apply import apply_plan
from compiler.compress.interpret import interpret
from compiler.compress.plan import CompressionPlan
from compiler.compress.recipe import Quantize
from compiler.compress.sites import PlainGraph, plain_graph
from compiler.errors import PlanError
from compiler.frontend import import_model
from compiler.lower.plain import plain_module
from compiler.lower.vta.cut import place
from compiler.lower.vta.offload import require_shifts
from compiler.lower.vta.partition import Partition, partition
from compiler.lower.vta.read import GraphReader
from compiler.quantization import Request, make_plan
from compiler.stages import StageLog
from schedules.vta.layers import Conv2d, MaxPool2d, Sum
from schedules.vta.reference import reference_run
from targets import get_target
from targets.vta import VtaConfig
from tests.support.examples import some_of

HOST = get_target("arm/armv7")
#: A processor that would take ages, so that whatever VTA can compute is on it.
SLOW = replace(HOST, clock_hz=1e5)
CONFIG = VtaConfig()


class Net(nn.Module):
    """A stem, a residual block, pooling, a branch that VTA cannot compute, and two products."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.one = nn.Conv2d(16, 16, 3, 1, 1)
        self.two = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.after = nn.Conv2d(16, 16, 1)
        self.hidden = nn.Linear(16 * 16, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.two(torch.relu(self.one(x))) + x)
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        x = self.after(torch.sigmoid(x))
        x = nn.functional.max_pool2d(x, 2)
        y: torch.Tensor = self.head(torch.relu(self.hidden(x.flatten(1))))
        return y


class Made(NamedTuple):
    """An integer graph, its module, the samples and the plan."""

    graph: PlainGraph
    module: Any
    samples: list[np.ndarray]
    plan: CompressionPlan


def graph_of(net: nn.Module, shape: tuple[int, ...], **options: Any) -> Made:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    imported = import_model(net.eval(), (torch.from_numpy(samples[0]),), log=StageLog())
    spec = get_target("x86")
    recipe = Quantize(**{"power_of_two": True, **options})
    plan, _ = make_plan(Request(recipe, None, samples, None), imported, spec, StageLog())
    module, table = plain_module(imported, spec)
    integers, _ = apply_plan(module, table, plan)
    return Made(plain_graph(integers, table.name_of), integers, samples, plan)


@pytest.fixture(scope="module")
def made() -> Made:
    torch.manual_seed(1)
    return graph_of(Net(), (1, 3, 16, 16))


@pytest.fixture(scope="module")
def parts(made: Made) -> Partition:
    return partition(made[0], CONFIG, SLOW)


def test_layers_take_what_follows_them(made: Made) -> None:
    reader = GraphReader(made[0])
    units = {unit.name: unit for unit in reader.units()}
    residual = units["two:conv2d"].layer
    assert isinstance(residual, Conv2d)
    assert residual.groups == 16
    assert [len(step.adds) for step in residual.steps] == [0, 1]
    assert residual.steps[1].low == 0  # the ReLU behind the addition
    assert units["stem:conv2d"].layer.padding == (1, 1, 1, 1)  # type: ignore[union-attr]
    # A product of a flattened image is a convolution of the image's size.
    assert units["hidden:matmul"].layer.weight.shape == (24, 16, 4, 4)  # type: ignore[union-attr]
    assert sum(isinstance(unit.layer, MaxPool2d) for unit in units.values()) == 2
    assert "float32" in reader.reasons["head:matmul"]


def test_regions_are_split_by_what_the_host_computes(parts: Partition) -> None:
    assert len(parts.cuts) == 2
    first, second = parts.cuts
    assert first.level < second.level
    names = [unit.name for unit in first.units]
    assert names[:3] == ["stem:conv2d", "one:conv2d", "two:conv2d"]
    assert second.units[0].name == "after:conv2d"
    whys = {row.name: row.why for row in parts.host}
    assert any("no such operation" in why for why in whys.values())  # the sigmoid's table
    assert "VTA stores 8 bits" in whys["head:matmul"]


def test_regions_compute_what_the_graph_does(made: Made, parts: Partition) -> None:
    graph, integers, samples, _ = made
    values: dict[str, np.ndarray] = {}
    names = {str(site.variable.name): site.name for site in graph.sites}

    def observe(name: str, value: np.ndarray) -> None:
        if name in names:
            values[names[name]] = value

    interpret(integers, [samples[1]], observe)
    for cut in parts.cuts:
        inputs = {b.title: values[b.name].reshape(-1) for b in cut.inputs}
        results = reference_run(cut.region, inputs)
        for border in cut.outputs:
            assert (results[border.title].reshape(-1) == values[border.name].reshape(-1)).all()


def test_a_fast_host_gets_everything(made: Made) -> None:
    parts = partition(made[0], CONFIG, get_target("x86/sapphirerapids"))
    assert not parts.cuts
    assert any("the host is faster" in row.why for row in parts.host)


def test_scales_that_are_no_powers_of_two_stay_on_the_host() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
                        nn.AvgPool2d(3), nn.Conv2d(16, 4, 1))  # fmt: skip
    parts = partition(graph_of(net, (1, 3, 11, 11))[0], CONFIG, SLOW)
    whys = " ".join(row.why for row in parts.host)
    assert "it divides by 9, which is no power of two" in whys
    graph, _, _, plan = graph_of(net, (1, 3, 11, 11), power_of_two=False)
    found = partition(graph, CONFIG, SLOW)
    assert not found.cuts
    assert any("uint8" in row.why for row in found.host)
    with pytest.raises(PlanError, match="scales are powers of two"):
        require_shifts(plan, "vta/pynq")


def test_a_layer_that_fits_no_tiling_says_why() -> None:
    small = VtaConfig(name="tiny", inp_buffer_bytes=32, wgt_buffer_bytes=512, acc_buffer_bytes=128)
    net = nn.Sequential(nn.Conv2d(3, 16, 7), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
                        nn.Conv2d(16, 4, 1))  # fmt: skip
    parts = partition(graph_of(net, (1, 3, 10, 10))[0], small, SLOW)
    why = {row.name: row.why for row in parts.host}
    assert "tiling" in why["0:conv2d"]


def test_matrices_without_images_are_rows() -> None:
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                        nn.Linear(32, 4))  # fmt: skip
    graph, _, _, _ = graph_of(net, (6, 20))
    reader = GraphReader(graph)
    units = reader.units()
    assert reader.batch == 1
    assert [unit.name for unit in units] == ["0:matmul", "2:matmul"]
    form = reader.form(units[0].output)
    assert (form.channels, form.height, form.rows) == (32, 6, True)


def test_sums_alone_are_layers() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.one(x))
            y = self.two(x)
            z: torch.Tensor = self.two(x + y + y)
            return z

    units = GraphReader(graph_of(Sums(), (1, 3, 8, 8))[0]).units()
    assert any(isinstance(unit.layer, Sum) or len(unit.sites) > 2 for unit in units)


@settings(max_examples=some_of(40, 15), deadline=None)
@given(st.integers(0, 10_000))
def test_placement_is_the_least_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    costs: dict[Hashable, tuple[float, float]] = {
        i: (float(rng.integers(0, 9)), float(rng.integers(0, 9))) for i in range(count)
    }
    costs["host"] = (inf, 0.0)
    keys = list(costs)
    ties = [
        (keys[int(rng.integers(len(keys)))],
         [keys[j] for j in rng.choice(len(keys), size=int(rng.integers(1, 3)))],
         float(rng.integers(0, 6)))
        for _ in range(int(rng.integers(0, 6)))
    ]  # fmt: skip

    def total(left: set[Hashable]) -> float:
        value = sum(costs[k][0 if k in left else 1] for k in keys)
        for maker, readers, cost in ties:
            if any((r in left) != (maker in left) for r in readers):
                value += cost
        return value

    best = min(
        total({k for k, bit in zip(keys, bits, strict=True) if bit})
        for bits in product((0, 1), repeat=len(keys))
    )
    assert total(place(costs, ties)) == pytest.approx(best)
