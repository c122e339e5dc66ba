"""Which choices of the evolutionary search may be measured at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.search.design_space import DesignSpace
from schedules.space import Choice
from schedules.tvm_adapter import derived_object, meta_schedule


class _RefuseInvalid(meta_schedule.postproc.PyPostproc):
    """Refuses schedules whose choice does not hold together."""

    def __init__(self, design: DesignSpace, accepts: Callable[[Choice], bool]) -> None:
        super().__init__()
        self._design = design
        self._accepts = accepts

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing depends on the context."""

    def apply(self, schedule: Any) -> bool:
        """Whether the schedule's choice is accepted."""
        return self._accepts(self._design.choice(schedule))

    def clone(self) -> Any:
        """The same rule."""
        return refuse_invalid(self._design, self._accepts)


_Derived = derived_object(_RefuseInvalid)


def refuse_invalid(design: DesignSpace, accepts: Callable[[Choice], bool]) -> Any:
    """The postprocessor as MetaSchedule takes it.

    Args:
        design: Reads the choice out of a schedule.
        accepts: Whether a choice may be measured.
    """
    return _Derived(design, accepts)


__all__ = ["refuse_invalid"]
