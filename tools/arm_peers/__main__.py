"""Count and estimate one inference of each contender; writes arm-peers.json and arm-peers.md.

    python -m tools.arm_peers [--only ours] [--net resnet18] [--precision int8] [--core cortex-a72]

Figures that are not asked for stay as they are in the file; ``--missing`` takes only those that
it lacks. Counts are kept in ``.venvs/arm-peers/counts``: ``--again`` estimates their cycles once
more without the emulator.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from compiler._version import __version__
from compiler.errors import TilewrightError
from targets import get_target
from tools.arm_peers.counts import CountError, Entry, cost, count, load, save
from tools.arm_peers.environments import (
    CACHE,
    PYTHON,
    ROOT,
    SetupError,
    device_packages,
    system,
    versions,
)
from tools.arm_peers.hot import dot_products, hottest
from tools.arm_peers.models import model
from tools.arm_peers.results import (
    CONTENDERS,
    CORES,
    NETS,
    OURS,
    PRECISIONS,
    Row,
    read,
    write,
)

_PACKAGES = {"ncnn": "ncnn", "mnn": "mnn", "litert": "ai-edge-litert"}
_DEVICE = Path(__file__).parent / "device"


def count_peer(peer: str, net: str, precision: str, core: str) -> list[Entry]:
    """Count one inference of a peer.

    Raises:
        SetupError: It cannot be installed, or the network not converted.
        CountError: It fails in emulation.
    """
    packages, given, root = device_packages(peer), model(peer, net, precision), system(core)

    def command(number: int, maps: Path) -> Sequence[str]:
        program = _DEVICE / f"run_{peer}.py"
        return [str(root / PYTHON), str(program), given, str(number), str(maps)]

    environment = {
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(packages),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return count(command, ["qemu-aarch64", "-cpu", core, "-L", str(root)], environment)


def figures(row: Row, arguments: argparse.Namespace) -> tuple[Row, list[Entry]]:
    """A row with its figures, or with the reason why there are none."""
    kept = CACHE / "counts" / f"{row.contender}-{row.net}-{row.precision}-{row.core}.json.gz"
    target = f"arm/{row.core}"
    spec = get_target(target)
    try:
        if arguments.again and kept.exists():
            entries = load(kept)
        elif row.contender == OURS:
            # Imported late: PyTorch and TVM take seconds.
            from tools.arm_peers.ours import count_ours

            entries = count_ours(row.net, row.precision, target, arguments.wheels)
        else:
            entries = count_peer(row.contender, row.net, row.precision, row.core)
        save(entries, kept)
        found = cost(entries, spec)
    except (TilewrightError, CountError, SetupError) as error:
        return Row(*row.key, error=" ".join(str(error).split())), []
    if row.contender == OURS:
        used = f"{__version__} (apache-tvm {version('apache-tvm')})"
    else:
        used = versions(row.contender)[_PACKAGES[row.contender]]
    dots = dot_products(entries)
    return Row(*row.key, found.instructions, round(found.cycles), found.model, used, dots), entries


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.arm_peers")
    parser.add_argument("--only", action="append", choices=("ours", *CONTENDERS[1:]))
    parser.add_argument("--net", action="append", choices=NETS)
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--core", action="append", choices=CORES)
    parser.add_argument("--wheels", type=Path, help="folder with TVM's wheels for aarch64")
    parser.add_argument("--missing", action="store_true", help="only what has no figures yet")
    parser.add_argument("--again", action="store_true", help="estimate what was counted before")
    parser.add_argument("--hot", type=int, default=0, help="show so many of the dearest blocks")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks/arm-peers.json")
    return parser.parse_args()


def wanted(arguments: argparse.Namespace) -> list[Row]:
    """The rows that are asked for, without figures yet."""
    only = arguments.only or ["ours", *CONTENDERS[1:]]
    rows = [
        Row(net, precision, core, contender)
        for contender in CONTENDERS
        if ("ours" if contender == OURS else contender) in only
        for net in arguments.net or NETS
        for precision in arguments.precision or PRECISIONS
        for core in arguments.core or CORES
    ]
    if not arguments.missing:
        return rows
    known = {row.key for row in read(arguments.output) if row.cycles}
    return [row for row in rows if row.key not in known]


def main() -> int:
    """Run the tool; the status is 1 if a figure could not be had."""
    arguments = parse()
    failed = False
    for asked in wanted(arguments):
        start = time.monotonic()
        row, entries = figures(asked, arguments)
        failed |= bool(row.error)
        # Read again each time: another run may have written other rows meanwhile.
        rows = {known.key: known for known in read(arguments.output)}
        rows[row.key] = row
        write(list(rows.values()), arguments.output)
        told = row.error or (
            f"{(row.instructions or 0) / 1e6:.1f} M instructions, "
            f"{(row.cycles or 0) / 1e6:.1f} Mcycles, {row.dot_products / 1e6:.1f} M dot products"
        )
        print(f"{row.contender} {row.precision} {row.net} {row.core}: {told} "
              f"[{time.monotonic() - start:.0f} s]", flush=True)  # fmt: skip
        if entries and arguments.hot:
            print(hottest(entries, get_target(f"arm/{row.core}"), arguments.hot))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
