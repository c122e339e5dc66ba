"""What simulated misses cost, and how that joins the cycles of the pipelines.

The shares are those that fit best what was measured on x86, rounded:
``python -m tools.estimate_validation report`` finds them again, and how well such shares do for
tasks that they were not found from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compiler.estimate.counting import Block
from targets.spec import TargetSpec

#: Revision of the way in which figures are put together: figures of two revisions do not compare.
REVISION = 4
#: Share of the pipelines' cycles, and of those that no order of the instructions could go below:
#: llvm-mca sees less far ahead than processors, and chooses units worse.
_CORE, _BOUND = 0.9, 0.15
#: Assumed cycles until data comes from the second and the third cache.
_LATENCY = {2: 14.0, 3: 45.0}
#: Assumed nanoseconds until data comes from main memory.
_MEMORY_NS = 90.0
#: Share of the latency that a line costs that is read from the second cache and from the third.
_READ = (0.014, 0.009)
#: Cycles that a line costs that is written to and came from either of them: it goes back as well.
_WRITTEN = 2.0
#: Bytes a cycle from main memory to one core that has it for itself: assumed.
_MOST = 4.0
#: Share of the time that it takes to move a line from or to main memory.
_MOVED = 0.45
#: Share of the latency beyond that if no prefetcher could have seen the miss coming: assumed.
_UNSEEN = (0.0, 0.09, 0.06)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What code reads and writes in memory.

    Attributes:
        accesses: Pieces of 8 bytes that are read or written; counted.
        misses: Of each level, the nearest first; simulated.
        ahead: Those that a prefetcher would have seen coming; simulated.
        stored: Those that were written to; simulated.
    """

    accesses: int
    misses: tuple[int, ...]
    ahead: tuple[int, ...]
    stored: tuple[int, ...] = ()

    @classmethod
    def of(cls, blocks: Iterable[Block]) -> Traffic:
        """All of these blocks together."""
        found = list(blocks)
        return cls(
            sum(block.accesses for block in found),
            _sums([block.misses for block in found]),
            _sums([block.ahead for block in found]),
            _sums([block.stored for block in found]),
        )


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that came from one level of the memory, by what was done to them.

    Attributes:
        level: The cache's, 2 or more; 0 for main memory.
        read: Lines that were read.
        written: Lines that were written to.
        unseen: Lines of either kind that no prefetcher would have seen coming.
    """

    level: int
    read: int
    written: int
    unseen: int


def lines_of(traffic: Traffic, spec: TargetSpec) -> list[Lines]:
    """What came from where, the nearest first.

    Args:
        traffic: Simulated misses.
        spec: The processor.
    """
    caches = sorted(spec.caches, key=lambda cache: cache.level)
    levels = len(traffic.misses)
    found = []
    for i in range(levels):
        # What missed this level and came from the next one.
        missed, ahead, stored = (
            counts[i] - (counts[i + 1] if i + 1 < levels else 0)
            for counts in (traffic.misses, traffic.ahead, traffic.stored or (0,) * levels)
        )
        level = caches[i + 1].level if i + 1 < levels else 0
        found.append(Lines(level, missed - stored, stored, max(0, missed - ahead)))
    return found


def memory_bytes_per_cycle(spec: TargetSpec) -> float:
    """What one core gets out of main memory: what the target's memory gives, and 4 at most."""
    return min(_MOST, spec.memory_bandwidth_bytes_per_s / spec.clock_hz)


def memory_line_cycles(spec: TargetSpec) -> float:
    """Cycles that moving one line from or to main memory takes."""
    return (spec.caches[0].line_bytes if spec.caches else 64) / memory_bytes_per_cycle(spec)


def stall_cycles(traffic: Traffic, spec: TargetSpec) -> float:
    """Cycles that reading and writing adds (estimated).

    Args:
        traffic: Simulated misses.
        spec: The processor: its caches, memory and clock.
    """
    total = 0.0
    for lines in lines_of(traffic, spec):
        if not lines.level:
            total += _MOVED * memory_line_cycles(spec) * (lines.read + lines.written)
            total += _UNSEEN[2] * _MEMORY_NS * 1e-9 * spec.clock_hz * lines.unseen
            continue
        place = min(lines.level - 2, 1)
        latency = _LATENCY[place + 2]
        total += latency * (_READ[place] * lines.read + _UNSEEN[place] * lines.unseen)
        total += _WRITTEN * lines.written
    return total


def combined_cycles(core: float, bound: float, stalls: float, *, in_order: bool = False) -> float:
    """Cycles of code, all together (estimated).

    Args:
        core: That its instructions take in the pipelines, by llvm-mca.
        bound: That they could not go below.
        stalls: As `stall_cycles` gives them.
        in_order: Whether it is a processor in order, whose `core` has all that its instructions
            take.
    """
    return (core if in_order else _CORE * core + _BOUND * bound) + stalls


def _sums(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*(row for row in rows if row), strict=True)))


__all__ = [
    "REVISION",
    "Lines",
    "Traffic",
    "combined_cycles",
    "lines_of",
    "memory_bytes_per_cycle",
    "memory_line_cycles",
    "stall_cycles",
]
