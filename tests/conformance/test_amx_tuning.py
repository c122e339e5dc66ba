"""AMX kernels as candidates of the search: built from a task, checked against its reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from compiler.frontend import import_model
from compiler.lower import tasks
from compiler.stages import StageLog
from schedules.cpu import templates
from schedules.search.features import choice_features
from schedules.tvm_adapter import IRModule, tvm
from schedules.tvm_adapter import target as tvm_target
from tests.conformance.test_amx import SPEC, emulator  # noqa: F401 a fixture
from tests.support.amx import Emulator

pytestmark = [pytest.mark.compile, pytest.mark.slow]


def _run(function: Any, arrays: list[Any]) -> Any:
    library = tvm.compile(IRModule({"main": function}), target=tvm_target.Target(SPEC.tvm_dict()))
    given = [tvm.runtime.tensor(a) for a in arrays]
    library["main"](*given)
    return given[-1].numpy()


def test_candidates_of_a_task(emulator: Emulator) -> None:  # noqa: F811 the fixture
    """Every algorithm's default and some AMX choices give what the canonical function gives."""
    net = nn.Sequential(nn.Conv2d(32, 48, 3, 1, 1), nn.ReLU(), nn.Conv2d(48, 32, 3, 1, 1)).eval()
    data = torch.randn(1, 32, 12, 12)
    log = StageLog()
    found = tasks.extract_tasks(
        import_model(net, (data,), log=log), SPEC, log, precision="bfloat16"
    )
    narrow = [t for t in found if t.workload.dtypes[0] == "bfloat16"]
    assert narrow
    task = tasks.Task.from_json(narrow[0].to_json())
    spaces = {s.algorithm: s for s in templates.spaces(task.workload, SPEC)}
    assert "amx" in spaces
    rng = np.random.default_rng(0)

    def fill(argument: tasks.ArgumentSpec) -> Any:
        values = rng.standard_normal(argument.shape) * (argument.role != "output")
        dtype = ml_dtypes.bfloat16 if argument.dtype == "bfloat16" else argument.dtype
        return values.astype(dtype)

    plain = [fill(a) for a in tasks.arguments(task)]
    want = _run(tasks.reference(task), plain).astype(np.float32)
    choices = [s.default for s in spaces.values()]
    choices += [spaces["amx"].default | {"blocking": [1, 2], "rows": "full", "walk": w}
                for w in ("lines", "flat")]  # fmt: skip
    emulator.install()
    for choice in choices:
        assert templates.refusal(task.workload, choice, SPEC) is None
        cycles = templates.estimated_cycles(task.workload, choice, SPEC)
        features = choice_features(task.workload, choice, SPEC, cycles)
        assert all(np.isfinite(list(features.values())))
        packed = tasks.pack_arguments(task, choice, SPEC, plain)
        got = _run(tasks.build_candidate(task, choice, SPEC), packed).astype(np.float32)
        assert np.abs(got - want).max() <= 0.01 * np.abs(want).max(), choice
