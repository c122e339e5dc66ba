"""Tilewright: compile, save, load again, run the loaded bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import compiler
from compiler._version import __version__
from compiler.coverage import misses, tuned_share
from tools.bench.contenders.case import (
    SAMPLES,
    Array,
    load_torch,
    read_samples,
    torch_outputs,
)

#: Names of precisions as all contenders state them.
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "int8"}


class Ours:
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        threads = int(options["threads"])
        # The module itself runs only for the reference; it must not get more than the rest.
        torch.set_num_threads(threads)
        model, self.inputs = load_torch(case)
        precision = options.get("precision", "float32")
        quantize: dict[str, Any] = {}
        if "quantize" in options:
            samples = [tuple(sample) for sample in read_samples(case / SAMPLES)]
            quantize = {"quantize": options["quantize"], "calibration": samples}
        with tempfile.TemporaryDirectory() as folder:
            made = compiler.compile(
                model,
                target=options["target"],
                example_inputs=self.inputs,
                threads=threads,
                measure=False,
                # An empty folder in place of this user's records leaves the shipped ones.
                records=False if options.get("records") == "none" else folder,
                precision=precision,
                **quantize,
            )
            self.bundle = compiler.load(made.save(Path(folder) / f"{case.name}.tw"))
            self.run()
        kernels = self.bundle.kernels
        share = tuned_share(kernels)
        on_records = "nothing to tune" if share is None else f"{share:.0%} of FLOPs on records"
        return {
            "version": __version__,
            "precision": _PRECISIONS[self.bundle.manifest.precision],
            "threads": f"threads = {threads}",
            "settings": f'target "{options["target"]}" = {self.bundle.target.name}, '
            + ("no records" if options.get("records") == "none" else on_records),
            "kernels": len(kernels),
            "fallback_kernels": sum(kernel.fallback for kernel in kernels),
            "tuned_kernels": sum(kernel.source == "record" for kernel in kernels),
            "tuned_flops_share": share,
            "misses": [f"{kernel.name}: {kernel.miss}" for kernel in misses(kernels)],
        }

    def run(self) -> None:
        self.result = self.bundle(*self.inputs)

    def outputs(self) -> list[Array]:
        return torch_outputs(self.result)
