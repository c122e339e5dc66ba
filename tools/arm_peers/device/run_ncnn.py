"""Infer COUNT times with ncnn: MODEL COUNT MAPS."""

import sys
from pathlib import Path

import ncnn
import numpy as np


def main() -> None:
    model, count, maps = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    # By itself it would compute in 16 bits where the core can.
    for name in dir(net.opt):
        if name.startswith(("use_fp16_", "use_bf16_")):
            setattr(net.opt, name, False)
    if net.load_param(f"{model}.param") or net.load_model(f"{model}.bin"):
        raise SystemExit(f"ncnn cannot load {model}")
    array = np.random.default_rng(0).normal(size=(3, 224, 224)).astype(np.float32)
    image = ncnn.Mat(array).clone()
    for _ in range(count):
        extractor = net.create_extractor()
        extractor.input("in0", image)
        status, output = extractor.extract("out0")
    if status:
        raise SystemExit(f"ncnn fails on {model}")
    print("output", *np.array(output).ravel()[:4])
    maps.write_text(Path("/proc/self/maps").read_text())


if __name__ == "__main__":
    main()
