"""Compares code for ARM with references, on emulated processors. Nothing is timed.

    python -m tools.arm_conformance all --json docs/benchmarks/arm-conformance.json

`networks`: the six benchmark networks, in int8 with the NumPy reference's bits, which are x86's, in
float32 with PyTorch. `operators`: random integer operators, bit for bit. `kernels`: random float32
operators with PyTorch. All run on the smallest processor that the target's code must run on, and
on larger ones; an instruction that one does not have ends the code there, and is a failure.

Results are added to the file, in place of older ones of the same target. It goes on after a
failure, and ends with an error if there was one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schedules.tvm_adapter import TVM_VERSION, llvm_version
from tests.support.boards import CANNOT_EMULATE, QEMU
from tests.support.emulated import RUNS_ON
from tools.zoo.nets import BENCHMARKS

Row = dict[str, Any]
#: What tells rows of one part apart.
KEYS = {
    "networks": ("network", "precision", "target", "cpu"),
    "operators": ("target", "seed"),
    "kernels": ("target", "cpu"),
}
_PRECISIONS = ("int8", "float32")
_NETWORK_TARGETS = ("arm/cortex-a72", "arm/neoverse-n1", "arm/neoverse-v1")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=[*KEYS, "all"])
    parser.add_argument("--targets", nargs="+", choices=RUNS_ON, help="all that a part is for")
    parser.add_argument("--cpus", nargs="+", help="of those that a target must run on")
    parser.add_argument("--networks", nargs="+", default=list(BENCHMARKS), choices=BENCHMARKS)
    parser.add_argument("--precisions", nargs="+", default=list(_PRECISIONS), choices=_PRECISIONS,
                        help="of networks")  # fmt: skip
    parser.add_argument("--cases", type=int, default=600, help="integer operators of a target")
    parser.add_argument("--examples", type=int, default=5, help="of each kind of float32 operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="kinds of operators, names of kernel tests")
    parser.add_argument("--keep", type=Path, help="folder that keeps references between runs")
    parser.add_argument("--wheels", type=Path, help="folder of the runtime's packages for ARM")
    parser.add_argument("--json", type=Path, help="file that results are added to")
    options = parser.parse_args()
    if CANNOT_EMULATE:
        parser.error(CANNOT_EMULATE)
    parts = list(KEYS) if "all" in options.parts else options.parts
    failed = 0
    for part in parts:
        for row in _rows(part, options):
            print(json.dumps({"part": part, **row}), flush=True)
            failed += bool(row["failures"])
            if options.json is not None:
                _add(options.json, part, row)
    if failed:
        sys.exit(f"{failed} results with failures")


def _rows(part: str, options: argparse.Namespace) -> Iterator[Row]:
    from tools.arm_conformance import kernels, networks, operators

    targets = options.targets or (_NETWORK_TARGETS if part == "networks" else tuple(RUNS_ON))
    cpus = {
        target: [cpu for cpu in RUNS_ON[target] if not options.cpus or cpu in options.cpus]
        for target in targets
    }
    if part == "networks":
        yield from networks.rows(
            options.networks, cpus, options.precisions, options.keep, options.wheels
        )
    elif part == "operators":
        yield from operators.rows(cpus, options.cases, options.seed, options.only, options.wheels)
    else:
        yield from kernels.rows(cpus, options.examples, options.only, options.wheels)


def _add(path: Path, part: str, row: Row) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    key = [row[name] for name in KEYS[part]]
    kept = [old for old in document.get(part, []) if [old[name] for name in KEYS[part]] != key]
    qemu = subprocess.run([str(QEMU), "--version"], capture_output=True, text=True, check=True)
    document = {
        "label": "emulated: answers only, no times",
        "qemu": qemu.stdout.split("(")[0].rpartition(" version ")[2].strip() or "unknown",
        "tvm": TVM_VERSION,
        "llvm": llvm_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **{name: document.get(name, []) for name in KEYS},
        part: [*kept, row],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
