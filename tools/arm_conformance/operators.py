"""Random integer operators on emulated processors: the NumPy reference's bits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from targets import get_target
from tests.support.emulated import EmulatedExecutor
from tests.support.integer_cases import KINDS, check
from tests.support.low_bits_cases import LOW_KINDS, LowMaker

#: Operators that are built at a time, and inputs of each on each processor.
_TOGETHER, _DRAWS = 10, 5


def rows(
    cpus: Mapping[str, Sequence[str]],
    cases: int,
    seed: int,
    only: Sequence[str] | None = None,
    wheels: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each target.

    Args:
        cpus: Processors of each target; all cases run on all of them.
        cases: Operators of each target, each on several inputs.
        seed: Of the cases.
        only: Kinds of cases.
        wheels: Folder of the runtime's packages.
    """
    for target, emulated in cpus.items():
        spec = get_target(target)
        executors = [partial(EmulatedExecutor, cpu=cpu, wheels=wheels) for cpu in emulated]
        counts: Counter[str] = Counter()
        rules: Counter[str] = Counter()
        failures: list[str] = []
        number = seed
        while counts.total() < cases:
            source = random.Random(f"arm {number}")
            maker = LowMaker(source)
            kinds = [source.choice(only or (*KINDS, *LOW_KINDS)) for _ in range(_TOGETHER)]
            together = [maker.case(kind) for kind in kinds]
            try:
                kernels = check(together, spec, _DRAWS, number, executors)
                rules.update("fallback" if k.fallback else k.rule for k in kernels)
            except Exception as error:  # noqa: BLE001 TVM raises many kinds
                lines = str(error).strip().splitlines() or [type(error).__name__]
                failures.append(f"seed {number}: {lines[0][:300]}")
                print(f"{target}: {failures[-1]}", flush=True)
            counts.update(kinds)
            number += 1
        yield {
            "target": target, "cpus": list(emulated), "seed": seed, "operators": counts.total(),
            "comparisons": counts.total() * _DRAWS * len(emulated), "kinds": dict(counts),
            "kernels": dict(rules), "failures": failures,
        }  # fmt: skip


__all__ = ["rows"]
