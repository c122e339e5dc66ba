"""What the simulated misses of a kernel cost, beside the cycles of its pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compiler.estimate.counting import Block
from targets.spec import TargetSpec

#: Revision of the way in which figures are put together: figures of two revisions do not compare.
REVISION = 1
#: Assumed cycles until data comes from the second and the third cache, where nothing hides them.
_LATENCY = {2: 14.0, 3: 45.0}
#: Assumed nanoseconds until data comes from main memory.
_MEMORY_NS = 90.0
#: Assumed bytes a cycle that come from the second and the third cache in a row.
_RATE = {2: 32.0, 3: 16.0}
#: Share of a latency that out-of-order execution does not hide.
_EXPOSED = 0.35


@dataclass(frozen=True, slots=True)
class Traffic:
    """What code reads and writes in memory.

    Attributes:
        accesses: Of the first cache; counted.
        misses: Of each level, the nearest first; simulated.
        ahead: Those that a prefetcher would have seen coming; simulated.
    """

    accesses: int
    misses: tuple[int, ...]
    ahead: tuple[int, ...]

    @classmethod
    def of(cls, blocks: Iterable[Block]) -> Traffic:
        """All of these blocks together."""
        found = list(blocks)
        return cls(
            sum(block.accesses for block in found),
            _sums([block.misses for block in found]),
            _sums([block.ahead for block in found]),
        )


def memory_cycles(traffic: Traffic, spec: TargetSpec) -> float:
    """Cycles that the misses add to those of the pipelines (estimated).

    A line that a prefetcher sees coming costs what moving it takes; one that it does not costs a
    part of the latency, too.

    Args:
        traffic: Accesses and simulated misses.
        spec: The processor: its caches, clock and bandwidth.
    """
    caches = sorted(spec.caches, key=lambda cache: cache.level)
    total = 0.0
    for i, (missed, ahead) in enumerate(zip(traffic.misses, traffic.ahead, strict=True)):
        # What missed this level and came from the next one.
        further = traffic.misses[i + 1] if i + 1 < len(traffic.misses) else 0
        further_ahead = traffic.ahead[i + 1] if i + 1 < len(traffic.ahead) else 0
        line = caches[i].line_bytes
        if i + 1 < len(caches):
            level = caches[i + 1].level
            latency, rate = _LATENCY.get(level, 45.0), _RATE.get(level, 16.0)
        else:
            latency = _MEMORY_NS * 1e-9 * spec.clock_hz
            rate = spec.memory_bandwidth_bytes_per_s / spec.clock_hz
        here, here_ahead = missed - further, ahead - further_ahead
        total += here * line / rate + _EXPOSED * latency * max(0, here - here_ahead)
    return total


def _sums(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*(row for row in rows if row), strict=True)))


__all__ = ["REVISION", "Traffic", "memory_cycles"]
