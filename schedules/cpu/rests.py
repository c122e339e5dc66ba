"""Vector loops whose last vector is not full: what TVM needs to peel the rest off.

TVM's loop partition reads a hint on the loop. Its pass before narrows the 64-bit indices that
Relax's functions have, gives their loops new variables and leaves the hint with the old ones, so
that nothing is peeled: the condition stays in the vector loop, which then becomes scalar code.
Where indices are narrow from the start, the hint is kept.
"""

from __future__ import annotations

from math import prod
from typing import Any

from schedules.tvm_adapter import IRModule, s_tir, tirx

#: The annotation on loops to be peeled.
HINT = "pragma_loop_partition_hint"
_NAME = "main"
#: Elements of a buffer, with room for what the last vector reaches beyond.
_MOST = (1 << 31) - (1 << 16)


def narrow_indices(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with 32-bit indices, if it has a rest to peel and they suffice.

    They do where all buffers have known extents and fewer elements than 32 bits count, and where
    nothing computes on numbers of 64 bits.
    """
    buffers = [*function.params, *_workspaces(function.body)]
    if not _has_rest(function.body) or not all(map(_is_small, buffers)):
        return function
    module = IRModule({_NAME: function})
    try:
        return tirx.transform.ForceNarrowIndexToInt32()(module)[_NAME]
    except (RuntimeError, ValueError, TypeError):  # a number beyond 32 bits
        return function


def _is_small(buffer: Any) -> bool:
    if str(buffer.dtype) == "int64" or not all(isinstance(v, tirx.IntImm) for v in buffer.shape):
        return False
    return prod(int(extent) for extent in buffer.shape) < _MOST


def _workspaces(node: Any) -> list[Any]:
    """Buffers that blocks allocate."""
    if isinstance(node, tirx.For):
        return _workspaces(node.body)
    if isinstance(node, tirx.SeqStmt):
        return [buffer for statement in node.seq for buffer in _workspaces(statement)]
    if isinstance(node, s_tir.SBlockRealize):
        return [*node.block.alloc_buffers, *_workspaces(node.block.body)]
    return []


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
