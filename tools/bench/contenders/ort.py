"""ONNX Runtime's CPU provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from tools.bench.contenders.case import INPUTS, ONNX, Array, read_arrays


class Ort:
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        return self.open(case, ONNX, options)

    def open(self, case: Path, file: str, options: dict[str, str]) -> dict[str, Any]:
        """Load a file of the case; returns what there is to say about it."""
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        settings.intra_op_num_threads = int(options["threads"])
        settings.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(case / file), settings, providers=["CPUExecutionProvider"]
        )
        names = [node.name for node in self.session.get_inputs()]
        self.feeds = dict(zip(names, read_arrays(case / INPUTS), strict=True))
        self.run()
        used = self.session.get_session_options()
        return {
            "version": onnxruntime.__version__,
            "precision": "f32",
            "threads": f"intra_op_num_threads = {used.intra_op_num_threads}, "
            f"inter_op_num_threads = {used.inter_op_num_threads}",
            "settings": f"{', '.join(self.session.get_providers())}, all optimizations",
        }

    def run(self) -> None:
        self.result = self.session.run(None, self.feeds)

    def outputs(self) -> list[Array]:
        return list(self.result)
