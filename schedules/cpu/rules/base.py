"""What schedule rules share: finding blocks, inlining around them, vectorizing loops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from schedules.cpu.annotations import CHOICE, KERNEL, ROLE
from schedules.cpu.compute import neon_integers
from schedules.cpu.compute.integers import PACKED_LANES
from schedules.space import Choice
from schedules.tvm_adapter import Analyzer, Schedule, ScheduleError, s_tir, tirx
from targets.spec import TargetSpec


class NotApplicableError(Exception):
    """A rule does not fit a function; the message says why, and the next rule is tried."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a rule made of a function.

    Attributes:
        kind: Kind of operator, see `compiler.stages.KernelInfo`.
        remark: What a reader of the report should know about the choice.
        any_index: Whether indices may become narrower, see `schedules.cpu.rests`: nothing in
            the schedule was written with 64-bit ones.
    """

    kind: str
    remark: str = ""
    any_index: bool = False


class Rule(Protocol):
    """A schedule rule: a name, and a transformation of a schedule in place.

    `builds_choices` says that it takes kernels that a choice was made for; in the hands of
    another rule such a kernel counts as a fallback.
    """

    name: str
    builds_choices: bool

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """Schedule the function in `sch`.

        Raises:
            NotApplicableError: The rule does not fit; `sch` may have been changed.
        """


def leaf_blocks(sch: Schedule) -> list[Any]:
    """The blocks of the function, in program order.

    Raises:
        NotApplicableError: The function is written as one opaque block, as TVM's scans are.
    """
    try:
        root = sch.get_sblock("root")
    except ScheduleError:
        raise NotApplicableError("the function is one opaque block") from None
    return list(sch.get_child_blocks(root))


def annotation(sch: Schedule, block: Any, key: str) -> Any | None:
    """The value of a block's annotation, or None."""
    return dict(sch.get(block).annotations.items()).get(key)


def choice_of(sch: Schedule, heart: Any) -> Choice:
    """The choice that a kernel's heart was defined with.

    Raises:
        NotApplicableError: It was defined without one.
    """
    text = annotation(sch, heart, CHOICE)
    if text is None:
        raise NotApplicableError("no choice was made for the kernel")
    choice: Choice = json.loads(str(text))
    return choice


def find_kernel(sch: Schedule, kinds: frozenset[str]) -> Any:
    """The block annotated as the heart of a kernel of one of these kinds.

    Raises:
        NotApplicableError: There is none, or more than one.
    """
    found = [b for b in leaf_blocks(sch) if str(annotation(sch, b, KERNEL)) in kinds]
    if len(found) != 1:
        raise NotApplicableError(f"{len(found)} blocks of kind {', '.join(sorted(kinds))}")
    return found[0]


def is_reduction(sch: Schedule, block: Any) -> bool:
    """Whether the block reduces over at least one of its axes."""
    return any(v.iter_type == tirx.IterVar.CommReduce for v in sch.get(block).iter_vars)


def outputs(sch: Schedule) -> list[Any]:
    """The blocks that write the function's outputs."""
    return list(sch.get_output_blocks(sch.get_sblock("root")))


def same_block(sch: Schedule, a: Any, b: Any) -> bool:
    """Whether two block variables stand for one block."""
    return bool(sch.get(a).same_as(sch.get(b)))


def inline_between(sch: Schedule, keep: list[Any]) -> None:
    """Inline every injective block that is neither an output nor in `keep`.

    Raises:
        NotApplicableError: An intermediate block cannot be inlined.
    """
    kept = [sch.get(b).name_hint for b in [*keep, *outputs(sch)]]
    for block in leaf_blocks(sch):
        node = sch.get(block)
        if node.name_hint in kept:
            continue
        if is_reduction(sch, block):
            raise NotApplicableError(f"{node.name_hint} is a second reduction")
        sch.compute_inline(block)


def check_covered(sch: Schedule, heart: Any, consumer: Any) -> None:
    """Refuse a consumer that writes more than the tiles of the heart reach.

    Moving it under the heart's loops gives it only the places that it reads there: a padding
    would lose its border.

    Raises:
        NotApplicableError: An output dimension is larger than the heart's, and is not a
            broadcast of one element.
    """
    produced = list(sch.get(heart).writes[0].source.shape)
    for region in sch.get(consumer).writes:
        written = list(region.source.shape)
        if len(written) != len(produced):
            raise NotApplicableError("the epilogue changes the number of dimensions")
        for have, need in zip(produced, written, strict=True):
            if isinstance(have, tirx.IntImm) and isinstance(need, tirx.IntImm):
                if int(need) > int(have) and int(have) != 1:
                    raise NotApplicableError("the epilogue writes more than the kernel makes")
            elif not have.same_as(need) and not is_prefix(have, need):
                raise NotApplicableError("the epilogue's symbolic extents are not the kernel's")


def is_prefix(have: Any, need: Any) -> bool:
    """Whether a symbolic extent is at most another, as far as TVM can prove it."""
    return bool(Analyzer().can_prove(need <= have))


def role(sch: Schedule, block: Any) -> str:
    """The part a stage plays, as its compute definition said; empty if it said nothing."""
    return str(annotation(sch, block, ROLE) or "")


