"""A real profile of a small compiled module."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.report import compare, measure
from compiler.report.profile import record
from compiler.stages import KernelInfo, TensorSpec
from tests.unit.report.fakes import TARGET

pytestmark = pytest.mark.compile

SIZE, LAYERS = 64, 3


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three times matmul and relu, then softmax, compiled for this machine."""
    from compiler.runtime import Executor
    from schedules.tvm_adapter import relax
    from schedules.tvm_adapter import target as tvm_target

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((8, SIZE), "float32"))
    weights = [relax.Var(f"w{i}", relax.TensorType((SIZE, SIZE), "float32")) for i in range(LAYERS)]
    with builder.function("main", [x, *weights]):
        with builder.dataflow():
            y = x
            for weight in weights:
                y = builder.emit(relax.op.nn.relu(relax.op.matmul(y, weight)))
            out = builder.emit_output(relax.op.nn.softmax(y))
        builder.emit_func_output(out)
    target = tvm_target.Target("llvm")
    with target:
        module = relax.get_default_pipeline(target)(builder.get())
    library: Path = tmp_path_factory.mktemp("profile") / "module.so"
    relax.build(module, target=target, relax_pipeline=None).export_library(str(library))
    rng = np.random.default_rng(0)
    return Executor(
        library,
        (TensorSpec("x", (8, SIZE), "float32"),),
        (TensorSpec("y", (8, SIZE), "float32"),),
        {f"w{i}": rng.standard_normal((SIZE, SIZE)).astype("float32") for i in range(LAYERS)},
    )


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(1).standard_normal((8, SIZE)).astype("float32")


def test_kernel_calls_are_the_virtual_machines(executor: Any, x: Any) -> None:
    seen: Counter[str] = Counter()

    def count(_function: Any, name: str, before: bool, _result: Any, *_args: Any) -> None:
        if before and not name.startswith("vm.builtin."):
            seen[name] += 1

    with executor.instrument(count):
        executor.run(x)
    report = measure(executor, [x], target=TARGET, kernels=(), name="mlp", quick=True)
    assert {row.name: row.calls.value for row in report.kernels} == seen
    assert seen.total() == LAYERS + 1
    assert len(report.memory.schedule) == LAYERS + 1


def test_buffers_are_followed(executor: Any, x: Any) -> None:
    recording = record(executor, [x])
    one = 8 * SIZE * 4
    # The first kernel reads the caller's input; all the others an activation as well.
    assert recording.live_bytes == (one, 2 * one, 2 * one, 2 * one)
    assert recording.allocated_bytes >= 2 * one


def test_profiling_leaves_the_model_as_it_was(executor: Any, x: Any) -> None:
    before = executor.run(x)
    report = measure(
        executor,
        [x],
        target=TARGET,
        kernels=[
            KernelInfo("fused_matmul_relu", "dense", ("matmul", "relu"), "matmul", False,
                       2 * 8 * SIZE**2, 4 * (8 * SIZE + SIZE**2), 4 * 8 * SIZE, "float32")
        ],
        name="mlp",
        numerical_error=compare([before], [before]),
        runs=6,
    )  # fmt: skip
    np.testing.assert_array_equal(executor.run(x), before)
    rows = {row.name: row for row in report.kernels}
    dense = rows["fused_matmul_relu"]
    assert dense.calls.value == LAYERS
    assert dense.flops is not None
    assert dense.flops.value == LAYERS * 2 * 8 * SIZE**2
    assert dense.time.value > 0
    assert report.latency.runs == 6
    assert report.inputs == ("x: float32[8, 64]",)
    assert report.accuracy is not None
    assert report.accuracy.max_abs.value == 0
    shares = sum(row.share.value for row in report.kernels)
    shares += sum(share.value for _, _, share in report.overheads)
    assert shares == pytest.approx(100)
