"""Blocks that run one after the other, put together to what a processor sees of them.

The emulator ends a block at every branch and at the end of every page. A processor goes on: what
is estimated block by block would count latencies twice that overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compiler.estimate.counting import Block

#: A block continues another one if it runs about as often: this share of it at least.
_AS_OFTEN = 0.75
_PAGE = 4096
#: Bytes of the longest instruction of x86, without its last one.
_CUT = 14
#: Longer traces tell nothing more.
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Trace:
    """Blocks in a row.

    Attributes:
        blocks: Places of its blocks in the sequence that it was made from, in order.
        count: How often it ran.
        code: Its bytes.
        instructions: How many it has.
    """

    blocks: tuple[int, ...]
    count: int
    code: bytes
    instructions: int


def traces(blocks: Sequence[Block], *, jumps: bool = False) -> list[Trace]:
    """Blocks as traces; every run of every block is in one of them.

    Args:
        blocks: With the addresses that they ran at.
        jumps: Whether they are x86's, whose jumps to other blocks are followed where what lies
            behind does not run as often.
    """
    starts: dict[int, int] = {}
    for i, block in enumerate(blocks):
        known = starts.get(block.address)
        if known is None or blocks[known].count < block.count:
            starts[block.address] = i
    follows = [_next(block, starts) for block in blocks]
    if jumps:
        follows = [_followed(i, blocks, follows[i], starts) for i in range(len(blocks))]
    left = [block.count for block in blocks]
    before: dict[int, list[int]] = {}
    for i, following in enumerate(follows):
        if following is not None:
            before.setdefault(following, []).append(i)
    found: list[Trace] = []
    for i in sorted(range(len(blocks)), key=lambda i: blocks[i].address):
        # Beginnings first: what another block as often runs into is taken with it.
        if not any(_alike(left[j], left[i]) for j in before.get(i, ())):
            found.extend(_from(i, blocks, follows, left))
    for i in range(len(blocks)):
        found.extend(_from(i, blocks, follows, left))
    return found


def _from(
    first: int, blocks: Sequence[Block], follows: Sequence[int | None], left: list[int]
) -> Iterator[Trace]:
    """The trace that begins with a block, if runs of it are left."""
    count = left[first]
    if count <= 0:
        return
    chain, size = [first], blocks[first].instructions
    while size < _LONGEST:
        following = follows[chain[-1]]
        if following is None or following in chain or not _alike(count, left[following]):
            break
        chain.append(following)
        size += blocks[following].instructions
        count = min(count, left[following])
    for i in chain:
        left[i] -= count
    parts = [_until(blocks[one], blocks[other]) for one, other in itertools.pairwise(chain)]
    yield Trace(tuple(chain), count, b"".join([*parts, blocks[chain[-1]].code]), size)


def _next(block: Block, starts: dict[int, int]) -> int | None:
    """What lies behind a block; an instruction that a page cuts belongs to what comes next."""
    end = block.address + len(block.code)
    found = starts.get(end)
    if found is None and end % _PAGE == 0:
        cuts = (starts.get(end - i) for i in range(1, min(_CUT, len(block.code) - 1) + 1))
        found = next((place for place in cuts if place is not None), None)
    return found


def _until(block: Block, other: Block) -> bytes:
    """A block's code without an instruction that belongs to the next one."""
    size = other.address - block.address
    return block.code[:size] if 0 < size < len(block.code) else block.code


def _followed(
    place: int, blocks: Sequence[Block], behind: int | None, starts: Mapping[int, int]
) -> int | None:
    """What runs after a block as often as it does: what lies behind it or what it jumps to."""
    count = blocks[place].count
    if behind is not None and _alike(count, blocks[behind].count):
        return behind
    at = _target(blocks[place])
    inside = 0 <= at - blocks[place].address < len(blocks[place].code)  # a loop of its own
    target = None if inside else starts.get(at)
    if target is not None and _alike(count, blocks[target].count):
        return target
    return behind


def _target(block: Block) -> int:
    """Where x86's jump at the end of a block leads to; -1 if there is none."""
    code = block.code
    end = block.address + len(code)
    if code[-5:-4] == b"\xe9" or (code[-6:-5] == b"\x0f" and code[-5] & 0xF0 == 0x80):
        return end + int.from_bytes(code[-4:], "little", signed=True)
    if len(code) > 1 and (code[-2] == 0xEB or code[-2] & 0xF0 == 0x70):
        return end + int.from_bytes(code[-1:], "little", signed=True)
    return -1


def _alike(one: int, other: int) -> bool:
    return one > 0 and other > 0 and min(one, other) >= _AS_OFTEN * max(one, other)


__all__ = ["Trace", "traces"]
