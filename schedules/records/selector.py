"""Where a compiler's records come from, and the selector that it asks for a choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from schedules.records.errors import StoreError
from schedules.records.match import Miss, find, tier_of
from schedules.records.record import choice_of
from schedules.records.store import RecordStore
from schedules.records.strict import canonical
from schedules.selection import Selection, Selector
from schedules.space import Space
from schedules.workload import Json, Workload
from targets.spec import TargetSpec

#: What a target offers for a workload.
Spaces: TypeAlias = Callable[[Workload, TargetSpec], Sequence[Space]]

_SHIPPED = Path(__file__).parent / "data"


def record_selector(
    stores: Sequence[RecordStore], *, threads: int = 1, spaces: Spaces | None = None
) -> Selector:
    """A selector that looks into record stores.

    A record's choice is used only if this release offers it for the workload and the target.

    Args:
        stores: Where to look.
        threads: Threads that the model will run on.
        spaces: What is offered; the templates' by default.
    """

    def select(workload: Workload, spec: TargetSpec) -> Selection:
        if not stores:
            return Selection(why="no record store was given")
        offered: list[Space] = []

        def refusal(choice: Mapping[str, Json]) -> str | None:
            if not offered:
                offered.extend((spaces or _templates())(workload, spec))
            return refusal_by(offered, choice)

        found = find(workload, spec, stores, threads=threads, refusal=refusal)
        if isinstance(found, Miss):
            return Selection(why=found.why)
        same = found.tier == "same CPU"
        return Selection(
            choice=choice_of(found.record), tier=found.tier, record=found.record.id, why="",
            median_ns=found.record.measurement.median if same else None,
            float_ns=_float_median(workload, spec, stores, threads) if same else None,
        )  # fmt: skip

    return select


def _float_median(
    workload: Workload, spec: TargetSpec, stores: Sequence[RecordStore], threads: int
) -> float | None:
    """The least latency of the operator in float32, whatever is fused behind it, from records."""
    if not workload.is_integer:
        return None
    twin = workload.in_float
    found = [
        record.measurement.median
        for store in stores
        for record in store.records(twin.operator)
        if record.workload.with_epilogue(()) == twin
        and record.provenance.threads == threads
        and record.measurement.label == "measured"
        and tier_of(record, record.workload, spec) == "same CPU"
    ]
    return min(found, default=None)


def refusal_by(offered: Sequence[Space], choice: Mapping[str, Json]) -> str | None:
    """Why none of these spaces holds a choice; None if one does.

    Values are compared as JSON: ``true`` and ``1.0`` are not 1.
    """
    algorithm = choice.get("algorithm")
    reasons = []
    for space in offered:
        if space.algorithm != algorithm:
            continue
        reason = space.refusal(choice) or _other_type(space, choice)
        if reason is None:
            return None
        reasons.append(reason)
    if reasons:
        return reasons[0]
    names = ", ".join(space.algorithm for space in offered)
    return f"the algorithm {algorithm!r} is none of {names or 'those for this workload'}"


def default_stores(user_folder: Path | None = None) -> list[RecordStore]:
    """The user's records, then those that come with this release, which are only read.

    Args:
        user_folder: In place of `user_records_folder`; it need not exist.

    Raises:
        StoreError: The user's folder is a file, or cannot be looked at.
    """
    user = RecordStore(user_records_folder() if user_folder is None else user_folder)
    families = sorted(path for path in _SHIPPED.glob("*") if path.is_dir())
    return [user, *(RecordStore(path, read_only=True) for path in families)]


def user_records_folder() -> Path:
    """``$XDG_DATA_HOME/tilewright/records``, or the same in ``~/.local/share``.

    Raises:
        StoreError: This user has no home folder.
    """
    given = os.environ.get("XDG_DATA_HOME", "")
    if Path(given).is_absolute():  # the standard says that others are to be ignored
        return Path(given) / "tilewright" / "records"
    try:
        return Path.home() / ".local" / "share" / "tilewright" / "records"
    except RuntimeError as error:
        raise StoreError(
            "there is no home folder to keep tuning records in",
            hint="name a folder for them, or set XDG_DATA_HOME",
        ) from error


def _templates() -> Spaces:
    from schedules.cpu.templates import spaces

    return spaces


def _other_type(space: Space, choice: Mapping[str, Json]) -> str | None:
    """Python's ``True == 1 == 1.0`` must not let a value of another type through."""
    for decision in space.decisions:
        value = canonical(choice[decision.name])
        if all(canonical(option) != value for option in decision.options):
            return f"{decision.name} cannot be {choice[decision.name]!r}"
    return None


__all__ = ["Spaces", "default_stores", "record_selector", "refusal_by", "user_records_folder"]
