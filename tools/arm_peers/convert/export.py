"""A benchmark network as TorchScript and as ONNX: NET FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tools.zoo.nets import build


def main() -> None:
    """Export one network."""
    net, folder = sys.argv[1], Path(sys.argv[2])
    module, inputs = build(net)
    module.eval()
    with torch.inference_mode():
        torch.jit.trace(module, inputs).save(str(folder / f"{net}.pt"))
    torch.onnx.export(
        module, inputs, str(folder / f"{net}.onnx"), dynamo=True, external_data=False, verbose=False
    )


if __name__ == "__main__":
    main()
