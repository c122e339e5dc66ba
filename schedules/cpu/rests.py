"""Vector loops whose last vector is not full: what TVM needs to peel the rest off.

TVM's loop partition reads a hint on the loop. Its pass before narrows the 64-bit indices that
Relax's functions have, gives their loops new variables and leaves the hint with the old ones, so
that nothing is peeled: the condition stays in the vector loop, which then becomes scalar code.
Where indices are narrow from the start, the hint is kept.
"""

from __future__ import annotations

from typing import Any

from schedules.tvm_adapter import IRModule, s_tir, tirx

#: The annotation on loops to be peeled.
HINT = "pragma_loop_partition_hint"
_NAME = "main"


def narrow_indices(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with 32-bit indices, if it has a rest to peel and they suffice."""
    if not _has_rest(function.body):
        return function
    module = IRModule({_NAME: function})
    try:
        return tirx.transform.ForceNarrowIndexToInt32()(module)[_NAME]
    except (RuntimeError, ValueError, TypeError):  # a symbolic or a very large extent
        return function


def _has_rest(node: Any, hinted: bool = False) -> bool:
    """Whether a loop with the hint runs a block under a condition."""
    if isinstance(node, tirx.For):
        return _has_rest(node.body, hinted or HINT in node.annotations)
    if isinstance(node, tirx.SeqStmt):
        return any(_has_rest(statement, hinted) for statement in node.seq)
    if isinstance(node, s_tir.SBlockRealize):
        always = isinstance(node.predicate, tirx.IntImm) and bool(int(node.predicate))
        return (hinted and not always) or _has_rest(node.block.body, hinted)
    return False


__all__ = ["HINT", "narrow_indices"]
