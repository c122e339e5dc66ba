"""Where a search starts: records and journals of the same and of similar workloads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from compiler.tune.journal import Machine, journals, read_entries
from compiler.tune.measure.base import Measured
from compiler.tune.search import TaskSearch, foreign_example
from schedules.records import Neighbour, RecordStore, choice_of, neighbours
from schedules.records.match import shape_distance
from schedules.search.cost_model import CostModel
from schedules.search.transfer import transfer
from schedules.space import Choice, Space
from schedules.workload import Workload

if TYPE_CHECKING:
    from compiler.tune.kernels import Kernels
    from targets.spec import TargetSpec

#: Similar workloads are as many doublings of their extents apart, at most.
_NEAR = 6.0
_SEEDS = 6
_RECORD_EXAMPLES = 200
_JOURNAL_EXAMPLES = 800
_OWN_MACHINE_WEIGHT, _OTHER_MACHINE_WEIGHT = 0.5, 0.2


def seeds(search: TaskSearch, spec: TargetSpec, stores: Sequence[RecordStore]) -> list[Choice]:
    """Choices that records suggest, the nearest first: of the same workload, then similar ones.

    Raises:
        StoreError: A store cannot be read.
    """
    workload = search.task.workload
    found = neighbours(workload, spec, stores, limit=4 * _SEEDS)
    same = [choice_of(n.record) for n in found if n.record.workload == workload]
    similar = [
        moved
        for n in found
        if n.record.workload != workload and n.distance <= _NEAR
        if (moved := transfer(n.record.choice, search.spaces)) is not None
    ]
    return same + similar[:_SEEDS]


def from_siblings(search: TaskSearch, others: Sequence[TaskSearch], limit: int = 3) -> list[Choice]:
    """The best choices of the run's most similar tasks, moved to this one's spaces."""
    workload = search.task.workload
    near = sorted(
        (shape_distance(workload, other.task.workload), index)
        for index, other in enumerate(others)
        if other is not search and other.task.workload.operator == workload.operator
    )
    moved = []
    for distance, index in near[:limit]:
        best = others[index].best
        if best is not None and distance <= _NEAR:
            moved.append(transfer(best.choice, search.spaces))
    return [choice for choice in moved if choice is not None]


def warm(
    model: CostModel,
    workloads: Sequence[Workload],
    spec: TargetSpec,
    kernels: Kernels,
    stores: Sequence[RecordStore],
    journal_folder: Path,
    machine: Machine,
) -> int:
    """Train a cost model from records of similar workloads and journals of this machine.

    Args:
        model: The model of one operator.
        workloads: The run's workloads of this operator; their own journals are read elsewhere.
        spec: The target.
        kernels: The templates.
        stores: Where records are.
        journal_folder: The store whose journals are read.
        machine: Journals of other machines are left out.

    Returns:
        How many measurements it learned from.

    Raises:
        StoreError: A store cannot be read.
    """
    spaces: Callable[[Workload], tuple[Space, ...]] = lru_cache(maxsize=None)(
        lambda workload: tuple(kernels.spaces(workload, spec))
    )
    examples = []
    near: dict[str, Neighbour] = {}
    for workload in workloads:
        for neighbour in neighbours(workload, spec, stores, limit=_RECORD_EXAMPLES):
            known = near.get(neighbour.record.id)
            if known is None or neighbour.distance < known.distance:
                near[neighbour.record.id] = neighbour
    for neighbour in near.values():
        record = neighbour.record
        own = _OWN_MACHINE_WEIGHT if neighbour.tier == "same CPU" else _OTHER_MACHINE_WEIGHT
        weight = own / (1 + math.log1p(neighbour.distance))
        choice = choice_of(record)
        examples.append(
            foreign_example(
                record.workload, choice, record.median_ns, spec, kernels, spaces, weight
            )
        )
    left = _JOURNAL_EXAMPLES
    operator = workloads[0].operator
    for workload, path in journals(journal_folder, operator, machine):
        if workload in workloads:
            continue
        for entry in read_entries(path, left):
            if isinstance(entry.outcome, Measured):
                left -= 1
                latency = median(entry.outcome.samples_ns)
                examples.append(
                    foreign_example(
                        workload, entry.choice, latency, spec, kernels, spaces, _OWN_MACHINE_WEIGHT
                    )
                )
        if left <= 0:
            break
    useful = [example for example in examples if example is not None]
    model.add(useful)
    return len(useful)


__all__ = ["from_siblings", "seeds", "warm"]
