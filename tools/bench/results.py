"""The results as data, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tools.bench.contenders import base_of
from tools.bench.limits import limits
from tools.bench.machine import Machine
from tools.bench.stats import Spread, geomean, ratio_spread

#: Version of the JSON document's form.
#: 2: several contenders of ours; `ours` names the one that `ratio` refers to.
SCHEMA = 2


@dataclass(slots=True)
class ContenderResult:
    """How one contender did on one network.

    Attributes:
        key: Its name on the command line.
        label: Its name in tables.
        status: ``failed`` if it could not be set up, hung, broke or gave wrong outputs.
        error: Why it failed.
        latency_ms: Over all timed inferences.
        ratio: Its time over ours, round by round; None for ours, or if either failed. Which of
            ours is `BenchResult.ours`.
        round_ms: The median of each round.
        max_abs_error: Largest difference from PyTorch eager's outputs.
        max_rel_error: The same over the largest magnitude in that output.
        prepare_seconds: Load, compile and first run, on the same CPUs.
        facts: Version, precision, thread settings, CPUs, as the contender itself tells them.
        threads: Threads that existed, that worked, and the CPU-time share of the busiest.
    """

    key: str
    label: str
    status: Literal["measured", "failed"] = "failed"
    error: str = ""
    latency_ms: Spread | None = None
    ratio: Spread | None = None
    round_ms: list[float] = field(default_factory=list)
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    prepare_seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    threads: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class NetResult:
    """All contenders on one network.

    Attributes:
        name: The network's name.
        inputs: Dtypes and shapes.
        parameters: How many numbers its weights have.
        contenders: In the order of the tables.
        load_average: The system's, over the minute before and after the rounds.
        other_share: Share of the measured CPUs' time during the rounds that did not go to
            the contenders: other processes, the kernel's own work, and what the hypervisor
            took away.
    """

    name: str
    inputs: list[str]
    parameters: int
    contenders: list[ContenderResult]
    load_average: tuple[float, float] = (0.0, 0.0)
    other_share: float = 0.0

    def of(self, key: str) -> ContenderResult | None:
        """The result of one contender, if it took part."""
        return next((c for c in self.contenders if c.key == key), None)

    def ratio(self, slower: str, faster: str) -> Spread | None:
        """The first contender's time over the second's, round by round.

        None if one of them was not measured.
        """
        over, under = self.of(slower), self.of(faster)
        if over is None or under is None or "failed" in (over.status, under.status):
            return None
        return ratio_spread(over.round_ms, under.round_ms)


@dataclass(frozen=True, slots=True)
class Settings:
    """How it was measured."""

    threads: int
    cpus: tuple[int, ...]
    rounds: int
    target: str


@dataclass(slots=True)
class BenchResult:
    """A whole run of the benchmark.

    Attributes:
        date: ISO 8601, UTC.
        revision: The commit that was measured, with ``-dirty`` if files had changed.
    """

    date: str
    revision: str
    machine: Machine
    settings: Settings
    nets: list[NetResult] = field(default_factory=list)

    def keys(self) -> list[str]:
        """The contenders, in the order of the tables."""
        return [c.key for c in self.nets[0].contenders] if self.nets else []

    @property
    def ours(self) -> str:
        """Key of our contender that the ratios refer to."""
        return base_of(self.keys())

    def ratios(self, key: str) -> list[float]:
        """The median ratio of the peer's time to ours on each network that has one."""
        found = [net.of(key) for net in self.nets]
        return [c.ratio.median for c in found if c is not None and c.ratio is not None]

    def to_json(self) -> str:
        """The results as a JSON document."""
        document = {
            "schema": SCHEMA,
            "kind": "measured",
            "ratio": "the peer's time over ours; above 1: we are faster",
            "ours": self.ours,
            **asdict(self),
            "geomean_ratio": {
                key: {"value": geomean(ratios), "nets": len(ratios)}
                for key in self.keys()
                if key != self.ours and (ratios := self.ratios(key))
            },
            "limits": [asdict(limit) for limit in limits(self.nets)],
        }
        return json.dumps(document, indent=1) + "\n"
