"""What each kernel of a model costs on a target that is not here."""

from __future__ import annotations

import bisect
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.deploy.folder import write_deployment
from compiler.errors import EmulationError
from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.counting import Block, count_blocks
from compiler.estimate.memory import (
    Traffic,
    combined_cycles,
    memory_bytes_per_cycle,
    stall_cycles,
)
from compiler.package import Bundle
from compiler.stages import KernelInfo
from targets.spec import TargetSpec

_COMPUTE, _ENTRY = "_compute_", "__tvm_ffi_"


@dataclass(frozen=True, slots=True)
class KernelCost:
    """One kernel's part of an inference.

    Attributes:
        name: Its symbol.
        kind: Kind of operator.
        calls: Calls in one inference.
        instructions: Executed in one inference; counted.
        core_cycles: That the pipelines take if all data is in the first cache; estimated.
        memory_cycles: That its tensors take from where they fit; estimated.
        cycles: By all that is known, at least those of memory if no caches were simulated;
            estimated.
        flops: Arithmetic operations in one inference.
        stall_cycles: That reading and writing adds; estimated.
        misses: Of each cache, the nearest first; simulated.
    """

    name: str
    kind: str
    calls: int
    instructions: int
    core_cycles: float
    memory_cycles: float
    cycles: float
    flops: float
    stall_cycles: float = 0.0
    misses: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model costs on a target.

    Attributes:
        target: Its name.
        model: What estimated the cycles.
        clock_hz: Clock that milliseconds are reckoned by.
        kernels: Dearest first. Code that belongs to no kernel is under ``(other)``.
    """

    target: str
    model: str
    clock_hz: float
    kernels: tuple[KernelCost, ...]

    @property
    def instructions(self) -> int:
        """Executed in one inference, counted."""
        return sum(kernel.instructions for kernel in self.kernels)

    @property
    def cycles(self) -> float:
        """Of one inference, estimated."""
        return sum(kernel.cycles for kernel in self.kernels)

    @property
    def milliseconds(self) -> float:
        """Of one inference at the target's clock, estimated; ratios are worth more."""
        return 1e3 * self.cycles / self.clock_hz


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """What ran in one inference.

    Attributes:
        blocks: Of the model's own code, by address.
        symbols: Address and kernel of every function, by address.
    """

    blocks: tuple[Block, ...]
    symbols: tuple[tuple[int, str], ...]


def count_model(
    bundle: Bundle, *, wheels: Path | None = None, processor: TargetSpec | None = None
) -> ModelCounts:
    """Run one inference in emulation, on its golden inputs and one thread, and count.

    Arguments and errors as those of `estimate_model`.
    """
    spec = bundle.target
    if bundle.vta is not None:
        raise EmulationError(
            "what runs on VTA is not counted by an emulator of a processor",
            where=spec.name,
            hint="the report has the simulator's cycles: tilewright report",
        )
    with tempfile.TemporaryDirectory(prefix="tilewright-estimate-") as work:
        folder = write_deployment(bundle, Path(work) / "model", wheels=wheels).path
        blocks = count_blocks(folder, spec, processor or spec)
        return ModelCounts(blocks, _symbols(folder / "module.so"))


def estimate_counts(
    bundle: Bundle, counts: ModelCounts, *, processor: TargetSpec | None = None
) -> ModelCost:
    """Estimate the cycles of an inference that was counted.

    Args:
        bundle: The model.
        counts: What ran of it.
        processor: As in `count_model`, and the same.

    Raises:
        EmulationError: llvm-mca is missing or fails.
    """
    modelled = processor or bundle.target
    costs = BlockCosts(cost_model(modelled))
    kernels = _kernels(counts.blocks, counts.symbols, costs, bundle.kernels, modelled)
    return ModelCost(bundle.target.name, str(costs.model), modelled.clock_hz, kernels)


