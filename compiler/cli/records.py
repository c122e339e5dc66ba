"""`tilewright records`: look at tuning records, check, share and tidy them up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.output import Session, with_common_options

if TYPE_CHECKING:
    from schedules.records import Measurement, Problem, Record, RecordStore, Verified

#: Digits of an ID that tables show.
_SHORT = 12
#: A check that found something: as for a bundle that fails its self-test.
_EXIT_PROBLEMS = 8

_records_option = click.option(
    "--records",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Your record store; by default ~/.local/share/tilewright/records.",
)
_operator_option = click.option(
    "--operator", metavar="NAME", help="Only records of this operator, such as conv2d."
)


@click.group("records")
def records() -> None:
    """Look at tuning records, check, share and tidy them up.

    `list`, `show` and `verify` also look at the records that come with this release.
    """


@records.command("list")
@_records_option
@_operator_option
@click.option("--best", is_flag=True, help="Only the best of each workload and machine.")
@with_common_options
@click.pass_obj
def list_(session: Session, folder: Path | None, operator: str | None, best: bool) -> None:
    """List the records, workload by workload."""
    from schedules.records import default_stores

    rows = [
        (store, record)
        for store in default_stores(folder)
        for record in _chosen(store.records(operator), best=best)
    ]
    rows.sort(key=lambda row: (str(row[1].workload), row[1].median_ns))
    if session.json:
        session.document([_row(record, store) for store, record in rows])
        return
    session.show(_records_table(rows) if rows else "no records")


@records.command("show")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_records_option
@with_common_options
@click.pass_obj
def show(session: Session, ids: tuple[str, ...], folder: Path | None) -> None:
    """Show everything that the records ID say; their first digits are enough."""
    from schedules.records import default_stores

    stores = default_stores(folder)
    found = [_find(stores, prefix) for prefix in ids]
    if session.json:
        session.document(
            [
                {"id": record.id, "path": str(store.path_of(record)), "record": record.to_json()}
                for store, record in found
            ]
        )
        return
    for store, record in found:
        session.show(_record_table(store, record))


@records.command("verify")
@_records_option
@with_common_options
@click.pass_obj
def verify(session: Session, folder: Path | None) -> None:
    """Read every record anew and put what is damaged into the quarantine.

    What is in the quarantine and reads well now comes back. Exits with 8 if anything was left out.
    """
    from schedules.records import default_stores

    found = [(store, store.verify()) for store in default_stores(folder)]
    if session.json:
        session.document([_verified(store, result) for store, result in found])
    else:
        for store, result in found:
            session.show(_verified_text(store, result))
            _tell(session, result.problems)
    if any(result.problems for _, result in found):
        raise click.exceptions.Exit(_EXIT_PROBLEMS)


@records.command("merge")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@_records_option
@with_common_options
@click.pass_obj
def merge(session: Session, sources: tuple[Path, ...], folder: Path | None) -> None:
    """Take over the records of the folders SOURCES, which stay as they are.

    What is damaged in them is left there and named.
    """
    store = _own(folder)
    results = [(source, store.merge(source)) for source in sources]
    for _, result in results:
        _tell(session, result.problems)
    if session.json:
        session.document(
            {
                "folder": str(store.folder),
                "sources": [
                    {
                        "folder": str(source),
                        "added": list(result.added),
                        "known": result.known,
                        "problems": _problems(result.problems),
                    }
                    for source, result in results
                ],
            }
        )
        return
    for source, result in results:
        session.show(
            f"{source}: {len(result.added)} new, {result.known} known already, "
            f"{len(result.problems)} left out"
        )


@records.command("prune")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Records that stay for each workload and machine.",
)
@click.option(
    "--keep-parents/--drop-parents",
    default=True,
    show_default=True,
    help="Whether the records that these beat stay, too.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_records_option
@with_common_options
@click.pass_obj
def prune(
    session: Session, keep: int, keep_parents: bool, dry_run: bool, folder: Path | None
) -> None:
    """Remove all records but the best of each workload and machine."""
    store = _own(folder)
    removed = store.prune(keep, keep_parents=keep_parents, dry_run=dry_run)
    staying = sum(record.id not in removed for record in store)
    if session.json:
        session.document(
            {
                "folder": str(store.folder),
                "removed": list(removed),
                "records": staying,
                "dry_run": dry_run,
            }
        )
        return
    done = "would be removed" if dry_run else "removed"
    session.show(f"{store.folder}: {len(removed)} {done}, {staying} stay")


@records.command("export")
@click.argument("destination", type=click.Path(path_type=Path))
@click.argument("ids", nargs=-1, metavar="[ID...]")
@_records_option
@_operator_option
@click.option("--target", metavar="NAME", help="Only records for this target.")
@click.option("--best", is_flag=True, help="Only the best of each workload and machine.")
@with_common_options
@click.pass_obj
def export(
    session: Session,
    destination: Path,
    ids: tuple[str, ...],
    folder: Path | None,
    operator: str | None,
    target: str | None,
    best: bool,
) -> None:
    """Copy records to the folder DESTINATION, to share them: all, or those called ID.

    `tilewright records merge` reads the folder.
    """
    from schedules.records import RecordStore

    store = _own(folder)
    given = [store.get(prefix) for prefix in ids] if ids else list(store.records(operator))
    chosen = [
        record
        for record in _chosen(given, best=best)
        if operator in (None, record.workload.operator)
        and target in (None, record.provenance.spec.name)
    ]
    other = RecordStore(destination)
    exported = [other.add(record) for record in chosen]
    if session.json:
        session.document({"folder": str(destination), "exported": exported})
        return
    session.show(f"{len(exported)} records written to {destination}")


def _own(folder: Path | None) -> RecordStore:
    """The user's store, or the one in `folder`."""
    from schedules.records import default_stores

    return default_stores(folder)[0]


