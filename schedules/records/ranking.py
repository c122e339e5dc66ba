"""Which of several records of one workload is the best: only comparable figures are compared.

A latency says something only beside another one from the same machine. Records are therefore
put into groups of one machine first. In a group a record that another one names as its parent
goes behind: the two were measured side by side, and it was beaten. Among the others, if all of
them were measured beside the same default choice, the time in units of that default's decides,
since it cancels the day's clock and neighbours; else the median latency itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from schedules.records.features import relevant_features
from schedules.records.record import Label, Record
from schedules.records.strict import canonical


@dataclass(frozen=True)
class Machine:
    """What two records must share for their latencies to be comparable.

    Attributes:
        cpu: Name of the processor.
        cpu_id: Its ``vendor-family-model``.
        family: Family of the target.
        features: The target's features that matter to the workload.
        vector_bits: Width of the target's vectors.
        threads: Threads that the kernel ran on.
        runner: What ran it.
        label: Whether latencies are measured, simulated or estimated.
        modelled: Of estimates: the target, whose clock and caches they were reckoned with.
    """

    cpu: str
    cpu_id: str
    family: str
    features: frozenset[str]
    vector_bits: int
    threads: int
    runner: str
    label: Label = "measured"
    modelled: str = ""

    @classmethod
    def of(cls, record: Record) -> Machine:
        """The machine of a record."""
        by, spec = record.provenance, record.provenance.spec
        return cls(
            cpu=by.cpu.name,
            cpu_id=by.cpu.id,
            family=spec.family,
            features=relevant_features(record.workload, spec),
            vector_bits=spec.vector_bits,
            threads=by.threads,
            runner=by.runner,
            label=record.measurement.label,
            modelled=spec.name if record.measurement.label == "estimated" else "",
        )


def by_machine(records: Iterable[Record]) -> dict[Machine, list[Record]]:
    """Records of one workload, machine by machine, best first in each.

    Estimates of kernels that were never run are left out.
    """
    groups: defaultdict[Machine, list[Record]] = defaultdict(list)
    for record in records:
        if record.check is not None:
            groups[Machine.of(record)].append(record)
    return {machine: ranked(group) for machine, group in groups.items()}


def ranked(records: Iterable[Record]) -> list[Record]:
    """Records of one workload and one machine, best first; the newer one of two equals."""
    found = list(records)
    defaults = {None if r.baseline is None else canonical(dict(r.baseline.choice)) for r in found}
    by_ratio = len(defaults) == 1 and None not in defaults

    def time(record: Record) -> float:
        relative = record.relative
        return relative if by_ratio and relative is not None else record.median_ns

    beaten = {record.provenance.parent for record in found}
    newest_first = sorted(found, key=lambda r: (r.provenance.date, r.id), reverse=True)
    return sorted(newest_first, key=lambda record: (record.id in beaten, time(record)))


__all__ = ["Machine", "by_machine", "ranked"]
