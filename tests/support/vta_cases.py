"""Random regions for VTA: layers, shapes, constants, tilings and configurations."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from schedules.space import Choice
from schedules.vta.defaults import candidates, has_borders
from schedules.vta.fits import refusal
from schedules.vta.layers import (
    Addend,
    Conv2d,
    Layer,
    MaxPool2d,
    Region,
    Step,
    Sum,
    Tensor,
    output_shape,
)
from schedules.vta.program import Built, build_program
from schedules.vta.reference import reference_run
from schedules.vta.tiling import Layout
from schedules.vta.work import normalize
from targets.vta import VtaConfig

PUBLISHED = VtaConfig()
SMALL = VtaConfig(
    name="small", uop_buffer_bytes=1 << 10, uop_depth=256, inp_buffer_bytes=1 << 11,
    wgt_buffer_bytes=1 << 14, acc_buffer_bytes=1 << 13,
)  # fmt: skip
CONFIGS = (
    PUBLISHED,
    SMALL,
    VtaConfig(name="block8", block=8, inp_buffer_bytes=1 << 13, wgt_buffer_bytes=1 << 15,
              acc_buffer_bytes=1 << 15),
    VtaConfig(name="block32", block=32, inp_buffer_bytes=1 << 14, wgt_buffer_bytes=1 << 17,
              acc_buffer_bytes=1 << 16),
    VtaConfig(name="batch2", batch=2, inp_buffer_bytes=1 << 14, bus_bits=128),
    VtaConfig(name="wide accumulators", inp_buffer_bytes=1 << 12, acc_buffer_bytes=1 << 16),
)  # fmt: skip


@dataclass
class Maker:
    """Random regions from one source of randomness."""

    source: random.Random
    config: VtaConfig = PUBLISHED
    tensors: list[Tensor] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.numbers = np.random.default_rng(self.source.randrange(1 << 30))

    def region(self, most: int = 4) -> Region:
        """Up to `most` layers."""
        pick = self.source
        block = self.config.block
        first = Tensor(
            "in0", pick.choice([3, block, 2 * block, 3 * block - 1]), pick.randint(1, 9),
            pick.randint(1, 12), *pick.choice([(-128, 127), (0, 127)]),
        )  # fmt: skip
        self.tensors = [first]
        inputs = ["in0"]
        for n in range(pick.randint(1, most)):
            name = f"layer{n}"
            kind = pick.random()
            if kind < 0.15:
                self._sum(name, inputs)
            elif kind < 0.3:
                self._pool(name)
            else:
                self._conv(name, inputs)
        if not self.layers:
            self._conv("layer", inputs)
        read = {name for layer in self.layers for name in layer.inputs}
        outputs = [v.output for v in self.layers if v.output not in read or pick.random() < 0.15]
        return Region("random", tuple(self.tensors), tuple(self.layers), tuple(inputs),
                      tuple(outputs))  # fmt: skip

    def choices(self, region: Region) -> dict[str, Choice]:
        """For some of the layers, any tiling that is possible."""
        result = {}
        for layer in region.layers:
            if self.source.random() < 0.4:
                continue
            work = normalize(layer, region, self.config)
            found = [t for t in candidates(work, self.config)
                     if not Layout(work, t, self.config).refusal()]  # fmt: skip
            tiling = self.source.choice(found)
            smaller = replace(tiling, rows=self.source.randint(1, tiling.rows),
                              cols=self.source.randint(1, tiling.cols))  # fmt: skip
            if not Layout(work, smaller, self.config).refusal():
                tiling = self.source.choice([tiling, smaller])
            padded = replace(tiling, borders="pad")
            if has_borders(work) and not Layout(work, padded, self.config).refusal():
                tiling = self.source.choice([tiling, padded])
            result[layer.name] = tiling.choice()
        return result

    def _conv(self, name: str, inputs: list[str]) -> None:
        pick, block = self.source, self.config.block
        data = pick.choice(self.tensors)
        kernel = (pick.choice([1, 1, 2, 3, 3, 5]), pick.choice([1, 1, 2, 3, 3, 5]))
        if pick.random() < 0.6:
            kernel = pick.choice([(1, 1), (3, 3)])
        dilation = (1, 1) if pick.random() < 0.8 else (pick.randint(1, 2), pick.randint(1, 3))
        a, b, c, d = (pick.randint(0, 2) for _ in range(4))
        padding = pick.choice([
            (0, 0, 0, 0), (kernel[0] // 2, kernel[1] // 2) * 2, (a, b, c, d),
        ])  # fmt: skip
        strides = pick.choice([(1, 1), (1, 1), (2, 2), (pick.randint(1, 3), pick.randint(1, 3))])
        grouping = pick.choice(["dense"] * 4 + ["depthwise", "grouped"])
        groups, outputs = 1, pick.choice([1, block - 1, block, 2 * block, 2 * block + 3])
        if grouping == "depthwise":
            groups = outputs = data.channels
        elif grouping == "grouped":
            groups = max(g for g in (1, 2, 3, 4) if data.channels % g == 0)
            outputs = groups * pick.randint(1, block // 2 + 1)
        spread = pick.choice([3, 20, 127])
        shape = (outputs, data.channels // groups, *kernel)
        weight = np.clip(np.rint(self.numbers.normal(0, spread, shape)), -127, 127).astype(np.int8)
        largest = pick.choice([0, 50, 20_000, 400_000, 5_000_000])
        bias = self.numbers.integers(-largest, largest + 1, outputs).astype(np.int32)
        if pick.random() < 0.2:
            bias[:] = bias[0]
        made = Conv2d(name, data.name, f"{name}.out", weight, bias, (Step(0),), strides, padding,
                      dilation, groups)  # fmt: skip
        size = (outputs, *self._size(made, data))
        if min(size) < 1:
            return self._conv(name, inputs)
        low, high = self._bound(made, data)
        typical = max(1, int(max(abs(low), abs(high)) ** 0.75))
        steps = self._steps(size, inputs, typical.bit_length() - 7, products=True)
        self.tensors.append(Tensor(made.output, *size))
        self.layers.append(replace(made, steps=steps))
        kind = "dense" if kernel == (1, 1) and size[1:] == (1, 1) else "conv2d"
        self.kinds[grouping if grouping != "dense" else kind] += 1
        return None

    def _sum(self, name: str, inputs: list[str]) -> None:
        size = self.source.choice(self.tensors).shape
        steps = self._steps(size, inputs, self.source.randint(0, 3), products=False)
        self.tensors.append(Tensor(f"{name}.out", *size))
        self.layers.append(Sum(name, f"{name}.out", steps))
        self.kinds["sum"] += 1

    def _pool(self, name: str) -> None:
        pick = self.source
        data = pick.choice(self.tensors)
        kernel = (pick.randint(1, 3), pick.randint(1, 3))
        padding = (0, 0, 0, 0)
        if pick.random() < 0.4:
            top, left, bottom, right = (pick.randint(0, kernel[n % 2] - 1) for n in range(4))
            padding = (top, left, bottom, right)
        limits = pick.choice([(-128, 127), (-128, 127), (0, 127), (-3, 60)])
        made = MaxPool2d(name, data.name, f"{name}.out", kernel,
                         (pick.randint(1, 2), pick.randint(1, 3)), padding, *limits)  # fmt: skip
        size = (data.channels, *self._size(made, data))
        if min(size) < 1:
            return
        self.tensors.append(Tensor(made.output, *size))
        self.layers.append(made)
        self.kinds["max_pool2d"] += 1

    def _steps(
        self, size: tuple[int, int, int], inputs: list[str], shift: int, *, products: bool
    ) -> tuple[Step, ...]:
        pick = self.source
        steps = []
        for n in range(pick.choice([1, 1, 2, 3])):
            amount = max(0, shift + pick.randint(-1, 1)) if n == 0 else pick.randint(0, 3)
            adds = []
            for _ in range(pick.choice([0, 0, 1, 2]) or int(n == 0 and not products)):
                place = max(0, amount + pick.randint(-2, 2)) if n == 0 else pick.randint(0, 8)
                adds.append(Addend(self._operand(size, inputs), min(place, 12)))
            per_channel = pick.random() < 0.15
            shifts = tuple(amount + pick.randint(0, 3) for _ in range(size[0]))
            low, high = pick.choice([(-128, 127), (0, 127), (0, 96), (-20, 100), (-50, -3)])
            steps.append(Step(shifts if per_channel else amount, low, high, tuple(adds),
                              pick.choice([0, 0, 1, 3]) if n else 0))  # fmt: skip
        return tuple(steps)

    def _operand(self, size: tuple[int, int, int], inputs: list[str]) -> str:
        fitting = [t.name for t in self.tensors if t.shape == size]
        if fitting and self.source.random() < 0.9:
            return self.source.choice(fitting)
        name = f"in{len(inputs)}"
        inputs.append(name)
        self.tensors.append(Tensor(name, *size))
        return name

    def _size(self, layer: Conv2d | MaxPool2d, data: Tensor) -> tuple[int, int]:
        stand_in = object.__new__(Region)
        object.__setattr__(stand_in, "tensors", (data,))
        return output_shape(layer, stand_in)[1:]

    def _bound(self, layer: Conv2d, data: Tensor) -> tuple[int, int]:
        total = int(np.abs(layer.weight.astype(np.int64)).reshape(len(layer.bias), -1).sum(1).max())
        most = 128 * total + int(np.abs(layer.bias).max())
        return -most, most


def check(source: random.Random, config: VtaConfig, *, tilings: bool = True) -> Maker:
    """Build a random region, run it on the simulator, compare every output bit for bit.

    Returns:
        What made the region, with counts of its layers.

    Raises:
        AssertionError: Bits differ, or a rule of the hardware is broken.
    """
    maker = Maker(source, config)
    region = maker.region()
    reasons = [refusal(layer, region, config) for layer in region.layers]
    if any(reasons):
        maker.kinds = Counter(refused=sum(map(bool, reasons)))
        return maker
    built = build_program(region, config, maker.choices(region) if tilings else None)
    run_and_compare(built, maker.numbers)
    return maker


def run_and_compare(built: Built, numbers: np.random.Generator) -> int:
    """Run a region on random inputs and compare its outputs with the reference's.

    Returns:
        Simulated cycles.
    """
    region = built.region
    inputs = {}
    for name in region.inputs:
        item = region.tensor(name)
        inputs[name] = numbers.integers(item.low, item.high + 1, item.shape).astype(np.int8)
    wanted = reference_run(region, inputs)
    outputs, result = built.run(inputs)
    result.check()
    assert result.finished
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    return result.cycles