def estimate_model(
    bundle: Bundle, *, wheels: Path | None = None, processor: TargetSpec | None = None
) -> ModelCost:
    """Count the instructions of one inference, and estimate its cycles.

    The model runs once in emulation on its golden inputs, on one thread. Cycles are put
    together from those of llvm-mca for what ran in a row, from what its busiest units take and from
    the misses of simulated caches (`compiler.estimate.memory`). Mispredicted branches and address
    translation are not modelled: figures rank and compare, they do not date.

    Args:
        bundle: The model, for a machine that QEMU emulates.
        wheels: As in `compiler.deploy.runtime_libraries`.
        processor: Whose pipelines and caches are modelled; by default the target's.

    Raises:
        EmulationError: A program that is needed is missing, the model fails in emulation, or
            parts of it run on VTA.
        DeployError: There is no runtime for the machine.
        FileError: There is no room.
    """
    cost_model(processor or bundle.target)  # before the work, whether there is one
    counts = count_model(bundle, wheels=wheels, processor=processor)
    return estimate_counts(bundle, counts, processor=processor)


def _kernels(
    blocks: Sequence[Block],
    symbols: Sequence[tuple[int, str]],
    costs: BlockCosts,
    infos: Sequence[KernelInfo],
    spec: TargetSpec,
) -> tuple[KernelCost, ...]:
    known = {info.name: info for info in infos}
    starts = [address for address, _ in symbols]
    parts: dict[str, list[Block]] = defaultdict(list)
    core: dict[str, float] = defaultdict(float)
    bound: dict[str, float] = defaultdict(float)
    for block, taken in zip(blocks, costs.costs(blocks), strict=True):
        # The body of a parallel loop has no symbol; it lies behind the function that starts it.
        at = bisect.bisect_right(starts, block.address) - 1
        name = symbols[at][1] if at >= 0 and symbols[at][1] in known else "(other)"
        parts[name].append(block)
        core[name] += taken.cycles
        bound[name] += taken.bound
    result = []
    for name, ran in parts.items():
        info = known.get(name)
        count = sum(block.count * block.instructions for block in ran)
        traffic = Traffic.of(ran)
        stalls = stall_cycles(traffic, spec)
        memory = _memory_cycles(info, spec) if info is not None else 0.0
        together = combined_cycles(core[name], bound[name], stalls, in_order=costs.model.in_order)
        result.append(
            KernelCost(
                name=name,
                kind=info.kind if info is not None else "other",
                calls=info.calls if info is not None else 1,
                instructions=count,
                core_cycles=core[name],
                memory_cycles=memory,
                # With simulated caches its lines from memory are in the stalls.
                cycles=together if traffic.misses else max(together, memory),
                flops=info.flops * info.calls if info is not None else 0.0,
                stall_cycles=stalls,
                misses=traffic.misses,
            )
        )
    return tuple(sorted(result, key=lambda kernel: -kernel.cycles))


def memory_rates(spec: TargetSpec) -> dict[str, float]:
    """Bytes a cycle that one core gets out of each level: ``L1`` and so on, and ``memory``.

    Assumed: 16 out of its first cache (a vector register's load a cycle), 8 out of the second, 4
    out of a third and from main memory, less where the memory is slower by the target's data.
    """
    levels = sorted(spec.caches, key=lambda cache: cache.level)
    rates = {f"L{c.level}": rate for c, rate in zip(levels, (16.0, 8.0, 4.0), strict=False)}
    return {**rates, "memory": memory_bytes_per_cycle(spec)}


def _memory_cycles(info: KernelInfo, spec: TargetSpec) -> float:
    """Cycles to move a kernel's tensors once, from the nearest level that holds them all."""
    size = info.bytes_read + info.bytes_written
    rates = memory_rates(spec)
    for cache in sorted(spec.caches, key=lambda c: c.level):
        if size <= cache.size_bytes and f"L{cache.level}" in rates:
            return info.calls * size / rates[f"L{cache.level}"]
    return info.calls * size / rates["memory"]


def _symbols(library: Path) -> tuple[tuple[int, str], ...]:
    """Address and kernel of every function of a shared object, by address."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    found = []
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise EmulationError("the module has no symbols", where=str(library))
        for symbol in table.iter_symbols():
            if symbol["st_info"]["type"] != "STT_FUNC" or not symbol["st_size"]:
                continue
            name = str(symbol.name).removeprefix(_ENTRY)
            if name.endswith(_COMPUTE):
                name = name.removesuffix(_COMPUTE)
            found.append((int(symbol["st_value"]), name))
    return tuple(sorted(found))


__all__ = [
    "KernelCost",
    "ModelCost",
    "ModelCounts",
    "count_model",
    "estimate_counts",
    "estimate_model",
    "memory_rates",
]
