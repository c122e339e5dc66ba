"""What a search asks of the templates, so that tests can give it simpler ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from schedules.space import Choice, Space
from schedules.workload import Workload
from targets.spec import TargetSpec

if TYPE_CHECKING:
    from compiler.lower.tasks import Task


class Kernels(Protocol):
    """The choices there are, and what is known of them before they are measured."""

    def spaces(self, workload: Workload, spec: TargetSpec) -> Sequence[Space]:
        """The spaces of a workload, the one with the default first."""

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """The analytic model's cycles; infinite where the choice does not hold together."""

    def least_flops(self, workload: Workload, spaces: Sequence[Space]) -> float:
        """Operations of the algorithm that needs fewest, a multiply-add is two."""

    def function(self, task: Task) -> Any:
        """The canonical function, a TVM ``PrimFunc``."""


class TemplateKernels:
    """The templates of `schedules.cpu`."""

    def spaces(self, workload: Workload, spec: TargetSpec) -> Sequence[Space]:
        """See `Kernels`."""
        from schedules.cpu import templates

        return templates.spaces(workload, spec)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `Kernels`."""
        from schedules.cpu import templates

        return templates.estimated_cycles(workload, choice, spec)

    def least_flops(self, workload: Workload, spaces: Sequence[Space]) -> float:
        """See `Kernels`: Winograd's tiles of m x m outputs multiply (m + 2)² times, not 9 m².

        An instruction on words does what 32 multiply-adds do.
        """
        from schedules.cpu.templates import signs
        from schedules.cpu.templates.winograd import ALGORITHMS

        shares = {name: ((m + 2) / (3 * m)) ** 2 for m, name in ALGORITHMS.items()}
        shares[signs.ALGORITHM] = signs.LEAST_SHARE
        return workload.flops * min((shares.get(s.algorithm, 1.0) for s in spaces), default=1.0)

    def function(self, task: Task) -> Any:
        """See `Kernels`."""
        from compiler.lower.tasks import reference

        return reference(task)


__all__ = ["Kernels", "TemplateKernels"]
