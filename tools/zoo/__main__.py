"""``python -m tools.zoo``: which networks import, compile and agree with PyTorch.

Every network runs in a process of its own with a time limit, in the zoo's environment, which
is made on the first run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from tools.zoo.packages import FOLDER, ROOT, prepare

_REQUIRED_SHARE = 0.95


@click.command()
@click.option("--only", multiple=True, metavar="TEXT", help="A name, or a part of several.")
@click.option("--source", multiple=True, help="Networks from this source: plain, timm, …")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option("--write", type=click.Path(path_type=Path), help="Write the page (docs/zoo.md).")
@click.option(
    "--from",
    "from_path",
    type=click.Path(exists=True, path_type=Path),
    help="Rows of an earlier --json to begin with; networks run now replace theirs.",
)
@click.option("--timeout", default=600, show_default=True, help="Seconds for one network.")
@click.option("--list", "only_list", is_flag=True, help="List the networks and stop.")
def main(
    only: tuple[str, ...],
    source: tuple[str, ...],
    json_path: Path | None,
    write: Path | None,
    from_path: Path | None,
    timeout: int,
    only_list: bool,
) -> None:
    """Compile every network of the zoo and compare it with PyTorch."""
    python = prepare()
    if Path(sys.prefix).resolve() != FOLDER.resolve():
        # The table names the versions of the environment that the networks ran in.
        command = [str(python), "-m", "tools.zoo", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, cwd=Path.cwd(), check=False).returncode)
    from tools.zoo import table
    from tools.zoo.registry import all_entries

    names = {entry.name for entry in all_entries()}
    chosen = [
        entry
        for entry in all_entries()
        if (not only or _matches(entry.name, only, names))
        and (not source or entry.source in source)
    ]
    if only_list:
        for entry in chosen:
            click.echo(f"{entry.name}\t{entry.source}\t{entry.kind}")
        return
    if not chosen:
        raise click.UsageError("no network of the zoo matches")
    known: dict[str, dict[str, Any]] = {}
    if from_path is not None:
        known = {row["name"]: row for row in json.loads(from_path.read_text())}
    for number, entry in enumerate(chosen, 1):
        row = run_one(entry.name, str(python), timeout)
        row = {"kind": entry.kind, "source": entry.source, "tolerance": entry.tolerance, **row}
        known[entry.name] = row
        shown = f"{row['error']:.1e}" if "error" in row else row.get("message", "")[:300]
        click.echo(f"[{number}/{len(chosen)}] {entry.name}: {row['result']} {shown}", err=True)
        if json_path is not None:
            json_path.write_text(json.dumps(list(known.values()), indent=1) + "\n")
    order = {entry.name: index for index, entry in enumerate(all_entries())}
    rows = sorted(known.values(), key=lambda row: order.get(row["name"], len(order)))
    table.show(rows)
    if write is not None:
        write.write_text(table.markdown(rows))
    good = sum(row["result"] == "agrees" for row in rows)
    raise SystemExit(0 if good >= _REQUIRED_SHARE * len(rows) else 8)


def _matches(name: str, only: tuple[str, ...], names: set[str]) -> bool:
    """A whole name chooses that network alone, anything else all that contain it."""
    return any(name == part if part in names else part in name for part in only)


def run_one(name: str, python: str, timeout: int) -> dict[str, Any]:
    """Check one network in a process of its own; a crash or a time-out is a row as well."""
    command = [python, "-m", "tools.zoo.worker", name]
    try:
        process = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"name": name, "result": "time", "message": f"more than {timeout} s"}
    last = process.stdout.strip().splitlines()[-1:]
    if process.returncode == 0 and last and last[0].startswith("{"):
        row: dict[str, Any] = json.loads(last[0])
        return row
    end = " ".join(process.stderr.strip().splitlines()[-3:])
    message = f"exit status {process.returncode}: {end}"
    return {"name": name, "result": "crash", "message": message}


if __name__ == "__main__":
    main()
