"""Which record serves a workload on a target, and how well it fits; a miss says why.

Tiers, best first:

- ``same CPU``: measured on the target's processor, with the target's features.
- ``same features``: measured on another processor, for the same features and vectors.
- ``estimated``: no device was there: counted in emulation, with the target's features, and
  estimated by a model of a processor. What was measured for the same features goes before.
- ``same family``: another target of the family. Only for the start of a search.

Features are compared as far as they matter to the workload (`schedules.records.features`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from schedules.records.features import relevant_features
from schedules.records.ranking import Machine, by_machine
from schedules.records.record import Record
from schedules.records.store import RecordStore
from schedules.workload import Extent, Json, Workload
from targets.spec import TargetSpec

Tier: TypeAlias = Literal["same CPU", "same features", "estimated", "same family"]
#: Why a choice cannot be built, or None if it can.
Refusal: TypeAlias = Callable[[Mapping[str, Json]], str | None]

#: Distance of what is no extent, in doublings of an extent.
_OTHER_DTYPES = 6.0
_OTHER_ATTRIBUTE = 2.0
_OTHER_KERNEL = 3.0
_OTHER_EPILOGUE = 0.25
_OTHER_THREADS = 1.0
_OTHER_RANK = 4.0
_OTHER_TIER: Mapping[str, float] = {
    "same CPU": 0.0,
    "same features": 0.5,
    "estimated": 1.0,
    "same family": 2.0,
}


@dataclass(frozen=True)
class Match:
    """A record that serves."""

    record: Record
    tier: Tier


@dataclass(frozen=True)
class Miss:
    """No record serves; `why` is a phrase for people."""

    why: str


@dataclass(frozen=True)
class Neighbour:
    """A record of a similar workload.

    Attributes:
        record: The best one of its workload and machine.
        tier: How well its target fits.
        distance: 0 for the same workload and CPU; about the number of doublings between the
            extents, with a penalty for whatever else differs.
    """

    record: Record
    tier: Tier
    distance: float


def tier_of(record: Record, workload: Workload, spec: TargetSpec) -> Tier | None:
    """How well a record's target fits; None if it is of another family."""
    machine = Machine.of(record)
    if machine.family != spec.family:
        return None
    if record.provenance.spec.machine != spec.machine:  # 32-bit ARM has other instructions
        return "same family"
    if machine.features != relevant_features(workload, spec):
        return "same family"
    if machine.vector_bits != spec.vector_bits:
        return "same family"
    if record.measurement.label == "estimated":
        return "estimated"
    return "same CPU" if _is_cpu_of(machine, spec) else "same features"


def find(
    workload: Workload,
    spec: TargetSpec,
    stores: Iterable[RecordStore],
    *,
    threads: int = 1,
    refusal: Refusal | None = None,
    warm_start: bool = False,
) -> Match | Miss:
    """The record to build a kernel from.

    In a tier the machine that is most like the target goes first (name of the processor, then
    its kind, then its maker, then the newest records), and on it the record that
    `schedules.records.ranking` puts first. Where its choice is refused, the next one is taken.

    Args:
        workload: What the kernel computes.
        spec: What it is compiled for.
        stores: Where to look.
        threads: Threads that it will run on.
        refusal: Says why a choice cannot be built here; every choice can without.
        warm_start: Whether a record of the tier ``same family`` is good enough.

    Raises:
        StoreError: A store cannot be read.
    """
    records = {record.id: record for store in stores for record in store.of(workload)}
    if not records:
        return Miss("no record for this workload")
    reasons: Counter[str] = Counter()
    tiers: dict[Tier, list[Record]] = {tier: [] for tier in get_args(Tier)}
    for record in records.values():
        tier, why = _judge(record, spec, threads, warm_start)
        if tier is None:
            reasons[why] += 1
        else:
            tiers[tier].append(record)
    for tier, candidates in tiers.items():
        for record in _in_order(candidates, spec):
            why_not = None if refusal is None else refusal(record.choice)
            if why_not is None:
                return Match(record, tier)
            reasons[f"with a choice that this release does not offer: {why_not}"] += 1
    return Miss(_miss(reasons))


def neighbours(
    workload: Workload,
    spec: TargetSpec,
    stores: Iterable[RecordStore],
    limit: int = 8,
    *,
    threads: int = 1,
) -> list[Neighbour]:
    """Records of the same operator for similar shapes and targets, nearest first.

    For the start of a search: nothing says that their choices fit `workload`. Of each workload
    and machine only the best record is taken. Those of `workload` itself are among them.

    Raises:
        StoreError: A store cannot be read.
    """
    by_workload: dict[str, dict[str, Record]] = {}
    for store in stores:
        for record in store.records(workload.operator):
            by_workload.setdefault(record.workload.key, {})[record.id] = record
    found = []
    for records in by_workload.values():
        for machine, group in by_machine(records.values()).items():
            best = group[0]
            tier = tier_of(best, workload, spec)
            if tier is None:
                continue
            distance = shape_distance(workload, best.workload) + _OTHER_TIER[tier]
            distance += _OTHER_THREADS * (machine.threads != threads)
            found.append(Neighbour(best, tier, distance))
    return sorted(found, key=lambda n: (n.distance, n.record.id))[:limit]


