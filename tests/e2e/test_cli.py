"""The command line from a model's file to a report, in processes of its own where it matters."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import Bundle
from compiler.cli.app import run_cli
from compiler.cli.inputs import read_inputs

pytestmark = pytest.mark.compile


@pytest.fixture
def tw(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle to work on, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return bundle.save(Path("net.tw"))


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_cli([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_compile_run_report_inspect(
    model_file: Path,
    model: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    x = torch.randn(1, 3, 8, 8)
    np.save("x.npy", x.numpy())

    done = run_json(capsys, "compile", f"{model_file}:make", "--input", "x.npy", "-o", "net.tw",
                    "--html", "report.html", "--name", "net")  # fmt: skip
    assert done["name"] == "net"
    assert done["bundle_bytes"] == Path("net.tw").stat().st_size
    assert done["random_inputs"] is False
    assert done["report"]["accuracy"]["max_rel"]["value"] < 1e-4
    assert Path("report.html").read_text().lstrip().lower().startswith("<!doctype html>")

    done = run_json(capsys, "run", "net.tw", "-i", "x.npy", "-o", "y.npz", "--verify",
                    "--bench", "3")  # fmt: skip
    assert done["verification"]["max_rel_error"] <= 1e-5
    assert done["latency"]["runs"] == 3
    assert done["latency"]["label"] == "measured"
    with np.load("y.npz") as outputs:
        np.testing.assert_allclose(
            outputs["output"], model(x).detach().numpy(), rtol=1e-4, atol=1e-5
        )

    assert run_json(capsys, "report", "net.tw")["model"] == "net"
    done = run_json(capsys, "inspect", "net.tw", "--kernels")
    assert done["runs_here"] is True
    assert set(done["members"]) == {
        "module.so", "parameters.safetensors", "golden.safetensors", "report.json",
    }  # fmt: skip
    assert len(done["kernels"]) == done["kernel_count"]


def test_for_people(tw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["run", "net.tw"], ["float32", "1x4"]),
        (["run", "net.tw", "--verify", "--bench", "2"], ["self-test passed", "median", "measured"]),
        (["run", "net.tw", "-i", "1x3x8x8"], ["1x4"]),
        (["report", "net.tw"], ["small"]),
        (["inspect", "net.tw", "--kernels"], ["[1, 3, 8, 8]", "module.so", "SHA-256", "Kernels"]),
    ):
        assert run_cli(arguments) == 0
        out = capsys.readouterr().out
        for part in says:
            assert part in out, (arguments, part)


def test_compile_for_people(
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By default the bundle is named after the factory; a terminal sees the steps go by."""
    import io

    from rich.console import Console

    from compiler.cli import output

    screen = io.StringIO()
    real = output.console

    def console(*, stderr: bool) -> Console:
        return Console(file=screen, force_terminal=True) if stderr else real(stderr=False)

    monkeypatch.setattr(output, "console", console)
    monkeypatch.chdir(tmp_path)
    arguments = ["compile", f"{model_file}:make_with_inputs", "--folder", "--html", "r.html"]
    assert run_cli(arguments) == 0
    out = capsys.readouterr().out
    for part in ("make_with_inputs.tw", "[1, 3, 8, 8]", "compiled in", "Latency report", "r.html"):
        assert part in out
    assert (tmp_path / "make_with_inputs.tw" / "module.so").is_file()
    for step in ("starting", "package", "write"):  # quick ones are over before they are drawn
        assert step in screen.getvalue()


