"""What one inference of a program on an emulated core executes: more inferences less fewer.

The program is run twice by QEMU with the counter, for one inference and for two; the
difference is one inference without the start of the program, loading and packing.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.counting import Block, counter_plugin, read_blocks
from targets.spec import TargetSpec

#: The program runs once with each number of inferences.
FEW, MANY = 1, 2
_SECONDS = 3600
#: Blocks of different files get addresses that are this far apart.
_FILE_SHIFT = 40


class CountError(Exception):
    """A program failed in emulation, or its counts make no sense."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A block of one inference.

    Attributes:
        file: Name of the shared object or program that it is in.
        block: The block; its address is the offset in the file.
    """

    file: str
    block: Block


@dataclass(frozen=True, slots=True)
class Cost:
    """One inference.

    Attributes:
        instructions: Counted.
        cycles: That the pipelines take if all data is in the first cache; estimated.
        model: What estimated them.
        files: Instructions by file.
    """

    instructions: int
    cycles: float
    model: str
    files: Mapping[str, int]


def count(
    command: Callable[[int, Path], Sequence[str]],
    emulator: Sequence[str],
    environment: Mapping[str, str],
    *,
    leave_out: str = "python3",
) -> list[Entry]:
    """Count the blocks of one inference.

    Args:
        command: The program's command line for a number of inferences; it writes what is mapped
            into its memory to the file that is given.
        emulator: QEMU's command.
        environment: Variables for the program, beside those of this process.
        leave_out: Files whose names begin with this are not counted.

    Raises:
        CountError: It fails.
    """
    few, many = (_run(command, number, emulator, environment) for number in (FEW, MANY))
    entries = []
    for key, block in many.items():
        before = few.get(key)
        extra = block.count - (before.count if before else 0)
        each = round(extra / (MANY - FEW))
        if each > 0 and not key[0].startswith(leave_out):
            entries.append(Entry(key[0], Block(block.address, block.instructions, each,
                                               block.code)))  # fmt: skip
    if not entries:
        raise CountError("more inferences execute no more than one")
    return entries


def _run(
    command: Callable[[int, Path], Sequence[str]],
    number: int,
    emulator: Sequence[str],
    environment: Mapping[str, str],
) -> dict[tuple[str, int, bytes], Block]:
    with tempfile.TemporaryDirectory(prefix="tilewright-peers-") as work:
        blocks, maps = Path(work) / "blocks", Path(work) / "maps"
        plugin = f"{counter_plugin(emulator[0])},out={blocks}"
        line = [*emulator, "-plugin", plugin, *command(number, maps)]
        try:
            done = subprocess.run(
                line,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CountError(f"the emulator failed: {error}") from error
        if done.returncode:
            tail = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise CountError(f"it failed in emulation ({done.returncode}): {tail[-400:]}")
        try:
            return _by_place(read_blocks(blocks.read_text()), maps.read_text())
        except (OSError, ValueError) as error:
            raise CountError(f"the counts cannot be read: {error}") from error


def _by_place(blocks: Sequence[Block], maps: str) -> dict[tuple[str, int, bytes], Block]:
    """Blocks by file, place in it and code: code may be translated more than once."""
    segments = []
    for line in maps.splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith("/"):
            low, high = (int(word, 16) for word in words[0].split("-"))
            segments.append((low, high, low - int(words[2], 16), Path(words[5]).name))
    counts: dict[tuple[str, int, bytes], int] = defaultdict(int)
    lengths: dict[tuple[str, int, bytes], int] = {}
    for block in blocks:
        name, base = next(
            ((name, base) for low, high, base, name in segments if low <= block.address < high),
            ("(no file)", 0),
        )
        key = (name, block.address - base, block.code)
        counts[key] += block.count
        lengths[key] = block.instructions
    return {key: Block(key[1], lengths[key], n, key[2]) for key, n in counts.items()}


def cost(entries: Sequence[Entry], spec: TargetSpec) -> Cost:
    """Instructions, and cycles as for our own modules: each library is code like any other.

    Raises:
        EmulationError: llvm-mca fails.
    """
    model = cost_model(spec)
    names = sorted({entry.file for entry in entries})
    blocks = [
        Block((names.index(e.file) << _FILE_SHIFT) + e.block.address, e.block.instructions,
              e.block.count, e.block.code)
        for e in entries
    ]  # fmt: skip
    files: dict[str, int] = defaultdict(int)
    for entry in entries:
        files[entry.file] += entry.block.count * entry.block.instructions
    cycles = sum(BlockCosts(model).totals(blocks))
    return Cost(sum(files.values()), cycles, str(model), dict(files))


def save(entries: Sequence[Entry], path: Path) -> None:
    """Keep counts, so that cycles can be estimated again without the emulator."""
    rows = [
        [e.file, e.block.address, e.block.instructions, e.block.count, e.block.code.hex()]
        for e in entries
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))


def load(path: Path) -> list[Entry]:
    """What `save` kept."""
    rows = json.loads(gzip.decompress(path.read_bytes()))
    return [
        Entry(file, Block(address, instructions, number, bytes.fromhex(code)))
        for file, address, instructions, number, code in rows
    ]


__all__ = ["Cost", "CountError", "Entry", "cost", "count", "load", "save"]
