"""`tilewright compare` and `compare_targets`: the targets that work, and those that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler import compare_targets, comparison
from compiler.cli.app import run_cli
from compiler.errors import InputError

NET = "import torch\ndef make():\n    return torch.nn.Linear(8, 4).eval()\n"


@pytest.mark.compile
def test_a_target_that_fails_keeps_the_others(tmp_path: Path, capsys) -> None:
    (tmp_path / "net.py").write_text(NET)
    words = ["compare", f"{tmp_path}/net.py:make", "-i", "1x8", "--no-estimate", "--json"]
    words += ["--targets", "arm/nothing,arm/rpi4", "-o", str(tmp_path / "bundles")]
    assert run_cli([*words, "--html", str(tmp_path / "page.html")]) == 3
    shown = capsys.readouterr()
    missing, found = json.loads(shown.out)["targets"]
    assert "no target 'arm/nothing'" in missing["error"]
    assert found["error"] is None
    assert (found["basis"], found["latency"]["label"]) == (
        "at least, by the data sheet",
        "estimated",
    )
    assert found["sizes"]["parameters"]["value"] == (8 + 1) * 4 * 4
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["arm-rpi4.tw"]
    assert "arm/nothing: there is no target" in shown.err
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_samples_outlast_a_target_that_fails(monkeypatch) -> None:
    seen = []

    def fails(model, spec, *, calibration, **options):
        seen.append(len(list(calibration)))
        raise InputError("no", where="here")

    monkeypatch.setattr(comparison, "compile_model", fails)
    found = compare_targets("net.pt2", ["x86", "arm"], calibration=iter([1, 2, 3]), name="net")
    assert seen == [3, 3]
    assert [row.error for row in found.rows] == ["here: no"] * 2
    assert (found.model, found.exit_code) == ("net", 5)


@pytest.mark.parametrize("targets", [[], ["x86", "x86"]])
def test_targets_that_make_no_sense(targets: list[str]) -> None:
    with pytest.raises(InputError):
        compare_targets("net.pt2", targets)
