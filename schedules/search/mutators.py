"""How the evolutionary search changes a choice."""

from __future__ import annotations

import random
from typing import Any

from schedules.tvm_adapter import derived_object, meta_schedule

#: A step to a neighbouring option keeps most of what made the parent fast; the rest are jumps.
_NEIGHBOUR_SHARE = 0.6
#: Tiles trade against each other: sometimes two decisions change together.
_SECOND_SHARE = 0.25


class _MutateDecision(meta_schedule.mutator.PyMutator):
    """Changes one decision, sometimes two, to a neighbouring or to any option."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)  # noqa: S311 - no secret

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing depends on the context."""

    def apply(self, trace: Any, _: Any) -> Any | None:
        """A changed copy of the trace; None if it leaves nothing open."""
        samples = [
            instruction
            for instruction in trace.insts
            if instruction.kind.name == "SampleCategorical" and len(instruction.attrs[0]) > 1
        ]
        if not samples:
            return None
        count = 2 if len(samples) > 1 and self._random.random() < _SECOND_SHARE else 1
        for instruction in self._random.sample(samples, count):
            options = len(instruction.attrs[0])
            now = int(trace.decisions[instruction])
            trace = trace.with_decision(instruction, self._other(now, options), True)
        return trace

    def _other(self, now: int, options: int) -> int:
        if self._random.random() < _NEIGHBOUR_SHARE:
            near = [option for option in (now - 1, now + 1) if 0 <= option < options]
            return self._random.choice(near)
        other = self._random.randrange(options - 1)
        return other + (other >= now)

    def clone(self) -> Any:
        """Another mutator, with random numbers of its own."""
        return mutate_decision(self._random.getrandbits(31))


_Derived = derived_object(_MutateDecision)


def mutate_decision(seed: int) -> Any:
    """The mutator as MetaSchedule takes it.

    Args:
        seed: Of its random numbers.
    """
    return _Derived(seed)


__all__ = ["mutate_decision"]
