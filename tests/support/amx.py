"""The AMX emulator for tests: built on demand, loaded into this process or a child's."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "amx_emulator" / "amx_emulator.cc"
FLAGS = ("-std=c++17", "-O3", "-march=x86-64-v3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


@cache
def emulator_library() -> Path:
    """The emulator's shared library, built once for each version of its source."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("the AMX emulator needs Linux on x86-64 and a C++ compiler")
    text = SOURCE.read_bytes() + " ".join(FLAGS).encode()
    name = f"tilewright-amx-{os.getuid()}-{hashlib.sha256(text).hexdigest()[:16]}.so"
    library = Path(tempfile.gettempdir()) / name
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            fresh = Path(folder) / "emulator.so"
            subprocess.run([compiler, *FLAGS, "-o", fresh, SOURCE, "-ldl"], check=True)
            fresh.replace(library)
    return library


class Emulator:
    """The emulator in this process: tile instructions run from now on."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(emulator_library()))
        self._library.amx_emulator_count.restype = ctypes.c_uint64
        self.install()

    def install(self) -> None:
        """Take SIGILL over again, from whoever took it meanwhile."""
        self._library.amx_emulator_install()

    def decode(self, code: bytes) -> tuple[str, int]:
        """The instruction at the start of `code`, and its length; ("", 0) if it is none."""
        text = ctypes.create_string_buffer(128)
        padded = code.ljust(16, b"\x90")
        length = int(self._library.amx_emulator_decode(padded, text, len(text)))
        return (text.value.decode(), length) if length else ("", 0)

    def reset_counts(self) -> None:
        self._library.amx_emulator_reset_counts()

    def count(self, name: str) -> int:
        """How often an instruction was executed since the last reset."""
        return int(self._library.amx_emulator_count(name.encode()))

    def is_configured(self) -> bool:
        """Whether this thread's tiles are configured."""
        return bool(self._library.amx_emulator_configured())
