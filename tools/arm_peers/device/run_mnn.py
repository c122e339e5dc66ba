"""Infer COUNT times with MNN: MODEL COUNT MAPS."""

import sys
from pathlib import Path

import MNN
import numpy as np


def main() -> None:
    model, count, maps = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    net = MNN.Interpreter(model)
    # "high" keeps float models in 32 bits where the core has 16; int8 models do as they like.
    precision = "normal" if ".int8." in model else "high"
    session = net.createSession({"backend": "CPU", "numThread": 1, "precision": precision})
    source, target = net.getSessionInput(session), net.getSessionOutput(session)
    array = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    image = MNN.Tensor((1, 3, 224, 224), MNN.Halide_Type_Float, array,
                       MNN.Tensor_DimensionType_Caffe)  # fmt: skip
    shape = target.getShape()
    result = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32),
                        MNN.Tensor_DimensionType_Caffe)  # fmt: skip
    for _ in range(count):
        source.copyFrom(image)
        net.runSession(session)
        target.copyToHostTensor(result)
    print("output", *result.getNumpyData().ravel()[:4])
    maps.write_text(Path("/proc/self/maps").read_text())


if __name__ == "__main__":
    main()
