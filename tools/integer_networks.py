"""Compares whole int8 networks with the NumPy reference, bit for bit.

    python -m tools.integer_networks --targets x86 x86/generic-avx2 --json equality.json

The six benchmark networks by default, with seeded weights, calibrated on random inputs. It prints
a line of JSON for each network and target, and ends with an error if a bit differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compiler.build import build as build_library
from compiler.compress.apply import apply_plan
from compiler.compress.calibrate import calibrate
from compiler.compress.interpret import interpret
from compiler.compress.plan import CompressionPlan, model_identity
from compiler.compress.recipe import Quantize
from compiler.frontend import import_model
from compiler.lower import lower
from compiler.lower.plain import plain_graph_of, plain_module
from compiler.runtime import Executor
from compiler.stages import Imported, StageLog
from targets import cpu_name, get_target, missing_features
from tools.zoo.nets import BENCHMARKS
from tools.zoo.nets import build as build_net

Array = npt.NDArray[Any]


def plan_of(imported: Imported, samples: list[tuple[Array, ...]], recipe: Quantize) -> Any:
    """An int8 plan of a network, as it reads back from its file."""
    spec = get_target("x86")
    identity = model_identity(
        imported.name, imported.parameters, [(s.name, s.shape, s.dtype) for s in imported.inputs]
    )
    found = calibrate(plain_graph_of(imported, spec), identity, samples, recipe).plan
    return CompressionPlan.from_json(found.to_json())


def reference(imported: Imported, plan: CompressionPlan, inputs: list[Array]) -> list[Array]:
    """What the NumPy reference gives."""
    module, table = plain_module(imported, get_target("x86"))
    integers, _ = apply_plan(module, table, plan)
    found = interpret(integers, inputs)
    return [np.asarray(v) for v in (found if isinstance(found, tuple) else (found,))]


def compiled(
    imported: Imported, plan: CompressionPlan, inputs: list[Array], target: str
) -> list[Array]:
    """What the compiled network gives."""
    spec, log = get_target(target), StageLog()
    with tempfile.TemporaryDirectory() as folder:
        built = build_library(lower(imported, spec, log, plan=plan), spec, log, Path(folder))
        executor = Executor(
            built.library, built.inputs, built.outputs, built.parameters, built.prepared
        )
        found = executor.run(*inputs)
    return [np.asarray(v) for v in (found if isinstance(found, (tuple, list)) else (found,))]


def variations(inputs: tuple[torch.Tensor, ...], count: int) -> list[tuple[Array, ...]]:
    """The example inputs, and others like them."""
    rng = np.random.default_rng(0)
    first = tuple(v.numpy() for v in inputs)
    rest = [
        tuple(
            rng.permutation(v.reshape(-1)).reshape(v.shape)
            if v.dtype.kind == "f"
            else np.roll(v, i, -1)
            for v in first
        )
        for i in range(1, count)
    ]
    return [first, *rest]


def bits(values: list[Array]) -> str:
    """A hash of all bits of all outputs."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for v in values)).hexdigest()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(BENCHMARKS), choices=BENCHMARKS)
    parser.add_argument("--targets", nargs="+", default=["x86", "x86/generic-avx2"])
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--rounding", default="nearest")
    parser.add_argument("--json", type=Path, help="write the lines to a file, too")
    options = parser.parse_args()
    for name in options.targets:
        if missing := missing_features(get_target(name)):
            parser.error(f"{name}: this CPU lacks {', '.join(missing)}")
    torch.set_num_threads(1)
    rows = []
    for name in options.networks:
        net, inputs = build_net(name)
        imported = import_model(net, inputs, log=StageLog())
        samples = variations(inputs, options.samples)
        plan = plan_of(imported, samples, Quantize(rounding=options.rounding))
        arrays = list(samples[0])
        wanted = reference(imported, plan, arrays)
        with torch.no_grad():
            real = net(*inputs).double().numpy().ravel()
        got = wanted[0].astype(np.float64).ravel()
        for target in options.targets:
            start = time.perf_counter()
            hashes = [bits(wanted), bits(compiled(imported, plan, arrays, target))]
            rows.append(
                {
                    "network": name, "target": target, "equal": hashes[0] == hashes[1],
                    "outputs_sha256": hashes[0],
                    "int8_operators": len(plan.quantized()), "operators": len(plan.operators),
                    "cosine_to_float32": float(real @ got / np.sqrt((real @ real) * (got @ got))),
                    "seconds": round(time.perf_counter() - start, 1),
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    if options.json is not None:
        document = {"cpu": cpu_name(), "date": time.strftime("%Y-%m-%d", time.gmtime()),
                    "rows": rows}  # fmt: skip
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if not all(row["equal"] for row in rows):
        sys.exit("some outputs differ")


if __name__ == "__main__":
    main()
