"""How often each block of a model's code runs in one inference, exactly, in emulation."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add
from pathlib import Path

from compiler.deploy.cache import cached
from compiler.errors import EmulationError
from compiler.native import COUNTER_SOURCES, PLUGIN_VERSION_SOURCE
from targets.spec import TargetSpec

#: QEMU's program and the C library of each machine that is emulated.
EMULATORS = {
    "aarch64": ("qemu-aarch64", Path("/usr/aarch64-linux-gnu")),
    "armv7l": ("qemu-arm", Path("/usr/arm-linux-gnueabihf")),
    "x86_64": ("qemu-x86_64", Path("/")),
}
_INSTALL = {
    "aarch64": "apt-get install qemu-user libc6-arm64-cross libstdc++6-arm64-cross "
    "libgcc-s1-arm64-cross",
    "armv7l": "apt-get install qemu-user libc6-armhf-cross",
    "x86_64": "apt-get install qemu-user",
}
#: QEMU's names of processors where they are not LLVM's.
_PROCESSORS = {"neoverse-v1": "max", "x86_64": "max"}
_SECONDS = 1800
_PLUGIN = "libcounter.so"
#: Caches that the plugin simulates (caches.h).
MAX_LEVELS = 3
#: What QEMU says of a plugin for another version of its interface.
PLUGIN_REFUSED = "API version"
PLUGIN_HINT = "the counter is written for the plugins of QEMU 4.2 to 11.1; install one of those"
#: Newest version of the interface that the counter is written for, as of QEMU 11.1.
_NEWEST_INTERFACE = 7
_KNOWN = re.compile(r"supports only up to version (\d+)")


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of code without a jump into it or out of it but at its ends.

    Attributes:
        address: Where it lies in the shared object.
        instructions: How many it has.
        count: How often it ran.
        code: Its bytes.
        accesses: To memory, in pieces of 8 bytes, all runs together; 0 if no caches were simulated.
        misses: Of each level, the nearest first; empty if no caches were simulated.
        ahead: Those of them that a prefetcher would have seen coming.
        stored: Those of them that were written to.
    """

    address: int
    instructions: int
    count: int
    code: bytes
    accesses: int = 0
    misses: tuple[int, ...] = ()
    ahead: tuple[int, ...] = ()
    stored: tuple[int, ...] = ()


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
            hint=f"{_INSTALL[spec.machine]} (counting needs a QEMU that takes plugins: "
            "qemu-user-static and the qemu-user of Debian 13 do not)",
        )
    processor = str(spec.tvm.get("mcpu", "max"))
    processor = _PROCESSORS.get(processor, processor) if foreign else "max"
    return [program, "-cpu", processor, *(["-L", str(root)] if foreign else [])]


