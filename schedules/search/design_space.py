"""Spaces of choices as MetaSchedule sees them.

A schedule of the design space changes nothing in the function: its trace only samples the
decisions and writes them into the root block's annotations. So replaying a trace costs a
fraction of a millisecond, and TVM's structural equality tells two choices apart. Whoever
builds a candidate takes the choice out of the annotations and has the template make the
real function of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schedules.space import Choice, Space
from schedules.tvm_adapter import IRModule, Schedule

_SPACE = "tilewright.space"
_DECISION = "tilewright.decision."


class DesignSpace:
    """Translates between choices and the schedules that stand for them.

    Args:
        spaces: The spaces of one workload.
    """

    def __init__(self, spaces: Sequence[Space]) -> None:
        self._spaces = tuple(spaces)

    def generate(self, schedule: Any) -> list[Any]:
        """One schedule for each space, its decisions sampled; for MetaSchedule's ``ScheduleFn``."""
        schedules = []
        for index in range(len(self._spaces)):
            copy = schedule.copy()
            self._annotate(copy, index, None)
            schedules.append(copy)
        return schedules

    def schedule(self, module: IRModule, choice: Choice) -> Any:
        """The schedule that stands for `choice`, on `module`.

        Raises:
            ValueError: `choice` is of none of the spaces.
        """
        for index, space in enumerate(self._spaces):
            if space.refusal(choice) is None:
                schedule = Schedule(module)
                self._annotate(schedule, index, choice)
                return schedule
        raise ValueError(f"a choice of none of the spaces: {choice}")

    def choice(self, schedule: Any) -> Choice:
        """The choice that a schedule of this design space stands for."""
        # Read off the function: a call of the schedule's methods checks types in Python first.
        annotations = schedule.mod["main"].body.block.annotations
        space = self._spaces[int(annotations[_SPACE])]
        choice: Choice = {"algorithm": space.algorithm}
        for decision in space.decisions:
            choice[decision.name] = decision.options[int(annotations[_DECISION + decision.name])]
        return choice

    def _annotate(self, schedule: Any, index: int, choice: Choice | None) -> None:
        root = schedule.get_sblock("root")
        schedule.annotate(root, _SPACE, index)
        for decision in self._spaces[index].decisions:
            count = len(decision.options)
            chosen = None if choice is None else decision.options.index(choice[decision.name])
            sampled = schedule.sample_categorical(list(range(count)), [1.0 / count] * count, chosen)
            schedule.annotate(root, _DECISION + decision.name, sampled)


__all__ = ["DesignSpace"]
