"""Linkers for other machines, and what a linked module has to be."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from compiler.elf import check_shared_object, is_expected, read_shared_object
from compiler.errors import CompileError
from compiler.linker import VARIABLE, Linker, find_linker
from targets import get_target

HERE = os.uname().machine


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object of ARM code that TVM's LLVM made."""
    from schedules.tvm_adapter import IRModule, target, te, tvm

    a = te.placeholder((16,), name="a")
    double = te.create_prim_func([a, te.compute((16,), lambda i: a[i] + a[i], name="b")])

    folder = tmp_path_factory.mktemp("objects")
    built = tvm.compile(
        IRModule({"double": double.with_attr("global_symbol", "double")}),
        target=target.Target(get_target("arm/rpi4").tvm_dict()),
    )

    def keep(_output: str, files: list[str], _options: object = None) -> None:
        for file in files:
            shutil.copy(file, folder)

    built.export_library(str(folder / "none.so"), fcompile=keep)
    return folder


def test_ziglang_links_for_arm(objects: Path, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    linker = find_linker(get_target("arm/rpi4"))
    assert linker.machine == "aarch64"
    linker(tmp_path / "m.so", sorted(objects.glob("*.o")))
    found = read_shared_object(tmp_path / "m.so")
    assert (found.machine, found.is_shared) == ("EM_AARCH64", True)
    assert not found.executable_stack
    assert not found.text_relocations
    with pytest.raises(CompileError, match="no shared object for x86_64"):
        check_shared_object(tmp_path / "m.so", "x86_64")


def test_objects_of_another_machine_do_not_link(objects: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="linking with"):
        find_linker()(tmp_path / "m.so", sorted(objects.glob("*.o")))


def test_an_executable_stack_and_unknown_symbols_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text("int tilewright_nowhere(int); int f(int x) { return tilewright_nowhere(x); }")
    plain = Linker("gcc", HERE, (shutil.which("gcc") or "gcc",), compiles=True)
    plain(tmp_path / "a.so", [source])
    with pytest.raises(CompileError, match="unknown symbols: tilewright_nowhere"):
        check_shared_object(tmp_path / "a.so", HERE)
    source.write_text("int f(int x) { return x; }")
    bad = Linker("gcc", HERE, (*plain.command, "-z", "execstack"), compiles=True)
    bad(tmp_path / "b.so", [source])
    with pytest.raises(CompileError, match="executable stack"):
        check_shared_object(tmp_path / "b.so", HERE)


def test_a_damaged_file_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "m.so").write_bytes(b"\x7fELF" + bytes(10))
    with pytest.raises(CompileError, match="cannot be read"):
        read_shared_object(tmp_path / "m.so")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("TVMFFIErrorSetRaisedFromCStrParts", True),
        ("expf", True),
        ("memset", True),
        ("__aeabi_uidiv", True),
        ("system", False),
        ("dlopen", False),
    ],
)
def test_expected_symbols(name: str, known: bool) -> None:
    assert is_expected(name) is known


def test_linkers_that_are_not_there_say_what_to_install(monkeypatch, tmp_path: Path) -> None:
    spec = get_target("arm/rpi4")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "gcc")
    with pytest.raises(CompileError, match="no linker for aarch64") as caught:
        find_linker(spec)
    assert "pip install ziglang" in str(caught.value)
    monkeypatch.setenv(VARIABLE, "no-such-compiler")
    with pytest.raises(CompileError, match="no-such-compiler"):
        find_linker(spec)


def test_a_program_of_the_user_comes_first(monkeypatch, tmp_path: Path) -> None:
    program = tmp_path / "my-cc"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    linker = find_linker(get_target("arm/rpi4"))
    assert linker.command == (str(program),)
    with pytest.raises(CompileError, match="linking with"):
        linker(tmp_path / "m.so", [])


def test_a_linker_that_hangs_is_given_up(monkeypatch, tmp_path: Path) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("ld", 120)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(CompileError, match="timed out"):
        Linker("ld", HERE, ("ld",), compiles=False)(tmp_path / "m.so", [])
