"""ChooseKernels: who is asked what, and what is built from the answer."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from compiler.frontend import import_model
from compiler.lower import lower
from compiler.lower.tasks import extract_tasks
from compiler.stages import StageLog
from schedules.cpu import templates
from schedules.selection import Selection
from targets import get_target

SPEC = get_target("x86/generic-avx2")


class Twice(nn.Module):
    """One layer used twice, with and without an activation behind it, and another residual."""

    def __init__(self, layer=None):
        super().__init__()
        self.layer = layer or nn.Linear(32, 32)

    def forward(self, x):
        y = nn.functional.relu(self.layer(x))
        return self.layer(y) + x


def lowered(select, module=None, shape=(4, 32), **options):
    imported = import_model(
        (module or Twice()).eval(), (torch.randn(shape),), log=StageLog(), **options
    )
    return imported, lower(imported, SPEC, StageLog(), select=select)


def test_each_workload_is_asked_for_once_with_its_epilogue():
    asked = []

    def select(workload, spec):
        asked.append(workload)
        return Selection(why="nothing known")

    _, result = lowered(select)
    assert {w.epilogue for w in asked} == {("add", "relu"), ("add", "add:tensor")}
    assert all(w.operator == "dense" for w in asked)
    kernels = [k for k in result.kernels if k.kind == "dense"]
    assert {k.source for k in kernels} == {"default"}
    assert {k.miss for k in kernels} == {"nothing known"}
    assert all(k.flops == 2 * 4 * 32 * 32 for k in kernels)


def test_equal_choices_share_one_packed_weight():
    module = Twice(nn.Conv2d(32, 32, 1))
    _, result = lowered(lambda _w, _s: Selection(), module, (1, 32, 5, 5))
    assert sum(k.kind == "conv2d" for k in result.kernels) == 2
    assert [n for n in result.parameters if "packed" in n] == ["layer.weight.packed"]


def test_what_the_selector_says_is_built():
    def select(workload, spec):
        choice = dict(templates.spaces(workload, spec)[0].default)
        choice["tile"] = [1, 2, 1, 8]
        return Selection(choice, "same CPU", "abc", "")

    _, result = lowered(select)
    kernels = [k for k in result.kernels if k.kind == "dense"]
    assert {(k.source, k.tier, k.record, k.miss) for k in kernels} == {
        ("record", "same CPU", "abc", "")
    }
    assert all(k.choice["tile"] == [1, 2, 1, 8] for k in kernels)
    packed = {v.shape for n, v in result.parameters.items() if n.endswith("packed")}
    assert packed == {(4, 32, 8)}


def test_tasks_count_calls_and_merge_equal_workloads():
    block = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
    module = nn.Sequential(block, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 7)).eval()
    imported = import_model(module, (torch.randn(3, 16),), log=StageLog())
    tasks = extract_tasks(imported, SPEC, StageLog())
    assert [(t.calls, t.workload.weight) for t in tasks] == [(2, (16, 16)), (1, (16, 7))]
    assert len({t.structural_hash for t in tasks}) == 2


def test_symbolic_shapes_get_defaults_and_no_tasks():
    imported, result = lowered(lambda _w, _s: Selection(), dynamic_batch=True)
    assert extract_tasks(imported, SPEC, StageLog()) == ()
    assert {k.source for k in result.kernels if k.kind == "dense"} == {"default"}


def test_the_packed_weight_holds_the_layer():
    module = nn.Linear(8, 8, bias=False)
    _, result = lowered(lambda _w, _s: Selection(), module, (2, 8))
    (packed,) = result.parameters.values()
    total = module.weight.detach().numpy().sum()
    assert np.isclose(packed.sum(), total, rtol=1e-5)
