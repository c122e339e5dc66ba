"""Reads the golden data in tests/golden/vta; its README says where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.vta import Buffer, Program, VtaConfig

FOLDER = Path(__file__).parents[2] / "golden" / "vta"
CONFIG = VtaConfig()


@dataclass(frozen=True)
class Case:
    """A golden program or illegal stream.

    Attributes:
        name: Its name.
        facts: Its entry in the JSON file.
        program: The stream with its memory.
        arrays: All arrays by name: ``init_x``, ``expect_x``, ``rtl_out``.
    """

    name: str
    facts: dict[str, Any]
    program: Program
    arrays: dict[str, npt.NDArray[Any]]

    def __str__(self) -> str:
        return self.name


@cache
def cases(kind: str) -> tuple[Case, ...]:
    """All cases of ``programs`` or ``illegal``."""
    result = []
    with np.load(FOLDER / f"{kind}.npz") as data:
        for facts in json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8")):
            arrays = {name: data[key] for name, key in facts["arrays"].items()}
            buffers = tuple(
                Buffer(b["name"], _role(b["role"]), b["address"], b["dtype"], tuple(b["shape"]))
                for b in facts["buffers"]
            )
            contents = {n[5:]: a for n, a in arrays.items() if n.startswith("init_")}
            program = Program(
                CONFIG, arrays["insn"], facts["insn_address"], facts["dram_bytes"],
                buffers, contents,
            )  # fmt: skip
            result.append(Case(facts["name"], facts, program, arrays))
    return tuple(result)


def _role(name: str) -> str:
    return name if name in ("input", "output", "uop") else "scratch"


Bytes = npt.NDArray[np.uint8]


@cache
def timings() -> tuple[tuple[str, Bytes, Bytes, int, int, int], ...]:
    """Of each timed stream: name, instructions, memory, its address, cycles and read beats."""
    facts = json.loads((FOLDER / "timing.json").read_text(encoding="utf-8"))
    result = []
    with np.load(FOLDER / "timing.npz") as data:
        memory = facts["memory"]
        for i, case in enumerate(facts["single"]):
            stream = np.frombuffer(bytes.fromhex("".join(case["insn"])), np.uint8).reshape(-1, 16)
            dram = np.zeros(memory["dram_bytes"], dtype=np.uint8)
            for name in ("uop_a", "uop_b"):
                _place(dram, memory[f"{name}_address"], data[name])
            result.append((f"single {i}: {case['kind']}", stream, dram, memory["insn_address"],
                           case["program_cycles"], case["read_beats"]))  # fmt: skip
        for i, case in enumerate(facts["whole"]):
            stream = data[f"insn{i}"]
            dram = np.zeros(case["dram_bytes"], dtype=np.uint8)
            _place(dram, case["uop_address"], data[f"uop{i}"])
            result.append((case["name"], stream, dram, case["insn_address"], case["cycles"],
                           case["read_beats"]))  # fmt: skip
    return tuple(result)


def _place(dram: npt.NDArray[np.uint8], address: int, data: npt.NDArray[Any]) -> None:
    dram[address : address + data.nbytes] = data.view(np.uint8)
