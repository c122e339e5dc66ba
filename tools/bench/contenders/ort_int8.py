"""ONNX Runtime's CPU provider on a network that its own static quantization has made int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from tools.bench.contenders.case import ONNX, SAMPLES, Array, read_samples
from tools.bench.contenders.ort import Ort

_QUANTIZED = "model.ort-int8.onnx"
_PREPARED = "model.ort-prepared.onnx"


class _Samples(CalibrationDataReader):
    def __init__(self, names: list[str], samples: list[list[Array]]) -> None:
        self._left = iter([dict(zip(names, sample, strict=True)) for sample in samples])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


class OrtInt8(Ort):
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        samples = read_samples(case / SAMPLES)
        # Symbolic shape inference fails on exported transformers; all shapes are known.
        quant_pre_process(str(case / ONNX), str(case / _PREPARED), skip_symbolic_shape=True)
        graph = onnx.load(case / _PREPARED, load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        names = [v.name for v in graph.input if v.name not in constants]
        quantize_static(
            case / _PREPARED,
            case / _QUANTIZED,
            _Samples(names, samples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        facts = self.open(case, _QUANTIZED, options)
        facts["settings"] += f"; QDQ, u8 by s8 per channel, {len(samples)} samples"
        return {**facts, "precision": "int8"}
