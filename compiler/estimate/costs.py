"""Cycles of blocks of code by `llvm-mca`, LLVM's model of a processor's pipelines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from compiler.errors import EmulationError
from compiler.estimate.counting import Block
from targets.spec import TargetSpec

#: Blocks whose instructions are together this share of all are modelled; the rest is taken to
#: run at their mean rate.
COVERED = 0.995
#: LLVM 19 gives Cortex-A76 the figures of Cortex-A72; Neoverse N1 is the same core.
_MODELS = {"cortex-a76": "neoverse-n1"}
_ITERATIONS = 50
#: Blocks of one call of llvm-mca.
_BATCH = 200
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


def block_cycles(blocks: Sequence[Block], model: CostModel) -> dict[bytes, float]:
    """Cycles of one run of each block, in a loop of its own.

    Args:
        blocks: What ran.
        model: The program.

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
    found: dict[bytes, float] = {}
    for start in range(0, len(hot), _BATCH):
        found.update(_analyze(hot[start : start + _BATCH], lengths, model))
    known = sum(weights[code] for code in found)
    cycles = sum(weights[code] / lengths[code] * found[code] for code in found)
    rate = cycles / known if known else 1.0
    return {code: found.get(code, rate * lengths[code]) for code in weights}


def _analyze(
    codes: Sequence[bytes], lengths: Mapping[bytes, int], model: CostModel
) -> dict[bytes, float]:
    text = []
    lines = iter(_disassemble(b"".join(codes), model))
    for i, code in enumerate(codes):
        text += [f"# LLVM-MCA-BEGIN b{i}", *islice(lines, lengths[code]), f"# LLVM-MCA-END b{i}"]
    if next(lines, None) is not None:
        raise EmulationError(
            "the disassembler and the emulator count differently", where=str(model)
        )
    command = [
        model.mca, f"-mtriple={model.triple}", f"-mcpu={model.processor}",
        f"-iterations={_ITERATIONS}", "-json",
        "-skip-unsupported-instructions=any",
    ]  # fmt: skip
    answer = _run(command, "\n".join(text) + "\n")
    try:
        regions = json.loads(answer[answer.index("{") :])["CodeRegions"]
        return {
            codes[int(region["Name"][1:])]: region["SummaryView"]["TotalCycles"] / _ITERATIONS
            for region in regions
        }
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EmulationError(
            f"llvm-mca's answer cannot be understood: {error}", where=str(model)
        ) from error


def _disassemble(code: bytes, model: CostModel) -> list[str]:
    command = [model.mc, "--disassemble", f"-triple={model.triple}", f"-mcpu={model.processor}"]
    text = _run(command, " ".join(f"0x{byte:02x}" for byte in code) + "\n")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("\t.")]


def _run(command: list[str], text: str) -> str:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmulationError(f"{command[0]} failed: {error}", where="estimate") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise EmulationError(f"{command[0]} failed: {lines[0][:200]}", where="estimate")
    return done.stdout


__all__ = ["COVERED", "CostModel", "block_cycles", "cost_model"]
