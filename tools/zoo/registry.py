"""All networks of the zoo."""

from __future__ import annotations

from tools.zoo import plain, timm_nets, torchvision_nets, transformers_nets
from tools.zoo.entries import Entry


def all_entries() -> tuple[Entry, ...]:
    """Every network, whether or not its package is installed."""
    entries = (
        *plain.ENTRIES,
        *torchvision_nets.ENTRIES,
        *timm_nets.ENTRIES,
        *transformers_nets.ENTRIES,
    )
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names), "two networks of the zoo have the same name"
    return entries


__all__ = ["all_entries"]
