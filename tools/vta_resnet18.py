"""How long the VTA simulator takes for ResNet-18's convolutions: ``python -m tools.vta_resnet18``.

The program is synthetic: plainly tiled, double-buffered convolutions with shift and clip, one
after another in one stream, with random data; all of ResNet-18's but the first. It is about as
long and moves about as much as a compiled one, and breaks no rule.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.vta import (
    Alu,
    AluOp,
    Buffer,
    Finish,
    Gemm,
    Instruction,
    Load,
    Memory,
    Program,
    Store,
    Uop,
    VtaConfig,
    encode,
    encode_uop,
    simulate,
)
from targets.vta.checks import FIRST_ADDRESS


@dataclass(frozen=True)
class Conv:
    """A convolution; channels in blocks, spatial sizes in pixels."""

    in_blocks: int
    out_blocks: int
    size: int
    kernel: int = 3
    stride: int = 1

    @property
    def out_size(self) -> int:
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def steps(self) -> int:
        return self.in_blocks * self.out_blocks * self.kernel**2 * self.out_size**2


def resnet18() -> list[Conv]:
    layers = [Conv(4, 4, 56)] * 4
    for blocks, size in ((8, 28), (16, 14), (32, 7)):
        layers += [Conv(blocks // 2, blocks, 2 * size, stride=2)]
        layers += [Conv(blocks // 2, blocks, 2 * size, kernel=1, stride=2)]
        layers += [Conv(blocks, blocks, size)] * 3
    return layers


@dataclass
class Emitter:
    """Instructions of convolutions, their micro-ops and buffers."""

    config: VtaConfig
    shift: int = 10
    code: list[Instruction] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    contents: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    at: int = FIRST_ADDRESS

    def buffer(self, name: str, role: str, dtype: str, shape: tuple[int, ...]) -> Buffer:
        made = Buffer(name, role, self.at, dtype, shape)
        self.buffers.append(made)
        self.at = -(-made.end // 4096) * 4096
        return made

    def conv(self, layer: Conv, data: Buffer, weight: Buffer, out: Buffer) -> None:
        """One convolution; begins and ends with idle queues and no tokens.

        Both halves of INP and WGT take turns from step to step, those of ACC from tile to tile.
        """
        k, s, width = layer.kernel, layer.stride, layer.out_size
        taps = k * k
        in_tile = 1 if layer.in_blocks % 2 else 2
        row = layer.size + 2 * (k // 2)
        uops: list[int] = []
        known: dict[tuple[int, ...], tuple[int, int]] = {}
        place = len(self.code)

        def window(wanted: list[Uop]) -> tuple[int, int]:
            words = tuple(encode_uop(u, self.config) for u in wanted)
            if words not in known:
                known[words] = (len(uops), len(uops) + len(words))
                uops.extend(words)
            return known[words]

        out_tile = max(
            n for n in range(1, layer.out_blocks + 1)
            if layer.out_blocks % n == 0 and in_tile * n * taps <= 512 and n * width <= 1024
        )  # fmt: skip
        rows = max(
            n for n in range(1, width + 1)
            if n * width * out_tile <= 1024 and in_tile * ((n - 1) * s + k) * row <= 1024
        )  # fmt: skip
        steps = tiles = 0
        for y in range(0, width, rows):
            count = min(rows, width - y)
            pixels = count * width
            for o in range(0, layer.out_blocks, out_tile):
                acc = tiles % 2 * 1024
                begin, end = window([Uop(acc, acc)])
                loops: dict[str, Any] = {"iter_out": out_tile * count, "iter_in": width,
                         "dst_out": width, "dst_in": 1}  # fmt: skip
                self.code.append(Gemm(pop_next=tiles > 1, reset=True, uop_begin=begin,
                                      uop_end=end, **loops))  # fmt: skip
                tiles += 1
                for i in range(0, layer.in_blocks, in_tile):
                    side = steps % 2
                    self._load(layer, data, weight, y, count, o, i, in_tile, out_tile, side,
                               pop=steps > 1)  # fmt: skip
                    steps += 1
                    tile = ((count - 1) * s + k) * row
                    used = window([
                        Uop(acc + b * pixels, side * 1024 + j * tile + ky * row + kx,
                            side * 512 + (b * in_tile + j) * taps + ky * k + kx)
                        for b in range(out_tile) for j in range(in_tile)
                        for ky in range(k) for kx in range(k)
                    ])  # fmt: skip
                    self.code.append(Gemm(
                        pop_prev=True, push_prev=True, uop_begin=used[0], uop_end=used[1],
                        iter_out=count, iter_in=width, dst_out=width, dst_in=1,
                        src_out=s * row, src_in=s,
                    ))  # fmt: skip
                both = {**loops, "src_out": width, "src_in": 1}
                for op, imm in ((AluOp.SHR, self.shift), (AluOp.MAX, 0), (AluOp.MIN, 127)):
                    self.code.append(Alu(op=op, use_imm=True, imm=imm, push_next=op == AluOp.MIN,
                                         uop_begin=begin, uop_end=end, **both))  # fmt: skip
                for b in range(out_tile):
                    self.code.append(Store(
                        memory=Memory.OUT, pop_prev=b == 0, push_prev=b == out_tile - 1,
                        sram_base=acc + b * pixels,
                        dram_base=out.address // self.config.out_bytes
                        + ((o + b) * width + y) * width,
                        y_size=1, x_size=pixels, x_stride=pixels,
                    ))  # fmt: skip
        # Take the tokens that are left, and then let the load queue know that all is stored.
        self.code += [Load(memory=Memory.INP, pop_next=True)] * min(steps, 2)
        self.code += [Load(memory=Memory.UOP, pop_next=True)] * min(tiles, 2)
        self.code.append(Load(memory=Memory.UOP, push_prev=True))
        self.code.append(Load(memory=Memory.INP, pop_next=True))
        table = self.buffer(f"uops of {out.name}".replace(" ", "_"), "uop", "uint32", (len(uops),))
        self.contents[table.name] = np.array(uops, dtype=np.uint32)
        if len(uops) > self.config.usable_uops:
            raise ValueError(f"{len(uops)} micro-ops")
        self.code.insert(place, Load(memory=Memory.UOP, dram_base=table.address // 4, y_size=1,
                                     x_size=len(uops), x_stride=len(uops)))  # fmt: skip

    def _load(
        self, layer: Conv, data: Buffer, weight: Buffer, y: int, count: int, o: int, i: int,
        in_tile: int, out_tile: int, side: int, *, pop: bool,
    ) -> None:  # fmt: skip
        k, s, pad, n = layer.kernel, layer.stride, layer.kernel // 2, layer.size
        row = n + 2 * pad
        top = y * s - pad
        bottom = top + (count - 1) * s + k
        first, last = max(top, 0), min(bottom, n)
        for j in range(in_tile):
            self.code.append(Load(
                memory=Memory.INP, pop_next=pop and j == 0,
                sram_base=side * 1024 + j * (bottom - top) * row,
                dram_base=data.address // self.config.inp_bytes + ((i + j) * n + first) * n,
                y_size=last - first, x_size=n, x_stride=n,
                y_pad0=first - top, y_pad1=bottom - last, x_pad0=pad, x_pad1=pad,
            ))  # fmt: skip
        taps = k * k
        self.code.append(Load(
            memory=Memory.WGT, push_next=True, sram_base=side * 512,
            dram_base=weight.address // self.config.wgt_bytes + (o * layer.in_blocks + i) * taps,
            y_size=out_tile, x_size=in_tile * taps, x_stride=layer.in_blocks * taps,
        ))  # fmt: skip


def program(layers: list[Conv], config: VtaConfig, seed: int = 0) -> Program:
    """The layers one after another; each reads what the one before it wrote, where that fits."""
    random = np.random.default_rng(seed)
    b = config.block
    emit = Emitter(config)
    before: Buffer | None = None
    for n, layer in enumerate(layers):
        shape = (layer.in_blocks, layer.size, layer.size, b)
        data = before
        if data is None or data.shape != shape:
            data = emit.buffer(f"data{n}", "input", "int8", shape)
            emit.contents[data.name] = random.integers(0, 128, shape, dtype=np.int8)
        kernel = (layer.out_blocks, layer.in_blocks, layer.kernel, layer.kernel, b, b)
        weight = emit.buffer(f"weight{n}", "weight", "int8", kernel)
        emit.contents[weight.name] = random.integers(-128, 128, kernel, dtype=np.int8)
        size = layer.out_size
        before = emit.buffer(f"out{n}", "output", "int8", (layer.out_blocks, size, size, b))
        emit.conv(layer, data, weight, before)
    # FINISH waits for the compute queue only.
    emit.code.append(Load(memory=Memory.INP, push_next=True))
    emit.code.append(Load(memory=Memory.UOP, pop_prev=True))
    emit.code.append(Finish())
    stream = np.frombuffer(b"".join(encode(x, config) for x in emit.code), dtype=np.uint8)
    return Program(config, stream.reshape(-1, 16), emit.at, emit.at + stream.size,
                   tuple(emit.buffers), emit.contents)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    layers = resnet18()
    made = program(layers, VtaConfig())
    ideal = sum(layer.steps for layer in layers)
    print(f"{len(made.instructions)} instructions, {ideal} GEMM steps, {made.dram_bytes} bytes")
    for functional in (True, False):
        for checks in (True, False):
            times = []
            for _ in range(args.repeat):
                start = time.perf_counter()
                result, _ = simulate(made, functional=functional, checks=checks)
                times.append(time.perf_counter() - start)
            result.check()
            print(f"functional={functional} checks={checks}: {min(times):.2f} s (best of "
                  f"{args.repeat}), {result.cycles} cycles simulated, "
                  f"{result.utilization:.1%} of the matrix unit")  # fmt: skip


if __name__ == "__main__":
    main()
