"""Runs random layers on the VTA simulator and compares them with the NumPy reference, bit for bit.

    python -m tools.vta_conformance --layers 2000

Layers come in regions of up to four, with random shapes, constants, residual additions, tilings
and VTA configurations. Every program runs with all checks of the simulator. It prints a line of
JSON, and stops at the first difference or violation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter

from tests.support.vta_cases import CONFIGS, check


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds: Counter[str] = Counter()
    configs: Counter[str] = Counter()
    regions = 0
    while kinds.total() - kinds["refused"] < options.layers:
        seed = options.seed + regions
        config = CONFIGS[seed % len(CONFIGS)]
        try:
            made = check(random.Random(seed), config)
        except Exception:
            print(json.dumps({"seed": seed, "config": config.name, "layers": kinds.total()}))
            raise
        kinds.update(made.kinds)
        configs[config.name] += made.kinds.total()
        regions += 1
    document = {
        "layers": kinds.total() - kinds["refused"], "programs": regions, "differences": 0,
        "violations": 0, "kinds": dict(kinds), "configurations": dict(configs),
    }  # fmt: skip
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
