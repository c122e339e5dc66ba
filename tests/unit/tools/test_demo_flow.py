"""The demonstration from end to end, with a small network and made-up images."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

import compiler
from tools.demo import __main__ as demo
from tools.demo import assets
from tools.demo.assets import LabelledImage, Package

pytestmark = pytest.mark.compile

_compile = compiler.compile
_load = compiler.load
_bundles: list[Any] = []


def _compile_once(*args: Any, **kwargs: Any) -> Any:
    """The real thing at the first call, what that gave at later ones."""
    if not _bundles:
        _bundles.append(_compile(*args, **kwargs))
    return _bundles[0]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    rng = np.random.default_rng(3)
    images = []
    for label in (22, 99, 129):
        path = tmp_path / f"imagenet_00_{label}.png"
        Image.fromarray(rng.integers(0, 256, (260, 300, 3), np.uint8)).save(path)
        images.append(LabelledImage(path, label))
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model.append(nn.Linear(8, 1000))
    monkeypatch.setattr(assets, "missing", list)
    monkeypatch.setattr(assets, "load_model", model.eval)
    monkeypatch.setattr(assets, "labelled_images", lambda: images)
    monkeypatch.setattr(compiler, "compile", _compile_once)

    def invoke(out: Path) -> Result:
        threads = torch.get_num_threads()
        try:
            return CliRunner().invoke(demo.main, ["--out", str(out), "--rounds", "2"])
        finally:
            torch.set_num_threads(threads)

    return invoke


def test_everything_is_written_and_agrees(run: Any, tmp_path: Path) -> None:
    done = run(tmp_path / "out")
    assert done.exit_code == 0, done.output
    bundle, page = (tmp_path / "out" / f"efficientnet-lite0.{end}" for end in ("tw", "html"))
    with zipfile.ZipFile(bundle) as archive:
        assert "manifest.json" in archive.namelist()
        assert json.loads(archive.read("manifest.json"))
    assert "<html" in page.read_text()[:1000].lower()
    for text in ("3 / 3", "PyTorch eager", "one thread pinned to CPU", "self-test passed"):
        assert text in done.output
    paths = " ".join(done.output.split())
    assert f"bundle: {bundle}" in paths
    assert f"report: {page}" in paths


def test_disagreement_is_an_error(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off:
        """A bundle whose logits are a little off."""

        def __init__(self, path: Path) -> None:
            self.bundle = _load(path)

        def verify(self) -> Any:
            return self.bundle.verify()

        def __call__(self, value: torch.Tensor) -> torch.Tensor:
            return self.bundle(value) * 1.001

    monkeypatch.setattr(compiler, "load", Off)
    done = run(tmp_path / "out")
    assert done.exit_code == 8
    assert "does not agree with PyTorch" in done.output
    assert "the same class on 3 of 3" in " ".join(done.output.split())


def test_a_folder_that_cannot_be_made_is_found_before_the_work(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "compile", lambda *_, **__: pytest.fail("compiled"))
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "out")
    assert done.exit_code == 7
    assert "cannot be made" in done.output
    assert "give another --out" in done.output


def test_packages_that_cannot_be_installed(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "missing", lambda: [Package("not a name", "1", True, "nothing")])
    done = run(tmp_path / "out")
    assert done.exit_code == 7
    output = " ".join(done.output.split())
    assert "needed: not a name==1 for nothing" in output
    assert "hint: connect this machine to a package index" in output
