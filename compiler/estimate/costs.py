"""Cycles of blocks of code by `llvm-mca`, LLVM's model of a processor's pipelines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compiler.errors import EmulationError
from compiler.estimate.chains import carried_cycles
from compiler.estimate.counting import Block
from compiler.estimate.issue import IN_ORDER, issue_cycles
from compiler.estimate.models import mended
from compiler.estimate.traces import traces
from targets.spec import TargetSpec

#: Blocks whose instructions are together this share of all are modelled; the rest is taken to
#: run at their mean rate.
COVERED = 0.995
#: Processors that another one's model stands in for, and instructions that they take in a cycle
#: where it is not the model's number. LLVM 19 gives Cortex-A76 the figures of Cortex-A72; Neoverse
#: N1 is the same core. Of Cortex-A7 LLVM has only itineraries, which llvm-mca does not read. Of the
#: 32-bit cores that it has a model of, Swift is an ARMv7-A one whose model knows what kernels are
#: made of: Cortex-A9's (and A15's) lacks loads of several registers, Cortex-R52's most of NEON.
#: Swift takes three instructions, Cortex-A7 two, in order and with narrower units
#: (`compiler.estimate.issue`).
_MODELS = {"cortex-a76": ("neoverse-n1", None), "cortex-a7": ("swift", 2)}
#: Two numbers of iterations; the difference of their cycles leaves out how pipelines fill.
_FEW, _MANY = 8, 24
#: Blocks of one call of llvm-mca.
_BATCH = 200
#: What no kernel has, put between blocks: bytes, and what the disassembler calls them.
_SEPARATORS = {
    "aarch64": ("0x00 0x00 0x00 0x00", "udf"),
    "arm": ("0xf0 0x00 0xf0 0xe7", "udf"),
    "x86_64": ("0x0f 0x0b", "ud2"),
}
#: x86's instructions on strings by themselves: the emulator counts every byte or word, llvm-mca
#: takes each for a program. A processor moves 32 bytes a cycle.
_STRINGS = {
    bytes.fromhex("f3aa"): 1 / 32, bytes.fromhex("f3a4"): 1 / 32,
    bytes.fromhex("f348ab"): 1 / 4, bytes.fromhex("f348a5"): 1 / 4,
}  # fmt: skip
#: Prefixes of x86 that the disassembler writes on a line of their own.
_PREFIXES = frozenset(("lock", "rep", "repne", "repe", "data16", "notrack", "bnd", "xacquire"))
_PAGE = 4096
_SECONDS = 600
_VERSION = re.compile(r"LLVM version (\d+)")


@dataclass(frozen=True, slots=True)
class CostModel:
    """A program and what it is told.

    Attributes:
        version: LLVM's release.
        processor: LLVM's name of the processor that is modelled.
        stands_for: LLVM's name of the target's processor, if that is another one.
        width: Instructions that it takes in a cycle, if that is not the model's number.
        attributes: Extensions that the target adds to it or takes away: ``+i8mm``, ``-sha2``.
    """

    version: str
    processor: str
    mca: str
    mc: str
    triple: str
    attributes: tuple[str, ...] = ()
    stands_for: str = ""
    width: int | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """The processor and its extensions, for either program."""
        extensions = (f"-mattr={','.join(self.attributes)}",) if self.attributes else ()
        return (f"-mcpu={self.processor}", *extensions)

    @property
    def family(self) -> str:
        """The instruction set: ``x86_64``, ``aarch64``, or ``arm`` for 32-bit ARM's."""
        first = self.triple.partition("-")[0]
        return first if first in ("x86_64", "aarch64") else "arm"

    @property
    def in_order(self) -> bool:
        """Whether code takes at least the cycles that `issue_cycles` gives, and these alone."""
        return self.stands_for in IN_ORDER

    @property
    def is_x86(self) -> bool:
        """Whether it is a processor of the x86 family."""
        return self.family == "x86_64"

    def __str__(self) -> str:
        stands_for = f" for {self.stands_for}" if self.stands_for else ""
        return f"llvm-mca {self.version}, {self.processor}{stands_for}"


