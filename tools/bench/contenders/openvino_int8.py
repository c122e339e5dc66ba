"""OpenVINO's CPU plugin on a network that NNCF has quantized after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf
import openvino

from tools.bench.contenders.case import INPUTS, ONNX, SAMPLES, read_arrays, read_samples
from tools.bench.contenders.openvino_cpu import OpenVino, compile_options, describe

#: Operators of which a network with attention has some, and a convolutional one has none.
_ATTENTION = frozenset({"Softmax", "ScaledDotProductAttention"})


class OpenVinoInt8(OpenVino):
    """What stays floating-point runs in the precision that OpenVINO chooses."""

    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        core = openvino.Core()
        model = core.read_model(case / ONNX)
        samples = read_samples(case / SAMPLES)
        attention = any(op.get_type_name() in _ATTENTION for op in model.get_ops())
        # What NNCF's guide says: the transformer scheme for those, and where activations are
        # not all behind a ReLU, asymmetric ones ("mixed").
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
            subset_size=len(samples),
        )
        compiled = core.compile_model(model, "CPU", compile_options(options))
        self.request = compiled.create_infer_request()
        self.inputs = read_arrays(case / INPUTS)
        self.run()
        facts = describe(compiled, options)
        facts["settings"] = (
            f"NNCF {nncf.__version__}, preset mixed, {len(samples)} samples"
            + (", model type transformer" if attention else "")
            + f"; the rest in {facts['precision']}"
        )
        return {**facts, "precision": "int8"}
