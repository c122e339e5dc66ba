"""Writes a network as a case: inputs, PyTorch's outputs, weights and, if wanted, ONNX.

A process of its own, in the environment that has the ONNX exporter.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import torch

from tools.bench.contenders.case import (
    CASE,
    INPUTS,
    ONNX,
    REFERENCE,
    SAMPLES,
    WEIGHTS,
    build_model,
    torch_outputs,
)

#: Inputs that quantized networks are calibrated by.
SAMPLE_COUNT = 32


def write_case(folder: Path, builder: str, net: str, *, onnx: bool, samples: bool) -> None:
    """Write one network's case.

    Args:
        folder: Where to; it must exist.
        builder: ``module:function`` that takes the name and gives a module and its inputs.
        net: The network's name.
        onnx: Whether to export it to ONNX too.
        samples: Whether to write inputs to calibrate by, which the builder's module gives by
            its function ``samples(net, count)``.
    """
    model, inputs = build_model(builder, net)
    with torch.inference_mode():
        outputs = torch_outputs(model(*inputs))
    torch.save(model.state_dict(), folder / WEIGHTS)
    np.savez(folder / INPUTS, *[value.numpy() for value in inputs])
    np.savez(folder / REFERENCE, *outputs)
    if samples:
        make = importlib.import_module(builder.partition(":")[0]).samples
        columns = zip(*make(net, SAMPLE_COUNT), strict=True)
        np.savez(folder / SAMPLES, *[np.stack([v.numpy() for v in column]) for column in columns])
    facts = {
        "net": net,
        "builder": builder,
        "inputs": [f"{v.dtype} {list(v.shape)}".removeprefix("torch.") for v in inputs],
        "parameters": sum(p.numel() for p in model.parameters()),
        "onnx_error": None,
    }
    if onnx:
        try:
            torch.onnx.export(model, inputs, folder / ONNX, dynamo=True, external_data=False)
        except Exception as error:  # noqa: BLE001 - the contenders that need it report it
            facts["onnx_error"] = f"ONNX export: {type(error).__name__}: {error}"
    (folder / CASE).write_text(json.dumps(facts, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("net")
    parser.add_argument("--builder", required=True, help="module:function")
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--samples", action="store_true")
    arguments = parser.parse_args()
    write_case(
        arguments.folder,
        arguments.builder,
        arguments.net,
        onnx=arguments.onnx,
        samples=arguments.samples,
    )


if __name__ == "__main__":
    main()