def cost_model(spec: TargetSpec) -> CostModel:
    """The distribution's llvm-mca, or the newest beside it if that is old, for a processor.

    Raises:
        EmulationError: There is none.
    """
    for release in ("", *(f"-{n}" for n in range(30, 13, -1))):
        mca, mc = shutil.which(f"llvm-mca{release}"), shutil.which(f"llvm-mc{release}")
        if mca and mc:
            text = subprocess.run([mca, "--version"], capture_output=True, text=True, check=False)
            found = _VERSION.search(text.stdout)
            version = found[1] if found else "?"
            if not release and version != "?" and int(version) < 19:
                continue  # the distribution's default; a newer one may be beside it
            processor = str(spec.tvm.get("mcpu", "generic"))
            triple = str(spec.tvm.get("mtriple", "x86_64-unknown-linux-gnu"))
            name, width = _MODELS.get(processor, (processor, None))
            attributes = tuple(map(str, spec.tvm.get("mattr", ())))
            stands_for = processor if name != processor else ""
            return CostModel(version, name, mca, mc, triple, attributes, stands_for, width)
    raise EmulationError(
        "llvm-mca is not installed",
        where=spec.name,
        hint="apt-get install llvm-19 (models of recent cores need a recent LLVM)",
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What code takes.

    Attributes:
        cycles: In the pipelines, as llvm-mca runs it.
        bound: That it could not go below in any order: its busiest units, and letting it in.
    """

    cycles: float
    bound: float


class BlockCosts:
    """Cycles of code, each piece asked of llvm-mca once. Threads may share it.

    Args:
        model: The program.
    """

    def __init__(self, model: CostModel) -> None:
        self.model = model
        self._known: dict[bytes, Cost] = {}
        if model.is_x86:
            self._known = {code: Cost(each, each) for code, each in _STRINGS.items()}
        self._lock = threading.Lock()

    def totals(self, blocks: Sequence[Block]) -> list[float]:
        """Cycles in the pipelines of all runs of each block; see `costs`."""
        return [cost.cycles for cost in self.costs(blocks)]

    def costs(self, blocks: Sequence[Block]) -> list[Cost]:
        """What all runs of each block take, in order.

        Blocks that run one after the other are estimated together.

        Args:
            blocks: What ran, with the addresses that it ran at.

        Raises:
            EmulationError: llvm-mca fails.
        """
        found = traces(blocks, jumps=self.model.is_x86)
        thumb = _thumb_pages(blocks) if self.model.family == "arm" else frozenset()
        asked = [t for t in found if blocks[t.blocks[0]].address // _PAGE not in thumb]
        costs = self._costs([(trace.code, trace.count * trace.instructions) for trace in asked])
        weight = sum(t.count * t.instructions for t in asked if t.code in costs)
        if found and not weight:
            raise EmulationError("llvm-mca knows none of the code", where=str(self.model))
        known = [(t.count, costs[t.code]) for t in asked if t.code in costs]
        mean = Cost(
            sum(count * cost.cycles for count, cost in known) / max(1, weight),
            sum(count * cost.bound for count, cost in known) / max(1, weight),
        )
        cycles, bounds = [0.0] * len(blocks), [0.0] * len(blocks)
        for trace in found:
            cost, size = costs.get(trace.code), max(1, trace.instructions)
            if cost is None:
                cost, size = mean, 1
            for i in trace.blocks:
                share = trace.count * blocks[i].instructions / size
                cycles[i] += share * cost.cycles
                bounds[i] += share * cost.bound
        return [Cost(*pair) for pair in zip(cycles, bounds, strict=True)]

    def _costs(self, work: Sequence[tuple[bytes, int]]) -> dict[bytes, Cost]:
        """Costs of the pieces of code that together make up nearly all work."""
        weights: dict[bytes, int] = {}
        for code, weight in work:
            weights[code] = weights.get(code, 0) + weight
        total, seen = sum(weights.values()), 0
        hot: list[bytes] = []
        for code, weight in sorted(weights.items(), key=lambda item: -item[1]):
            hot.append(code)
            seen += weight
            if seen >= COVERED * total:
                break
        with self._lock:
            found = {code: self._known[code] for code in hot if code in self._known}
        unknown = [code for code in hot if code not in found]
        for start in range(0, len(unknown), _BATCH):
            found.update(_analyze(unknown[start : start + _BATCH], self.model))
        with self._lock:
            self._known.update(found)
        return found


def _thumb_pages(blocks: Sequence[Block]) -> frozenset[int]:
    """Pages of 32-bit ARM's other instruction set, which the C library is made of.

    Kernels are not; what they call there takes the mean rate. Instructions of 2 bytes tell it.
    """
    return frozenset(
        block.address // _PAGE
        for block in blocks
        if len(block.code) != 4 * block.instructions or block.address % 4
    )


def _analyze(codes: Sequence[bytes], model: CostModel) -> dict[bytes, Cost]:
    """What one run of each piece of code takes among many, one after the other."""
    disassembled = _disassemble(codes, model)
    asked = [mended(lines, model.processor) for lines in disassembled]
    found = {}
    for code, lines, cost in zip(codes, disassembled, _costs_of(asked, model), strict=True):
        if cost is not None:
            least = _least_cycles(lines, model)
            found[code] = Cost(max(least, cost.cycles), cost.bound)
    return found


def cycles_of_lines(pieces: Sequence[Sequence[str]], model: CostModel) -> list[float | None]:
    """Cycles that llvm-mca says one run of each piece of assembly takes among many.

    Args:
        pieces: Instructions, as `llvm-mc` prints them.
        model: The program.

    Returns:
        None for a piece with an instruction that the model does not know.

    Raises:
        EmulationError: llvm-mca fails.
    """
    return [None if cost is None else cost.cycles for cost in _costs_of(pieces, model)]


def _costs_of(pieces: Sequence[Sequence[str]], model: CostModel) -> list[Cost | None]:
    text = []
    for i, lines in enumerate(pieces):
        text += [f"# LLVM-MCA-BEGIN b{i}", *lines, f"# LLVM-MCA-END b{i}"]
    assembly, lengths = "\n".join(text) + "\n", [len(lines) for lines in pieces]
    few, many = (_run_regions(assembly, n, lengths, model) for n in (_FEW, _MANY))
    return [
        Cost(max(0.0, (many[i].cycles - few[i].cycles) / (_MANY - _FEW)), many[i].bound)
        if i in few and i in many
        else None
        for i in range(len(pieces))
    ]


def _least_cycles(lines: Sequence[str], model: CostModel) -> float:
    """Cycles of one run that llvm-mca does not see."""
    if model.in_order:
        return issue_cycles(lines)
    return carried_cycles(lines) if model.is_x86 else 0.0


def _run_regions(
    assembly: str, iterations: int, lengths: Sequence[int], model: CostModel
) -> dict[int, Cost]:
    """Cycles of so many iterations of each region, by its number, and the bound of one.

    Regions with instructions that the model does not know are left out: their cycles would be
    too few.
    """
    regions = _simulate(assembly, iterations, model)
    try:
        views = {int(region["Name"][1:]): region["SummaryView"] for region in regions}
        return {
            number: Cost(float(view["TotalCycles"]), float(view["BlockRThroughput"]))
            for number, view in views.items()
            if int(view["Instructions"]) >= iterations * lengths[number]
        }
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _unclear(error, model) from error


def _simulate(assembly: str, iterations: int, model: CostModel) -> list[dict[str, Any]]:
    command = [
        model.mca, f"-mtriple={model.triple}", *model.options, f"-iterations={iterations}",
        *([f"-dispatch={model.width}"] if model.width else []), "-json",
        "-skip-unsupported-instructions=any", "-instruction-info=false",
        "-resource-pressure=false",
    ]  # fmt: skip
    answer = _run(command, assembly)
    try:
        regions: list[dict[str, Any]] = json.loads(answer[answer.index("{") :])["CodeRegions"]
    except (ValueError, KeyError, TypeError) as error:
        raise _unclear(error, model) from error
    return regions


def _unclear(error: Exception, model: CostModel) -> EmulationError:
    return EmulationError(f"llvm-mca's answer cannot be understood: {error}", where=str(model))


def _disassemble(codes: Sequence[bytes], model: CostModel) -> list[list[str]]:
    """The instructions of each block.

    On x86 the emulator's last instruction of a page may be cut off; it is left out.
    """
    command = [model.mc, "--disassemble", f"-triple={model.triple}", *model.options]
    mark, trap = _SEPARATORS[model.family]
    groups = [" ".join(f"0x{byte:02x}" for byte in code) for code in codes]
    # Brackets keep what is before a separator from swallowing it.
    text = f"\n[{mark}]\n".join(f"[{group}]" for group in groups)
    blocks: list[list[str]] = [[]]
    for line in _run(command, text + "\n", partial=model.is_x86).splitlines():
        lines, word = blocks[-1], line.strip()
        if not word or line.startswith("\t."):
            continue
        if word.partition("\t")[0] == trap:
            blocks.append([])
        elif lines and lines[-1].strip() in _PREFIXES:
            lines[-1] += f" {word}"
        else:
            lines.append(line)
    if len(blocks) != len(codes):
        raise EmulationError("the code cannot be disassembled", where=str(model))
    return blocks


def _run(command: list[str], text: str, *, partial: bool = False) -> str:
    """What a program answers; with `partial` also if it warns of a part that it cannot read."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False,
            start_new_session=True,  # Ctrl-C ends the search, and not a candidate's figures
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise EmulationError(f"{command[0]} failed: {error}", where="estimate") from error
    if done.returncode and not (partial and done.returncode > 0 and done.stdout.strip()):
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise EmulationError(f"{command[0]} failed: {lines[0][:200]}", where="estimate")
    return done.stdout


__all__ = ["COVERED", "BlockCosts", "Cost", "CostModel", "cost_model", "cycles_of_lines"]
