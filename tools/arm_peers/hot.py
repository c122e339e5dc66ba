"""Which blocks an inference spends its cycles in, and by what instructions."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Sequence

from compiler.errors import EmulationError
from compiler.estimate.costs import BlockCosts, CostModel, cost_model
from compiler.estimate.counting import Block
from targets.spec import TargetSpec
from tools.arm_peers.counts import Entry

_SECONDS = 600
_SHOWN = 8
#: Dot products of bytes in AArch64's vectors: sdot and udot, by vector and by element.
_DOT = re.compile(r"^\s*[su]dot\b")


def names(code: bytes, model: CostModel) -> list[str]:
    """Names of a block's instructions, all of four bytes.

    Raises:
        EmulationError: The disassembler fails.
    """
    command = [model.mc, "--disassemble", f"-triple={model.triple}", f"-mcpu={model.processor}"]
    text = " ".join(f"0x{byte:02x}" for byte in code) + "\n"
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmulationError(f"{command[0]} failed: {error}", where="peers") from error
    lines = (line.strip() for line in done.stdout.splitlines())
    return [line.split()[0] for line in lines if line and not line.startswith(".")]


def dot_products(entries: Sequence[Entry]) -> int:
    """Executed dot products of bytes: whether an int8 peer uses what the core has."""
    # 0x0e809400 and 0x0f80e000 without register numbers, signedness, width and index.
    count = 0
    for entry in entries:
        code = entry.block.code
        words = (int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code), 4))
        found = sum(
            (word & 0x9FE0FC00) == 0x0E809400 or (word & 0x9FC0F400) == 0x0F80E000 for word in words
        )
        count += found * entry.block.count
    return count


def hottest(entries: Sequence[Entry], spec: TargetSpec, number: int) -> str:
    """The dearest blocks, one a line: place, runs, instructions, cycles, share, instructions."""
    model = cost_model(spec)
    files = sorted({entry.file for entry in entries})
    blocks = [
        Block((files.index(e.file) << 40) + e.block.address, e.block.instructions, e.block.count,
              e.block.code)
        for e in entries
    ]  # fmt: skip
    totals = BlockCosts(model).totals(blocks)
    every = sum(totals)
    lines = []
    order = sorted(range(len(entries)), key=lambda i: -totals[i])[:number]
    for i in order:
        block = entries[i].block
        kinds = Counter(names(block.code, model)).most_common(_SHOWN)
        lines.append(
            f"  {entries[i].file[:16]:16} {block.address:8x} x{block.count:9d} "
            f"{block.instructions:4d} instructions {totals[i] / block.count:7.1f} cycles "
            f"{100 * totals[i] / every:5.1f} %  "
            + " ".join(f"{name}:{count}" for name, count in kinds)
        )
    return "\n".join(lines)


__all__ = ["dot_products", "hottest", "names"]
