"""Writes what a search found as records, at once, each with the record that it beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from schedules.records import (
    Baseline,
    Check,
    Cpu,
    Measurement,
    Provenance,
    Record,
    RecordStore,
    choice_of,
)
from schedules.records.features import relevant_features
from schedules.records.ranking import Machine, by_machine
from schedules.records.record import Label

if TYPE_CHECKING:
    from compiler.lower.tasks import Task
    from compiler.tune.search import TaskSearch, Trial
    from schedules.space import Choice
    from targets.spec import TargetSpec

#: A candidate replaces the best record only if it is faster by more than the noise.
_GAIN = 0.99


def versions() -> dict[str, str]:
    """Versions that decide what code a choice becomes."""
    from compiler._version import __version__
    from schedules.tvm_adapter import TVM_VERSION, llvm_version

    return {
        "tilewright": __version__,
        "tvm": TVM_VERSION,
        "tvm_ffi": version("apache-tvm-ffi"),
        "llvm": llvm_version(),
    }


class Keeper:
    """Keeps the best choice of each task in a store.

    Args:
        store: Where to.
        stores: Where records may be already, `store` among them.
        spec: The target.
        cpu: What candidates run on.
        runner: How they run.
        session: ID of the run.
        versions: See `versions`.
        label: Whether latencies are measured, simulated or estimated.

    Attributes:
        written: IDs of the records written, in order.
    """

    def __init__(
        self,
        store: RecordStore,
        stores: Sequence[RecordStore],
        spec: TargetSpec,
        *,
        cpu: Cpu,
        runner: str,
        session: str,
        versions: Mapping[str, str],
        label: Label = "measured",
    ) -> None:
        self._label = label
        self.written: list[str] = []
        self._store = store
        self._stores = stores
        self._spec = spec
        self._cpu = cpu
        self._runner = runner
        self._session = session
        self._versions = versions
        #: The record in force of each task, and its choice.
        self._best: dict[str, tuple[str, Choice]] = {}

    def start(self, search: TaskSearch) -> None:
        """Look up the record that a search has to beat: the best one of this machine and target.

        Raises:
            StoreError: A store cannot be read.
        """
        workload = search.task.workload
        here = Machine(
            cpu=self._cpu.name,
            cpu_id=self._cpu.id,
            family=self._spec.family,
            features=relevant_features(workload, self._spec),
            vector_bits=self._spec.vector_bits,
            threads=1,
            runner=self._runner,
            label=self._label,
            modelled=self._spec.name if self._label == "estimated" else "",
        )
        known = {record.id: record for store in self._stores for record in store.of(workload)}
        ranked = by_machine(known.values()).get(here)
        if ranked:
            self._best[workload.key] = (ranked[0].id, choice_of(ranked[0]))

    def keep(self, search: TaskSearch) -> str | None:
        """Write a record of the search's best candidate, if it beats the record in force.

        Returns:
            The new record's ID, or None if there is nothing to write.

        Raises:
            StoreError: It cannot be written.
        """
        best = search.best
        if best is None:
            return None
        known = self._best.get(search.task.workload.key)
        if known is not None:
            _, choice = known
            if choice == best.choice or search.waits_for(choice):
                return None
            against = search.latency_of(choice)
            if against is not None and best.latency_ns > against * _GAIN:
                return None
        record = self._record(search, best, None if known is None else known[0])
        identifier = self._store.add(record)
        self._best[search.task.workload.key] = (identifier, best.choice)
        self.written.append(identifier)
        return identifier

    def _record(self, search: TaskSearch, best: Trial, parent: str | None) -> Record:
        task: Task = search.task
        here = Provenance.here(
            self._spec,
            versions=self._versions,
            session=self._session,
            runner=self._runner,
            parent=parent,
        )
        baseline = None
        if search.default is not None and search.default_ns is not None:
            baseline = Baseline(search.default, round(search.default_ns, 1))
        return Record(
            workload=task.workload,
            choice=best.choice,
            structural_hash=task.structural_hash,
            flops=float(task.flops),
            measurement=Measurement.of(best.outcome.samples_ns, self._label),
            provenance=replace(here, cpu=self._cpu),
            baseline=baseline,
            check=Check(best.outcome.max_relative_error, best.outcome.tolerance),
        )


__all__ = ["Keeper", "versions"]
