"""What a measurement may cost, and how it is taken."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one candidate may use before it is given up.

    Attributes:
        build_s: Seconds to build it.
        run_s: Seconds to check and time it; less where a candidate of the same task is known
            to be much faster.
        memory_bytes: What a worker may allocate beyond what it starts with.
    """

    build_s: float = 60.0
    run_s: float = 10.0
    memory_bytes: int = 1536 * _MIB


@dataclass(frozen=True)
class Timing:
    """How a candidate is timed. A sample is one call.

    Attributes:
        samples: Samples to take at most.
        least_samples: Samples to take at least, however slow the candidate.
        budget_s: Seconds of samples after which no further one is taken; more where other
            processes disturbed most of them. Samples during which the system took the CPU away
            are left out as long as enough others remain.
        abort_factor: A candidate whose first sample is this many times the best latency known
            of its task is not timed any further.
        cold_weights: Whether the weights are thrown out of the caches before every sample.
        threads: Threads that the kernel may use.
    """

    samples: int = 50
    least_samples: int = 5
    budget_s: float = 0.05
    abort_factor: float = 3.0
    cold_weights: bool = True
    threads: int = 1


__all__ = ["Limits", "Timing"]
