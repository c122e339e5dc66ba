"""The counter for QEMU's releases: built for the interface that the installed one has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compiler.errors import EmulationError
from compiler.estimate import counting
from compiler.native import COUNTER_SOURCES, PLUGIN_VERSION_SOURCE
from tests.support.boards import emulates

HOST = Path(__file__).parents[2] / "support/plugin_host.c"
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(autouse=True)
def forget() -> None:
    counting._interface.cache_clear()


def emulator(folder: Path, says: str) -> str:
    """A program that answers as QEMU does when it is given a plugin."""
    program = folder / "qemu"
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    program.chmod(0o755)
    return str(program)


@needs_gcc
@pytest.mark.parametrize("interface", range(1, 8))
def test_it_compiles_for_every_interface_without_warnings(tmp_path: Path, interface: int) -> None:
    sources = [path for path in COUNTER_SOURCES if path.suffix == ".c"]
    done = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O0", "-Wall", "-Wextra", "-Werror",
         f"-DQEMU_PLUGIN_API={interface}", "-o", tmp_path / "counter.so", *sources],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@needs_gcc
@pytest.mark.parametrize("interface", [1, 2, 3, 7])
def test_it_counts_by_every_interface(tmp_path: Path, interface: int) -> None:
    """With a stand-in for QEMU; the installed one has only one of them."""
    sources = [path for path in COUNTER_SOURCES if path.suffix == ".c"]
    options = [f"-DQEMU_PLUGIN_API={interface}", f"-DAPI={interface}", "-O0"]
    plugin, host, out = tmp_path / "counter.so", tmp_path / "host", tmp_path / "blocks"
    subprocess.run(["gcc", "-shared", "-fPIC", *options, "-o", plugin, *sources], check=True)
    subprocess.run(["gcc", *options, "-rdynamic", "-o", host, HOST, "-ldl"], check=True)
    subprocess.run([host, plugin, "caches=1024:64:2", f"out={out}"], check=True)
    b, a = counting.read_blocks(out.read_text())
    assert (a.address, a.instructions, a.count) == (0x1000, 2, 7)
    assert a.code == bytes.fromhex("0102030405000000")
    assert (b.address, b.count, b.code) == (0x2000, 1, bytes([9, 0, 0, 0]))
    # Three of the seven lines were there before.
    assert (a.accesses, a.misses) == (7, (4,))


@needs_gcc
def test_what_asks_for_the_interface_compiles_without_warnings(tmp_path: Path) -> None:
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror",
         "-o", tmp_path / "ask.so", PLUGIN_VERSION_SOURCE], check=True,
    )  # fmt: skip


@needs_gcc
@pytest.mark.parametrize(("newest", "built"), [(1, 1), (4, 4), (7, 7), (9, 7)])
def test_it_is_built_for_the_interface_of_the_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: int, built: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    says = (
        f"plugin requires API version 1000000, but this QEMU supports only up to version {newest}"
    )
    plugin = counting.counter_plugin(emulator(tmp_path, says))
    assert plugin.is_file()
    assert plugin.parent.name.endswith(f"-{built}")


@needs_gcc
def test_an_emulator_without_plugins_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(EmulationError, match="takes no plugins: qemu: unknown option") as caught:
        counting.counter_plugin(emulator(tmp_path, 'qemu: unknown option "plugin"'))
    assert "--enable-plugins" in str(caught.value)


@needs_gcc
@emulates
def test_the_installed_emulator_says_which_interface_it_has() -> None:
    assert counting._interface(shutil.which("qemu-aarch64") or "") >= 1
