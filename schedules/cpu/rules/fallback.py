"""The generic fallback: correct for every function, tuned for none. Reports list who met it."""

from __future__ import annotations

from schedules.cpu.rules.base import Applied, NotApplicableError, extent, leaf_blocks
from schedules.tvm_adapter import Schedule, ScheduleError, tirx
from targets.spec import TargetSpec


class Fallback:
    """Run the outermost independent loop of each stage in parallel; nothing else is known."""

    name = "fallback"
    builds_choices = False

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`; fits every function."""
        try:
            blocks = leaf_blocks(sch)
        except NotApplicableError:
            return Applied("other", "an opaque function, kept as TVM wrote it")
        for block in blocks:
            node = sch.get(block)
            loops = sch.get_loops(block)
            if (
                loops
                and node.iter_vars
                and node.iter_vars[0].iter_type == tirx.IterVar.DataPar
                and all(v.iter_type != 3 for v in node.iter_vars)
                and extent(sch, loops[0]) != 1
                and not node.match_buffers
            ):
                try:
                    sch.parallel(loops[0])
                except ScheduleError:
                    continue
        return Applied("other", "only the generic fallback fitted")
