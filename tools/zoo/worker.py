"""One network in a process of its own: export, import, compile, run, compare.

``python -m tools.zoo.worker NAME`` writes one JSON object as its last line on stdout.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from compiler.errors import TilewrightError
from compiler.frontend.dtypes import to_numpy
from compiler.stages import StageLog
from tools.zoo.entries import Entry
from tools.zoo.registry import all_entries

_STEPS = ("export", "decompose", "translate to Relax")


def check(entry: Entry) -> dict[str, Any]:
    """Compile one network and compare it with PyTorch eager.

    Returns:
        ``result`` (``agrees``, ``differs``, or the step that failed), ``error`` (relative to
        the output's largest magnitude), milliseconds of the steps, and a message.
    """
    row: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "source": entry.source,
        "tolerance": entry.tolerance,
        "result": "build",
    }
    try:
        model, inputs = entry.build()
        tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
        row["inputs"] = [f"{_short(x.dtype)}[{'×'.join(map(str, x.shape))}]" for x in tensors]
        row["parameters"] = sum(p.numel() for p in model.parameters())
        row["result"] = "eager"
        with torch.no_grad():
            expected = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
        wanted = [to_numpy(y) for y in pytree.tree_leaves(expected) if isinstance(y, torch.Tensor)]
        _compile_and_run(model, inputs, tensors, wanted, row)
    except TilewrightError as error:
        row["message"] = str(error)
    except Exception as error:  # noqa: BLE001 - the table shows what a network died of
        row["message"] = f"{type(error).__name__}: {error}"
    row["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def _compile_and_run(
    model: torch.nn.Module,
    inputs: Any,
    tensors: list[torch.Tensor],
    wanted: list[np.ndarray[Any, Any]],
    row: dict[str, Any],
) -> None:
    from compiler.build import build
    from compiler.frontend import import_model
    from compiler.lower import lower
    from compiler.runtime import Executor
    from targets import get_target

    target, log = get_target("x86"), StageLog()
    row["result"] = "import"
    imported = import_model(model, inputs, name=row["name"], log=log)
    spent = {record.name: record.milliseconds for record in log.records}
    row["export_ms"] = spent.get("export", 0.0)
    row["import_ms"] = sum(spent.get(step, 0.0) for step in _STEPS[1:])
    row["result"] = "compile"
    start = time.perf_counter()
    lowered = lower(imported, target, log)
    with tempfile.TemporaryDirectory() as folder:
        built = build(lowered, target, log, Path(folder))
        row["compile_ms"] = (time.perf_counter() - start) * 1e3
        row["kernels"] = len(built.kernels)
        row["fallback_kernels"] = sum(kernel.fallback for kernel in built.kernels)
        row["result"] = "run"
        executor = Executor(
            built.library, built.inputs, built.outputs, built.parameters, built.prepared
        )
        start = time.perf_counter()
        result = executor.run(*tensors)
        row["run_ms"] = (time.perf_counter() - start) * 1e3
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    got = [to_numpy(y) if isinstance(y, torch.Tensor) else np.asarray(y) for y in outputs]
    row["error"] = largest_error(got, wanted)
    row["result"] = "agrees" if row["error"] <= row["tolerance"] else "differs"


def largest_error(got: list[Any], wanted: list[Any]) -> float:
    """Largest error of all outputs, each relative to its own largest magnitude.

    Raises:
        ValueError: Number, shapes or dtypes differ, or PyTorch's own output is all zeros or
            not finite, which would prove nothing.
    """
    if len(got) != len(wanted):
        raise ValueError(f"{len(got)} outputs, PyTorch has {len(wanted)}")
    worst = 0.0
    for have, want in zip(got, wanted, strict=True):
        if have.shape != want.shape or have.dtype != want.dtype:
            raise ValueError(
                f"{have.dtype}{list(have.shape)}, PyTorch has {want.dtype}{list(want.shape)}"
            )
        scale = float(np.abs(want.astype("float64")).max())
        if not np.isfinite(scale) or scale == 0.0:
            raise ValueError(f"PyTorch's output has the largest magnitude {scale}: no comparison")
        error = float(np.abs(have.astype("float64") - want.astype("float64")).max()) / scale
        worst = max(worst, error) if np.isfinite(error) else float("inf")
    return worst


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main(name: str) -> None:
    """Check one network and print its row."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    entry = next(entry for entry in all_entries() if entry.name == name)
    row = check(entry)
    print("\n" + json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1])
