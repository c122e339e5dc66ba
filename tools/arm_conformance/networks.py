"""Whole networks on emulated processors: the NumPy reference's bits, or PyTorch's figures.

They are built as the records that come with the release say, as users' are.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compiler.build import build as build_library
from compiler.compress.plan import CompressionPlan
from compiler.compress.recipe import Quantize
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.package.bundle import REFERENCE_TOLERANCES
from compiler.stages import Built, Imported, Lowered, StageLog
from schedules.records import default_stores, record_selector
from targets import TargetSpec, get_target
from tests.support.emulated import EmulatedExecutor
from tools.integer_networks import Array, bits, plan_of, reference, variations
from tools.zoo.nets import build as build_net

_SAMPLES = 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Case:
    """A network in a precision, and what it must answer."""

    imported: Imported
    plan: CompressionPlan | None
    inputs: list[Array]
    wanted: list[Array]
    facts: Row

    def judge(self, got: list[Array]) -> Row:
        """What a row says of the outputs, with what is wrong with them in `failures`."""
        if self.plan is not None:
            equal = bits(got) == bits(self.wanted)
            wrong = [] if equal else [_difference(got, self.wanted)]
            return {"equal": equal, "outputs_sha256": bits(got), "failures": wrong}
        error = max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in zip(got, self.wanted, strict=True)
        )
        limit = REFERENCE_TOLERANCES["float32"]
        wrong = [] if error <= limit else [f"{error:.1e} from PyTorch, {limit:g} is allowed"]
        return {"max_rel_error": error, "failures": wrong}


def rows(
    names: Sequence[str],
    cpus: Mapping[str, Sequence[str]],
    precisions: Sequence[str],
    keep: Path | None = None,
    wheels: Path | None = None,
) -> Iterator[Row]:
    """A row for each network, precision, target and processor.

    Args:
        names: The networks.
        cpus: Processors of each target.
        precisions: int8 (bits of the NumPy reference), float32 (beside PyTorch).
        keep: Folder that keeps references, which take minutes, from one run to the next.
        wheels: Folder of the runtime's packages.
    """
    torch.set_num_threads(1)
    for name in names:
        for precision in precisions:
            case = _case(name, precision, keep)
            for target, emulated in cpus.items():
                yield from _on_target(case, get_target(target), emulated, wheels)


def _case(name: str, precision: str, keep: Path | None) -> _Case:
    net, inputs = build_net(name)
    imported = import_model(net, inputs, log=StageLog())
    samples = variations(inputs, _SAMPLES)
    arrays = list(samples[0])
    facts: Row = {"network": name, "precision": precision}
    if precision == "int8":
        plan = plan_of(imported, samples, Quantize())
        facts |= {"int8_operators": len(plan.quantized()), "operators": len(plan.operators)}
        return _Case(imported, plan, arrays, _reference(imported, plan, arrays, keep), facts)
    with torch.no_grad():
        outputs = net(*inputs)
    wanted = [v.numpy() for v in (outputs if isinstance(outputs, tuple) else (outputs,))]
    return _Case(imported, None, arrays, wanted, facts)


def _on_target(
    case: _Case, spec: TargetSpec, cpus: Sequence[str], wheels: Path | None
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            lowered, built = _build(case, spec, Path(folder))
        except Exception as error:  # noqa: BLE001 TVM raises many kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            yield {
                **case.facts, "target": spec.name, "cpu": "",
                "failures": [f"does not compile: {lines[-1][:200]}"],
            }  # fmt: skip
            return
        tuned = sum(bool(kernel.record) for kernel in lowered.kernels)
        facts = {"kernels_on_records": tuned, "kernels": len(lowered.kernels)}
        for cpu in cpus:
            yield {
                **case.facts, "target": spec.name, "cpu": cpu, **facts,
                **_run(case, built, cpu, wheels),
            }  # fmt: skip


def _build(case: _Case, spec: TargetSpec, folder: Path) -> tuple[Lowered, Built]:
    select = record_selector(default_stores()[1:], threads=1)  # without the user's own
    log = StageLog()
    lowered = lower(case.imported, spec, log, select=select, plan=case.plan)
    return lowered, build_library(lowered, spec, log, folder)


def _run(case: _Case, built: Built, cpu: str, wheels: Path | None) -> Row:
    """What a row says of one processor."""
    try:
        executor = EmulatedExecutor(
            built.library,
            built.inputs,
            built.outputs,
            built.parameters,
            built.prepared,
            cpu=cpu,
            wheels=wheels,
        )
        given = executor.run(*case.inputs)
    except AssertionError as error:
        return {"failures": [str(error)]}
    return case.judge([np.asarray(v) for v in (given if isinstance(given, tuple) else (given,))])


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
