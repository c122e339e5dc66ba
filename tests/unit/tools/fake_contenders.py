"""Contenders for the tests of the benchmark's driver; they run in worker processes.

Without torch, so that the many processes start fast.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Entry of the module in the worker, which has the repository on its path.
HERE = "tests.unit.tools.fake_contenders"


class Good:
    """Gives the right answer after a fixed time, and notes each run in the case's folder."""

    milliseconds = 2.0

    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        self.case = case
        self.options = options
        with np.load(case / "reference.npz") as archive:
            self.reference = [archive[name] for name in archive.files]
        self.runs = 0
        return {"version": "1", "precision": "f32", "threads": "one", "settings": "none"}

    def run(self) -> None:
        print("a library that prints to standard output")  # noqa: T201
        self.runs += 1
        with (self.case / "runs.txt").open("a") as file:
            file.write(json.dumps([type(self).__name__, time.monotonic_ns()]) + "\n")
        end = time.perf_counter() + self.milliseconds / 1e3
        while time.perf_counter() < end:
            pass

    def outputs(self) -> list[Any]:
        return self.reference


class Slow(Good):
    milliseconds = 8.0


class Unprepared(Good):
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        raise RuntimeError("no such operator: aten::frobnicate")


class Wrong(Good):
    def outputs(self) -> list[Any]:
        return [value + 1 for value in self.reference]


class NotFinite(Good):
    def outputs(self) -> list[Any]:
        return [value * np.nan for value in self.reference]


class OtherShape(Good):
    def outputs(self) -> list[Any]:
        return [value[:1] for value in self.reference]


class Hangs(Good):
    def run(self) -> None:
        super().run()
        if self.runs > 40:
            time.sleep(600)


class Dies(Good):
    def run(self) -> None:
        super().run()
        if self.runs > 40:
            os.write(2, b"free(): invalid pointer\n")
            os.abort()


class Raises(Good):
    def run(self) -> None:
        super().run()
        if self.runs > 40:
            raise MemoryError("arena is full")


class Babbles(Good):
    """Its answer to `prepare` is no JSON object, as its facts cannot be encoded."""

    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        return {"version": object()}
