"""Compares random integer operators with the NumPy reference, bit for bit, and counts them.

    python -m tools.integer_conformance --cases 10000 --targets x86 x86/generic-avx2

A case is one operator, with shapes and constants of its own, on one input. It prints a line of
JSON a target, and stops at the first difference.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter

from targets import get_target, missing_features
from tests.support.integer_cases import KINDS, check
from tests.support.low_bits_cases import LOW_KINDS, LowMaker


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="in all targets together")
    parser.add_argument(
        "--targets", nargs="+", default=["x86", "x86/cascadelake", "x86/generic-avx2"]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operators", type=int, default=12, help="built at a time")
    parser.add_argument("--draws", type=int, default=25, help="inputs of each operator")
    options = parser.parse_args()
    specs = [get_target(name) for name in options.targets]
    for name, spec in zip(options.targets, specs, strict=True):
        if missing := missing_features(spec):
            parser.error(f"{name}: this CPU lacks {', '.join(missing)}")
    wanted = options.cases / len(specs)
    for name, spec in zip(options.targets, specs, strict=True):
        counts: Counter[str] = Counter()
        rules: Counter[str] = Counter()
        seed = options.seed
        while counts.total() < wanted:
            source = random.Random(f"{name} {seed}")
            maker = LowMaker(source)
            kinds = [source.choice((*KINDS, *LOW_KINDS)) for _ in range(options.operators)]
            kernels = check([maker.case(k) for k in kinds], spec, options.draws, seed)
            counts.update({k: kinds.count(k) * options.draws for k in set(kinds)})
            rules.update("fallback" if k.fallback else k.rule for k in kernels)
            seed += 1
        document = {
            "target": name, "cases": counts.total(), "differences": 0, "kinds": dict(counts),
            "kernels": dict(rules),
        }  # fmt: skip
        print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
