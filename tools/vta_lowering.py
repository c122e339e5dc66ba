"""Lowers ResNet-18's convolutions to VTA and prints where the simulated cycles go.

    python -m tools.vta_lowering                     # 224x224, all convolutions but the first
    python -m tools.vta_lowering --residual rounded  # residuals are added to rounded results
    python -m tools.vta_lowering --config small.json

Weights and biases are random: they do not change the number of cycles. Every program is checked
for violations, and its result compared with the NumPy reference. It needs no model and no TVM;
`tilewright compile --target vta` does the same with a trained network.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from schedules.vta.account import account
from schedules.vta.layers import Addend, Conv2d, Layer, Region, Step, Tensor
from schedules.vta.program import Built, build_program
from schedules.vta.reference import reference_run
from targets.vta import VtaConfig


@dataclass
class Network:
    """ResNet-18 behind its first convolution and pooling.

    Attributes:
        residual: ``sum``: added to the convolution's sum in 32 bits; ``rounded``: to its
            rounded result.
        channels: Of the first layers.
        size: Height and width there.
    """

    residual: str = "sum"
    channels: int = 64
    size: int = 56
    seed: int = 0
    tensors: list[Tensor] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)

    def region(self) -> Region:
        """The layers."""
        self.numbers = np.random.default_rng(self.seed)
        self.tensors = [Tensor("data", self.channels, self.size, self.size, 0, 127)]
        self.layers = []
        data = self.tensors[0]
        for stage in range(4):
            channels = self.channels << stage
            for block in range(2):
                stride = 2 if stage and not block else 1
                name = f"stage{stage + 1}.{block}"
                skip = data
                if stride == 2:
                    skip = self._conv(f"{name}.downsample", data, channels, 1, 2, low=-128)
                middle = self._conv(f"{name}.conv1", data, channels, 3, stride, low=0)
                data = self._conv(f"{name}.conv2", middle, channels, 3, 1, low=0, skip=skip)
        return Region("resnet18", tuple(self.tensors), tuple(self.layers), ("data",), (data.name,))

    def _conv(
        self, name: str, data: Tensor, channels: int, kernel: int, stride: int, *, low: int,
        skip: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        shape = (channels, data.channels, kernel, kernel)
        weight = np.clip(np.rint(self.numbers.normal(0, 20, shape)), -127, 127).astype(np.int8)
        bias = self.numbers.integers(-20_000, 20_001, channels).astype(np.int32)
        if skip is None:
            steps: tuple[Step, ...] = (Step(10, low),)
        elif self.residual == "sum":
            steps = (Step(10, low, adds=(Addend(skip.name, 8),)),)
        else:
            steps = (Step(10), Step(1, low, adds=(Addend(skip.name),)))
        size = (data.height - 1) // stride + 1
        made = Tensor(f"{name}.out", channels, size, size)
        self.tensors.append(made)
        self.layers.append(Conv2d(name, data.name, made.name, weight, bias, steps,
                                  (stride, stride), (kernel // 2,) * 4))  # fmt: skip
        return made


def measure(built: Built, *, seed: int = 1) -> None:
    """Run, compare and print."""
    region, config = built.region, built.config
    numbers = np.random.default_rng(seed)
    inputs = {
        name: numbers.integers(t.low, t.high + 1, t.shape).astype(np.int8)
        for name in region.inputs for t in (region.tensor(name),)
    }  # fmt: skip
    start = time.perf_counter()
    outputs, result = built.run(inputs)
    seconds = time.perf_counter() - start
    result.check()
    wanted = reference_run(region, inputs)
    equal = all(np.array_equal(v, wanted[n]) for n, v in outputs.items())
    if not equal:
        raise SystemExit("the result is not the reference's")
    head = ("cycles", "of peak", "products", "vector", "waiting")
    print(f"{'layer':24} " + " ".join(f"{name:>9}" for name in head) + "  tiling")
    for line, layer in zip(account(built, result), built.layers, strict=True):
        choice = {k: v for k, v in layer.choice.items() if k != "algorithm"}
        print(f"{line.name:24} {line.cycles:9,} {line.utilization(config.macs_per_cycle):9.1%} "
              f"{line.gemm_steps:9,} {line.alu_steps:9,} {line.waiting:9,}  "
              + " ".join(f"{k}={v}" for k, v in choice.items()))  # fmt: skip
    macs = sum(layer.macs for layer in built.layers)
    peak = macs / config.macs_per_cycle
    print(json.dumps({
        "cycles": result.cycles, "of_peak": round(peak / result.cycles, 4),
        "cycles_at_peak": int(peak), "products": result.gemm_steps,
        "violations": len(result.violations), "equal_to_reference": equal,
        "instructions": len(built.program.instructions),
        "milliseconds_at_100_MHz": round(result.cycles / 1e5, 2),
        "weight_bytes": sum(layer.weight_bytes for layer in built.layers),
        "loaded_bytes": result.loaded_bytes, "stored_bytes": result.stored_bytes,
        "simulator_seconds": round(seconds, 2),
    }))  # fmt: skip


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--residual", choices=("sum", "rounded"), default="sum")
    parser.add_argument("--config", type=Path, help="a VTA configuration, JSON")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=56)
    options = parser.parse_args()
    config = VtaConfig()
    if options.config is not None:
        config = VtaConfig.from_dict(
            json.loads(options.config.read_text()), where=str(options.config)
        )
    region = Network(options.residual, options.channels, options.size).region()
    start = time.perf_counter()
    built = build_program(region, config)
    print(f"lowered in {time.perf_counter() - start:.1f} s")
    measure(built)


if __name__ == "__main__":
    main()
