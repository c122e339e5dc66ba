"""Tilewright: compile, save, load again, run the loaded bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import compiler
from compiler._version import __version__
from tools.bench.contenders.case import Array, load_torch, torch_outputs


class Ours:
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        threads = int(options["threads"])
        # The module itself runs only for the reference; it must not get more than the rest.
        torch.set_num_threads(threads)
        model, self.inputs = load_torch(case)
        made = compiler.compile(
            model,
            target=options["target"],
            example_inputs=self.inputs,
            threads=threads,
            measure=False,
        )
        with tempfile.TemporaryDirectory() as folder:
            self.bundle = compiler.load(made.save(Path(folder) / f"{case.name}.tw"))
            self.run()
        fallbacks = [kernel.name for kernel in self.bundle.kernels if kernel.fallback]
        return {
            "version": __version__,
            "precision": "f32",
            "threads": f"threads = {threads}",
            "settings": f'target "{options["target"]}" = {self.bundle.target.name}, no search',
            "kernels": len(self.bundle.kernels),
            "fallback_kernels": len(fallbacks),
        }

    def run(self) -> None:
        self.result = self.bundle(*self.inputs)

    def outputs(self) -> list[Array]:
        return torch_outputs(self.result)
