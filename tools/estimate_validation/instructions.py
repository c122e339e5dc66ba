"""How long single instructions take on this machine, beside what llvm-mca thinks.

What a scheduling model has wrong shows here first: `compiler.estimate.models` mends it. x86 only.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compiler.errors import EmulationError
from compiler.estimate.chains import carried_cycles
from compiler.estimate.costs import CostModel, cycles_of_lines
from compiler.estimate.models import mended

_MULTIPLY = "vmulps %ymm15, %ymm14, %ymm%0"
_MADD = "vpmaddwd %ymm15, %ymm14, %ymm%0"
_ADD = "vpaddd %ymm15, %ymm14, %ymm%0"
_LOAD = "vmovups %1(%rdi), %ymm%0"
#: Name and instructions; `%0` is a register that changes from copy to copy, `%1` a place that does.
CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("load", (_LOAD,)),
    ("broadcasting load", ("vbroadcastss %1(%rdi), %ymm%0",)),
    ("2 multiplications, 2 broadcasting loads", (
        _MULTIPLY, _MULTIPLY,
        "vbroadcastss %1(%rdi), %ymm%0", "vbroadcastss %1+4(%rdi), %ymm%0",
    )),
    ("2 multiplications, 2 loads", (_MULTIPLY, _MULTIPLY, _LOAD, "vmovups %1+32(%rdi), %ymm%0")),
    ("load that widens bytes", ("vpmovzxbd %1(%rdi), %ymm%0",)),
    ("load that widens signed bytes", ("vpmovsxbd %1(%rdi), %ymm%0",)),
    ("store", ("vmovups %ymm14, %1(%rdi)",)),
    ("2 loads, store", (
        _LOAD, "vmovups %1+32(%rdi), %ymm15", "vmovups %ymm14, %1+4160(%rdi)",
    )),
    ("addition", ("vaddps %ymm15, %ymm14, %ymm%0",)),
    ("multiplication", (_MULTIPLY,)),
    ("maximum", ("vmaxps %ymm15, %ymm14, %ymm%0",)),
    ("maximum, addition", (
        "vmaxps %ymm15, %ymm14, %ymm%0", "vaddps %ymm15, %ymm14, %ymm%0",
    )),
    ("maximum, multiplication", ("vmaxps %ymm15, %ymm14, %ymm%0", _MULTIPLY)),
    ("move, 2 multiply-adds", (
        "vmovaps %ymm15, %ymm%0", "vfmadd231ps %ymm14, %ymm13, %ymm%0",
        "vfmadd231ps %ymm14, %ymm13, %ymm%0",
    )),
    ("products of 16 bits", (_MADD,)),
    ("products of 16 bits, 2 integer additions", (_MADD, _ADD, _ADD)),
    ("products of 16 bits, broadcasting load", (_MADD, "vpbroadcastd %1(%rdi), %ymm%0")),
    ("integer addition", (_ADD,)),
    ("integer shift", ("vpsraw $8, %ymm14, %ymm%0",)),
    ("products of 32 bits", ("vpmuldq %ymm15, %ymm14, %ymm%0",)),
    ("pack", ("vpackssdw %xmm15, %xmm14, %xmm%0",)),
    ("upper half", ("vextracti128 $1, %ymm15, %xmm%0",)),
    ("permutation of halves", ("vpermq $216, %ymm14, %ymm%0",)),
    ("store and load of one place, in turn", (
        "vmovups %ymm0, -64(%rsp)", "vmovups -64(%rsp), %ymm0",
    )),
    ("blend", ("vpblendd $170, %ymm15, %ymm14, %ymm%0",)),
)  # fmt: skip
_COPIES, _LOOPS, _TRIES = 24, 400, 20
#: A multiplication of integers, which waits for the one before: cycles, and how many.
_CHAIN, _LINKS = 3, 48
#: The least of many runs. Pages that nobody wrote to would all be one and the same.
_TIMER = """
#include <stdint.h>
#include <string.h>
#include <x86intrin.h>
static char data[16384] __attribute__((aligned(4096)));
uint64_t timed(void (*f)(char*)) {
  uint64_t least = ~0ull;
  memset(data, 0, sizeof data);
  for (int i = 0; i < 60; ++i) {
    unsigned cpu;
    uint64_t start = __rdtscp(&cpu);
    f(data);
    uint64_t took = __rdtscp(&cpu) - start;
    if (took < least) least = took;
  }
  return least;
}
"""


def compare(model: CostModel, cpu: int) -> list[dict[str, Any]]:
    """Cycles of each case: measured, by the model, and by the model of mended code.

    Args:
        model: Of this machine's processor.
        cpu: To run on.

    Raises:
        EmulationError: llvm-mca fails, or does not know an instruction.
        subprocess.CalledProcessError: The C compiler fails.
    """
    bodies = [body(lines) for _, lines in CASES]
    asked = [mended(lines, model.processor) for lines in bodies]
    found = [cycles_of_lines([lines], model) for kind in (bodies, asked) for lines in kind]
    if any(row[0] is None for row in found):
        raise EmulationError("llvm-mca does not know an instruction", where=str(model))
    cycles = [float(row[0] or 0.0) / _COPIES for row in found]
    chains = [carried_cycles(lines) / _COPIES for lines in bodies]
    measured = _measure(bodies, cpu)
    return [
        {"name": name, "measured": took, "model": before, "mended": max(after, chain)}
        for (name, _), took, before, after, chain in zip(
            CASES, measured, cycles[: len(CASES)], cycles[len(CASES) :], chains, strict=True
        )
    ]


def body(instructions: Sequence[str]) -> list[str]:
    """Copies of instructions that do not wait for each other, as `llvm-mc` writes them."""
    return [
        "\t" + _place(line.replace("%0", str(copy % 12)), 64 * copy).replace(" ", "\t", 1)
        for copy in range(_COPIES)
        for line in instructions
    ]


def _place(line: str, start: int) -> str:
    return re.sub(r"%1(?:\+(\d+))?", lambda found: str(start + int(found[1] or 0)), line)


def _measure(bodies: Sequence[Sequence[str]], cpu: int) -> list[float]:
    """Cycles of a copy of each body, the least of many runs."""
    os.sched_setaffinity(0, {cpu})
    parts = [".text"]
    for i, lines in enumerate([["\timulq\t%rax, %rax"] * _LINKS, *bodies]):
        parts += [f".globl f{i}", ".p2align 6", f"f{i}:", f"movl ${_LOOPS}, %r11d", ".p2align 6",
                  "1:", *lines, "decl %r11d", "jnz 1b", "vzeroupper", "ret"]  # fmt: skip
    parts.append('.section .note.GNU-stack,"",@progbits')
    with tempfile.TemporaryDirectory() as folder:
        assembly, source, library = (Path(folder) / name for name in ("a.s", "b.c", "c.so"))
        assembly.write_text("\n".join(parts) + "\n")
        source.write_text(_TIMER)
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", *map(str, (library, assembly, source))]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.timed.restype = ctypes.c_uint64
    ticks = [
        min(
            loaded.timed(ctypes.cast(getattr(loaded, f"f{i}"), ctypes.c_void_p))
            for _ in range(_TRIES)
        )
        for i in range(len(bodies) + 1)
    ]
    cycle = ticks[0] / (_LINKS * _CHAIN)
    return [taken / cycle / _COPIES for taken in ticks[1:]]


__all__ = ["CASES", "compare"]
