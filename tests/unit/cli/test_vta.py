"""`tilewright vta`: programs to text and back, and runs on the simulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compiler.cli.app import run_cli
from targets.vta import VtaConfig, write_program
from targets.vta.program import program_bytes
from tests.unit.vta.golden import Case, cases


def case(name: str, kind: str = "programs") -> Case:
    return next(c for c in cases(kind) if c.name == name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dense.vta"
    write_program(case("28-two-layer-dense").program, path)
    return path


def test_text_and_back(file: Path, tmp_path: Path) -> None:
    text, again = tmp_path / "dense.s", tmp_path / "again.vta"
    assert run_cli(["vta", "disassemble", str(file), "--contents", "-o", str(text)]) == 0
    assert run_cli(["vta", "assemble", str(text), "-o", str(again)]) == 0
    assert again.read_bytes() == file.read_bytes()
    assert run_cli(["vta", "assemble", str(text)]) == 0
    assert file.read_bytes() == again.read_bytes()


def test_disassemble(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["vta", "disassemble", str(file), "--config", "vta/pynq"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(".config name=vta/pynq ")
    assert ".buffer hidden output 40960 int8 32x8x16" in shown
    assert "LOAD UOP" in shown
    assert ".content" not in shown
    named = ["--config", "vta/pynq", "--json"]
    assert run_cli(["vta", "disassemble", str(file), *named]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == shown


def test_a_bare_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "insn.bin"
    path.write_bytes(case("28-two-layer-dense").program.instructions.tobytes())
    assert run_cli(["vta", "disassemble", str(path)]) == 3
    assert "for a bare stream of instructions name its configuration" in capsys.readouterr().err
    assert run_cli(["vta", "disassemble", str(path), "--config", "vta/pynq"]) == 0
    assert "FINISH  # 77" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-3])
    assert run_cli(["vta", "disassemble", str(path), "--config", "vta/pynq"]) == 3
    assert "a multiple of 16 bytes" in capsys.readouterr().err


def test_simulate(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.npz"
    assert run_cli(["vta", "simulate", str(file), "-o", str(out)]) == 0
    assert "Simulated on vta, 100 MHz" in capsys.readouterr().out
    assert run_cli(["vta", "simulate", str(file), "--config", "vta/ultra96"]) == 0
    assert "Simulated on vta/ultra96, 333 MHz" in capsys.readouterr().out
    expected = case("28-two-layer-dense")
    with np.load(out) as found:
        assert sorted(found) == ["hidden", "out"]
        np.testing.assert_array_equal(found["out"], expected.arrays["expect_out"])
    assert run_cli(["vta", "simulate", str(file), "--no-data", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "simulated"
    assert document["cycles"] == pytest.approx(expected.facts["rtl_cycles"], rel=0.03)
    assert document["violations"] == []
    assert set(document["queues"]) == {"load", "compute", "store"}


def test_other_inputs(file: Path, tmp_path: Path) -> None:
    given = case("28-two-layer-dense").program.contents["data"]
    np.save(tmp_path / "x.npy", np.zeros_like(given))
    out = tmp_path / "out.npz"
    arguments = ["-i", f"data={tmp_path / 'x.npy'}", "-o", str(out)]
    assert run_cli(["vta", "simulate", str(file), *arguments]) == 0
    with np.load(out) as found:  # nothing but the bias is left of the first layer
        assert (found["hidden"] == found["hidden"][0]).all()


def test_broken_rules_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "race.vta"
    write_program(case("20-missing-dependency", "illegal").program, path)
    assert run_cli(["vta", "simulate", str(path)]) == 8
    shown = capsys.readouterr().err
    assert "instruction 4 (GEMM uop_end=16 iter_out=1 iter_in=1)" in shown
    assert "race: it reads INP 0 to 15" in shown
    assert run_cli(["vta", "simulate", str(path), "--json"]) == 8
    document = json.loads(capsys.readouterr().out)
    assert {v["kind"] for v in document["violations"]} == {"race", "finish-unordered"}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["simulate", "none.vta"], 7, "none.vta"),
        (["simulate", "{file}", "--config", "vta/none"], 3, "vta/none"),
        (["simulate", "{file}", "--config", "x86"], 3, "is no VTA"),
        (["simulate", "{file}", "--config", "{other}"], 3, "block 16, not 32"),
        (["simulate", "{file}", "-i", "data"], 5, "names no buffer"),
        (["simulate", "{file}", "-i", "date=x.npy"], 3, "there is no buffer 'date'"),
        (["simulate", "{file}", "-i", "data=none.npy"], 5, "the array cannot be read"),
        (["simulate", "{file}", "-i", "data={array}"], 5, "buffer 'data' is int8"),
        (["simulate", "{file}", "-o", "x.txt"], 7, "cannot be written to a file of this kind"),
        (["simulate", "{file}", "-o", "x.npz", "--no-data"], 2, "--output needs data"),
        (["assemble", "{file}"], 7, "this is no text"),
        (["disassemble", "{cut}"], 3, "the file is cut off"),
    ],
)
def test_errors(
    arguments: list[str], code: int, says: str, file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = tmp_path / "other.toml"
    text = (Path(__file__).parents[3] / "targets/data/vta/pynq.toml").read_text(encoding="utf-8")
    other.write_text(text.replace("log_block = 4", "log_block = 5"), encoding="utf-8")
    array, cut = tmp_path / "a.npy", tmp_path / "cut.vta"
    np.save(array, np.zeros(3))
    cut.write_bytes(file.read_bytes()[:-100])
    places = {"file": file, "other": other, "array": array, "cut": cut}
    assert run_cli(["vta", *(a.format(**places) for a in arguments)]) == code
    assert says in capsys.readouterr().err


def test_configurations_are_compared_by_shape() -> None:
    program = case("01-gemm-single").program
    assert program.config.shape() == VtaConfig("other", clock_hz=1e9).shape()
    assert len(program_bytes(program)) < 4000