def shape_distance(one: Workload, other: Workload) -> float:
    """How far two workloads of one operator are apart, in doublings of an extent."""
    distance = _OTHER_DTYPES * (one.dtypes != other.dtypes)
    distance += _OTHER_EPILOGUE * (one.epilogue != other.epilogue)
    for name in set(one.attributes) | set(other.attributes):
        if name != "padding":  # the shape of the output tells what matters of it
            differs = one.attributes.get(name) != other.attributes.get(name)
            distance += _OTHER_ATTRIBUTE * differs
    if "conv2d" in one.operator:
        distance += _OTHER_KERNEL * (one.weight[2:] != other.weight[2:])
    # The data's extents follow from these, but for a stride, which is an attribute.
    for mine, theirs in ((one.output, other.output), (one.weight, other.weight)):
        distance += _extents_distance(mine, theirs)
    return distance


def _extents_distance(mine: Sequence[Extent], theirs: Sequence[Extent]) -> float:
    distance = _OTHER_RANK * abs(len(mine) - len(theirs))
    # From the last axis: products have more or fewer batch axes in front.
    for one, other in zip(reversed(mine), reversed(theirs), strict=False):
        if isinstance(one, int) and isinstance(other, int):
            distance += abs(math.log2(one / other))
        else:
            distance += float(one != other)
    return distance


def _is_cpu_of(machine: Machine, spec: TargetSpec) -> bool:
    """Whether a machine's processor is the target's, or one that the target stands for."""
    name = spec.extra.get("cpu")
    ids = spec.extra.get("cpu_ids", ())
    return machine.cpu_id in ids and (not name or name == machine.cpu)


def _judge(
    record: Record, spec: TargetSpec, threads: int, warm_start: bool
) -> tuple[Tier | None, str]:
    """The tier of a record that may serve; else None, and why not."""
    # VTA is a simulator here; what a simulator says of a processor nobody builds from.
    wanted = "simulated" if spec.family == "vta" else "measured"
    label = record.measurement.label
    checked_estimate = label == "estimated" and wanted == "measured" and record.check is not None
    if label != wanted and not checked_estimate:
        return None, f"{label}, not {wanted}"
    tier = tier_of(record, record.workload, spec)
    if tier is None:
        return None, f"for another family of targets ({record.provenance.spec.family})"
    if tier == "same family" and not warm_start:
        return None, _other_features(record, spec)
    if record.provenance.threads != threads:
        return None, f"measured with {_count(record.provenance.threads, 'thread')}, not {threads}"
    return tier, ""


def _other_features(record: Record, spec: TargetSpec) -> str:
    theirs = record.provenance.spec
    have = relevant_features(record.workload, theirs)
    want = relevant_features(record.workload, spec)
    parts = []
    if theirs.machine != spec.machine:
        parts.append(f"code of {theirs.machine}, not {spec.machine}")
    if have - want:
        parts.append(f"uses {', '.join(sorted(have - want))}")
    if want - have:
        parts.append(f"lacks {', '.join(sorted(want - have))}")
    if theirs.vector_bits != spec.vector_bits:
        parts.append(f"vectors of {theirs.vector_bits} bits, not {spec.vector_bits}")
    return f"for other features: {'; '.join(parts)}"


def _in_order(records: Sequence[Record], spec: TargetSpec) -> Iterable[Record]:
    """Records of one tier, those to try first first."""

    def unlike(item: tuple[Machine, list[Record]]) -> tuple[bool, bool, bool, bool]:
        machine = item[0]
        # A model of the same core is worth more than one of a core with the same features.
        modelled = item[1][0].provenance.spec.tvm.get("mcpu")
        estimated = machine.label == "estimated"
        ids = spec.extra.get("cpu_ids", ())
        makers = {str(name).partition("-")[0] for name in ids}
        return (
            estimated and modelled != spec.tvm.get("mcpu"),
            spec.extra.get("cpu") != machine.cpu,
            machine.cpu_id not in ids,
            machine.cpu_id.partition("-")[0] not in makers,
        )

    groups = by_machine(records).items()
    newest_first = sorted(
        groups, key=lambda item: max(r.provenance.date for r in item[1]), reverse=True
    )
    for _, group in sorted(newest_first, key=unlike):
        yield from group


def _miss(reasons: Counter[str]) -> str:
    total = _count(reasons.total(), "record")
    if len(reasons) == 1:
        (why,) = reasons
        return f"{total}, {'all ' if reasons.total() > 1 else ''}{why}"
    parts = (f"{count} {why}" for why, count in reasons.most_common())
    return f"{total}, none fits: {' | '.join(parts)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


__all__ = [
    "Match",
    "Miss",
    "Neighbour",
    "Refusal",
    "Tier",
    "find",
    "neighbours",
    "shape_distance",
    "tier_of",
]
