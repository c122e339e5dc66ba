"""How often each block of a model's code runs in one inference, exactly, in emulation."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from compiler.deploy.cache import cached
from compiler.errors import EmulationError
from compiler.native import COUNTER_SOURCE
from targets.spec import TargetSpec

#: QEMU's program and the C library of each machine that is emulated.
EMULATORS = {
    "aarch64": ("qemu-aarch64", Path("/usr/aarch64-linux-gnu")),
    "x86_64": ("qemu-x86_64", Path("/")),
}
_INSTALL = {
    "aarch64": "apt-get install qemu-user libc6-arm64-cross libstdc++6-arm64-cross "
    "libgcc-s1-arm64-cross",
    "x86_64": "apt-get install qemu-user",
}
#: QEMU's names of processors where they are not LLVM's.
_PROCESSORS = {"neoverse-v1": "max", "x86_64": "max"}
_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of code without a jump into it or out of it but at its ends.

    Attributes:
        address: Where it lies in the shared object.
        instructions: How many it has.
        count: How often it ran.
        code: Its bytes.
    """

    address: int
    instructions: int
    count: int
    code: bytes


def emulator(spec: TargetSpec) -> list[str]:
    """The command that runs a program of the target's machine on its processor.

    Raises:
        EmulationError: QEMU or the machine's C library is not installed.
    """
    if spec.machine not in EMULATORS:
        raise EmulationError(
            f"programs for {spec.machine} are not emulated",
            where=spec.name,
            hint=f"machines: {', '.join(EMULATORS)}",
        )
    name, root = EMULATORS[spec.machine]
    program = shutil.which(name)
    foreign = spec.machine != os.uname().machine
    if program is None or (foreign and not (root / "lib/libc.so.6").exists()):
        missing = name if program is None else f"the C library for {spec.machine}"
        raise EmulationError(
            f"{missing} is not installed",
            where=spec.name,
            hint=f"{_INSTALL[spec.machine]} (not qemu-user-static, which has no plugins)",
        )
    processor = str(spec.tvm.get("mcpu", "max"))
    processor = _PROCESSORS.get(processor, processor) if foreign else "max"
    return [program, "-cpu", processor, *(["-L", str(root)] if foreign else [])]


def count_blocks(folder: Path, spec: TargetSpec) -> tuple[Block, ...]:
    """Run one inference of a deployment in emulation and count.

    Args:
        folder: The deployment, for the target's machine.
        spec: The target.

    Returns:
        The blocks of the model's own code that ran, by address; nothing of the runtime's.

    Raises:
        EmulationError: Something that is needed is missing, or the model fails.
        FileError: The cache cannot be written.
    """
    command = emulator(spec)
    plugin = _plugin()
    with tempfile.TemporaryDirectory(prefix="tilewright-count-") as work:
        blocks, maps = Path(work) / "blocks", Path(work) / "maps"
        command += ["-plugin", f"{plugin},out={blocks}"]
        command += [str(folder / "run"), str(folder), "--threads", "1", "--maps", str(maps)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmulationError(f"the emulator failed: {error}", where=spec.name) from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            hint = "the code uses an instruction that this processor does not have" if (
                done.returncode in (-4, 132)) else "run the self-test on the device"  # fmt: skip
            raise EmulationError(
                f"the model failed in emulation: {reason[:200]}", where=spec.name, hint=hint
            )
        try:
            base = _base(maps.read_text(), folder / "module.so")
            return _read(blocks.read_text(), base, (folder / "module.so").stat().st_size)
        except (OSError, ValueError) as error:
            raise EmulationError(
                f"the counts cannot be read: {error}",
                where=spec.name,
                hint="check that the disk is not full",
            ) from error


def _plugin() -> Path:
    source = COUNTER_SOURCE.read_bytes()

    def make(folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
        if compiler is None:
            raise EmulationError(
                "there is no C compiler for the emulator's plugin",
                where="gcc, cc, clang",
                hint="apt-get install gcc",
            )
        done = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", str(folder / "libcounter.so"),
             str(COUNTER_SOURCE)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise EmulationError(
                f"the emulator's plugin does not compile: {done.stderr[-200:]}", where=compiler
            )

    label = hashlib.sha256(source).hexdigest()[:16]
    return cached(f"counter/{label}", make) / "libcounter.so"


def _base(maps: str, library: Path) -> int:
    """Where the shared object begins in memory."""
    for line in maps.splitlines():
        if line.endswith(f"/{library.name}"):
            return int(line.partition("-")[0], 16)
    raise ValueError("the module is not in memory")


def _read(text: str, base: int, size: int) -> tuple[Block, ...]:
    """Blocks of the module; those of one address and length are one block."""
    lines = text.splitlines()
    if not lines or lines[-1] != "end":
        raise ValueError("the list of blocks is incomplete")
    counts: dict[tuple[int, bytes], int] = defaultdict(int)
    lengths: dict[tuple[int, bytes], int] = {}
    for line in lines[:-1]:
        address, instructions, count, code = line.split(" ")
        key = (int(address, 16) - base, bytes.fromhex(code))
        # Segments of a shared object are mapped a little further apart than they lie in it.
        if 0 <= key[0] < size + (1 << 20):
            counts[key] += int(count)
            lengths[key] = int(instructions)
    return tuple(Block(at, lengths[at, c], n, c) for (at, c), n in sorted(counts.items()))


__all__ = ["EMULATORS", "Block", "count_blocks", "emulator"]
