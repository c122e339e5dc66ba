"""Small modules compiled by hand, so that the runtime is tested without the stages before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.runtime import Executor
from compiler.stages import TensorSpec

WEIGHT = np.arange(24, dtype=np.float32).reshape(8, 3) / 10


def _compile(path: Path, build: Any) -> Path:
    from schedules.tvm_adapter import relax, tvm

    builder = relax.BlockBuilder()
    build(builder, relax)
    tvm.compile(builder.get(), tvm.target.Target({"kind": "llvm"})).export_library(str(path))
    return path


def _two_outputs(builder: Any, relax: Any) -> None:
    """relu(x @ w) and x @ w + x @ w, for any number of rows."""
    from schedules.tvm_adapter import tirx

    rows = tirx.Var("rows", "int64")
    x = relax.Var("x", relax.TensorType((rows, 8), "float32"))
    w = relax.Var("w", relax.TensorType((8, 3), "float32"))
    with builder.function("main", [x, w]):
        product = builder.emit(relax.op.matmul(x, w))
        positive = builder.emit(relax.op.nn.relu(product))
        double = builder.emit(relax.op.add(product, product))
        builder.emit_func_output(relax.Tuple([positive, double]))


def _echo(builder: Any, relax: Any) -> None:
    """The input, the parameter reshaped, and x + x."""
    x = relax.Var("x", relax.TensorType((2, 4), "float32"))
    w = relax.Var("w", relax.TensorType((3, 8), "float32"))
    with builder.function("main", [x, w]):
        flat = builder.emit(relax.op.reshape(w, (24,)))
        double = builder.emit(relax.op.add(x, x))
        builder.emit_func_output(relax.Tuple([x, flat, double]))


@pytest.fixture(scope="session")
def two_outputs(tmp_path_factory: pytest.TempPathFactory) -> Executor:
    library = _compile(tmp_path_factory.mktemp("two") / "module.so", _two_outputs)
    return Executor(
        library,
        [TensorSpec("x", ("rows", 8), "float32")],
        [TensorSpec("a", ("rows", 3), "float32"), TensorSpec("b", ("rows", 3), "float32")],
        {"w": WEIGHT},
        name="two",
    )


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Executor:
    library = _compile(tmp_path_factory.mktemp("echo") / "module.so", _echo)
    return Executor(
        library,
        [TensorSpec("x", (2, 4), "float32")],
        [
            TensorSpec("x_again", (2, 4), "float32"),
            TensorSpec("flat", (24,), "float32"),
            TensorSpec("double", (2, 4), "float32"),
        ],
        {"w": WEIGHT.reshape(3, 8)},
        name="echo",
    )
