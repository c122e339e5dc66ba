"""The peers' virtual environments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.bench import environments
from tools.bench.contenders import CONTENDERS
from tools.bench.environments import REQUIREMENTS, ensure
from tools.bench.protocol import ContenderError


def test_every_environment_has_its_requirements_pinned() -> None:
    names = {c.environment for c in CONTENDERS.values() if c.environment} | {"export"}
    for name in names:
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        wanted = [line for line in lines if not line.startswith("#")]
        assert wanted
        assert all("==" in line for line in wanted), name


def test_an_environment_that_is_up_to_date_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".venvs" / "bench-ort"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("")
    (folder / "requirements.txt").write_text((REQUIREMENTS / "ort.txt").read_text())

    def no_install(command: list[str], what: str) -> None:
        pytest.fail(f"{what}: {command}")

    monkeypatch.setattr(environments, "_call", no_install)
    assert ensure("ort", tmp_path) == folder / "bin" / "python"


def test_changed_requirements_are_installed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".venvs" / "bench-ort"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("")
    (folder / "requirements.txt").write_text("onnxruntime==1.0\n")
    called: list[list[str]] = []
    monkeypatch.setattr(environments, "_call", lambda command, what: called.append(command))
    ensure("ort", tmp_path)
    assert [command[1:3] for command in called] == [["-m", "venv"], ["-m", "pip"]]
    assert (folder / "requirements.txt").read_text() == (REQUIREMENTS / "ort.txt").read_text()


def test_a_failed_installation_is_not_taken_for_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_pip(command: list[str], what: str) -> None:
        folder = tmp_path / ".venvs" / "bench-ort"
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").write_text("")
        if "pip" in command:
            raise ContenderError(f"{what} cannot be installed: no network")

    monkeypatch.setattr(environments, "_call", fail_pip)
    for _ in range(2):
        with pytest.raises(ContenderError, match=r"packages of ort\.txt cannot be installed"):
            ensure("ort", tmp_path)
    assert not (tmp_path / ".venvs" / "bench-ort" / "requirements.txt").exists()


def test_a_failed_command_is_reported_with_its_last_words() -> None:
    code = (
        "import sys; print('WARNING: slow', 'ERROR: no matching version', sep=chr(10), "
        "file=sys.stderr); sys.exit(1)"
    )
    with pytest.raises(ContenderError) as caught:
        environments._call([sys.executable, "-c", code], "packages")
    assert str(caught.value) == "packages cannot be installed: ERROR: no matching version"


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match=r"packages cannot be installed: .*No such file"):
        environments._call([str(tmp_path / "python")], "packages")
