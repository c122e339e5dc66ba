"""How fast tuning gets somewhere: ``python -m tools.tuning_curve --minutes 30``.

Tunes a benchmark network from an empty store and writes how its end-to-end latency (estimated: the
sum of calls times measured kernels) fell over time, where the time went, and how much memory the
run took, to ``docs/benchmarks``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from compiler._version import __version__
from compiler.frontend import import_model
from compiler.options import Records
from compiler.search import search_kernels
from compiler.stages import StageLog
from compiler.tune.events import Event, Progress
from compiler.tune.options import Tune
from schedules.records import RecordStore
from targets import get_target
from tools.bench.machine import slug, this_machine
from tools.zoo.nets import BENCHMARKS, build

OUT = Path(__file__).parents[1] / "docs" / "benchmarks"


@dataclass
class Recorder:
    """Remembers the points of the curve, and the largest memory of all processes together."""

    points: list[tuple[float, float, int]] = field(default_factory=list)
    peak_bytes: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            if event.end_to_end_us is not None:
                self.points.append((event.elapsed_s, event.end_to_end_us / 1e3, event.trials))
            best = f"{event.end_to_end_us / 1e3:.2f} ms" if event.end_to_end_us else "–"
            print(f"{event.elapsed_s:6.0f} s  {event.trials:5d} trials  {best}", flush=True)

    def watch_memory(self) -> None:
        """Sample the proportional set size of this process and its children twice a second."""
        me = psutil.Process()
        while not self.done.wait(0.5):
            sizes = [_size(process) for process in [me, *me.children(recursive=True)]]
            self.peak_bytes = max(self.peak_bytes, sum(sizes))


def _size(process: psutil.Process) -> int:
    """Bytes that a process takes, shared ones divided by who shares them; 0 if it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def measure(net: str, minutes: float, precision: str, folder: Path) -> dict[str, Any]:
    """Tune a network from nothing and return everything that the page needs."""
    spec = get_target("x86")
    module, inputs = build(net)
    imported = import_model(module, inputs, log=StageLog())
    store = RecordStore(folder)
    recorder = Recorder()
    watcher = threading.Thread(target=recorder.watch_memory, daemon=True)
    watcher.start()
    began = time.perf_counter()
    result = search_kernels(
        imported,
        spec,
        Tune(minutes=minutes),
        Records((store,), store, folder),
        StageLog(),
        precision=precision,
        threads=1,
        listener=recorder,
    )
    recorder.done.set()
    watcher.join()
    best = min(latency for _, latency, _ in recorder.points)
    near = next(s for s, latency, _ in recorder.points if latency <= 1.1 * best)
    machine = this_machine()
    return {
        "network": net,
        "precision": precision,
        "cpu": machine.cpu,
        "logical_cpus": machine.logical_cpus,
        "version": __version__,
        "seconds": round(time.perf_counter() - began, 1),
        "trials": result.trials,
        "rejected": result.rejected,
        "failed": result.failed,
        "default_ms": (result.default_end_to_end_us or 0.0) / 1e3,
        "best_ms": best,
        "seconds_to_within_10_percent": round(near, 1),
        "peak_memory_bytes": recorder.peak_bytes,
        "split_s": {name: round(getattr(result.split, name), 1) for name in
                    ("propose_s", "measure_s", "build_s", "run_s", "other_s")},
        "points": [(round(s, 1), round(ms, 3), n) for s, ms, n in recorder.points],
    }  # fmt: skip


def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    split = data["split_s"]
    rows = "\n".join(f"| {s:.0f} | {n} | {ms:.2f} |" for s, ms, n in _thin(data["points"]))
    return f"""# Tuning {data["network"]} from nothing: {data["cpu"]}

`python -m tools.tuning_curve --net {data["network"]}` on {data["logical_cpus"]} CPUs,
{data["precision"]}, version {data["version"]}, an empty record store. Latencies are estimated from
measured kernels: the sum of calls times each kernel's median.

| what | value |
| :-- | --: |
| without a search | {data["default_ms"]:.2f} ms |
| best | {data["best_ms"]:.2f} ms |
| within 10 % of the best after | {data["seconds_to_within_10_percent"]:.0f} s |
| length of the run | {data["seconds"]:.0f} s |
| candidates | {data["trials"]}, of which {data["rejected"]} wrong and {data["failed"]} failed |
| time: waiting for builds and runs, which overlap | {split["measure_s"]:.0f} s |
| of it building, in all workers | {split["build_s"]:.0f} s |
| of it running | {split["run_s"]:.0f} s |
| time: proposing candidates | {split["propose_s"]:.0f} s |
| largest memory of all processes together | {data["peak_memory_bytes"] / 2**30:.2f} GiB |

| seconds | candidates | end to end, ms |
| --: | --: | --: |
{rows}
"""


def _thin(points: list[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """The points at which the latency fell."""
    kept: list[tuple[float, float, int]] = []
    for point in points:
        if not kept or point[1] < kept[-1][1] * 0.995:
            kept.append(point)
    return kept


def main() -> None:
    """Read the command line, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=BENCHMARKS, default="resnet18")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--store", type=Path, help="keep the records there; it must be empty")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary) / "records"
        if folder.exists() and any(folder.iterdir()):
            parser.error(f"{folder} is not empty: the run would not start from nothing")
        data = measure(options.net, options.minutes, options.precision, folder)
    name = f"tuning-{data['network']}-{data['precision']}-{slug(data['cpu'])}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(data) + "\n")
    (options.out / f"{name}.md").write_text(page(data))
    print(f"wrote {options.out / name}.md")


if __name__ == "__main__":
    main()