def test_a_report_as_a_page(tw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["report", "net.tw", "--html", "r.html"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "report written to r.html\n")
    assert "small" in Path("r.html").read_text()


def test_a_folder_of_another_kind_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years of it")
    # The model's file is not there: the path is refused before anything is read.
    compile_here = ["compile", "none.py:make", "-o", "work"]
    assert run_cli([*compile_here, "--folder"]) == 7
    assert "it is no bundle" in capsys.readouterr().err
    assert run_cli(compile_here) == 7
    assert "is a folder" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["thesis.tex"]


def test_notes_on_the_inputs(tw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_cli(["run", "net.tw"])
    assert "golden inputs" in capsys.readouterr().err
    run_cli(["run", "net.tw", "-i", "1x3x8x8"])
    assert "random (seed 0)" in capsys.readouterr().err


def test_weights_go_with_a_factory(
    model_file: Path,
    model: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    changed = {k: v * 2 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(changed, "w.safetensors")
    run_json(capsys, "compile", f"{model_file}:make_with_inputs", "--weights", "w.safetensors",
             "--no-measure", "-o", "w.tw")  # fmt: skip
    run_json(capsys, "run", "w.tw", "-i", "1x3x8x8", "-o", "y.npy")
    x = torch.from_numpy(read_inputs(["1x3x8x8"]).positional[0])
    other = copy.deepcopy(model)
    other.load_state_dict(changed)
    np.testing.assert_allclose(np.load("y.npy"), other(x).detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--input", "1x4x8x8"], 5, "does not run on the example inputs"),
        (["--input", "1x3x8x8", "--input", "1x3x8x8"], 5, "do not fit"),
        (["--input", "x=1x3x8x8", "--input", "1x3x8x8"], 5, "by name and some by position"),
        ([], 5, "example inputs"),
        (["--input", "1x3x8x8", "--weights", "none.pt"], 4, "no weights file"),
        (["--input", "1x3x8x8", "--threads", "10000"], 5, "threads"),
    ],
)
def test_compile_refuses(
    model_file: Path,
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(["compile", f"{model_file}:make", *arguments]) == code
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-i", "1x3x8x9"], 5, "float32[1, 3, 8, 9]"),
        (["-i", "1x3x8x8", "-i", "1x3x8x8"], 5, "2 inputs given"),
        (["-i", "wrong=1x3x8x8"], 5, "no input is named 'wrong'"),
        (["-o", "y.txt"], 7, "ends in .npz"),
        (["-o", "none/y.npz"], 7, "create the folder"),
        (["--threads", "10000"], 5, "threads"),
    ],
)
def test_run_refuses(
    tw: Path, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["run", "net.tw", *arguments]) == code
    assert says in capsys.readouterr().err
    assert [p.name for p in Path.cwd().iterdir()] == ["net.tw"]


def test_a_failed_self_test_exits_with_8(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from compiler.package import GoldenPair

    golden = bundle.golden
    monkeypatch.setattr(bundle, "_golden", GoldenPair(golden.inputs, (golden.outputs[0] + 1,)))
    path = bundle.save(tmp_path / "net.tw")
    assert run_cli(["run", str(path), "--verify", "--json"]) == 8
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "VerificationError"
    assert "differs from the golden output" in err


def test_a_bundle_without_a_report(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bundle, "report", None)
    path = bundle.save(tmp_path / "net.tw")
    assert run_cli(["report", str(path)]) == 6
    assert "holds no report" in capsys.readouterr().err


def test_reports_and_inspections_load_no_code(tw: Path) -> None:
    for command in ("report", "inspect"):
        program = (
            "import sys\nfrom compiler.cli.app import run_cli\n"
            f"code = run_cli([{command!r}, 'net.tw'])\n"
            "heavy = {'tvm', 'tvm_ffi', 'torch'} & set(sys.modules)\n"
            "sys.exit(f'imported {heavy}' if heavy else code)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr


def test_a_damaged_bundle(tw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(tw.read_bytes())
    data[len(data) // 2] ^= 0xFF
    tw.write_bytes(bytes(data))
    for command in ("run", "report", "inspect"):
        assert run_cli([command, "net.tw"]) == 6
        err = capsys.readouterr().err
        assert "damaged" in err or "unpacked" in err
        assert "hint:" in err


@pytest.mark.parametrize(
    "stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_leaves_nothing(
    model_file: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    """Stopped at a step in the middle of compiling, as told by the model's own file."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "work").mkdir()
    marker = tmp_path / "started"
    slow = tmp_path / "slow.py"
    slow.write_text(
        model_file.read_text()
        + "\ndef slow():\n"
        + f"    import pathlib, time; pathlib.Path({str(marker)!r}).touch(); time.sleep(60)\n"
    )
    program = (
        "from compiler.package.atomic import PrivateFolder\nkeep = PrivateFolder()\n"
        "from compiler.cli import main\n"
        f"main(['compile', {str(slow) + ':slow'!r}, '-o', 'net.tw'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path / "work",
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary"),
             "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + stop, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list((tmp_path / "work").iterdir()) == []
    # PyTorch makes a cache folder of its own there.
    left = [p.name for p in (tmp_path / "temporary").iterdir() if "torchinductor" not in p.name]
    assert left == []
