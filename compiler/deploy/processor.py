"""A board's processor, as tuning records name it."""

from __future__ import annotations

import re

from compiler.deploy.board import LINUX_FEATURES, Facts
from schedules.records import Cpu
from targets.cpuinfo import LINUX_TO_LLVM
from targets.spec import TargetSpec

_MAKERS = {0x41: "ARM", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon",
           0x4E: "NVIDIA", 0x51: "Qualcomm", 0x61: "Apple", 0xC0: "Ampere"}  # fmt: skip
_PARTS = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57",
    0xD08: "Cortex-A72", 0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78",
    0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2", 0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9",
    0xC0F: "Cortex-A15",
}  # fmt: skip


def processor(facts: Facts, spec: TargetSpec) -> Cpu:
    """The processor of a board, of several kinds of cores the first one.

    Args:
        facts: What the board says of itself.
        spec: The target, for the width of vectors, which Linux does not tell.

    Returns:
        Its ID is ``maker-architecture-part`` in decimal for ARM (``ARM-8-3336`` is a Cortex-A72),
        ``vendor-family-model`` for x86.
    """
    told = facts.cpu
    maker, part = _number(told.get("CPU implementer")), _number(told.get("CPU part"))
    if part:
        name = _PARTS.get(part, f"part {part:#x}") if maker == 0x41 else f"part {part:#x}"
        maker_name = _MAKERS.get(maker, f"{maker:#x}")
        identity = f"{maker_name}-{_number(told.get('CPU architecture'))}-{part}"
        name = name if maker == 0x41 else f"{maker_name} {name}"
    else:
        name = told.get("model name") or f"a {facts.machine}"
        words = [told.get(key, "") for key in ("vendor_id", "cpu family", "model")]
        identity = "-".join(words) if all(words) else "unknown"
    # Revisions of one board are one kind of device.
    board = re.sub(r"\s+Rev\b.*", "", facts.model)
    features = {n for f in facts.features for n in LINUX_TO_LLVM.get(f, ())}
    features |= {
        name for name, linux in LINUX_FEATURES.items() if facts.features.intersection(linux)
    }
    return Cpu(
        f"{name} ({board})" if board else name, identity, frozenset(features), spec.vector_bits,
        max(1, facts.cores),
    )  # fmt: skip


def _number(text: str | None) -> int:
    try:
        return int(text or "0", 0)
    except ValueError:
        return 0


__all__ = ["processor"]
