"""Whole int8 networks on emulated processors: the NumPy reference's bits.

They are built as the records that come with the release say, as users' are.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compiler.build import build as build_library
from compiler.compress.plan import CompressionPlan
from compiler.compress.recipe import Quantize
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.stages import Imported, StageLog
from schedules.records import default_stores, record_selector
from targets import get_target
from tests.support.emulated import EmulatedExecutor
from tools.integer_networks import Array, bits, plan_of, reference, variations
from tools.zoo.nets import build as build_net

_SAMPLES = 3


def rows(
    names: Sequence[str],
    cpus: Mapping[str, Sequence[str]],
    keep: Path | None = None,
    wheels: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each network, target and processor.

    Args:
        names: The networks.
        cpus: Processors of each target.
        keep: Folder that keeps references, which take minutes, from one run to the next.
        wheels: Folder of the runtime's packages.
    """
    torch.set_num_threads(1)
    select = record_selector(default_stores()[1:], threads=1)  # without the user's own
    for name in names:
        net, inputs = build_net(name)
        imported = import_model(net, inputs, log=StageLog())
        samples = variations(inputs, _SAMPLES)
        plan = plan_of(imported, samples, Quantize())
        arrays = list(samples[0])
        wanted = _reference(imported, plan, arrays, keep)
        for target, emulated in cpus.items():
            spec, log = get_target(target), StageLog()
            failures: list[str] = []
            with tempfile.TemporaryDirectory() as folder:
                try:
                    lowered = lower(imported, spec, log, select=select, plan=plan)
                    built = build_library(lowered, spec, log, Path(folder))
                except Exception as error:  # noqa: BLE001 TVM raises many kinds
                    lines = str(error).strip().splitlines() or [type(error).__name__]
                    yield _row(name, target, "", plan, "", [f"does not compile: {lines[-1][:200]}"])
                    continue
                for cpu in emulated:
                    failures, found = [], ""
                    try:
                        executor = EmulatedExecutor(
                            built.library, built.inputs, built.outputs, built.parameters,
                            cpu=cpu, wheels=wheels,
                        )  # fmt: skip
                        given = executor.run(*arrays)
                        got = [
                            np.asarray(v) for v in (given if isinstance(given, tuple) else (given,))
                        ]
                        found = bits(got)
                        if found != bits(wanted):
                            failures = [_difference(got, wanted)]
                    except AssertionError as error:
                        failures = [str(error)]
                    row = _row(name, target, cpu, plan, found, failures)
                    tuned = sum(bool(kernel.record) for kernel in lowered.kernels)
                    yield {**row, "kernels_on_records": tuned, "kernels": len(lowered.kernels)}


def _row(
    name: str, target: str, cpu: str, plan: CompressionPlan, found: str, failures: list[str]
) -> dict[str, Any]:
    return {
        "network": name, "target": target, "cpu": cpu, "equal": not failures,
        "outputs_sha256": found, "int8_operators": len(plan.quantized()),
        "operators": len(plan.operators), "failures": failures,
    }  # fmt: skip


def _reference(
    imported: Imported, plan: CompressionPlan, arrays: list[Array], keep: Path | None
) -> list[Array]:
    if keep is None:
        return reference(imported, plan, arrays)
    text = hashlib.sha256((plan.to_json() + bits(arrays)).encode()).hexdigest()[:16]
    path = keep / f"{imported.name}-{text}.npz"
    if not path.exists():
        keep.mkdir(parents=True, exist_ok=True)
        np.savez(path, *reference(imported, plan, arrays))
    with np.load(path) as kept:
        return [kept[key] for key in kept.files]


def _difference(got: Sequence[Array], wanted: Sequence[Array]) -> str:
    parts = []
    for a, b in zip(got, wanted, strict=True):
        if a.shape == b.shape:
            most = np.abs(a.astype(float) - b).max()
            parts.append(f"{int((a != b).sum())} of {a.size} differ, by {most:g} at most")
    return "; ".join(parts) or "other shapes"


__all__ = ["rows"]
