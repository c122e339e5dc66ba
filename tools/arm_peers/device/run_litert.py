"""Infer COUNT times with LiteRT and its XNNPACK delegate: MODEL COUNT MAPS."""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    model, count, maps = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    array = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    interpreter.set_tensor(source, np.ascontiguousarray(array.transpose(0, 2, 3, 1)))
    for _ in range(count):
        interpreter.invoke()
    print("output", *interpreter.get_tensor(target).ravel()[:4])
    maps.write_text(Path("/proc/self/maps").read_text())


if __name__ == "__main__":
    main()