def count_blocks(
    folder: Path, spec: TargetSpec, processor: TargetSpec | None = None
) -> tuple[Block, ...]:
    """Run one inference of a deployment in emulation and count.

    Args:
        folder: The deployment, for the target's machine.
        spec: The target.
        processor: Whose caches are simulated; by default the target's.

    Returns:
        The blocks of the model's own code that ran, by address; nothing of the runtime's.

    Raises:
        EmulationError: Something that is needed is missing, or the model fails.
        FileError: The cache cannot be written.
    """
    command = emulator(spec)
    plugin = counter_plugin(command[0])
    with tempfile.TemporaryDirectory(prefix="tilewright-count-") as work:
        blocks, maps = Path(work) / "blocks", Path(work) / "maps"
        command += ["-plugin", f"{plugin}{cache_option(processor or spec)},out={blocks}"]
        command += [str(folder / "run"), str(folder), "--threads", "1", "--maps", str(maps)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmulationError(f"the emulator failed: {error}", where=spec.name) from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            if PLUGIN_REFUSED in done.stderr:
                reason, hint = done.stderr.strip().splitlines()[0], PLUGIN_HINT
            elif done.returncode in (-4, 132):
                hint = "the code uses an instruction that this processor does not have"
            else:
                hint = "run the self-test on the device"
            raise EmulationError(
                f"the model failed in emulation: {reason[:200]}", where=spec.name, hint=hint
            )
        try:
            first, end = _range(maps.read_text(), folder / "module.so")
            return _read(blocks.read_text(), first, end)
        except (OSError, ValueError) as error:
            raise EmulationError(
                f"the counts cannot be read: {error}",
                where=spec.name,
                hint="check that the disk is not full",
            ) from error


def cache_option(spec: TargetSpec) -> str:
    """The plugin's option for the caches of a processor, as one core that runs alone has them.

    It begins with a comma, and is empty where the target's data has no caches.
    """
    parts = [
        f"{cache.size_bytes}:{cache.line_bytes}:{cache.ways or 16}"
        for cache in sorted(spec.caches, key=lambda cache: cache.level)[:MAX_LEVELS]
    ]
    return f",caches={'/'.join(parts)}" if parts else ""


def counter_plugin(program: str) -> Path:
    """The plugin of QEMU that counts, compiled once for each version of the interface and kept.

    Args:
        program: The emulator that it is for, by its path.

    Raises:
        EmulationError: There is no C compiler, or it fails, or the emulator takes no plugins.
        FileError: The cache cannot be written.
    """
    interface = min(_interface(program), _NEWEST_INTERFACE)
    source = b"".join(path.read_bytes() for path in COUNTER_SOURCES)
    label = f"{hashlib.sha256(source).hexdigest()[:16]}-{interface}"
    sources = [path for path in COUNTER_SOURCES if path.suffix == ".c"]
    options = (f"-DQEMU_PLUGIN_API={interface}",)
    return cached(f"counter/{label}", functools.partial(_compile, sources, options)) / _PLUGIN


@functools.cache
def _interface(program: str) -> int:
    """The newest version of the interface for plugins that an emulator has.

    Raises:
        EmulationError: There is no C compiler, or it fails, or the emulator takes no plugins.
        FileError: The cache cannot be written.
    """
    label = hashlib.sha256(PLUGIN_VERSION_SOURCE.read_bytes()).hexdigest()[:16]
    ask = cached(f"counter/ask-{label}", functools.partial(_compile, [PLUGIN_VERSION_SOURCE], ()))
    try:
        # Plugins come first; no program to emulate is needed.
        done = subprocess.run(
            [program, "-plugin", str(ask / _PLUGIN), "none"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise EmulationError(f"the emulator failed: {error}", where=program) from error
    found = _KNOWN.search(done.stderr)
    if found is None:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
        raise EmulationError(
            f"this QEMU takes no plugins: {said[:200]}",
            where=program,
            hint="install a QEMU that is linked dynamically and was built with plugins: Debian's "
            "qemu-user up to release 12, or QEMU's sources with --enable-plugins; Debian's "
            "qemu-user-static, and its qemu-user from release 13 on, have none",
        )
    return int(found[1])


def _compile(sources: Sequence[Path], options: Sequence[str], folder: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise EmulationError(
            "there is no C compiler for the emulator's plugin",
            where="gcc, cc, clang",
            hint="apt-get install gcc",
        )
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", *options, "-o", str(folder / _PLUGIN),
         *map(str, sources)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise EmulationError(
            f"the emulator's plugin does not compile: {done.stderr[-200:]}", where=compiler
        )


def _range(maps: str, library: Path) -> tuple[int, int]:
    """Where the shared object begins and ends in memory."""
    lines = [line for line in maps.splitlines() if line.endswith(f"/{library.name}")]
    if not lines:
        raise ValueError("the module is not in memory")
    end = lines[-1].partition("-")[2].partition(" ")[0]
    return int(lines[0].partition("-")[0], 16), int(end, 16)


def read_blocks(text: str) -> tuple[Block, ...]:
    """The blocks in what the plugin wrote, as it wrote them.

    Raises:
        ValueError: It is incomplete, or no list of blocks.
    """
    lines = text.splitlines()
    if not lines or lines[-1] != "end":
        raise ValueError("the list of blocks is incomplete")
    blocks = []
    for line in lines[:-1]:
        address, instructions, count, code, *rest = line.split(" ")
        accesses, *missed = map(int, rest or ["0"])
        blocks.append(
            Block(int(address, 16), int(instructions), int(count), bytes.fromhex(code), accesses,
                  tuple(missed[0::3]), tuple(missed[1::3]), tuple(missed[2::3]))
        )  # fmt: skip
    return tuple(blocks)


def _read(text: str, first: int, end: int) -> tuple[Block, ...]:
    """Blocks of the module; those of one address and length are one block."""
    found: dict[tuple[int, bytes], Block] = {}
    for block in read_blocks(text):
        if not first <= block.address < end:
            continue
        key = (block.address - first, block.code)
        known = found.get(key)
        found[key] = (
            replace(block, address=key[0])
            if known is None
            else replace(
                known,
                count=known.count + block.count,
                accesses=known.accesses + block.accesses,
                misses=tuple(map(add, known.misses, block.misses)),
                ahead=tuple(map(add, known.ahead, block.ahead)),
                stored=tuple(map(add, known.stored, block.stored)),
            )
        )
    return tuple(found[key] for key in sorted(found))


__all__ = [
    "EMULATORS",
    "Block",
    "cache_option",
    "count_blocks",
    "counter_plugin",
    "emulator",
    "read_blocks",
]
