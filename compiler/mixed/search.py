"""The search: the fastest assignment of precisions whose metric stays inside the budget.

1. The model is compiled with every layer in the same precision, once for each: that gives the
   time of each layer in each precision, and the first points of the curve.
2. Simulation says how much noise each layer's choice makes in the outputs.
3. From the fastest choices on, layers are given back precision one by one, always the one that
   takes the most noise away for the time it costs, down to float32. Bisection finds the first
   assignment on this path that the metric accepts; then single layers are made faster again.

Every point is compiled and judged by the user's metric. A model in float32 is inside any budget.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.compress.plan import CompressionPlan
from compiler.errors import TilewrightError
from compiler.mixed.journal import Entry, Journal, plan_digest
from compiler.mixed.latency import time_bundle
from compiler.mixed.noise import four_bits, output_noise
from compiler.mixed.plans import CHOICES, FewerBits, Unit, assign, find_units

if TYPE_CHECKING:
    from compiler.compress.calibrate import Calibration
    from compiler.compress.sites import PlainGraph
    from compiler.package import Bundle
    from targets.spec import TargetSpec

#: A layer leaves int8 for the sake of time only if floats are faster by this factor: each change
#: between neighbours costs conversions, which no layer's own time shows.
MARGIN = 1.15


@dataclass(frozen=True, slots=True)
class Point:
    """One plan that was tried.

    Attributes:
        name: What it is: ``all int8``, ``3 of 12 layers slower`` and the like.
        counts: How many units have each choice.
        metric: The user's metric on the compiled model; None if it could not be built.
        milliseconds: Of one inference.
        label: Of the time: ``measured`` or ``estimated``.
        inside: Whether the metric is inside the budget.
        note: Why it could not be built, or empty.
    """

    name: str
    counts: Mapping[str, int]
    metric: float | None
    milliseconds: float
    label: str
    inside: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        plan: The fastest plan inside the budget.
        points: What was tried, in order.
        chosen: Which of them the plan is; None if it is float32 and was not tried.
        before: The metric in PyTorch.
        max_drop: The budget.
        resumed: Points that came from the journal.
        interrupted: Whether Ctrl-C ended it.
    """

    plan: CompressionPlan
    points: tuple[Point, ...]
    chosen: int | None
    before: float
    max_drop: float
    resumed: int
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be lost, and how much work it may take."""

    before: float
    max_drop: float
    evaluations: int

    def holds(self, metric: float | None) -> bool:
        """Whether a metric is inside."""
        return metric is not None and self.before - metric <= self.max_drop + 1e-12


@dataclass(frozen=True, slots=True)
class Judge:
    """How a plan is compiled and judged.

    Attributes:
        build: Compiles a plan.
        metric: The user's metric of a compiled model.
        target: What it is compiled for.
        threads: Threads that it runs on.
        measured: Whether times are measured, else estimated.
    """

    build: Callable[[CompressionPlan], Bundle]
    metric: Callable[[Bundle], float]
    target: TargetSpec
    threads: int
    measured: bool


def search_precisions(
    calibration: Calibration,
    graph: PlainGraph,
    budget: Budget,
    judge: Judge,
    *,
    bfloat16: bool,
    journal: Path | None,
    identity: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Found:
    """Choose a precision for each layer.

    Args:
        calibration: The int8 plan, and samples.
        graph: The plain graph.
        budget: What may be lost.
        judge: How plans are tried.
        bfloat16: Whether the target computes on bfloat16.
        journal: File that keeps what was tried; None for none.
        identity: What the journal is of.
        tell: Called with what is done.

    Raises:
        InputError: The metric fails, or the journal is another search's.
        FileError: The journal cannot be read or written.
        TilewrightError: The float32 model cannot be compiled.
    """
    search = _Search(calibration, graph, budget, judge, Journal(journal, identity), tell)
    return search.run(bfloat16)


@dataclass(slots=True)
class _Search:
    calibration: Calibration
    graph: PlainGraph
    budget: Budget
    judge: Judge
    journal: Journal
    tell: Callable[[str], None]
    units: tuple[Unit, ...] = ()
    fewer: dict[str, FewerBits] = field(default_factory=dict)
    noise: dict[str, dict[str, float]] = field(default_factory=dict)
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    label: str = "measured"
    points: list[Point] = field(default_factory=list)
    configurations: list[dict[str, str]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    built: int = 0
    resumed: int = 0

    def run(self, bfloat16: bool) -> Found:
        """Search until done, out of evaluations or interrupted."""
        plan, interrupted = self.calibration.plan, False
        self.units = find_units(plan)
        try:
            samples = self.calibration.kept
            self.fewer = four_bits(self.graph, plan, samples)
            self.noise = output_noise(
                self.graph, plan, self.units, self.fewer, samples,
                lambda done, of: self.tell(f"sensitivity of layers: {done} of {of}"),
            )  # fmt: skip
            self._uniform(bfloat16)
            path = self._path()
            self._refine(path, self._bisect(path))
        except KeyboardInterrupt:
            interrupted = True
        inside = [i for i, p in enumerate(self.points) if p.inside]
        best = min(inside, key=lambda i: self.points[i].milliseconds, default=None)
        chosen = {u.name: "float32" for u in self.units}
        if best is not None:
            chosen = self.configurations[best]
        return Found(
            self._assign(chosen, self._reasons(chosen)), tuple(self.points), best,
            self.budget.before, self.budget.max_drop, self.resumed, interrupted,
        )  # fmt: skip

    # Trying

    def _assign(
        self, choices: Mapping[str, str], why: Mapping[str, str] | None = None
    ) -> CompressionPlan:
        return assign(self.calibration.plan, self.units, choices, self.fewer, why)

    def _left(self) -> bool:
        return self.built < self.budget.evaluations

    def _try(self, name: str, choices: Mapping[str, str]) -> tuple[Point, Entry]:
        """Compile and judge an assignment, unless that was done before."""
        plan = self._assign(choices)
        digest = plan_digest(plan)
        entry = self.journal.find(digest)
        if digest in self.digests and entry is not None:
            return self.points[self.digests.index(digest)], entry
        if entry is None:
            self.built += 1
            self.tell(f"evaluation {self.built} of at most {self.budget.evaluations}: {name}")
            entry = self._judge(plan, name)
            self.journal.add(digest, entry)
        else:
            self.resumed += 1
        real = all(choice == "float32" for choice in choices.values())
        point = Point(
            name, dict(Counter(choices.values())), entry.metric, entry.milliseconds, entry.label,
            real or self.budget.holds(entry.metric), entry.note,
        )  # fmt: skip
        self.points.append(point)
        self.digests.append(digest)
        self.configurations.append(dict(choices))
        return point, entry

    def _judge(self, plan: CompressionPlan, name: str) -> Entry:
        try:
            bundle = self.judge.build(plan)
        except TilewrightError as error:
            if name == "all float32":
                raise
            return Entry(None, math.inf, {}, "estimated", error.message)
        metric = self.judge.metric(bundle)
        times = time_bundle(
            bundle, self.judge.target, self.judge.threads, measured=self.judge.measured
        )
        return Entry(metric, times.total, times.layers, times.label)

    def _uniform(self, bfloat16: bool) -> None:
        """Every layer in the same precision: times of layers, and ends of the curve."""
        for choice in CHOICES:
            if choice == "bfloat16" and not bfloat16:
                continue
            if choice == "int4w" and not self.fewer:
                continue
            if not self._left():
                break
            wanted = {u.name: self._nearest(u, choice) for u in self.units}
            _, entry = self._try(f"all {choice}", wanted)
            if entry.metric is None:
                continue
            self.label = entry.label
            for unit in self.units:
                if wanted[unit.name] == choice:
                    self.times.setdefault(unit.name, {})[choice] = self._time(unit, entry)

    def _nearest(self, unit: Unit, choice: str) -> str:
        """The choice, or int8 where a layer does not take four bits."""
        known = choice == "float32" or choice in self.noise[unit.name]
        return choice if known else "int8"

    def _time(self, unit: Unit, entry: Entry) -> float:
        """A unit's time; one whose kernels read no weights gets a small share of the whole."""
        paths = {name.partition(":")[0] for name in unit.layers}
        found = [entry.layers[path] for path in paths if path in entry.layers]
        return sum(found) if found else entry.milliseconds * 1e-3

    # What to try

    def _steps(self, unit: Unit) -> list[str]:
        """The choices worth having, fastest first: each slower one makes less noise."""
        times, noise = self.times[unit.name], {"float32": 0.0, **self.noise[unit.name]}
        if "int8" in times:
            for choice in ("float32", "bfloat16"):
                if choice in times and times["int8"] / MARGIN < times[choice] < times["int8"]:
                    times = {**times, choice: times["int8"] * 1.0001}
        kept: list[str] = []
        for choice in sorted(times, key=lambda c: (times[c], noise[c])):
            if not kept or noise[choice] < noise[kept[-1]]:
                kept.append(choice)
        return kept

    def _path(self) -> list[dict[str, str]]:
        """Assignments from the fastest to the most exact one."""
        steps = {u.name: self._steps(u) for u in self.units}
        at = dict.fromkeys(steps, 0)
        noise = {u.name: {"float32": 0.0, **self.noise[u.name]} for u in self.units}
        path = [{name: steps[name][0] for name in steps}]
        while True:
            gains = {}
            for name, place in at.items():
                if place + 1 < len(steps[name]):
                    now, then = steps[name][place], steps[name][place + 1]
                    spared = noise[name][now] - noise[name][then]
                    cost = max(self.times[name][then] - self.times[name][now], 1e-9)
                    gains[name] = spared / cost
            if not gains:
                return path
            name = max(gains, key=lambda n: gains[n])
            at[name] += 1
            path.append({**path[-1], name: steps[name][at[name]]})

    def _describe(self, choices: Mapping[str, str], fastest: Mapping[str, str]) -> str:
        slower = sum(choices[name] != fastest[name] for name in choices)
        if not slower:
            return "each layer in its fastest precision"
        return f"{slower} of {len(choices)} layers more exact"

    def _bisect(self, path: Sequence[dict[str, str]]) -> int:
        """The first assignment on the path that is inside the budget, as far as was tried."""
        low, high = -1, len(path) - 1
        while high - low > 1 and self._left():
            # The fastest of all first: nothing is left to do if it holds.
            middle = 0 if low < 0 and high == len(path) - 1 else (low + high) // 2
            point, _ = self._try(self._describe(path[middle], path[0]), path[middle])
            low, high = (low, middle) if point.inside else (middle, high)
            if high == 0:
                break
        return high

    def _refine(self, path: Sequence[dict[str, str]], index: int) -> None:
        """Make single layers faster again while the metric allows it."""
        now, fastest = dict(path[index]), path[0]
        spare = {
            name: self.times[name][now[name]] - self.times[name][fastest[name]]
            for name in now
            if now[name] != fastest[name]
        }
        # The last layer on the path is known to be needed.
        last = next((n for n in now if index and path[index - 1][n] != now[n]), None)
        for name in sorted(spare, key=lambda n: -spare[n]):
            if name == last or not self._left():
                continue
            steps = self._steps(next(u for u in self.units if u.name == name))
            tried = {**now, name: steps[max(0, steps.index(now[name]) - 1)]}
            point, _ = self._try(self._describe(tried, fastest), tried)
            if point.inside:
                now = tried

    # Saying why

    def _reasons(self, choices: Mapping[str, str]) -> dict[str, str]:
        return {u.name: self._reason(u, choices[u.name]) for u in self.units if self.times}

    def _reason(self, unit: Unit, choice: str) -> str:
        times, noise = self.times.get(unit.name, {}), self.noise[unit.name]
        shown = ", ".join(f"{c} {times[c]:.3g} ms" for c in CHOICES if c in times)
        steps = self._steps(unit) if times else []
        if steps and choice == steps[0]:
            what = "fastest" if len(times) > 1 else "the only choice"
        else:
            faster = next((c for c in steps if c != choice), "int8")
            level = noise.get(faster, 0.0)
            decibels = f"{10 * math.log10(level):.0f} dB" if level else "none"
            what = f"for accuracy: noise in {faster} {decibels} of the outputs (simulated)"
        return f"{what}; {shown} ({self.label})" if shown else what


__all__ = ["Budget", "Found", "Judge", "Point", "search_precisions"]
