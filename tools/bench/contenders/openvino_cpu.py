"""OpenVINO's CPU plugin, in the precision that it chooses or in f32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from tools.bench.contenders.case import INPUTS, ONNX, Array, read_arrays


def compile_options(options: dict[str, str]) -> dict[str, Any]:
    """How a network is compiled: one stream, the threads that were asked for."""
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": int(options["threads"]),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # The worker is pinned already; the plugin would choose CPUs of its own.
        "ENABLE_CPU_PINNING": False,
    }
    if "precision" in options:
        config["INFERENCE_PRECISION_HINT"] = options["precision"]
    return config


def describe(compiled: Any, options: dict[str, str]) -> dict[str, Any]:
    """What the compiled network says of itself."""

    def used(key: str) -> Any:
        return compiled.get_property(key)

    return {
        "version": openvino.__version__,
        "precision": used("INFERENCE_PRECISION_HINT").get_type_name(),
        "threads": f"INFERENCE_NUM_THREADS = {used('INFERENCE_NUM_THREADS')}, "
        f"NUM_STREAMS = {used('NUM_STREAMS')}",
        "settings": "LATENCY hint, INFERENCE_PRECISION_HINT "
        + (f"= {options['precision']}" if "precision" in options else "left alone"),
    }


class OpenVino:
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(case / ONNX), "CPU", compile_options(options))
        self.request = compiled.create_infer_request()
        self.inputs = read_arrays(case / INPUTS)
        self.run()
        return describe(compiled, options)

    def run(self) -> None:
        self.result = self.request.infer(self.inputs, share_inputs=True, share_outputs=True)

    def outputs(self) -> list[Array]:
        return [np.array(value) for value in self.result.to_tuple()]
