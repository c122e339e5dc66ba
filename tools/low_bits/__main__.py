"""Measures layers in float32, int8 and with weights of 4, 2 and 1 bits, all in one run.

    taskset -c 1 python -m tools.low_bits                # a table in Markdown
    taskset -c 1 python -m tools.low_bits --target x86/generic-avx2 --choices 12 --json out.json

Every form of a layer is built in several ways (the default and what the analytic model likes
best), measured in turns, round by round, and the fastest of each counts. Arithmetic on one bit
includes the packing of signs. Times are lower quartiles, on one
thread.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")

from schedules.tvm_adapter import configure_thread_pool
from targets import get_target, missing_features
from tools.low_bits.kernels import FORMS, Candidate, Layer, build, build_signs, choices

LAYERS = (
    Layer(64, 64, 56, 3), Layer(128, 128, 28, 3), Layer(256, 256, 14, 3), Layer(512, 512, 7, 3),
    Layer(256, 256, 14, 1), Layer(1024, 1024, 1, 0), Layer(4096, 4096, 1, 0),
    Layer(768, 3072, 64, 0),
)  # fmt: skip
#: Seconds that one measurement of a candidate is to take at least.
_LEAST = 1e-3


def measure(layer: Layer, target: str, count: int, rounds: int) -> dict[str, dict[str, object]]:
    """Times, sizes and choices of all forms of a layer."""
    spec = get_target(target)
    built: dict[str, list[Candidate]] = {}
    for form in FORMS:
        workload = layer.workload(form)
        built[form] = [build(layer, form, c, spec) for c in choices(workload, spec, count)]
    built["signs"] = [build_signs(layer, spec)]
    every = [c for candidates in built.values() for c in candidates]
    repeats = {id(c): _repeats(c) for c in every}
    for number in range(rounds):
        if number == 5:  # the slow ones are out of the race
            built = {k: sorted(v, key=lambda c: c.typical)[:2] for k, v in built.items()}
        for position in range(max(len(v) for v in built.values())):
            for candidates in built.values():
                if position < len(candidates):
                    candidates[position].measure(repeats[id(candidates[position])])
    best = {form: min(v, key=lambda c: c.typical) for form, v in built.items()}
    packing = best.pop("signs").typical
    return {
        form: {
            "us": round((c.typical + (packing if form == "w1a1" else 0.0)) * 1e6, 2),
            "bytes": c.bytes,
            "choice": c.choice,
        }
        for form, c in best.items()
    }


def _repeats(candidate: Candidate) -> int:
    candidate.run()
    candidate.measure(1)
    return max(1, int(_LEAST / candidate.seconds.pop()))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="x86")
    parser.add_argument("--choices", type=int, default=6, help="built of each form")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path, help="also write everything there")
    parser.add_argument("--layers", type=int, nargs="*", help="numbers of layers, from 0")
    options = parser.parse_args()
    if missing := missing_features(get_target(options.target)):
        parser.error(f"{options.target}: this CPU lacks {', '.join(missing)}")
    configure_thread_pool(1)
    print("| layer | " + " | ".join(f"{f}, µs" for f in FORMS) + " | w1a1 : int8 |")
    print("|" + "---|" * (len(FORMS) + 2))
    found = {}
    layers = [LAYERS[i] for i in options.layers] if options.layers else LAYERS
    for layer in layers:
        result = measure(layer, options.target, options.choices, options.rounds)
        found[str(layer)] = result
        times = [float(str(result[form]["us"])) for form in FORMS]
        row = " | ".join(f"{t:.1f}" for t in times)
        ratio = times[FORMS.index("int8")] / times[FORMS.index("w1a1")]
        print(f"| {layer} | {row} | {ratio:.1f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
