"""VTA, the open FPGA accelerator: configuration, instruction set, program files and simulator.

`import targets` needs the configuration only, so that everything which needs NumPy is loaded
when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from targets.vta.config import VtaConfig, vta_config

if TYPE_CHECKING:
    from targets.vta.assembly import assemble, disassemble, format_instruction
    from targets.vta.isa import (
        Alu,
        AluOp,
        Finish,
        Gemm,
        Instruction,
        Load,
        Memory,
        Store,
        Uop,
        decode,
        decode_uop,
        encode,
        encode_uop,
    )
    from targets.vta.program import Buffer, Program, read_program, write_program
    from targets.vta.simulator import Simulation, simulate, simulate_stream
    from targets.vta.violations import Violation

_HOME = {
    "assembly": ("assemble", "disassemble", "format_instruction"),
    "isa": (
        "Alu", "AluOp", "Finish", "Gemm", "Instruction", "Load", "Memory", "Store", "Uop",
        "decode", "decode_uop", "encode", "encode_uop",
    ),
    "program": ("Buffer", "Program", "read_program", "write_program"),
    "simulator": ("Simulation", "simulate", "simulate_stream"),
    "violations": ("Violation",),
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)


__all__ = [
    "Alu",
    "AluOp",
    "Buffer",
    "Finish",
    "Gemm",
    "Instruction",
    "Load",
    "Memory",
    "Program",
    "Simulation",
    "Store",
    "Uop",
    "Violation",
    "VtaConfig",
    "assemble",
    "decode",
    "decode_uop",
    "disassemble",
    "encode",
    "encode_uop",
    "format_instruction",
    "read_program",
    "simulate",
    "simulate_stream",
    "vta_config",
    "write_program",
]
