"""Functions of a byte by permutations of a table in registers."""

from __future__ import annotations

from schedules.cpu.compute import tables
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    extent,
    find_kernel,
    leaf_blocks,
    parallelize,
    replace_body,
)
from schedules.tvm_adapter import Schedule
from targets.spec import TargetSpec


class TableLookup:
    """A vector of bytes at a time."""

    name = "table-lookup"
    builds_choices = False

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, frozenset({tables.KIND}))
        count = tables.lanes(spec)
        if not count:
            raise NotApplicableError(f"{spec.name} has no permutation of bytes")
        if len(leaf_blocks(sch)) > 1:
            raise NotApplicableError("something is fused with it")
        (loop,) = sch.get_loops(heart)
        if (extent(sch, loop) or 1) % count:
            raise NotApplicableError("the last bytes fill no vector")
        outer, inner = sch.split(loop, [None, count])
        parallelize(sch, [outer])
        whole = sch.blockize(inner)
        block = sch.get(whole)
        write = block.writes[0]
        # The bytes that are read are as many as are written; of the table all of it is.
        narrow = [r for r in block.reads if int(r.region[0].extent) == count]
        wide = [r for r in block.reads if int(r.region[0].extent) != count]
        if len(narrow) != 1 or len(wide) != 1:
            raise NotApplicableError("the operands are not bytes and a table")
        x, table = narrow[0].source, wide[0].source
        body = tables.statement(x, table, write.source, write.region[0].min, count)
        replace_body(sch, whole, body)
        return Applied("elementwise", f"{count} bytes at a time")
