"""Counted blocks as they are kept between the steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compiler.estimate.counting import Block


def row_of(block: Block) -> list[Any]:
    """A block as it is kept."""
    return [
        block.address, block.instructions, block.count, block.code.hex(), block.accesses,
        block.misses, block.ahead, block.stored,
    ]  # fmt: skip


def block_of(row: Sequence[Any]) -> Block:
    """A block as it was."""
    address, instructions, count, code, accesses, misses, ahead, stored = row
    return Block(
        address, instructions, count, bytes.fromhex(code), accesses,
        tuple(misses), tuple(ahead), tuple(stored),
    )  # fmt: skip


def read_rows(path: Path) -> list[Block]:
    """The blocks in a file."""
    return [block_of(row) for row in json.loads(path.read_text())]


__all__ = ["block_of", "read_rows", "row_of"]
