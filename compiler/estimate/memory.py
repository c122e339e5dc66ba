"""What simulated misses cost, and how that joins the cycles of the pipelines.

The shares were chosen by hand, so that estimates rank and date best what was measured on x86:
`tools.estimate_validation` shows how well they do, with all candidates in its JSON file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compiler.estimate.counting import Block
from targets.spec import TargetSpec

#: Revision of the way in which figures are put together: figures of two revisions do not compare.
REVISION = 3
#: Share of the pipelines' cycles and of those that it takes to let the instructions in, which
#: overlap in part: code whose units are busy waits for little else, and the other way round.
_CORE, _FRONT = 0.6, 1.0
#: Assumed cycles until data comes from the second and the third cache.
_LATENCY = {2: 14.0, 3: 45.0}
#: Assumed nanoseconds until data comes from main memory.
_MEMORY_NS = 90.0
#: Cycles that reading or writing 8 bytes adds where they are in the first cache: registers that
#: are spilled do not come for nothing.
_ACCESS = 0.04
#: Share of the latency that a miss costs, from the second cache, the third, and memory.
_SEEN = (0.036, 0.02, 0.0075)
#: The share beyond that if no prefetcher could have seen the miss coming.
_UNSEEN = (0.0, 0.09, 0.06)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What code reads and writes in memory.

    Attributes:
        accesses: Pieces of 8 bytes that are read or written; counted.
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


def stall_cycles(traffic: Traffic, spec: TargetSpec) -> float:
    """Cycles that reading and writing adds (estimated).

    Args:
        traffic: Accesses and simulated misses.
        spec: The processor: its caches and clock.
    """
    caches = sorted(spec.caches, key=lambda cache: cache.level)
    total = _ACCESS * traffic.accesses
    for i, (missed, ahead) in enumerate(zip(traffic.misses, traffic.ahead, strict=True)):
        last = i + 1 >= len(traffic.misses)
        # What missed this level and came from the next one.
        here = missed - (0 if last else traffic.misses[i + 1])
        unseen = here - (ahead - (0 if last else traffic.ahead[i + 1]))
        level = caches[i + 1].level if not last else 0
        latency = _LATENCY.get(level, _MEMORY_NS * 1e-9 * spec.clock_hz)
        place = 2 if last else min(level - 2, 1)
        total += latency * (_SEEN[place] * here + _UNSEEN[place] * max(0, unseen))
    return total


def combined_cycles(core: float, instructions: float, width: float, stalls: float) -> float:
    """Cycles of code, all together (estimated).

    Args:
        core: That its instructions take in the pipelines, by llvm-mca.
        instructions: How many ran.
        width: Instructions that the processor takes in a cycle; infinite for one in order, whose
            `core` has all that its instructions take.
        stalls: As `stall_cycles` gives them.
    """
    if math.isinf(width):
        return core + stalls
    return _CORE * core + _FRONT * instructions / width + stalls


def _sums(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*(row for row in rows if row), strict=True)))


__all__ = ["REVISION", "Traffic", "combined_cycles", "stall_cycles"]
