"""How many random examples a test takes: few in the fast tier, all where everything is run."""

from __future__ import annotations

import os


def some_of(everything: int, fast: int) -> int:
    """`everything` where `TILEWRIGHT_EXAMPLES` is set, as `make test-all` does, else `fast`."""
    return everything if "TILEWRIGHT_EXAMPLES" in os.environ else fast


__all__ = ["some_of"]
