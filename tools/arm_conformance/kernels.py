"""Random float32 operators on emulated processors: PyTorch's results within 1e-5."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.emulated import EmulatedExecutor


def rows(
    cpus: Mapping[str, Sequence[str]],
    examples: int,
    only: Sequence[str] | None = None,
    wheels: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each target and processor, of the suite that x86's kernels go through.

    Args:
        cpus: Processors of each target.
        examples: Of each kind of operator.
        only: Names of tests of the suite, without ``test_``.
        wheels: Folder of the runtime's packages.
    """
    os.environ["TILEWRIGHT_EXAMPLES"] = str(examples)
    from tests.conformance.kernel_suite import KernelSuite

    for target, emulated in cpus.items():
        for cpu in emulated:
            runs = itertools.count()

            def make(*words: Any, cpu: str = cpu, runs: Iterator[int] = runs) -> Any:
                next(runs)
                return EmulatedExecutor(*words, cpu=cpu, wheels=wheels)

            suite = type("Suite", (KernelSuite,), {"target": target, "executor": partial(make)})()
            failures = []
            for name, arguments in _tests(KernelSuite):
                if only and name.removeprefix("test_") not in only:
                    continue
                test: Callable[..., None] = getattr(suite, name)
                try:
                    test(**arguments)
                except Exception as error:  # noqa: BLE001 TVM raises many kinds
                    lines = str(error).strip().splitlines() or [type(error).__name__]
                    # The case that failed, as hypothesis tells it.
                    notes = " ".join(" ".join(getattr(error, "__notes__", ())).split())[:400]
                    failures.append(f"{name} {arguments or ''}: {lines[0][:300]} {notes}".strip())
                    print(f"{target} on {cpu}: {failures[-1]}", flush=True)
            yield {"target": target, "cpu": cpu, "comparisons": next(runs), "failures": failures}


def _tests(suite: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tests of a suite with what pytest would give them."""
    for name in dir(suite):
        if not name.startswith("test_"):
            continue
        marks = [
            m for m in getattr(getattr(suite, name), "pytestmark", []) if m.name == "parametrize"
        ]
        for values in itertools.product(*(mark.args[1] for mark in marks)):
            yield name, {m.args[0]: value for m, value in zip(marks, values, strict=True)}


__all__ = ["rows"]
