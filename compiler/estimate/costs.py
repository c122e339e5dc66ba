"""Cycles of blocks of code by `llvm-mca`, LLVM's model of a processor's pipelines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import EmulationError
from compiler.estimate.counting import Block
from targets.spec import TargetSpec

#: Blocks whose instructions are together this share of all are modelled; the rest is taken to
#: run at their mean rate.
COVERED = 0.995
#: LLVM 19 gives Cortex-A76 the figures of Cortex-A72; Neoverse N1 is the same core.
_MODELS = {"cortex-a76": "neoverse-n1"}
#: Two numbers of iterations; the difference of their cycles leaves out how pipelines fill.
_FEW, _MANY = 8, 24
#: Blocks of one call of llvm-mca.
_BATCH = 200
#: What no kernel has, put between blocks: bytes, and what the disassembler calls them.
_SEPARATORS = (("0x00 0x00 0x00 0x00", "udf"), ("0x0f 0x0b", "ud2"))
#: Prefixes of x86 that the disassembler writes on a line of their own.
_PREFIXES = frozenset(("lock", "rep", "repne", "repe", "data16", "notrack", "bnd", "xacquire"))
_SECONDS = 600
_VERSION = re.compile(r"LLVM version (\d+)")


@dataclass(frozen=True, slots=True)
class CostModel:
    """A program and what it is told.

    Attributes:
        version: LLVM's release.
        processor: LLVM's name of the processor.
    """

    version: str
    processor: str
    mca: str
    mc: str
    triple: str

    def __str__(self) -> str:
        return f"llvm-mca {self.version}, {self.processor}"


def cost_model(spec: TargetSpec) -> CostModel:
    """The newest llvm-mca that is installed, for a target's processor.

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
            return CostModel(version, _MODELS.get(processor, processor), mca, mc, triple)
    raise EmulationError(
        "llvm-mca is not installed",
        where=spec.name,
        hint="apt-get install llvm-19 (models of recent cores need a recent LLVM)",
    )


class BlockCosts:
    """Cycles of blocks by their code, each asked of llvm-mca once. Threads may share it.

    Args:
        model: The program.
    """

    def __init__(self, model: CostModel) -> None:
        self.model = model
        self._known: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def cycles(self, blocks: Sequence[Block]) -> dict[bytes, float]:
        """Cycles of one run of each block, in a loop of its own.

        Args:
            blocks: What ran.

        Returns:
            Cycles by a block's code.

        Raises:
            EmulationError: llvm-mca fails.
        """
        weights: dict[bytes, int] = {}
        for block in blocks:
            weights[block.code] = weights.get(block.code, 0) + block.count * block.instructions
        lengths = {block.code: block.instructions for block in blocks}
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
        known = sum(weights[code] for code in found)
        cycles = sum(weights[code] / lengths[code] * found[code] for code in found)
        rate = cycles / known if known else 1.0
        return {code: found.get(code, rate * lengths[code]) for code in weights}


def block_cycles(blocks: Sequence[Block], model: CostModel) -> dict[bytes, float]:
    """As `BlockCosts.cycles`, for once.

    Raises:
        EmulationError: llvm-mca fails.
    """
    return BlockCosts(model).cycles(blocks)


def _analyze(codes: Sequence[bytes], model: CostModel) -> dict[bytes, float]:
    text = []
    for i, lines in enumerate(_disassemble(codes, model)):
        text += [f"# LLVM-MCA-BEGIN b{i}", *lines, f"# LLVM-MCA-END b{i}"]
    assembly = "\n".join(text) + "\n"
    few, many = (_total_cycles(assembly, n, model) for n in (_FEW, _MANY))
    return {
        code: max(0.0, (many[i] - few[i]) / (_MANY - _FEW))
        for i, code in enumerate(codes)
        if i in few and i in many
    }


def _total_cycles(assembly: str, iterations: int, model: CostModel) -> dict[int, float]:
    """Cycles of so many iterations of each region, by its number."""
    command = [
        model.mca, f"-mtriple={model.triple}", f"-mcpu={model.processor}",
        f"-iterations={iterations}", "-json", "-skip-unsupported-instructions=any",
        "-instruction-info=false", "-resource-pressure=false",
    ]  # fmt: skip
    answer = _run(command, assembly)
    try:
        regions = json.loads(answer[answer.index("{") :])["CodeRegions"]
        return {
            int(region["Name"][1:]): float(region["SummaryView"]["TotalCycles"])
            for region in regions
        }
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EmulationError(
            f"llvm-mca's answer cannot be understood: {error}", where=str(model)
        ) from error


def _disassemble(codes: Sequence[bytes], model: CostModel) -> list[list[str]]:
    """The instructions of each block.

    On x86 the emulator's last instruction of a page may be cut off; it is left out.
    """
    command = [model.mc, "--disassemble", f"-triple={model.triple}", f"-mcpu={model.processor}"]
    mark, trap = _SEPARATORS[model.triple.partition("-")[0] == "x86_64"]
    groups = [" ".join(f"0x{byte:02x}" for byte in code) for code in codes]
    # Brackets keep what is before a separator from swallowing it.
    text = f"\n[{mark}]\n".join(f"[{group}]" for group in groups)
    blocks: list[list[str]] = [[]]
    for line in _run(command, text + "\n", partial=True).splitlines():
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
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmulationError(f"{command[0]} failed: {error}", where="estimate") from error
    if done.returncode and not (partial and done.stdout.strip()):
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise EmulationError(f"{command[0]} failed: {lines[0][:200]}", where="estimate")
    return done.stdout


__all__ = ["COVERED", "BlockCosts", "CostModel", "block_cycles", "cost_model"]