def _find(stores: list[RecordStore], prefix: str) -> tuple[RecordStore, Record]:
    """The record whose ID begins so, and its store.

    Raises:
        RecordError: There is none, or more than one.
    """
    from schedules.records.store import the_one

    found = {
        record.id: (store, record)
        for store in reversed(stores)  # of two equal ones, the user's
        for record in store.starting_with(prefix)
    }
    return found[the_one([record for _, record in found.values()], prefix).id]


def _chosen(found: Any, *, best: bool) -> list[Record]:
    """All of these records, or the best of each workload and machine."""
    from schedules.records.ranking import by_machine

    if not best:
        return list(found)
    by_workload: dict[str, list[Record]] = {}
    for record in found:
        by_workload.setdefault(record.workload.key, []).append(record)
    return [group[0] for records in by_workload.values() for group in by_machine(records).values()]


def _origin(store: RecordStore) -> str:
    return "shipped" if store.read_only else "yours"


def _row(record: Record, store: RecordStore) -> dict[str, Any]:
    by = record.provenance
    return {
        "id": record.id,
        "origin": _origin(store),
        "path": str(store.path_of(record)),
        "workload": record.workload.to_json(),
        "choice": dict(record.choice),
        "target": by.spec.name,
        "cpu": by.cpu.name,
        "cpu_id": by.cpu.id,
        "threads": by.threads,
        "label": record.measurement.label,
        "median_ns": record.median_ns,
        "gflops": record.gflops,
        "share_of_default": record.relative,
        "date": by.date,
        "session": by.session,
        "parent": by.parent,
    }


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=column == "ID",  # to be copied whole
        )
    return table


def _records_table(rows: list[tuple[RecordStore, Record]]) -> Any:
    table = _table(
        f"{len(rows)} tuning records",
        *("ID", "workload", "algorithm", "target", "CPU", ">threads", ">µs", ">GFLOPS"),
        *(">of default", "figures", "from"),
    )
    for store, record in rows:
        by = record.provenance
        table.add_row(
            record.id[:_SHORT],
            str(record.workload),
            str(record.choice["algorithm"]),
            by.spec.name,
            by.cpu.name,
            str(by.threads),
            f"{record.median_ns / 1e3:,.2f}",
            f"{record.gflops:,.1f}",
            _percent(record.relative),
            record.measurement.label,
            _origin(store),
        )
    return table


def _record_table(store: RecordStore, record: Record) -> Any:
    by, measured, check = record.provenance, record.measurement, record.check
    table = _table(record.id, "", "")
    table.show_header = False
    decisions = [(f"choice: {name}", json.dumps(value)) for name, value in record.choice.items()]
    rows = [
        ("workload", str(record.workload)),
        ("dtypes", ", ".join(record.workload.dtypes)),
        *decisions,
        (
            "latency",
            f"{record.median_ns / 1e3:,.3f} µs ({_how(measured)})",
        ),
        ("rate", f"{record.gflops:,.1f} GFLOPS"),
        ("of the default's time", _percent(record.relative)),
        (
            "output",
            "not checked"
            if check is None
            else f"off by {check.max_relative_error:.3g}, relative ({check.tolerance:g} allowed)",
        ),
        ("target", f"{by.spec.name}: {by.spec.title}"),
        ("CPU", f"{by.cpu.name} ({by.cpu.id}), {by.cpu.cores} cores"),
        ("threads", str(by.threads)),
        ("system", by.system),
        ("runner", by.runner),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(by.versions.items()))),
        ("session", by.session),
        ("date", by.date),
        ("parent", by.parent or "none"),
        ("file", str(store.path_of(record))),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _how(measured: Measurement) -> str:
    times = f" {len(measured.samples)} times" if measured.samples else " by a model, not measured"
    return measured.label + times


def _verified(store: RecordStore, result: Verified) -> dict[str, Any]:
    return {
        "folder": str(store.folder),
        "origin": _origin(store),
        "records": result.records,
        "problems": _problems(result.problems),
        "restored": list(result.restored),
        "quarantined": result.quarantined,
        "stale": result.stale,
    }


def _verified_text(store: RecordStore, result: Verified) -> str:
    parts = [f"{result.records} records are whole", f"{len(result.problems)} left out"]
    if result.restored:
        parts.append(f"{len(result.restored)} came back from the quarantine")
    if result.quarantined:
        parts.append(f"{result.quarantined} in the quarantine")
    if result.stale:
        parts.append(f"{result.stale} unfinished files of killed writers removed")
    return f"{store.folder} ({_origin(store)}): {', '.join(parts)}"


def _problems(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
    return [
        {
            "path": str(problem.path),
            "reason": problem.reason,
            "moved_to": str(problem.moved_to) if problem.moved_to else None,
        }
        for problem in problems
    ]


def _tell(session: Session, problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        session.message(f"left out: {problem}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


__all__ = ["records"]
