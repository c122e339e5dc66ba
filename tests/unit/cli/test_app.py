"""The command line's manners: fast starts, exit codes, one JSON document, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from compiler._version import __version__
from compiler.cli.app import cli, run_cli
from compiler.cli.commands import targets as targets_command


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["--version"]) == 0
    assert capsys.readouterr().out == f"tilewright {__version__}\n"


@pytest.mark.parametrize("command", ["", "compile", "tune", "run", "report", "targets", "inspect"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli([*command.split(), "--help"]) == 0
    assert "Usage: tilewright" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["targets"],
        ["targets", "--json", "arm/rpi4"],
        ["compile", "--help"],
        ["tune", "--help"],
    ],
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom compiler.cli.app import run_cli\n"
        f"code = run_cli({arguments!r})\n"
        "heavy = {'tvm', 'tvm_ffi', 'torch', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_cheap() -> None:
    program = (
        "import sys, compiler\n"
        "assert sorted(dir(compiler)) == "
        "['Bundle', 'CompressionPlan', 'Images', 'Quantize', 'Tune', '__version__', "
        "'compare_targets', 'compile', 'load', 'tune_model']\n"
        "compiler.Tune(minutes=1)\n"
        "compiler.Quantize()\n"
        "heavy = {'tvm', 'torch', 'numpy', 'rich', 'click'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["runn"], 2, "No such command"),
        (["run"], 2, "Missing argument"),
        (["run", "x.tw", "--bench", "0"], 2, "--bench"),
        (["targets", "arm/rpi44"], 3, "arm/rpi4"),
        (["compile", "x.py:f", "--target", "cuda/sm_80"], 3, "not available"),
        (["compile", "x.py:f", "--target", "x86/sapphirerapidz"], 3, "x86/sapphirerapids"),
        (["compile", "x.py:f", "--input", "1xx3"], 5, "cannot read '1xx3'"),
        (["compile", "x.py:f", "--input", "none.npy"], 7, "No such file"),
        (["compile", "x.py:f", "-o", "none/net.tw"], 7, "create the folder first"),
        (["compile", "x.py:f", "--html", "none/r.html"], 7, "create the folder first"),
        (["compile", "x.py:f", "--html", "r.html", "--no-measure"], 2, "--html needs the report"),
        (["run", "none.tw"], 7, "No such file"),
        (["report", "rubbish.tw"], 6, "neither a zip file nor a folder"),
        (["inspect", "rubbish.tw"], 6, "neither a zip file nor a folder"),
    ],
)
def test_exit_codes(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rubbish.tw").write_text("rubbish")
    assert run_cli(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["rubbish.tw"]


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "run", "none.tw"], ["run", "none.tw", "--debug"]):
        assert run_cli(arguments) == 7
        assert "Traceback" in capsys.readouterr().err


def test_an_error_is_a_json_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["inspect", "none.tw", "--json"]) == 7
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["type"] == "FileError"
    assert error["exit_code"] == 7
    assert error["where"] == "none.tw"
    assert error["hint"]
    assert "No such file" in err


def test_targets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["targets", "--json"]) == 0
    found = {t["name"]: t for t in json.loads(capsys.readouterr().out)}
    assert found["arm/rpi4"]["available"] is True
    assert found["cuda/sm_80"]["available"] is False
    assert run_cli(["targets", "arm/rpi4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found["arm/rpi4"]


def test_targets_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["targets"]) == 0
    assert "x86/sapphirerapids" in capsys.readouterr().out
    assert run_cli(["targets", "arm/cortex-a53"]) == 0
    assert "L1 cache" in capsys.readouterr().out


def test_an_internal_error_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str | None) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(targets_command, "callback", broken)
    assert run_cli(["targets"]) == 1
    err = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: a bug" in err
    assert "--debug" in err
    assert "Traceback" not in err


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import signal

    def interrupted(name: str | None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(targets_command, "callback", interrupted)
    assert run_cli(["targets"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_reader_that_goes_away() -> None:
    """As in `tilewright targets | head -1`."""
    program = "from compiler.cli import main; main(['targets', '--json'])"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_every_command_has_json_and_debug() -> None:
    commands = dict(cli.commands)
    while commands:
        name, command = commands.popitem()
        if isinstance(command, click.Group):
            commands |= {f"{name} {key}": leaf for key, leaf in command.commands.items()}
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--debug"} <= options, name
