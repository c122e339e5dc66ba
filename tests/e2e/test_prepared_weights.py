"""Weights that are packed when a model is loaded: in Python, in the C runner, on emulated ARM."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import compiler
from compiler.deploy import write_deployment
from compiler.errors import BundleError
from compiler.estimate.profile import estimate_model
from compiler.package import Bundle, read_bundle
from tests.support.boards import emulates, estimates, selftest

pytestmark = pytest.mark.compile


def net() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    image = torch.randn(1, 32, 14, 14)
    return torch.nn.Conv2d(32, 32, 3, padding=1, bias=False).eval(), image


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    model, image = net()
    return compiler.compile(
        model, "x86/generic-avx2", example_inputs=(image,), measure=False, name="conv"
    )


def test_the_bundle_is_compact_and_gives_the_models_outputs(bundle: Bundle, tmp_path: Path):
    model, image = net()
    (item,) = bundle.manifest.prepared
    assert bundle.parameter_bytes == 4 * 32 * 32 * 9
    assert bundle.loaded_parameter_bytes == 4 * 32 * 32 * 36 == 4 * np.prod(item.shape)
    assert bundle.sizes["parameters in memory"] == bundle.loaded_parameter_bytes
    again = compiler.load(bundle.save(tmp_path / "conv.tw"))
    assert again.parameter_bytes == bundle.parameter_bytes
    torch.testing.assert_close(again(image), model(image), rtol=1e-4, atol=1e-5)
    assert again.verify().max_abs_error == 0.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"function": "nothing"}, "has no function nothing, which packs weight.packed"),
        ({"shape": (6, 6, 2, 32, 8)}, r"cannot make float32\[6, 6, 2, 32, 8\] of float32"),
        ({"dtype": "int32"}, r"cannot make int32"),
        ({"parameter": "bias"}, "to be packed that is not there: bias"),
    ],
)
def test_what_does_not_fit_is_an_error(bundle: Bundle, tmp_path: Path, changes, says: str):
    again = read_bundle(bundle.save(tmp_path / "conv.tw"))
    (item,) = again.manifest.prepared
    again.manifest = replace(again.manifest, prepared=(replace(item, **changes),))
    with pytest.raises(BundleError, match=says) as caught:
        again.verify()
    assert "compile the model again" in str(caught.value.hint)


def test_the_runner_in_c(bundle: Bundle, tmp_path: Path):
    folder = write_deployment(bundle, tmp_path / "conv").path
    assert (folder / "parameters.bin").stat().st_size == bundle.parameter_bytes
    description = (folder / "model.txt").read_text()

    def run() -> subprocess.CompletedProcess[str]:
        command = [str(folder / "run"), str(folder), "--selftest"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "the same bits" in done.stdout
    (line,) = [text for text in description.splitlines() if text.startswith("prepared ")]
    for changed, says in (
        (line.replace("prepare_weight", "nothing"), "nothing"),
        (line.replace("float32 5 6", "float32 5 7"), "cannot make weight.packed"),
        (line.replace("float32 5 6", "float32 5 -6"), "damaged"),
        (line.replace("float32 5 6", "float32 5 999999999999999999"), "damaged"),
        (line.replace("float32 5 6", "float32 5 9999999999"), "no memory"),
        (line.replace("float32", "float7"), "cannot make weight.packed"),
        (line.replace("float32", "number"), "number"),
        (f"{line}\n{line}", "damaged"),
        ("prepared", "damaged"),
    ):
        (folder / "model.txt").write_text(description.replace(line, changed))
        done = run()
        assert done.returncode == 4, changed
        assert says in done.stderr, changed


@cache
def on_arm(recipe: str | None) -> Bundle:
    model, image = net()
    calibration = None if recipe is None else [(image.numpy(),)] * 2
    return compiler.compile(
        model, "arm/cortex-a72", example_inputs=(image,), measure=False, estimate=False,
        name="conv", quantize=recipe, calibration=calibration,
    )  # fmt: skip


@emulates
@pytest.mark.parametrize("recipe", [None, "int8"])
def test_on_arm(recipe: str | None, tmp_path: Path):
    bundle = on_arm(recipe)
    (item,) = bundle.manifest.prepared
    assert item.dtype == ("float32" if recipe is None else "int16")
    assert bundle.loaded_parameter_bytes > 3 * bundle.parameter_bytes
    folder = write_deployment(bundle, tmp_path / "conv").path
    for cpu in ("cortex-a53", "max"):
        result = selftest(folder, cpu)
        assert result["passed"]
        assert result["same_bits"] or recipe is None


@estimates
def test_packing_is_not_counted_as_inference():
    cost = estimate_model(on_arm(None))
    others = [kernel for kernel in cost.kernels if kernel.name == "(other)"]
    # Packing alone is some 120 instructions for each of 1024 kernels.
    assert sum(kernel.instructions for kernel in others) < 5_000
    assert cost.instructions > 100_000
