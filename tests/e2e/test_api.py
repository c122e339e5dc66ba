"""`compile` and `load` as the README shows them, and every input that they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import Bundle, compile, load
from compiler.errors import (
    CompileError,
    FileError,
    InputError,
    ModelError,
    TargetError,
    TargetNotAvailableError,
    UnknownTargetError,
    VerificationError,
)
from compiler.report import Report

pytestmark = pytest.mark.compile


def test_the_readmes_lines(
    bundle: Bundle, model: nn.Module, image: torch.Tensor, tmp_path: Path
) -> None:
    bundle.save(tmp_path / "net.tw")
    b = load(tmp_path / "net.tw")
    want = model(image).detach()
    y = b(image)
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    y = b(image.numpy())
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, want.numpy(), rtol=1e-4, atol=1e-5)
    text = str(b.report)
    assert "small" in text
    assert json.loads(b.report.to_json()) == json.loads(bundle.report.to_json())  # type: ignore[union-attr]
    assert b.report.to_html(tmp_path / "report.html").stat().st_size > 1000  # type: ignore[union-attr]
    assert b.verify().max_rel_error <= 1e-5


def test_what_the_bundle_knows(bundle: Bundle, image: torch.Tensor) -> None:
    manifest = bundle.manifest
    assert [str(s) for s in bundle.inputs] == ["input: float32[1, 3, 8, 8]"]
    assert bundle.outputs[0].shape == (1, 4)
    assert {"tilewright", "tvm", "tvm_ffi", "torch", "numpy", "llvm", "python"} <= set(
        manifest.toolchain
    )
    stages = {record.stage for record in manifest.stages}
    assert stages == {"frontend", "lower", "build", "package", "report"}
    assert all(record.milliseconds >= 0 for record in manifest.stages)
    assert manifest.golden_source == "compiled"
    np.testing.assert_array_equal(bundle.golden.inputs[0], image.numpy())
    assert set(manifest.required_features) == set(bundle.target.features)
    report = json.loads(bundle.report.to_json())  # type: ignore[union-attr]
    assert report["accuracy"]["max_rel"]["value"] < 1e-4
    assert report["accuracy"]["reference"] == "PyTorch"


def test_two_inputs_and_three_outputs(two_inputs: nn.Module, tmp_path: Path) -> None:
    ids, scale = torch.randint(0, 50, (2, 5)), torch.rand(16)
    b = compile(two_inputs, example_inputs={"ids": ids, "scale": scale}, measure=False)
    b = load(b.save(tmp_path / "net", folder=True))
    want = two_inputs(ids, scale)
    names = [spec.name for spec in b.outputs]
    for result in (b(ids, scale), b(scale=scale, ids=ids), b(ids.numpy(), scale.numpy())):
        got = dict(zip(names, result, strict=True))
        for name in ("logits", "best", "hidden"):
            np.testing.assert_allclose(np.asarray(got[name]), want[name].detach(), atol=1e-5)
    assert b.report is None


def test_an_exported_program_and_its_file(
    model: nn.Module, image: torch.Tensor, tmp_path: Path
) -> None:
    program = torch.export.export(model, (image,))
    torch.export.save(program, tmp_path / "net.pt2")
    want = model(image).detach()
    for source, name in ((program, "model"), (tmp_path / "net.pt2", "net")):
        b = compile(source, measure=False)
        assert b.name == name
        torch.testing.assert_close(b(image), want, rtol=1e-4, atol=1e-5)


def test_a_dynamic_batch(model: nn.Module, image: torch.Tensor) -> None:
    b = compile(model, example_inputs=(image,), dynamic_batch=True, measure=False)
    assert b.inputs[0].shape == ("batch", 3, 8, 8)
    for count in (1, 2, 5):
        x = torch.randn(count, 3, 8, 8)
        torch.testing.assert_close(b(x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_numpy_example_inputs(model: nn.Module, image: torch.Tensor) -> None:
    b = compile(model, example_inputs=(image.numpy(),), measure=False)
    torch.testing.assert_close(b(image), model(image).detach(), rtol=1e-4, atol=1e-5)


def test_the_model_and_its_inputs_are_left_alone(image: torch.Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = image.clone()
    with pytest.warns(UserWarning, match="training mode"):
        compile(model, example_inputs=(x,), measure=False)
    assert model.training
    assert torch.equal(x, image)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_progress_and_affinity(model: nn.Module, image: torch.Tensor) -> None:
    before = os.sched_getaffinity(0)
    seen: list[str] = []
    compile(
        model,
        example_inputs=(image,),
        measure=False,
        progress=lambda stage, step: seen.append(f"{stage}: {step}"),
    )
    assert seen[-1] == "package: golden pair"
    stages = [line.split(":")[0] for line in seen]
    assert stages == sorted(stages, key=["frontend", "lower", "build", "package"].index)
    assert os.sched_getaffinity(0) == before


def test_another_processors_code(model: nn.Module, image: torch.Tensor, tmp_path: Path) -> None:
    from dataclasses import replace

    from compiler.errors import BundleError
    from targets import get_target

    spec = get_target("x86/generic-avx2")
    alien = replace(spec, name="x86/alien", features=spec.features | {"avx9000"})
    with pytest.raises(TargetError, match="lacks avx9000") as caught:
        compile(model, alien, example_inputs=(image,), measure=True)
    assert "measure=False" in str(caught.value)
    b = compile(model, alien, example_inputs=(image,))
    assert isinstance(b.report, Report)
    assert b.report.elsewhere is not None
    assert b.report.elsewhere.basis == "peaks"
    assert b.manifest.golden_source == "reference"
    np.testing.assert_array_equal(b.golden.outputs[0], model(image).detach().numpy())
    with pytest.raises(BundleError, match="lacks avx9000"):
        load(b.save(tmp_path / "net.tw"))


# --- bad input


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Empty(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def broken_weights() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
    return model


@pytest.mark.parametrize(
    ("make", "inputs", "kind", "says"),
    [
        (Branches, (torch.randn(3),), ModelError, ["does not export", "test_api.py:"]),
        (Empty, (torch.randn(3),), ModelError, ["empty"]),
        (broken_weights, (torch.randn(1, 4),), ModelError, ["NaN", "0.weight (1 of 16"]),
        (lambda: nn.Linear(4, 4), (torch.randn(1, 5),), InputError, ["float32[1, 5]"]),
        (
            lambda: nn.Linear(4, 4),
            (torch.ones(1, 4, dtype=torch.int64),),
            InputError,
            ["does not run"],
        ),
        (lambda: nn.Linear(4, 4), (torch.randn(1, 4),) * 2, InputError, ["2 positional"]),
        (lambda: nn.Linear(4, 4), torch.randn(1, 4), InputError, ["must be a tuple"]),
        (lambda: nn.Linear(4, 4), None, InputError, ["needs example inputs"]),
        (lambda: "net.onnx", None, ModelError, ["no file"]),
        (lambda: 42, (torch.randn(1),), ModelError, ["cannot import a int"]),
        (lambda: nn.Linear(4, 4), (np.array(["text"]),), InputError, ["torch has no dtype"]),
    ],
)
def test_a_bad_model_or_input(
    make: Any, inputs: Any, kind: type[Exception], says: list[str]
) -> None:
    model = make()
    if isinstance(model, nn.Module):
        model.eval()
    with pytest.raises(kind) as caught:
        compile(model, example_inputs=inputs, measure=False)
    for part in [*says, "hint:"]:
        assert part in str(caught.value)


def test_bad_targets_and_threads(model: nn.Module, image: torch.Tensor, tmp_path: Path) -> None:
    for target, kind, says in (
        ("x86/sapphirerapid", UnknownTargetError, "x86/sapphirerapids"),
        ("cuda/sm_80", TargetNotAvailableError, "described only"),
        (tmp_path / "none.toml", TargetError, "none.toml"),
    ):
        with pytest.raises(kind, match=says):
            compile(model, target, example_inputs=(image,))
    with pytest.raises(InputError, match="threads"):
        compile(model, example_inputs=(image,), threads=10_000)


def test_wrong_inputs_at_run_time(bundle: Bundle, image: torch.Tensor) -> None:
    for args in ((), (image, image), (image[0],), (image.double(),), (image[:, :2],), ("x",)):
        with pytest.raises(InputError) as caught:
            bundle(*args)
        assert "input" in str(caught.value)
    with pytest.raises(InputError, match="no input is named 'picture'"):
        bundle(picture=image)


def test_a_result_that_is_not_pytorchs_is_refused(model: nn.Module, image: torch.Tensor) -> None:
    """With no error allowed at all, rounding is already too much."""

    class Softmax(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x.flatten(1) * 3.1, -1).exp() * x.flatten(1).sum()

    with pytest.raises(VerificationError, match=r"differs from PyTorch's by .* 0 is accepted"):
        compile(Softmax().eval(), example_inputs=(image,), measure=False, tolerance=0)


def test_an_error_from_inside_tvm_names_the_stage(
    model: nn.Module, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compiler.build

    def broken(*_: object) -> None:
        raise RuntimeError("Check failed: a == b\n  some stack")

    monkeypatch.setattr(compiler.build, "build", broken)
    with pytest.raises(CompileError) as caught:
        compile(model, example_inputs=(image,), measure=False)
    assert str(caught.value).startswith("build [x86/host]: RuntimeError: Check failed: a == b")
    assert caught.value.stage == "build"


def test_an_unwritable_path(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(FileError):
        bundle.save(tmp_path / "none" / "net.tw")
    with pytest.raises(FileError):
        bundle.save(tmp_path)


def test_no_temporary_file_is_left(
    bundle: Bundle, image: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while the bundle is in use, so that a killed process leaves none either."""
    import tempfile

    path = bundle.save(tmp_path / "net.tw")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    b = load(path)
    y = b(image)
    assert list((tmp_path / "temporary").iterdir()) == []
    z = b(image)
    del b
    assert torch.equal(y, z)


def test_no_temporary_file_is_left_by_a_library_that_does_not_load(
    bundle: Bundle, image: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    from compiler.errors import BundleError

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken = Bundle(bundle.manifest, b"\x7fELF rubbish", bundle.parameters, bundle.golden)
    with pytest.raises(BundleError, match="cannot be loaded"):
        broken(image)
    assert list(tmp_path.iterdir()) == []
