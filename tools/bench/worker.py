"""The process that one contender runs in: requests on standard input, answers on standard output.

Each line is a JSON object. Requests:

- ``{"do": "prepare", "case": DIR, "options": {...}}`` -> ``{"facts": {...}, "seconds": s}``
- ``{"do": "check", "path": FILE}``: run once and write the outputs as an ``.npz``
- ``{"do": "run", "warm": n, "count": k}`` -> ``{"ns": [k times]}``
- ``{"do": "threads"}`` -> which threads the CPU time of all runs so far was spent on
- ``{"do": "quit"}``

An answer has ``"ok": true``, or ``"ok": false`` and ``"error"``. Only the standard library and
numpy are imported here: a peer's environment has nothing of ours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import IO, Any

#: A thread counts as one that worked from this share of the process's CPU time.
BUSY_SHARE = 0.01


def thread_times() -> dict[int, int]:
    """CPU time in ns of each thread of this process, by thread number."""
    times = {}
    for name in os.listdir("/proc/self/task"):  # noqa: PTH208 - names, not paths
        thread = int(name)
        try:
            # The kernel's number for the CPU clock of one thread; see clock_getcpuclockid(3).
            times[thread] = time.clock_gettime_ns((~thread << 3) | 6)
        except OSError:  # the thread ended in between
            continue
    return times


class Session:
    """What one worker holds between requests."""

    def __init__(self, contender: Any) -> None:
        self.contender = contender
        self.spent: Counter[int] = Counter()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "prepare":
                start = time.perf_counter()
                facts = self.contender.prepare(Path(request["case"]), request.get("options", {}))
                facts["cpus"] = sorted(os.sched_getaffinity(0))
                return {"facts": facts, "seconds": time.perf_counter() - start}
            case "check":
                import numpy as np

                self.contender.run()
                np.savez(request["path"], *self.contender.outputs())
                return {}
            case "run":
                return {"ns": self._run(int(request["warm"]), int(request["count"]))}
            case "threads":
                return self._threads()
        raise ValueError(f"unknown request {request['do']!r}")

    def _run(self, warm: int, count: int) -> list[int]:
        run = self.contender.run
        for _ in range(warm):
            run()
        before = thread_times()
        times = []
        for _ in range(count):
            start = time.perf_counter_ns()
            run()
            times.append(time.perf_counter_ns() - start)
        for thread, spent in thread_times().items():
            self.spent[thread] += spent - before.get(thread, 0)
        return times

    def _threads(self) -> dict[str, Any]:
        total = sum(self.spent.values())
        busy = [spent for spent in self.spent.values() if spent > BUSY_SHARE * total]
        return {
            "existing": len(thread_times()),
            "busy": len(busy),
            "busiest_share": max(self.spent.values(), default=0) / total if total else 0.0,
        }


def serve(session: Session, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until the other side leaves."""
    for line in requests:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            answer = {"ok": True, **session.answer(request)}
        except Exception as error:  # noqa: BLE001 - a peer may raise anything; it is reported
            traceback.print_exc()
            answer = {"ok": False, "error": describe(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def describe(error: BaseException) -> str:
    """The error's type and its message."""
    return f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", help="module:Class")
    parser.add_argument("--cpus", required=True, help="comma-separated CPU numbers to stay on")
    arguments = parser.parse_args()
    # Before the runtime is imported: thread pools are sized by the mask they are born with.
    os.sched_setaffinity(0, {int(cpu) for cpu in arguments.cpus.split(",")})
    # Libraries print to standard output as they like; the answers get a channel of their own.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        module, _, name = arguments.contender.partition(":")
        try:
            contender = getattr(importlib.import_module(module), name)()
        except Exception as error:  # noqa: BLE001 - reported with the first request
            traceback.print_exc()
            failed = {"ok": False, "error": f"cannot be imported: {describe(error)}"}
            for _ in sys.stdin:
                answers.write(json.dumps(failed) + "\n")
                answers.flush()
            return
        serve(Session(contender), sys.stdin, answers)


if __name__ == "__main__":
    main()
