"""What a layer would take on VTA and on the host, roughly: to decide where it runs.

Estimates, not figures for a report: cycles are counted from sizes, the host's rate is a share of
its peak. What VTA really takes is simulated once the program is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.lower.vta.read import Form
from schedules.vta.layers import Conv2d, Layer, MaxPool2d
from targets.spec import TargetSpec
from targets.vta.config import VtaConfig

#: Share of the host's peak that convolutions reach, and depthwise ones and elementwise work.
_DENSE, _LIGHT = 0.35, 0.08
#: Operations for each element of a result: requantization, clipping.
_EPILOGUE = 8
#: Passes over memory for a tensor that goes from the host to VTA or back, packing included.
_PASSES = 3
#: To start a program and notice its end, seconds.
_LAUNCH_S = 30e-6


@dataclass(frozen=True, slots=True)
class Costs:
    """Estimated times.

    Attributes:
        config: The VTA.
        host: The processor beside it.
        batch: Images of one inference.
    """

    config: VtaConfig
    host: TargetSpec
    batch: int = 1

    def vta_s(self, layer: Layer, data: Form, output: Form) -> float:
        """Seconds on VTA."""
        block, bus = self.config.block, self.config.bus_bits // 8
        pixels = output.height * output.width
        blocks = -(-output.channels // block)
        alu = 0.0
        gemm = 0.0
        loaded = data.size
        if isinstance(layer, MaxPool2d):
            alu = 2.0 * math.prod(layer.kernel) * blocks * pixels
            gemm = blocks * data.height * data.width
        else:
            for step in layer.steps:
                alu += 4.0 * blocks * pixels
                gemm += len(step.adds) * blocks * pixels
                loaded += len(step.adds) * output.size
        if isinstance(layer, Conv2d):
            inner = -(-layer.weight.shape[1] // block)
            taps = math.prod(layer.weight.shape[2:])
            gemm += blocks * inner * taps * pixels
            loaded += blocks * inner * taps * block * block
        cycles = max(gemm + alu, loaded / bus) + 200.0
        return self.batch * cycles / self.config.clock_hz

    def host_s(self, layer: Layer, data: Form, output: Form) -> float:
        """Seconds on one core of the host."""
        host = self.host
        kind = "int8" if "int8" in host.peak_ops_per_cycle else "float32"
        peak = host.peak_ops_per_s(kind)
        moved = (data.size + output.size) / host.memory_bandwidth_bytes_per_s
        operations, share = float(_EPILOGUE * output.size), _LIGHT
        seconds = operations / (peak * share)
        if isinstance(layer, Conv2d):
            products = math.prod(layer.weight.shape[1:]) * output.size
            share = _DENSE if layer.weight.shape[1] > 1 else _LIGHT
            seconds += 2.0 * products / (peak * share)
            moved += layer.weight.nbytes / host.memory_bandwidth_bytes_per_s
        elif isinstance(layer, MaxPool2d):
            seconds += math.prod(layer.kernel) * output.size / (peak * _LIGHT)
        return self.batch * max(seconds, moved)

    def crossing_s(self, form: Form) -> float:
        """Seconds to pack a tensor and bring it from one side to the other."""
        moved = _PASSES * form.size / self.host.memory_bandwidth_bytes_per_s
        return self.batch * moved + _LAUNCH_S


__all__ = ["Costs"]
