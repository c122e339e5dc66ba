"""Quantization from end to end: compile, run, save, load, reuse of plans, metrics, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import Bundle, CompressionPlan, Quantize, compile, load
from compiler.cli.app import run_cli
from compiler.errors import CalibrationError, InputError, PlanError
from compiler.frontend import import_model
from compiler.lower.plain import reference_outputs
from compiler.package.bundle import outputs_sha256
from compiler.quantization import read_request
from compiler.stages import StageLog
from targets import get_target

pytestmark = pytest.mark.compile
SHAPE = (1, 3, 16, 16)


class Net(nn.Module):
    """Plain and depthwise convolutions, a residual, pooling and a head."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU())
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.point(self.depth(x))
        return self.head(torch.relu(x).mean((2, 3)))


def make(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return Net(classes).eval()


def images(count: int = 24, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


def metric(run: Callable[..., Any]) -> float:
    """Mean cosine of the logits with PyTorch's."""
    net, cosines = make(), []
    for x in images(8, seed=1):
        want = net(torch.from_numpy(x)).detach().numpy().ravel()
        got = np.asarray(run(x)).ravel()
        cosines.append(want @ got / np.sqrt((want @ want) * (got @ got)))
    return float(np.mean(cosines))


def quantized(**options: Any) -> Bundle:
    given: dict[str, Any] = {"quantize": "int8", "calibration": images(), "measure": False}
    return compile(make(), example_inputs=(images(1)[0],), name="net", **{**given, **options})


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return quantized(measure=True, evaluate=metric)


def test_one_word_is_enough(bundle: Bundle) -> None:
    assert bundle.manifest.precision == "int8"
    assert bundle.plan is not None
    assert "head:matmul" in bundle.plan.quantized()
    assert any(a.dtype == np.int8 for a in bundle.parameters.values())
    assert metric(bundle) > 0.99


def test_the_bits_are_those_of_the_reference(bundle: Bundle) -> None:
    imported = import_model(make(), (torch.from_numpy(images(1)[0]),), name="net", log=StageLog())
    assert bundle.plan is not None
    outputs = reference_outputs(imported, get_target("x86"), bundle.plan, bundle.golden.inputs)
    assert outputs_sha256(outputs) == bundle.manifest.golden_sha256
    for x in images(10, seed=2):
        (want,) = reference_outputs(imported, get_target("x86"), bundle.plan, [x])
        assert (bundle(x) == want).all()


def test_the_report_says_what_each_layer_got(bundle: Bundle) -> None:
    found = bundle.report.quantization  # type: ignore[union-attr]
    assert found.metric_before.value == pytest.approx(1.0, abs=1e-6)
    assert 0.99 < found.metric_after.value < 1.0
    assert found.samples == 24
    # So small a network has about as many bytes of biases and multipliers as of weights.
    assert found.bytes_after.value < 0.7 * found.bytes_before.value
    assert {row.precision for row in found.layers} == {"int8"}
    assert found.golden_sha256 == bundle.manifest.golden_sha256
    text = bundle.report.to_text()  # type: ignore[union-attr]
    assert "stem.0:conv2d" in text
    assert found.golden_sha256[:40] in text


def test_layers_that_float32_would_beat_are_named() -> None:
    """Grouped convolutions have no dot product of bytes yet."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, 3, groups=2), nn.ReLU(), nn.Conv2d(32, 4, 1)).eval()
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((1, 16, 12, 12)).astype(np.float32) for _ in range(8)]
    made = compile(net, example_inputs=(x[0],), quantize="int8", calibration=x, records=False)
    assert made.report is not None
    assert made.report.quantization is not None
    why = {row.name: row.why for row in made.report.quantization.layers}
    assert why["0:conv2d"].startswith("int8 is slower here: ")
    assert "estimated" in why["0:conv2d"]
    assert "slower" not in why["2:conv2d"]
    assert [k.slower != "" for k in made.kernels if k.kind == "conv2d"].count(True) == 1


def test_a_saved_bundle_keeps_plan_and_bits(bundle: Bundle, tmp_path: Path) -> None:
    again = load(bundle.save(tmp_path / "net.tw"))
    assert again.plan == bundle.plan
    assert again.manifest.golden_sha256 == bundle.manifest.golden_sha256
    assert again.verify().same_bits is True


def test_a_plan_is_used_again(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.plan is not None
    path = bundle.plan.save(tmp_path / "plan.json")
    again = quantized(quantize=path, calibration=None)
    assert again.manifest.golden_sha256 == bundle.manifest.golden_sha256
    for plan in (str(path), bundle.plan):  # means the same
        request = read_request(plan, None, None, precision="float32", dynamic=False)
        assert request is not None
        assert request.plan == bundle.plan


def test_an_edited_plan_is_applied(bundle: Bundle) -> None:
    assert bundle.plan is not None
    edited = bundle.plan.with_operator(
        "head:matmul", precision="float32", weight=None, why="by hand"
    )
    edited = CompressionPlan.from_json(
        json.dumps({**json.loads(edited.to_json()), "bias_corrections": {}})
    )
    again = quantized(quantize=edited, calibration=None)
    # The head's 160 weights, packed, and nothing else as large, are float32 again.
    assert any(a.dtype == np.float32 and a.size >= 160 for a in again.parameters.values())
    assert not any(a.dtype == np.float32 and a.size >= 160 for a in bundle.parameters.values())
    assert metric(again) > 0.99


def test_what_is_kept_stays_float32() -> None:
    told: list[tuple[str, str]] = []
    kept = quantized(
        quantize=Quantize(keep=["head"]), progress=lambda stage, step: told.append((stage, step))
    )
    assert ("compress", "24 samples seen") in told
    assert kept.plan is not None
    assert kept.plan.operators["head:matmul"].precision == "float32"


@pytest.mark.parametrize(
    "recipe",
    [
        Quantize(power_of_two=True, weights="int8/tensor"),
        pytest.param(
            Quantize(equalize=True, calibrate="kl", correct_bias=False), marks=pytest.mark.slow
        ),
    ],
)
def test_recipes(recipe: Quantize) -> None:
    assert metric(quantized(quantize=recipe)) > 0.97


def test_a_plan_for_another_model(bundle: Bundle) -> None:
    with pytest.raises(PlanError, match="another model"):
        compile(make(7), example_inputs=(images(1)[0],), quantize=bundle.plan, measure=False)


def test_other_weights_are_remarked(bundle: Bundle) -> None:
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="other values of the weights"):
        compile(
            Net().eval(), example_inputs=(images(1)[0],), quantize=bundle.plan, measure=False,
            tolerance=10.0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"calibration": None}, CalibrationError, "no calibration samples"),
        ({"calibration": []}, CalibrationError, "no sample"),
        ({"calibration": images(1)}, CalibrationError, "one sample only"),
        ({"calibration": [np.zeros(SHAPE, np.float32)] * 3}, CalibrationError, "everywhere"),
        ({"calibration": [np.full(SHAPE, np.nan, np.float32)]}, CalibrationError, "NaN"),
        ({"calibration": [x[..., :8] for x in images(2)]}, CalibrationError, "example"),
        ({"quantize": Quantize(keep=["haed"])}, InputError, "'haed'"),
        ({"quantize": "int3"}, InputError, "int3"),
        ({"quantize": None}, InputError, "nothing is to be quantized"),
        ({"dynamic_batch": True}, CalibrationError, "fixed sizes"),
        ({"evaluate": 3}, InputError, "not a function"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        quantized(**options)


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        (lambda run: 1 / 0, "ZeroDivisionError"),
        pytest.param(lambda run: float("nan"), "gave nan", marks=pytest.mark.slow),
        (lambda run: None, "NoneType"),
    ],
)
def test_metrics_that_fail(evaluate: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        quantized(evaluate=evaluate)


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), "
        "nn.Linear(8 * 14 * 14, 4)).eval()\n"
    )
    np.savez(tmp_path / "samples.npz", input=np.concatenate(images()))
    plan, out = tmp_path / "plan.json", tmp_path / "net.tw"
    common = ["compile", f"{tmp_path / 'net.py'}:make", "-i", "1x3x16x16", "-o", str(out),
              "--no-measure"]  # fmt: skip
    made = ["--quantize", "int8", "--calibration", str(tmp_path / "samples.npz")]
    code = run_cli([*common, *made, "--keep", "3", "--save-plan", str(plan)])
    assert code == 0, capsys.readouterr().err
    assert CompressionPlan.load(plan).operators["3:matmul"].precision == "float32"
    first = load(out).manifest.golden_sha256
    assert run_cli([*common, "--quantize", str(plan)]) == 0
    assert load(out).manifest.golden_sha256 == first
    capsys.readouterr()
    assert run_cli([*common, "--quantize", "int8"]) == 5
    assert "--calibration" in capsys.readouterr().err
