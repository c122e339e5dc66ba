"""A region as a VTA program: one stream of instructions for all of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.space import Choice
from schedules.vta.defaults import default_tiling
from schedules.vta.emitter import Emitter
from schedules.vta.layers import Conv2d, Layer, MaxPool2d, Region
from schedules.vta.packing import pack_tensor, packed_shape, unpack_tensor
from schedules.vta.steps import CONSTANT_INPUT, IDENTITIES, UOPS, Chip, LayerSteps, Step
from schedules.vta.stream import LimitError, Stream
from schedules.vta.tiling import Layout, Tiling
from schedules.vta.work import Refused, normalize
from targets.errors import TargetError
from targets.vta.checks import FIRST_ADDRESS
from targets.vta.config import INSTRUCTION_BYTES, VtaConfig
from targets.vta.isa import Gemm, Instruction, Load, Store, encode
from targets.vta.program import Buffer, Program
from targets.vta.simulator import Simulation, simulate
from targets.vta.timing import element_bytes

#: Buffers begin at multiples of this many bytes: a page, so that a host can map each.
PAGE = 4096
#: Activations within the scratch memory begin at multiples of this: a burst of the bus.
_BURST = 128
SCRATCH = "scratch"


class LoweringError(TargetError):
    """A region cannot be lowered to this VTA."""


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """How one layer was lowered.

    Attributes:
        name: The layer's.
        operator: ``conv2d``, ``depthwise_conv2d``, ``sum`` or ``max_pool2d``.
        choice: What was chosen: the tiling.
        macs: Multiply-accumulates of the layer by its definition (zeros of padding counted);
            0 for a sum or a pooling.
        steps: GEMM steps that it takes (products of blocks), without resets.
        weight_bytes: Of its packed weights, biases included.
    """

    name: str
    operator: str
    choice: Choice
    macs: int
    steps: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an activation lies.

    Attributes:
        buffer: Name of the program's buffer.
        offset: Bytes from the buffer's begin.
        shape: Packed, see `packing.packed_shape`.
    """

    buffer: str
    offset: int
    shape: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A lowered region.

    Attributes:
        region: What was lowered.
        program: The program; inputs and outputs are buffers of their tensors' names.
        layers: One entry for each of the region's.
        owners: int16 (instructions,): index of the layer that each instruction works for; -1:
            none. A layer's instructions are not all next to each other, for its first loads run
            while the layer before is computed.
        relocations: int16 (instructions,): index into ``program.buffers`` of the buffer that the
            instruction's DRAM address lies in; -1: it has no address.
        places: Where each activation lies, by name. Scratch memory is used again.
    """

    region: Region
    program: Program
    layers: tuple[BuiltLayer, ...]
    owners: npt.NDArray[np.int16]
    relocations: npt.NDArray[np.int16]
    places: Mapping[str, Place]

    @property
    def config(self) -> VtaConfig:
        """The VTA that it was lowered for."""
        return self.program.config

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.int8]], *, checks: bool = True
    ) -> tuple[dict[str, npt.NDArray[np.int8]], Simulation]:
        """Run the program on the simulator.

        Args:
            inputs: int8 arrays of the region's inputs, (channels, height, width).
            checks: Look for violations.

        Returns:
            The region's outputs, and what the simulator saw.
        """
        packed = {
            name: pack_tensor(inputs[name], self.region.tensor(name), self.config)
            for name in self.region.inputs
        }
        result, dram = simulate(self.program.with_contents(packed), checks=checks)
        outputs = {}
        for name in self.region.outputs:
            data = self.program.read(self.places[name].buffer, dram)
            outputs[name] = unpack_tensor(data, self.region.tensor(name), self.config)
        return outputs, result


def build_program(
    region: Region, config: VtaConfig, choices: Mapping[str, Choice] | None = None
) -> Built:
    """Lower a region.

    Args:
        region: The layers.
        config: The VTA.
        choices: Tilings by name of layer, such as records hold; the analytic model chooses for
            layers that are not named.

    Raises:
        LoweringError: A layer cannot be lowered for this VTA (`fits.refusal` says so
            beforehand), or a choice does not fit its layer.
    """
    layouts = [_layout(layer, region, config, (choices or {}).get(layer.name))
               for layer in region.layers]  # fmt: skip
    arena = _Arena(region, config)
    chip = Chip(config, arena.elements, arena.size)
    stream = Stream(config, arena.size)
    emitter = Emitter(stream)
    try:
        emitter.run(_steps(layouts, chip))
    except LimitError as error:
        raise LoweringError(str(error), where=f"region {region.name} on {config.name}") from error
    contents = {name: np.concatenate(pieces) for name, pieces in chip.constants.items()}
    buffers, contents, end = _constants(arena, contents, chip, config)
    names = {b.name: n for n, b in enumerate(buffers)}
    relocations = np.full(len(stream.entries), -1, dtype=np.int16)
    words = []
    for n, instruction in enumerate(stream.instructions()):
        placed: Instruction = instruction
        if isinstance(instruction, Load | Store) and not instruction.is_noop:
            name = emitter.buffers.get(n) or arena.buffer_at(instruction.dram_base)
            relocations[n] = names[name]
            begin = buffers[names[name]].address if n in emitter.buffers else FIRST_ADDRESS
            begin //= element_bytes(instruction.memory, config)
            placed = replace(instruction, dram_base=begin + instruction.dram_base)
        words.append(encode(placed, config))
    code = np.frombuffer(b"".join(words), dtype=np.uint8).reshape(-1, INSTRUCTION_BYTES)
    program = Program(config, code, end, end + code.size, tuple(buffers), contents)
    owners = np.array([e.owner for e in stream.entries], dtype=np.int16)
    layers = tuple(
        _built_layer(layout, layer, stream, n, contents)
        for n, (layout, layer) in enumerate(zip(layouts, region.layers, strict=True))
    )
    return Built(region, program, layers, owners, relocations, arena.places())


def _layout(layer: Layer, region: Region, config: VtaConfig, choice: Choice | None) -> Layout:
    where = f"layer {layer.name} on {config.name}"
    if (config.inp_bits, config.wgt_bits, config.out_bits) != (8, 8, 8):
        raise LoweringError("only inputs, weights and outputs of 8 bits are lowered", where=where)
    try:
        work = normalize(layer, region, config)
        tiling = default_tiling(work, config) if choice is None else Tiling.of(choice)
    except (Refused, ValueError) as error:
        raise LoweringError(str(error), where=where) from error
    layout = Layout(work, tiling, config)
    why = "" if choice is None else layout.refusal()
    if why:
        raise LoweringError(f"the choice does not fit: {why}", where=where)
    return layout


def _steps(layouts: list[Layout], chip: Chip) -> Iterator[Step]:
    for owner, layout in enumerate(layouts):
        yield from LayerSteps(layout, owner, chip)


class _Arena:
    """DRAM for activations: a buffer for each input and output, one for all others.

    Scratch memory is given to a tensor from the layer that writes it to the last that reads it.
    """

    def __init__(self, region: Region, config: VtaConfig) -> None:
        self._config = config
        self._region = region
        self._buffers: list[tuple[str, str, int, int]] = []
        self.elements: dict[str, int] = {}
        self._offsets: dict[str, tuple[str, int]] = {}
        size = config.inp_bytes
        at = 0
        for role, names in (("input", region.inputs), ("output", region.outputs)):
            for name in names:
                if name in self._offsets:
                    continue
                length = self._bytes(name)
                self._offsets[name] = (name, 0)
                self.elements[name] = at // size
                self._buffers.append((name, role, at, length))
                at = _up(at + length, PAGE)
        scratch = self._scratch()
        length = max((begin + self._bytes(name) for name, begin in scratch.items()), default=0)
        for name, begin in scratch.items():
            self._offsets[name] = (SCRATCH, begin)
            self.elements[name] = (at + begin) // size
        if length:
            self._buffers.append((SCRATCH, "scratch", at, length))
            at = _up(at + length, PAGE)
        self.end = at
        self.size = at // size

    def buffers(self) -> list[Buffer]:
        """All of them, at their addresses."""
        result = []
        for name, role, begin, length in self._buffers:
            shape: tuple[int, ...] = (length,)
            if role != "scratch":
                shape = packed_shape(self._region.tensor(name), self._config)
            result.append(Buffer(name, role, FIRST_ADDRESS + begin, "int8", shape))
        return result

    def buffer_at(self, element: int) -> str:
        """The buffer that holds an element."""
        begin = element * self._config.inp_bytes
        return next(n for n, _, at, length in self._buffers if at <= begin < at + length)

    def places(self) -> dict[str, Place]:
        """Where every activation lies."""
        return {
            t.name: Place(*self._offsets[t.name], packed_shape(t, self._config))
            for t in self._region.tensors
            if t.name in self._offsets
        }

    def _bytes(self, name: str) -> int:
        return int(np.prod(packed_shape(self._region.tensor(name), self._config)))

    def _scratch(self) -> dict[str, int]:
        """Offsets of the tensors that only layers see: first fit, by lifetime."""
        region = self._region
        born = {layer.output: n for n, layer in enumerate(region.layers)}
        last = dict(born)
        for n, layer in enumerate(region.layers):
            for name in layer.inputs:
                last[name] = n
        placed: dict[str, tuple[int, int]] = {}
        for layer in region.layers:
            name = layer.output
            if name in self._offsets:
                continue
            length = self._bytes(name)
            alive = sorted(
                span for other, span in placed.items()
                if last[other] >= born[name] and born[other] <= last[name]
            )  # fmt: skip
            at = 0
            for begin, end in alive:
                if begin >= at + length:
                    break
                at = max(at, _up(end, max(_BURST, self._config.inp_bytes)))
            placed[name] = (at, at + length)
        return {name: begin for name, (begin, _) in placed.items()}


def _constants(
    arena: _Arena, contents: dict[str, npt.NDArray[Any]], chip: Chip, config: VtaConfig
) -> tuple[list[Buffer], dict[str, npt.NDArray[Any]], int]:
    """Buffers of activations and constants, what the latter hold, and the first free address."""
    buffers = arena.buffers()
    at = FIRST_ADDRESS + arena.end
    result: dict[str, npt.NDArray[Any]] = {}
    pieces = [*sorted(contents.items()), (UOPS, chip.uops.table())]
    for name, array in pieces:
        shape: tuple[int, ...] = array.shape
        if name.startswith("vectors:"):
            shape = (len(array), config.batch, config.block)
        elif name == CONSTANT_INPUT:
            shape = (1, config.batch * config.block)
        elif name == IDENTITIES or name.startswith("weights:"):
            shape = (len(array), config.block, config.block)
        role = "uop" if name == UOPS else "weight"
        made = Buffer(name, role, at, str(array.dtype), shape)
        buffers.append(made)
        result[name] = array.reshape(shape)
        at = _up(made.end, PAGE)
    return buffers, result, at


def _built_layer(
    layout: Layout, layer: Layer, stream: Stream, owner: int, contents: dict[str, npt.NDArray[Any]]
) -> BuiltLayer:
    steps = sum(
        e.instruction.steps for e in stream.entries
        if e.owner == owner and isinstance(e.instruction, Gemm) and not e.instruction.reset
    )  # fmt: skip
    macs, operator = 0, "max_pool2d" if isinstance(layer, MaxPool2d) else "sum"
    if isinstance(layer, Conv2d):
        pixels = layout.work.output.height * layout.work.output.width
        macs = int(np.prod(layer.weight.shape)) * pixels
        operator = "conv2d" if layer.groups == 1 else "grouped_conv2d"
        if layer.groups == layer.weight.shape[0]:
            operator = "depthwise_conv2d" if layer.groups > 1 else operator
    weights = contents.get(f"weights:{layer.name}")
    return BuiltLayer(
        layer.name, operator, layout.tiling.choice(), macs, steps,
        0 if weights is None else weights.nbytes,
    )  # fmt: skip


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


__all__ = ["Built", "BuiltLayer", "LoweringError", "Place", "build_program"]