def stages_with_role(sch: Schedule, name: str) -> list[Any]:
    """The blocks annotated with this role."""
    return [b for b in leaf_blocks(sch) if role(sch, b) == name]


def extent(sch: Schedule, loop: Any) -> int | None:
    """Extent of a loop, None if it is symbolic."""
    value = sch.get(loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else None


def replace_body(sch: Schedule, heart: Any, body: Any, buffers: Sequence[Any] = ()) -> None:
    """Put statements in the place of a block's loops.

    Args:
        sch: The schedule.
        heart: The block.
        body: What it does instead.
        buffers: That only the body uses.
    """
    replace_block(sch, heart, body, sch.get(heart).reads, buffers)


def replace_block(
    sch: Schedule, place: Any, body: Any, reads: Sequence[Any], buffers: Sequence[Any] = ()
) -> None:
    """Let a block do something else with other operands.

    Args:
        sch: The schedule.
        place: The block.
        body: What it does instead.
        reads: The regions that it reads then.
        buffers: That only the body uses.
    """
    block = sch.get(place)
    new = s_tir.SBlock(
        block.iter_vars, reads, block.writes, block.name_hint, body,
        alloc_buffers=list(buffers), annotations=dict(block.annotations.items()),
    )  # fmt: skip
    sch.state.replace(sch.get_sref(place), new, {block: new})


def is_cut(sch: Schedule, block: Any, width: int) -> bool:
    """Whether the output's columns are not a multiple of the panel width."""
    last = sch.get(block).writes[0].source.shape[-1]
    return not (isinstance(last, tirx.IntImm) and int(last) % width == 0)


def vectorize_inner(
    sch: Schedule, loop: Any, lanes: int, unroll: int = 1, *, peel: bool = True
) -> list[Any]:
    """Split `loop` into vectors and vectorize; returns the loops it became, outermost first.

    A rest that does not fill a vector is peeled off as a loop of its own, so the condition
    on it stays out of the vector code. TVM's loop partition fails inside loops of symbolic
    extent; with `peel` false such a loop is left to LLVM's vectorizer.
    """
    size = extent(sch, loop)
    if not peel and (size is None or (size > lanes and size % lanes)):
        return [loop]
    if lanes <= 1 or (size is not None and size < 2):
        return [loop]
    if size is not None and size <= lanes:
        sch.vectorize(loop)
        return [loop]
    if unroll > 1 and size is not None and size % (lanes * unroll) == 0:
        outer, middle, inner = sch.split(loop, [None, unroll, lanes])
        sch.unroll(middle)
        sch.vectorize(inner)
        return [outer, middle, inner]
    outer, inner = sch.split(loop, [None, lanes])
    sch.vectorize(inner)
    if size is None or size % lanes:
        sch.annotate(outer, "pragma_loop_partition_hint", 1)
    return [outer, inner]


def parallelize(sch: Schedule, loops: list[Any]) -> None:
    """Run the first loop that has more than one iteration in parallel, if there is one."""
    for loop in loops:
        if extent(sch, loop) != 1:
            sch.parallel(loop)
            return


def pad_rows(sch: Schedule, loops: list[Any], lanes: int) -> None:
    """Vectorize a padding stage over channels, given its loops ``(..., w, c)``."""
    channels = extent(sch, loops[-1])
    if channels is not None and channels % lanes == 0:
        vectorize_inner(sch, loops[-1], lanes, unroll=4)
    elif channels is not None and channels < lanes:
        sch.unroll(loops[-1])
    else:
        vectorize_inner(sch, loops[-1], lanes)


def store_tile(sch: Schedule, rows: list[Any], columns: Any, lanes: int) -> None:
    """Vectorize and unroll the epilogue on one tile."""
    size = extent(sch, columns)
    if size is None:
        raise NotApplicableError("the epilogue has a symbolic number of columns")
    split = [columns]
    if size > lanes:
        split = list(sch.split(columns, [None, lanes]))
        sch.unroll(split[0])
    if size > 1:
        sch.vectorize(split[-1])
    if prod(extent(sch, loop) or 64 for loop in rows) <= 32:
        for loop in rows:
            sch.unroll(loop)


def store_lanes(sch: Schedule, block: Any, spec: TargetSpec, columns: int, lanes: int) -> int:
    """Lanes to write a tile with: so many that packing instructions make bytes of sums.

    Args:
        sch: The schedule.
        block: What writes the tile.
        spec: The target.
        columns: Columns of the tile.
        lanes: Of the sums' vectors.
    """
    if output_dtype(sch, block) not in ("uint8", "int8"):
        return lanes
    if spec.machine == "aarch64":
        return next((n for n in (neon_integers.BYTES, 8) if columns % n == 0), lanes)
    return PACKED_LANES if lanes >= 8 and columns % PACKED_LANES == 0 else lanes


def lanes_of(sch: Schedule, block: Any, spec: TargetSpec) -> int:
    """Lanes of the vectors that a block computes with: what it stores on 16 bits is float32."""
    dtype = output_dtype(sch, block)
    return spec.vector_lanes("float32" if dtype in ("bfloat16", "float16") else dtype)


def output_dtype(sch: Schedule, block: Any) -> str:
    """Dtype of the tensor that a block writes."""
    return str(sch.get(block).writes[0].source.dtype)
